"""What variants of items promise: another prompt, the same question and right answer, and no change of fingerprint."""

import json
import re

import pytest

from forget_callback import Generation, MultipleChoice, Probe, Recall, Store, Variant, load_probe
from forget_callback.probes.items import accepted, in_variant, right_option
from forget_callback.probes.records import item_record, parse_item

CHOICE = {"id": "q1", "prompt": "2 + 2 =", "choices": [" 3", " 4", " 5"], "answer": 1}
RECALL = {"kind": "recall", "id": "q2", "prompt": "The capital of France is", "answer": " Paris"}
LETTER = {"id": "q3", "prompt": "Which?\nA. x\nB. y", "answer": "B", "match": "choice", "options": 2}
NUMBER = {"id": "q4", "prompt": "2 + 2 =", "answer": "4", "match": "number"}


def test_variants_are_given_in_three_forms_and_kept_in_one():
    order = {"prompt": "Sum:", "order": [2, 0, 1]}
    item = parse_item({**CHOICE, "variants": ["2 plus 2:", order, Variant("Two and two:", chat=False, weak=True)]})
    assert item.variants == (
        Variant("2 plus 2:"),
        Variant("Sum:", order=(2, 0, 1)),
        Variant("Two and two:", chat=False, weak=True),
    )
    assert hash(item) == hash(MultipleChoice("q1", "2 + 2 =", (" 3", " 4", " 5"), 1, variants=item.variants))


@pytest.mark.parametrize(
    "record",
    [
        {**CHOICE, "variants": ["2 plus 2:", {"prompt": "Sum:", "order": [2, 0, 1], "chat": False, "weak": True}]},
        {**CHOICE, "variants": [{"prompt": "Sum:", "choices": [" three", " four", " five"], "chat": True}]},
        {**RECALL, "answer": [" Paris", " paris"], "variants": ["France's capital is"], "cluster": "F", "fact": "f/1"},
        {**LETTER, "variants": [{"prompt": "Which?\nA. y\nB. x", "order": [1, 0]}], "cluster": "passage 3"},
        {**NUMBER, "samples": 8, "variants": ["How much is 2 + 2?"]},
    ],
)
def test_records_come_back_through_json_and_a_run_on_disk(record, tmp_path):
    item = parse_item(record)
    written = json.loads(json.dumps(item_record(item)))
    assert parse_item(written) == item
    assert {key: written[key] for key in record} == record | {"answer": written["answer"]}
    store = Store(tmp_path)
    store.begin([Probe("p", [item], temperature=0.5)])
    assert [probe.items for probe in Store(tmp_path).probes()] == [(item,)]


def test_the_right_option_moves_with_the_order():
    item = parse_item({**CHOICE, "variants": ["2 plus 2:", {"prompt": "Sum:", "order": [2, 0, 1]}]})
    assert in_variant(item, 1) == parse_item(CHOICE)
    second, third = in_variant(item, 2), in_variant(item, 3)
    assert (second.prompt, second.choices, second.answer) == ("2 plus 2:", (" 3", " 4", " 5"), 1)
    assert (third.prompt, third.choices, third.answer) == ("Sum:", (" 5", " 3", " 4"), 2)
    assert third.choices[third.answer] == item.choices[item.answer] and not third.variants


def test_contexts_and_lengths_go_with_their_option():
    own = {"contexts": [" he", " she"], "lengths": [3, 4]}
    item = MultipleChoice("a", "Then", (" ran", " sat"), 0, **own, variants=[{"prompt": "So", "order": [1, 0]}])
    asked = in_variant(item, 2)
    assert (asked.choices, asked.contexts, asked.lengths) == ((" sat", " ran"), (" she", " he"), (4, 3))


def test_lettered_options_keep_their_letters_and_move_the_right_one():
    letters = {"prompt": "Which?\nA. z\nB. x\nC. y\nAnswer:", "choices": [" A", " B", " C"], "order": [2, 0, 1]}
    item = MultipleChoice("a", "Which?\nA. x\nB. y\nC. z\nAnswer:", (" A", " B", " C"), 1, variants=[letters])
    asked = in_variant(item, 2)
    assert asked.choices == (" A", " B", " C") and asked.answer == 2
    written = parse_item({**LETTER, "variants": [{"prompt": "Which?\nA. y\nB. x", "order": [1, 0]}]})
    assert right_option(in_variant(written, 2)) == 0 and in_variant(written, 2).answer == ("A",)


