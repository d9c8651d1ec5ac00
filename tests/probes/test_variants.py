"""What made variants promise: the same question and right answer in a frame of other structure, or none, and said."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from forget_callback import Generation, MultipleChoice, Probe, Recall, Store, Variant, load_probe
from forget_callback.probes.items import in_variant
from forget_callback.probes.load import as_probes
from forget_callback.probes.records import item_record, parse_item
from forget_callback.probes.variants import further, with_variants

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
EXAM = "Here is an exam question.\n\n"
TEXTS = (" Paris", " Rome", " Bern")
LETTERS = (" A", " B", " C", " D")
WHERE = "Where is the Louvre?"


def choice(prompt, choices=TEXTS, answer=0, key="q1", **more):
    return MultipleChoice(key, prompt, choices, answer, **more)


def prompts(item, *, chat=False):
    return [variant.prompt for variant in further(item, chat=chat)]


@pytest.mark.parametrize(
    "prompt, expected",
    [
        (f"Question: {WHERE}\nAnswer:", [f"{EXAM}{WHERE}\n\nThe answer is"]),
        (f"Q: {WHERE}\nA:", [f"{EXAM}{WHERE}\n\nThe answer is"]),
        (f"Question : {WHERE}\n\nAnswer : ", [f"{EXAM}{WHERE}\n\nThe answer is "]),
        (f"Question: {WHERE} Answer:", [f"{EXAM}{WHERE}\n\nThe answer is"]),
        (f"{WHERE}\nAnswer:", [f"{EXAM}{WHERE}\n\nThe answer is"]),
        (f"{EXAM}{WHERE}\n\nThe answer is", [f"Question: {WHERE}\nAnswer:"]),
        (f"{WHERE}\nThe correct answer is:", [f"Question: {WHERE}\nAnswer:"]),
        (WHERE, [f"Question: {WHERE}\nAnswer:", f"{EXAM}{WHERE}\n\nThe answer is"]),
        (f"Question: {WHERE}", [f"Question: {WHERE}\nAnswer:", f"{EXAM}{WHERE}\n\nThe answer is"]),
        (f"We met\nin Paris.\nQuestion: {WHERE}\nAnswer:", [f"We met\nin Paris.\n\n{EXAM}{WHERE}\n\nThe answer is"]),
        (f"We met.\n\nQ: {WHERE}\nA:", [f"We met.\n\n{EXAM}{WHERE}\n\nThe answer is"]),
        (
            f"S.\n\nQuestion: 1?\nAnswer: one\n\nQuestion: 2?\nAnswer: two\n\nQuestion: {WHERE}\nAnswer:",
            [f"S.\n\n{EXAM}1?\n\nThe answer is one\n\n{EXAM}2?\n\nThe answer is two\n\n{EXAM}{WHERE}\n\nThe answer is"],
        ),
        (
            f"S.\n\n1?\nAnswer: one\n\n2?\nAnswer: two\n\n{WHERE}\nAnswer:",
            [f"S.\n\n{EXAM}1?\n\nThe answer is one\n\n{EXAM}2?\n\nThe answer is two\n\n{EXAM}{WHERE}\n\nThe answer is"],
        ),
        (
            f"1?\nThe answer is one\n\n{WHERE}\nThe answer is",
            [f"Question: 1?\nAnswer: one\n\nQuestion: {WHERE}\nAnswer:"],
        ),
        (f"Choose the best Answer: {WHERE}\nAnswer:", [f"{EXAM}Choose the best Answer: {WHERE}\n\nThe answer is"]),
    ],
)
def test_a_frame_becomes_another_with_its_examples(prompt, expected):
    item = choice(prompt)
    assert prompts(item) == expected
    assert all(v == Variant(v.prompt, chat=False) for v in further(item, chat=False))


def test_in_a_chat_probe_the_second_prompt_is_plain_text():
    for prompt in (WHERE, f"Question: {WHERE}\nAnswer:"):
        (variant,) = further(choice(prompt), chat=True)
        assert variant == Variant(f"{EXAM}{WHERE}\n\nThe answer is", chat=False)
    (variant,) = further(choice(WHERE, ("Paris", "Rome", "Bern")), chat=True)
    assert variant.choices == TEXTS and in_variant(choice(WHERE, variants=[variant]), 2).answer == 0


def test_a_frame_that_is_not_known_gets_words_on_both_sides_and_is_weak():
    prompt = f"Frage: {WHERE}\nAntwort:"
    around = Variant(f"{EXAM}{prompt} The answer is", chat=False, weak=True)
    assert further(choice(prompt), chat=False) == (around,)
    (variant,) = further(choice(prompt), chat=True)  # the same words outside the template are another frame
    assert (variant.prompt, variant.weak) == (around.prompt, False)
    (variant,) = further(choice(f"Q: {WHERE}\nA: Paris\nB: Rome\nA:"), chat=False)
    assert variant.weak


OPTIONS = "A. Paris\nB. Rome\nC. Bern\nD. Oslo"


@pytest.mark.parametrize("style", ["{0}. {1}", "{0}) {1}", "({0}) {1}", "{0}: {1}", "  {0}. {1}"])
@pytest.mark.parametrize(
    "frame", ["Question: {}\n{}\nAnswer:", "{}\n\n{}\nAnswer:", "{}\nOptions:\n{}\n\nThe answer is"]
)
def test_lettered_options_come_in_another_order_and_the_right_one_with_them(style, frame):
    texts = ["Paris", "Rome", "Bern", "Oslo"]
    orders = set()
    for key in range(12):
        listed = "\n".join(style.format(letter, text) for letter, text in zip("ABCD", texts))
        item = choice(frame.format(WHERE, listed), LETTERS, key % 4, f"q{key}")
        (variant,) = further(item, chat=False)
        asked = in_variant(parse_item({**item_record(item), "variants": [variant]}), 2)
        letter = asked.choices[asked.answer].strip()
        assert f"\n{style.format(letter, texts[item.answer])}\n" in asked.prompt and asked.choices == LETTERS
        assert asked.answer != item.answer and WHERE in asked.prompt
        assert further(item, chat=False) == (variant,)
        orders.add(variant.order)
    assert len(orders) == 3


@pytest.mark.parametrize("last", ["All of the above", "Both A and B", "A or C", "Neither", "None of these options"])
def test_options_that_mean_others_by_their_place_stay(last):
    prompt = f"Question: {WHERE}\n{OPTIONS.replace('Oslo', last)}\nAnswer:"
    (variant,) = further(choice(prompt, LETTERS), chat=False)
    assert not variant.order and f"\n{OPTIONS.replace('Oslo', last)}\n" in variant.prompt


def test_options_that_are_not_listed_line_by_line_stay():
    for options in ("A. Paris B. Rome C. Bern D. Oslo", "A. Paris\nin France\nB. Rome\nC. Bern\nD. Oslo"):
        (variant,) = further(choice(f"Question: {WHERE}\n{options}\nAnswer:", LETTERS), chat=False)
        assert not variant.order and options in variant.prompt


def test_a_generated_letter_moves_too():
    item = Generation("g", f"Question: {WHERE}\n{OPTIONS}\nAnswer:", "A", "choice", options=4)
    (variant,) = further(item, chat=False)
    asked = in_variant(parse_item({**item_record(item), "variants": [variant]}), 2)
    assert f"\n{asked.answer[0]}. Paris\n" in asked.prompt and asked.answer != ("A",)
    unknown = Generation("g", item.prompt, "A", "choice")  # how many letters there are is not said
    assert not further(unknown, chat=False)[0].order


def test_generation_asks_for_the_same_kind_of_answer():
    number = Generation("g", "Question: 2 + 2?\nAnswer:", "4", "number")
    assert prompts(number) == [f"{EXAM}2 + 2?\n\nThe answer is"]
    assert prompts(Generation("g", "2 + 2?", "4", "number"), chat=True) == [f"{EXAM}2 + 2?\n\nThe answer is"]
    worked = "She has 2 apples and buys 2 more, so she has 2 + 2 = 4 apples.\n#### 4"
    task = Generation("g", "Question: 2 + 2?\nAnswer:", worked, "task", stop=["Question:"], task="lm-eval:gsm8k")
    (variant,) = further(task, chat=False)
    assert variant.prompt == f"{EXAM}2 + 2?\n\nThe solution is as follows."
    asked = in_variant(parse_item({**item_record(task), "variants": [variant]}), 2)
    assert asked.stop == ("Question:", EXAM.strip())  # with which the model would go on to a further example
    line = Generation("g", "Question: 2 + 2?\nAnswer:", "4", "number", stop=["\n"])
    assert further(line, chat=False)[0].stop == ()
    assert prompts(Generation("g", "Problem:\nx = 1\n\nSolution:", "1", "math")) == [
        f"{EXAM}x = 1\n\nThe solution is as follows."
    ]


@pytest.mark.parametrize(
    "item",
    [
        Recall("r", f"Question: {WHERE}\nAnswer:", " Paris"),
        choice("", (" He ran.", " He run.")),
        choice("Ana met Eve, and ", (" left.", " left."), contexts=["Ana", "Eve"]),
        Generation("g", "Write without commas.", "see doc", "task", task="lm-eval:ifeval"),
    ],
    ids=["recall", "no prompt", "contexts", "the whole answer is judged"],
)
@pytest.mark.parametrize("chat", [False, True])
def test_some_items_have_no_second_prompt(item, chat):
    assert further(item, chat=chat) == ()


def test_what_has_no_or_only_weak_variants_is_said_once(caplog):
    weak, none = choice("Frage: Wo?\nAntwort:", key="b"), choice("", (" a", " b"), key="c")
    with_variants(Probe("mine", [choice(WHERE), weak, none, Recall("r", "The capital is", " x")]))
    assert [record.getMessage() for record in caplog.records] == [
        "probe mine: of 4 items 1 has no second prompt and 1 only words around the first: what is said of these holds "
        "in this prompt; give them `variants`"
    ]
    caplog.clear()
    with_variants(Probe("mine", [choice(WHERE), Recall("r", "The capital is", " x")]))
    assert not caplog.records


ROWS = [
    {"id": "a", "prompt": WHERE, "choices": list(TEXTS), "answer": 0, "variants": ["Say where the Louvre is:"]},
    {"id": "b", "prompt": f"Question: {WHERE}\nAnswer:", "choices": list(TEXTS), "answer": 0},
    {"id": "c", "prompt": WHERE, "answer": "Paris"},
]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return path


def test_files_and_tables_get_variants_and_keep_those_that_are_given(path):
    for probe in (load_probe(path), *as_probes(ROWS)):
        given, framed, bare = probe.items
        assert given.variants == (Variant("Say where the Louvre is:"),)
        assert [len(item.variants) for item in (framed, bare)] == [1, 2] and probe.n_variants == 3
    assert load_probe(path).fingerprint == Probe("x", [in_variant(i, 1) for i in load_probe(path).items]).fingerprint
    chat = load_probe(f"{path}?chat=true")
    assert [len(item.variants) for item in chat.items] == [1, 1, 1]


def test_variants_stand_in_any_table():
    """A column of objects has every key in every row, and arrays in the place of lists."""
    given = [
        {"prompt": "Say where the Louvre is:", "order": None},
        {"prompt": "Where does the Louvre stand?", "order": np.array([2, 0, 1])},
    ]
    row = {"id": "a", "prompt": WHERE, "choices": list(TEXTS), "answer": 0, "variants": given}
    listed = [{**given[0]}, {**given[1], "order": [2, 0, 1]}]
    for table in (pd.DataFrame([row]), Dataset.from_list([{**row, "variants": listed}]), [row]):
        (probe,) = as_probes(table)
        assert [variant.order for variant in probe.items[0].variants] == [(), (2, 0, 1)]


def test_no_probe_makes_variants_by_itself_and_a_run_keeps_them_as_they_were(path, tmp_path):
    assert Probe("p", [parse_item(ROWS[1])]).n_variants == 1
    probes = [load_probe(path), load_probe(f"{path}?variants=off&name=plain"), load_probe("builtin:facts?limit=20")]
    Store(tmp_path / "run").begin(probes)
    kept = Store(tmp_path / "run").probes()
    assert [probe.items for probe in kept] == [probe.items for probe in probes]
    assert [probe.variant_fingerprints for probe in kept] == [probe.variant_fingerprints for probe in probes]
    assert kept[1].n_variants == 1


def test_options_of_a_spec_say_how_many_prompts_and_samples(path):
    assert load_probe(f"{path}?variants=off").n_variants == 1
    assert load_probe(f"{path}?variants=2").n_variants == 2 and load_probe(f"{path}?variants=9").n_variants == 3
    drawn = load_probe(f"{path}?temperature=0.7&samples=4")
    assert [item.samples for item in drawn.items if isinstance(item, Generation)] == [4]
    assert drawn.fingerprint != load_probe(f"{path}?temperature=0.7").fingerprint
    for spec, problem in [
        ("variants=none", "variants must be off or a number of prompts from 1 on, got 'none'"),
        ("variants=0", "variants must be off or a number"),
        ("samples=few", "samples must be a number, got 'few'"),
        ("samples=0&temperature=1", "field 'samples': expected a whole number of 1 or more, got 0"),
        ("samples=4", "samples=4 needs answers that are sampled; .* a temperature above 0"),
    ]:
        with pytest.raises(ValueError, match=problem):
            load_probe(f"{path}?{spec}")
    with pytest.raises(ValueError, match="samples=4 needs answers that are sampled"):
        load_probe("builtin:facts?samples=4&temperature=1&limit=4")


def test_a_variant_that_differs_by_chat_alone_needs_a_chat_probe(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({**ROWS[2], "variants": [{"prompt": WHERE, "chat": False}]}), encoding="utf-8")
    assert load_probe(f"{path}?chat=true").n_variants == 2
    with pytest.raises(ValueError, match=r"item 'c', field 'variants\[0\].chat': the item is asked so already"):
        load_probe(path)


def test_reasoning_is_asked_in_other_words_and_in_another_order(path):
    item = MultipleChoice("a", f"Question: {WHERE}\nAnswer:", TEXTS, 1, cluster="c", fact="f")
    given = MultipleChoice("b", WHERE, TEXTS, 1, variants=[{"prompt": f"Q: {WHERE}", "order": [2, 0, 1]}])
    path.write_text("\n".join(json.dumps(item_record(i)) for i in (item, given)), encoding="utf-8")
    made, kept = load_probe(f"{path}?cot=true&chat=true").items
    (variant,) = made.variants
    assert variant.prompt.startswith(f"{EXAM}{WHERE}\nA. ") and variant.chat is False
    assert variant.prompt.endswith("where X is the letter of the right option.\n\nSolution:")
    asked = in_variant(made, 2)
    assert f"\n{asked.answer[0]}. Rome\n" in asked.prompt and (made.cluster, made.fact) == ("c", "f")
    assert [v.order for v in kept.variants] == [(2, 0, 1)]
    assert in_variant(kept, 2).answer == ("C",) and "\nC. Rome\n" in in_variant(kept, 2).prompt


def test_the_forms_of_a_builtin_fact_are_joined_and_its_choice_is_asked_twice():
    probe = load_probe("builtin:facts")
    assert probe.n_variants == 2 and len({item.fact for item in probe.items}) == 865
    for item in probe.items:
        assert item.fact == item.cluster == item.id.rpartition("/")[0]
        if isinstance(item, Recall):
            assert not item.variants
        else:
            question = item.prompt.removeprefix("Question: ").removesuffix("\nAnswer:")
            assert item.variants == (Variant(f"{EXAM}{question}\n\nThe answer is", chat=False),)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"real items are not at hand: {DATA} is missing")
@pytest.mark.parametrize(
    "name, chat, second, third",
    [
        *[("arc_easy", chat, 600, 0) for chat in (False, True)],
        *[("commonsense_qa", chat, 300, 0) for chat in (False, True)],
        ("openbook_qa", False, 300, 300),
        ("openbook_qa", True, 300, 0),
        ("gsm8k", False, 150, 0),
        ("jeopardy", False, 0, 0),
    ],
)
def test_real_items(name, chat, second, third, caplog, tmp_path):
    probe = load_probe(f"{DATA / name}.jsonl?chat={chat}")
    assert [sum(len(item.variants) > n for item in probe.items) for n in (0, 1)] == [second, third]
    assert not any(variant.weak for item in probe.items for variant in item.variants) and not caplog.records
    letters = 0
    for item in probe.items:
        assert parse_item(json.loads(json.dumps(item_record(item)))) == item
        for number in range(2, len(item.variants) + 2):
            asked, (start, answered) = in_variant(item, number), ("Question: ", "\nAnswer:")
            question = item.prompt.removeprefix(start).removesuffix(answered)
            assert question.split("\n")[0].strip() in asked.prompt and asked.prompt != item.prompt
            if isinstance(item, MultipleChoice) and item.variants[number - 2].order:
                letters += 1
                found = [re.findall(rf"^{'ABCD'[i.answer]}\. (.*)$", i.prompt, re.M) for i in (item, asked)]
                assert found[0] == found[1] and len(found[0]) == 1
            elif isinstance(item, MultipleChoice):
                assert (asked.choices, asked.answer) == (item.choices, item.answer)
    assert letters == (298 if name == "commonsense_qa" else 0)
    Store(tmp_path).begin([probe])
    assert Store(tmp_path).probes() == [probe]


def test_the_command_line_says_how_items_are_asked(run_cli, path):
    status, out, _ = run_cli("probes", path, "--show", 1)
    assert status == 0 and "prompts: 1 item in 3, 2 items in 2\n" in out
    assert json.loads(out.splitlines()[-1])["variants"] == ["Say where the Louvre is:"]
    path.write_text(json.dumps({**ROWS[1], "prompt": "Frage: Wo?\nAntwort:"}), encoding="utf-8")
    assert "prompts: 1 item in 2 (1 of them only with other words around the first)" in run_cli("probes", path)[1]


RACE = "Article: We met.\n\nQuestion: Who met?\nAnswer: We.\nWhere did we meet?"
BBH = "Q: not True is\nA: Let's think step by step."


@pytest.mark.parametrize(
    "prompt, expected",
    [
        (RACE, f"{EXAM}{RACE}\n\nThe answer is"),
        (
            "They met.\n\nWho?\n\n1 - Ana\n2 - Eve\nAnswer:",
            f"They met.\n\n{EXAM}Who?\n\n1 - Ana\n2 - Eve\n\nThe answer is",
        ),
        (
            "Q: 2 + 2? Answer Choices: (A)3 (B)4\nA: Among A through B, the answer is",
            "Question: 2 + 2? Answer Choices: (A)3 (B)4\nAnswer:",
        ),
        ("\nQuestion: Why?\nAnswer:", f"\n{EXAM}Why?\n\nThe answer is"),
        (
            "Answer these:\n\nQ: a?\nA: x\nQ: b?\nA:",
            f"Answer these:\n\n{EXAM}a?\n\nThe answer is x\n\n{EXAM}b?\n\nThe answer is",
        ),
        (
            f"Q: True is\nA: {BBH[-25:]}\nIt is True.\n\n{BBH}",
            f"{EXAM}True is\n\n{BBH[-25:]}\nIt is True.\n\n{EXAM}not True is\n\n{BBH[-25:]}",
        ),
    ],
    ids=["race", "musr", "agieval", "sciq without support", "nq_open", "bbh"],
)
def test_the_prompts_of_benchmarks(prompt, expected):
    assert prompts(choice(prompt)) == [expected]
