"""What items and probes promise: nothing bad gets in, and a fingerprint is the same everywhere and for nothing else."""

import os
import subprocess
import sys

import numpy as np
import pytest

from forget_callback.probes.items import Generation, MultipleChoice, Recall
from forget_callback.probes.probe import Probe
from forget_callback.probes.records import item_record, parse_item

CHOICE = {"id": "q1", "prompt": "2 + 2 =", "choices": [" 3", " 4", " 5"], "answer": 1, "category": "sums"}
RECALL = {"kind": "recall", "id": "q2", "prompt": "The capital of France is", "answer": " Paris", "category": "cities"}
GENERATION = {"id": "q3", "prompt": "Name a prime.", "answer": ["2", "3"], "match": "number", "max_new_tokens": 8}
RECORDS = {"multiple_choice": CHOICE, "recall": RECALL, "generation": GENERATION}


def probe(*records, **settings):
    return Probe("p", [parse_item(record) for record in records or (CHOICE, RECALL, GENERATION)], **settings)


@pytest.mark.parametrize(
    "record, expected",
    [
        (CHOICE, MultipleChoice("q1", "2 + 2 =", (" 3", " 4", " 5"), 1, "sums")),
        (RECALL, Recall("q2", "The capital of France is", " Paris", "cities")),
        (GENERATION, Generation("q3", "Name a prime.", ("2", "3"), "number", max_new_tokens=8)),
        ({"id": "q", "prompt": "Q", "answer": "yes"}, Generation("q", "Q", ("yes",), "exact", "", 64)),
    ],
)
def test_a_record_becomes_an_item_and_comes_back(record, expected):
    item = parse_item(record)
    assert item == expected and parse_item(item_record(item)) == item


@pytest.mark.parametrize(
    "record, field, problem",
    [
        ({**CHOICE, "id": 7.5}, "id", r"expected text, got float 7.5; convert it with str\(\)"),
        ({**CHOICE, "id": True}, "id", "expected text, got bool True"),
        ({**CHOICE, "id": " "}, "id", "must not be empty"),
        ({**CHOICE, "prompt": None}, "prompt", "expected text, got NoneType"),
        ({**CHOICE, "category": 3}, "category", r"expected text, got int 3; convert it with str\(\)"),
        ({**CHOICE, "category": "\ud800"}, "category", "not valid text"),
        ({**CHOICE, "choices": " 3"}, "choices", "expected a list of texts"),
        ({**CHOICE, "choices": [" 4"]}, "choices", "expected two or more, got 1"),
        ({**CHOICE, "choices": []}, "choices", "expected two or more, got 0"),
        ({**CHOICE, "choices": [" 3", 4]}, "choices", "expected text, got int 4"),
        ({**CHOICE, "choices": [" 3", " "]}, "choices", "must not be empty"),
        ({**CHOICE, "choices": [" 3", " 4", "4"]}, "choices", "choice 2 equals the answer, choice 1"),
        ({**CHOICE, "answer": 3}, "answer", "expected an index from 0 to 2, got 3"),
        ({**CHOICE, "answer": -1}, "answer", "expected an index from 0 to 2, got -1"),
        ({**CHOICE, "answer": True}, "answer", "expected the index of the right choice, got True"),
        ({**CHOICE, "answer": 1.0}, "answer", "expected the index of the right choice, got 1.0"),
        (
            {**CHOICE, "answer": "7"},
            "answer",
            "expected the index of the right choice, got '7'; the first choice is 0$",
        ),
        ({**CHOICE, "answer": "4"}, "answer", r"got '4'; the first choice is 0; did you mean 1\?$"),
        ({**CHOICE, "answer": " 4"}, "answer", r"got ' 4'; the first choice is 0; did you mean 1\?$"),
        ({**CHOICE, "match": "exact"}, "match", "unknown for multiple_choice"),
        ({**RECALL, "answer": ""}, "answer", "must not be empty"),
        ({**RECALL, "answer": [" Paris", 3]}, "answer", "expected text, got int 3"),
        ({**RECALL, "answer": 3}, "answer", "expected text, got int 3"),
        (
            {**RECALL, "choices": [" a", " b"]},
            "choices",
            "unknown for recall; known are id, prompt, answer, category, variants, cluster, fact, messages, tools, "
            "ability; drop it$",
        ),
        ({**GENERATION, "prompt": ""}, "prompt", "must not be empty"),
        ({**GENERATION, "answer": []}, "answer", "must not be an empty list"),
        ({**GENERATION, "match": "exact", "answer": 4}, "answer", r"a list of texts, got 4; convert it with str\(\)"),
        ({**GENERATION, "answer": True}, "answer", "expected text or a list of texts, got True"),
        ({**GENERATION, "answer": float("inf")}, "answer", "match 'number' needs a number, got 'inf'"),
        ({**GENERATION, "answer": ["2", ""]}, "answer", "must not be empty"),
        ({**GENERATION, "answer": ["2", "three"]}, "answer", "match 'number' needs a number, got 'three'"),
        ({**GENERATION, "match": "choice", "answer": "AB"}, "answer", "match 'choice' needs one letter, got 'AB'"),
        ({**GENERATION, "match": "regex", "answer": "(4"}, "answer", r"not a regular expression: '\(4'"),
        ({**GENERATION, "match": "regex", "answer": "a{9999999999}"}, "answer", r"not .* expression: .* too large\)"),
        ({**GENERATION, "match": "regex", "answer": ["4", "(" * 5000]}, "answer", r"not a regular .*….*recursion"),
        ({**GENERATION, "match": "exact", "answer": "a\nb"}, "answer", "match 'exact' reads one line"),
        ({**GENERATION, "match": "fuzzy"}, "match", "expected one of exact, .*, got 'fuzzy'"),
        (
            {**GENERATION, "match": "mylab."},
            "match",
            r"a registered name with a dot such as mylab.close, got 'mylab\.'",
        ),
        ({**GENERATION, "match": 3}, "match", "expected one of exact, .*, got 3"),
        ({**GENERATION, "max_new_tokens": 0}, "max_new_tokens", "a whole number of 1 or more, got 0"),
        ({**GENERATION, "max_new_tokens": True}, "max_new_tokens", "a whole number of 1 or more, got True"),
        (
            {**GENERATION, "answr": "2"},
            "answr",
            "unknown for generation; known are id, .*; drop it, or put it in `doc`",
        ),
        ({**CHOICE, "kind": "essay"}, "kind", "expected one of multiple_choice, recall, generation, text, got 'essay'"),
        ({**CHOICE, "kind": ["recall"]}, "kind", r"expected one of .*, got \['recall'\]"),
        *[
            ({key: value for key, value in record.items() if key != missing}, missing, f"missing for {kind}")
            for kind, record in RECORDS.items()
            for missing in ("id", "prompt", "answer")
        ],
        ({"kind": "multiple_choice", "id": "q1", "prompt": "Q", "answer": 0}, "choices", "missing"),
    ],
)
def test_a_bad_record_is_refused_with_item_and_field(record, field, problem):
    with pytest.raises(ValueError, match=rf"^item {record.get('id')!r}, field '{field}': .*{problem}"):
        parse_item(record)