@pytest.mark.parametrize("number", [0, 3, -1, True, 1.0])
def test_a_variant_that_is_not_there_is_refused(number):
    item = parse_item({**NUMBER, "variants": ["How much is 2 + 2?"]})
    with pytest.raises(ValueError, match=f"item 'q4': expected a variant from 1 to 2, got {number!r}"):
        in_variant(item, number)


def test_recall_accepts_several_answers():
    item = Recall("a", "The capital is", [" Paris", " paris"])
    assert accepted(item) == (" Paris", " paris") and Recall("a", "x", [" y"]) == Recall("a", "x", " y")
    assert accepted(Generation("g", "Q", ["1", "2"])) == ("1", "2")


@pytest.mark.parametrize(
    "record, given, field, problem",
    [
        (CHOICE, "Sum:", "variants", "expected a list of prompts or of objects with one, got 'Sum:'"),
        (CHOICE, [3], "variants[0]", "expected a prompt or an object with one, got int 3"),
        (CHOICE, ["Sum:", {"order": [0, 1, 2]}], "variants[1].prompt", "missing"),
        (CHOICE, [{"prompt": 3}], "variants[0].prompt", "expected text, got int 3; convert it with str()"),
        (CHOICE, [{"prompt": "Sum:", "ordr": []}], "variants[0].ordr", "unknown; known are prompt, choices, order"),
        (CHOICE, [{"prompt": "S", "order": [0, 1]}], "variants[0].order", "the numbers 0 to 2, each once, got (0, 1)"),
        (CHOICE, [{"prompt": "S", "order": [0, 0, 1]}], "variants[0].order", "each once, got (0, 0, 1)"),
        (CHOICE, [{"prompt": "S", "order": [1, 2, 3]}], "variants[0].order", "each once, got (1, 2, 3)"),
        (CHOICE, [{"prompt": "S", "order": [0, 1, 2.0]}], "variants[0].order", "each once, got (0, 1, 2.0)"),
        (CHOICE, [{"prompt": "S", "order": "012"}], "variants[0].order", "each once, got '012'"),
        (
            CHOICE,
            [{"prompt": "S", "choices": [" 3", " 4"]}],
            "variants[0].choices",
            "expected 3 as the item has, got 2",
        ),
        (
            CHOICE,
            [{"prompt": "S", "choices": [" 3", " 4", 5]}],
            "variants[0].choices",
            "expected a list of texts that are not empty, got (",
        ),
        (
            CHOICE,
            [{"prompt": "S", "choices": " 345"}],
            "variants[0].choices",
            "expected a list of texts that are not empty",
        ),
        (CHOICE, [{"prompt": "S", "stop": ["x"]}], "variants[0].stop", "goes with generation, this is multiple_choice"),
        (NUMBER, [{"prompt": "S", "stop": [""]}], "variants[0].stop", "expected a list of texts that are not empty"),
        (CHOICE, [{"prompt": "S", "choices": [" 4", "4", " 5"]}], "variants[0].choices", "choice 0 equals the answer"),
        (CHOICE, [{"prompt": "S", "choices": [" 3", " 4", " "]}], "variants[0].choices", "must not be empty"),
        (CHOICE, [{"prompt": "S", "chat": "no"}], "variants[0].chat", "expected true or false, got 'no'"),
        (CHOICE, [{"prompt": "S", "weak": 1}], "variants[0].weak", "expected true or false, got 1"),
        (CHOICE, ["2 + 2 ="], "variants[0]", "asks as the item itself does, '2 + 2 ='; give it another prompt"),
        (CHOICE, [{"prompt": "2 + 2 =", "order": [0, 1, 2]}], "variants[0]", "asks as the item itself does"),
        (CHOICE, [{"prompt": "2 + 2 =", "order": [2, 1, 0]}], "variants[0]", "asks as the item itself does"),
        (CHOICE, ["Sum:", "S", "Sum:"], "variants[2]", "asks as variants[0] does, 'Sum:'"),
        (RECALL, [{"prompt": "S", "choices": [" a", " b"]}], "variants[0].choices", "this is recall; drop it"),
        (RECALL, [{"prompt": "S", "order": [0]}], "variants[0].order", "goes with options, and the item has none"),
        (NUMBER, [{"prompt": "S", "order": [1, 0]}], "variants[0].order", "goes with options, and the item has none"),
        (NUMBER, [" "], "variants[0].prompt", "must not be empty"),
        (LETTER, [{"prompt": "S", "choices": ["A", "B"]}], "variants[0].choices", "this is generation; drop it"),
    ],
)
def test_a_bad_variant_is_refused_with_item_and_field(record, given, field, problem):
    with pytest.raises(ValueError, match=re.escape(f"item {record['id']!r}, field {field!r}: ")) as error:
        parse_item({**record, "variants": given})
    assert problem in str(error.value)


