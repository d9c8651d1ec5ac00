"""`builtin:behaviour`: what is asked for is what is loaded, and its items measure what they say."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import forget_callback
from forget_callback import load_probe
from forget_callback.probes.builtin.behaviour import ABILITIES
from forget_callback.probes.conversation import question_of
from forget_callback.probes.judging import judge_all
from tests.in_turn import of_the_day

FOLDER = Path(forget_callback.__file__).parent / "probes/behaviour"
RUN = [ability for ability in ABILITIES if ability != "code"]


@pytest.fixture(scope="module")
def probe():
    return load_probe("builtin:behaviour")


def by_ability(items):
    found = defaultdict(list)
    for item in items:
        found[item.category].append(item)
    return found


def test_abilities_are_categories_and_code_is_left_out_unless_it_may_run(probe):
    assert probe.name == "behaviour" and probe.chat is True
    assert list(dict.fromkeys(item.category for item in probe.items)) == RUN
    assert {item.ability for item in probe.items} == {"behaviour"}
    assert all(item.id.startswith(f"{item.category}/") for item in probe.items)
    counts = Counter(item.category for item in probe.items)
    assert sum(140 <= n <= 170 for n in counts.values()) >= 7  # some 150 items for each of seven abilities
    assert 180 <= counts["refusal"] + counts["over_refusal"] <= 220  # two sides of one ability


def test_every_file_is_an_ability():
    assert {path.stem for path in FOLDER.iterdir()} == set(ABILITIES)


def test_every_record_is_what_it_says():
    ids, prompts = set(), Counter()
    for ability in ABILITIES:
        for line in (FOLDER / f"{ability}.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            assert record["category"] == ability and record["kind"] == "generation"
            ids.add(record["id"])
            prompts[json.dumps([record.get("prompt"), record.get("messages")])] += 1
    assert len(ids) == sum(prompts.values())
    assert max(prompts.values()) == 1


def test_category_and_limit():
    some = load_probe("builtin:behaviour?category=json,%20tools&limit=40")
    assert some.name == "behaviour-tools-json"
    counts = Counter(item.category for item in some.items)
    assert counts.total() == 40 and counts["tools"] in (20, 21)  # a share of each, 160 to 152
    assert some.items == load_probe("builtin:behaviour?category=json,tools&limit=40").items
    each = Counter(item.category for item in load_probe("builtin:behaviour?limit=90").items)
    assert set(each) == set(RUN) and min(each.values()) >= 6


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("builtin:behaviour?category=refusl", "did you mean 'refusal'"),
        ("builtin:behaviour?category=json,tool", "did you mean 'tools'"),
        ("builtin:behaviour?category=", "category must be one or more of"),
        ("builtin:behavior", "did you mean 'builtin:behaviour'"),
        ("builtin:behaviour?kind=choice", "unknown option 'kind'"),
        ("builtin:behaviour?category=code", "run_code=true"),
        ("builtin:behaviour?category=json,code", "run_code=true"),
    ],
)
def test_what_does_not_exist_is_named(spec, said):
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        load_probe(spec)


def test_there_is_room_for_the_right_answer(probe):
    for item in probe.items:
        shortest = min(item.answer, key=len)
        ascii_letters = sum(letter.isascii() for letter in shortest)
        tokens = ascii_letters / 3 + 0.6 * (len(shortest.encode()) - ascii_letters)  # of a small vocabulary
        assert tokens <= item.max_new_tokens, (item.id, tokens)


# Of each ability the share of items that one text may pass. Whoever refuses all passes every item of "refusal", and
# whoever never calls a tool those of "tools" that need none: the other items of the pair are there for them.
CONSTANT = {"tools": 0.26, "language": 0.1, "second_turn": 0.1, "refusal": 1.0, "reading": 0.25}


def test_no_constant_answer_passes_many_items(probe):
    for ability, items in by_ability(probe.items).items():
        own = [item.answer[0] for item in items[:: max(1, len(items) // 4)]]
        common = ["I'm sorry, but I can't help with that.", "Yes.", "no", "A", "1", "{}", "[]", "OK", "I don't know."]
        for text in [*own, *common]:
            found = judge_all([(item, text, True) for item in items]).judgements
            share = sum(one.outcome == "correct" for one in found) / len(items)
            assert share <= CONSTANT.get(ability, 0.15), (ability, text, share)


def test_nothing_and_the_question_itself_are_no_answers(probe):
    for ability, items in by_ability(probe.items).items():
        empty = judge_all([(item, " \n", True) for item in items]).judgements
        assert {one.outcome for one in empty} == {"unparsed"}, ability
        short = [item for item in items if len(question_of(item)) <= 4 * item.max_new_tokens]  # who could repeat it
        echo = judge_all([(item, question_of(item), True) for item in short])
        share = sum(one.outcome == "correct" for one in echo.judgements) / len(items)
        assert share <= (0.26 if ability == "tools" else 0.1), (ability, share)


def test_code_is_there_where_it_may_run_and_its_examples_pass():
    probe = load_probe("builtin:behaviour?run_code=true")
    assert list(dict.fromkeys(item.category for item in probe.items)) == list(ABILITIES)
    code = [item for item in probe.items if item.category == "code"]
    assert 140 <= len(code) <= 170
    today = of_the_day([code[part::12] for part in range(12)])  # each takes two processes
    texts = [(item, f"Here you are:\n```python\n{item.answer[0]}\n```", True) for item in today]
    assert {one.outcome for one in judge_all(texts, run_code=True).judgements} == {"correct"}
    assert {
        one.outcome
        for one in judge_all([(item, "def f():\n    pass", True) for item in today[:3]], run_code=True).judgements
    } <= {"wrong", "unparsed"}


def test_whoever_refuses_all_fails_every_harmless_request():
    items = load_probe("builtin:behaviour?category=over_refusal").items
    refusals = ["I'm sorry, but I can't help with that.", "Lo siento, no puedo ayudarte con eso.", "I won't do that."]
    for text in refusals:
        assert {one.outcome for one in judge_all([(item, text, True) for item in items]).judgements} == {"wrong"}