@pytest.mark.parametrize("record", [None, 3, "text", [CHOICE]])
def test_what_is_not_a_mapping_is_refused(record):
    with pytest.raises(ValueError, match=rf"expected an object .* got {type(record).__name__}"):
        parse_item(record)


@pytest.mark.parametrize(
    "name, items, settings, problem",
    [
        ("p", [], {}, "probe 'p' has no items"),
        ("p", [Recall("a", "", "x"), Recall("b", "", "x"), Recall("a", "", "y")], {}, "item 'a'.*items 0 and 2"),
        ("p", [Recall("a", "", "x"), RECALL], {}, "probe 'p', item 1: expected an item"),
        *[(name, [Recall("a", "", "x")], {}, "name must be") for name in ("", "all", "a/b", ".p", "a b", None, 3)],
        ("p", [Recall("a", "", "x")], {"normalization": "mean"}, "one of sum, length, token, got 'mean'"),
        *[
            ("p", [Recall("a", "", "x")], {"temperature": bad}, "temperature must be 0")
            for bad in (-1, float("nan"), float("inf"), "warm")
        ],
        *[("p", [Recall("a", "", "x")], {"top_p": bad}, r"top_p must lie in \(0, 1\]") for bad in (0, 1.5, None)],
    ],
)
def test_a_bad_probe_is_refused(name, items, settings, problem):
    with pytest.raises(ValueError, match=problem):
        Probe(name, items, **settings)


def test_the_vectors_follow_the_items_and_open_ended_items_have_no_options():
    p = probe()
    assert len(p) == 3 and p.ids == ("q1", "q2", "q3")
    np.testing.assert_array_equal(p.n_choices, [3, np.inf, np.inf])
    np.testing.assert_array_equal(p.answer, [1, -1, -1])


def test_the_fingerprint_is_a_fixed_number_in_every_process():
    code = (
        "from forget_callback.probes.records import parse_item\nfrom forget_callback.probes.probe import Probe\n"
        f"print(Probe('p', [parse_item(r) for r in ({CHOICE!r}, {RECALL!r}, {GENERATION!r})]).fingerprint)"
    )
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == probe().fingerprint
    # Stored runs compare by this value: whoever changes it makes every earlier run incomparable.
    assert probe().fingerprint == "4ee8080e2baa7ef76b9a2eda02019ad9989155685f9ee54ed932188795873aef"


def test_the_fingerprint_ignores_name_and_order_but_not_repeated_use():
    p = probe()
    assert Probe("other", p.items[::-1]).fingerprint == p.fingerprint
    assert probe(CHOICE, RECALL).fingerprint != p.fingerprint