@pytest.mark.parametrize(
    "record, change, problem",
    [
        (CHOICE, {"cluster": 3}, "field 'cluster': expected text, got int 3"),
        (RECALL, {"fact": None}, "field 'fact': expected text, got NoneType"),
        (RECALL, {"answer": []}, "field 'answer': must not be an empty list"),
        (RECALL, {"answer": [" a", ""]}, "field 'answer': must not be empty"),
        (NUMBER, {"samples": 0}, "field 'samples': expected a whole number of 1 or more, got 0"),
        (CHOICE, {"samples": 4}, "field 'samples': unknown for multiple_choice"),
    ],
)
def test_other_new_fields_are_checked(record, change, problem):
    with pytest.raises(ValueError, match=problem):
        parse_item({**record, **change})


def test_a_probe_refuses_a_variant_that_differs_in_nothing():
    item = parse_item({**NUMBER, "variants": [{"prompt": NUMBER["prompt"], "chat": False}]})
    assert Probe("p", [item], chat=True).n_variants == 2
    with pytest.raises(ValueError, match=r"item 'q4', field 'variants\[0\].chat': .* chat=False: '2 \+ 2 ='; give"):
        Probe("p", [item])


OF_EVERY_KIND = (
    MultipleChoice("a", "Q", [" same", " same"], 1, contexts=[" he", " she"], lengths=[3, 4.5]),
    Recall("b", "The capital is", " Rome", "geo"),
    Generation("c", "Q", "(b)", "choice", options=4, stop=["\n"]),
    Generation("d", "Q", "see doc", "task", task="lm-eval:ifeval", doc={"k": [1, "x"]}),
)


def test_fingerprints_are_what_they_were_before_there_were_variants():
    probe = Probe("p", OF_EVERY_KIND, chat=True, system="s", temperature=0.6)
    assert probe.fingerprint == "5e740a90afd87d6e0318ad1187a27d86f3b5e7d1b733e13c7f6b6b17d0bf5c13"
    assert probe.variant_fingerprints == () and probe.n_variants == 1
    facts = "da39828e791f3df044189e18018d74b892b8b9abb32d12d14fa6cb8b413aabb6"
    capitals = "fce5f098ebc6865ff25d799e58ee71192423bc15b1fbca4ee9478e06ace1370b"
    assert load_probe("builtin:facts").fingerprint == facts
    assert load_probe("builtin:facts?category=capitals&kind=choice&limit=10&chat=true").fingerprint == capitals


def test_variants_have_fingerprints_of_their_own():
    def probe(*variants, **more):
        return Probe("p", [parse_item({**CHOICE, "variants": list(variants), **more}), parse_item(RECALL)])

    plain, two = probe(), probe("Sum:", {"prompt": "S", "order": [2, 0, 1]}, cluster="c", fact="f")
    assert two.fingerprint == plain.fingerprint and two.n_variants == 3
    first, second = two.variant_fingerprints
    assert probe("Sum:").variant_fingerprints == (first,) != (second,)
    assert probe("Sum:", {"prompt": "S", "order": [0, 2, 1]}).variant_fingerprints[1] != second
    assert probe({"prompt": "Sum:", "chat": False}).variant_fingerprints != (first,)
    assert Probe("other", two.items[::-1]).variant_fingerprints == (first, second)


def test_samples_count_in_the_fingerprint():
    once, four = (Probe("p", [parse_item({**NUMBER, "samples": n})]) for n in (1, 4))
    assert once.fingerprint == Probe("p", [parse_item(NUMBER)]).fingerprint != four.fingerprint