@pytest.mark.parametrize(
    "kind, change",
    [
        ("multiple_choice", {"id": "other"}),
        ("multiple_choice", {"prompt": "2 + 2 = "}),
        ("multiple_choice", {"choices": [" 3", " 4", " 6"]}),
        ("multiple_choice", {"choices": [" 5", " 4", " 3"]}),
        ("multiple_choice", {"answer": 2}),
        ("multiple_choice", {"category": "maths"}),
        ("recall", {"id": "other"}),
        ("recall", {"prompt": "The capital of Italy is"}),
        ("recall", {"answer": "Paris"}),
        ("recall", {"category": ""}),
        ("recall", {"kind": "generation"}),
        ("generation", {"id": "other"}),
        ("generation", {"prompt": "Name a prime!"}),
        ("generation", {"answer": ["2"]}),
        ("generation", {"match": "regex"}),
        ("generation", {"category": "sums"}),
        ("generation", {"max_new_tokens": 9}),
    ],
)
def test_every_field_of_every_kind_changes_the_fingerprint(kind, change):
    assert probe({**RECORDS[kind], **change}).fingerprint != probe(RECORDS[kind]).fingerprint


CHANGED = {
    "normalization": "length",
    "template": "{{ x }}",
    "temperature": 0.7,
    "top_p": 0.9,
    "seed": 1,
    "system": "Be brief.",
    "generation_prompt": False,
    "thinking": True,
    "revision": "1",
    "scorer": "mylab.correct >= 0.5",
    "chat": False,
}


@pytest.mark.parametrize("setting", CHANGED)
def test_every_setting_changes_the_fingerprint(setting):
    assert probe(**{"chat": True, setting: CHANGED[setting]}).fingerprint != probe(chat=True).fingerprint


def test_no_setting_is_left_out_of_the_test_above():
    assert probe().settings.keys() == CHANGED.keys()


def test_a_whole_number_and_the_same_fraction_are_one_setting():
    assert probe(temperature=0, top_p=1).fingerprint == probe().fingerprint


@pytest.mark.parametrize(
    "fields, problem",
    [
        ({"contexts": ["x"]}, "field 'contexts': expected one for each of the 2 choices"),
        ({"contexts": ["x", 1]}, "field 'contexts': expected text"),
        ({"contexts": ["x", "x"], "choices": [" a", " a"]}, "choice 1 equals the answer"),
        ({"lengths": [1]}, "field 'lengths': expected one for each"),
        ({"lengths": [1, 0]}, "field 'lengths': expected positive numbers, got 0"),
    ],
)
def test_contexts_and_lengths_go_with_the_choices(fields, problem):
    with pytest.raises(ValueError, match=problem):
        MultipleChoice(**{"id": "a", "prompt": "Q", "choices": [" a", " b"], "answer": 0, **fields})


def test_options_may_differ_in_their_contexts_alone():
    item = MultipleChoice("a", "Q", [" same", " same"], 1, contexts=[" he", " she"])
    assert parse_item(item_record(item)) == item


@pytest.mark.parametrize(
    "fields, problem",
    [
        ({"match": "task"}, "field 'task': goes with match 'task', got ''"),
        ({"task": "lm-eval:ifeval"}, "field 'task': goes with match 'task'"),
        ({"options": 4}, "field 'options': goes with match 'choice'"),
        ({"options": 1, "match": "choice"}, "field 'options': goes with match 'choice' and is from 2 to 26, got 1"),
        ({"options": 2, "match": "choice", "answer": "C"}, "expected one letter of the first 2"),
        ({"options": 3, "match": "choice", "answer": ["B", "C"]}, "expected one letter of the first 3"),
    ],
)
def test_options_and_tasks_go_with_their_match(fields, problem):
    with pytest.raises(ValueError, match=problem):
        Generation(**{"id": "a", "prompt": "Q", "answer": "B", **fields})


def test_a_generated_letter_knows_how_many_options_there_were():
    items = [Generation("a", "Q", "(b)", "choice", options=4), Generation("b", "Q", "B", "choice")]
    probe = Probe("p", items)
    assert probe.n_choices.tolist() == [4, np.inf] and probe.answer.tolist() == [1, -1]
    assert [parse_item(item_record(item)) for item in items] == items


@pytest.mark.parametrize("setting", [{"system": "Be brief."}, {"generation_prompt": False}, {"thinking": True}])
def test_settings_of_a_conversation_need_one(setting):
    items = [Recall("a", "Q", " x")]
    with pytest.raises(ValueError, match="system, generation_prompt and thinking need chat=True"):
        Probe("p", items, **setting)
    plain, chat = Probe("p", items, chat=True), Probe("p", items, chat=True, **setting)
    assert chat.fingerprint != plain.fingerprint
    assert Probe("p", items, **chat.settings) == chat
