"""What registered matchers and kinds promise: they judge as written, and errors name function, item and remedy."""

import json
import sys

import numpy as np
import pytest

from forget_callback import Generation, MultipleChoice, Probe, Recall, load_probe, register_item, register_matcher
from forget_callback.probes import judging, records
from forget_callback.probes.judging import judge
from forget_callback.probes.records import item_record, parse_item
from forget_callback.runs.store import Store


@pytest.fixture(autouse=True)
def registered_here_only(monkeypatch):
    monkeypatch.setattr(judging, "_MATCHERS", {})
    monkeypatch.setattr(records, "_OWN_KINDS", {})


def close(text, item):
    """A number within the tolerance that the item names."""
    try:
        return abs(float(text) - float(item.answer[0])) <= item.doc["within"]
    except ValueError:
        return None


def item(**fields):
    return Generation("q", "How much?", "10", **{"match": "mylab.close", "doc": {"within": 1}, **fields})


@pytest.mark.parametrize(
    "text, finished, outcome, prediction",
    [
        ("10.5", True, "correct", "10.5"),
        (" 10.5\n", False, "correct", "10.5"),
        ("12", True, "wrong", "12"),
        ("12", False, "truncated", "12"),
        ("much", True, "unparsed", None),
        ("<think>10</think> 12", True, "wrong", "12"),
    ],
)
def test_a_registered_matcher_judges(text, finished, outcome, prediction):
    register_matcher("mylab.close", close)
    found = judge(item(), text, finished=finished)
    assert (found.outcome, found.prediction) == (outcome, prediction)


def test_booleans_of_numpy_are_right_and_wrong():
    register_matcher("mylab.close", lambda text, item: np.bool_(text == "10"))
    assert [judge(item(), text, finished=True).outcome for text in ("10", "9")] == ["correct", "wrong"]


@pytest.mark.parametrize(
    "function, problem",
    [
        (lambda text, item: 0.7, "must return True, False or None, got 0.7"),
        (lambda text, item: item.doc["none"], "could not judge '10': KeyError: 'none'"),
        (lambda text, item: sys.exit(3), r"could not judge '10': RuntimeError: .*\(SystemExit: 3\)"),
    ],
)
def test_a_matcher_that_fails_is_named_with_the_item(function, problem):
    register_matcher("mylab.close", function)
    with pytest.raises(ValueError, match=f"item 'q': matcher 'mylab.close' {problem}"):
        judge(item(), "10", finished=True)


def test_a_file_with_a_matcher_that_is_not_registered_is_refused_and_a_run_with_it_can_be_read(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(item_record(item())), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"item 'q', field 'match': 'mylab.close' is not registered .* register_matche"
    ):
        load_probe(path)
    with pytest.raises(ValueError, match=r"item 'q': matcher 'mylab.close' .* not registered in this process"):
        judge(item(), "10", finished=True)
    store = Store(tmp_path / "run")
    store.begin([Probe("mine", [item()])])
    assert store.probes() == [Probe("mine", [item()])]
    register_matcher("mylab.close", close)
    assert load_probe(f"{path}?variants=off").items == (item(),)


@pytest.mark.parametrize("name", ["close", "mylab.", ".close", "my lab.close", "", None])
def test_a_matcher_needs_a_name_with_a_dot(name):
    with pytest.raises(ValueError, match=r"name must be words joined by dots, such as 'mylab.close', got"):
        register_matcher(name, close)


def test_what_cannot_be_called_is_not_registered():
    with pytest.raises(ValueError, match="function must map a text and an item"):
        register_matcher("mylab.close", "close")
    with pytest.raises(ValueError, match="make must be a function from a record to an item, got 3"):
        register_item("cloze", 3)


CLOZE = {"kind": "cloze", "id": "a", "text": "The capital of [France] is [Paris]"}


def from_cloze(record):
    before, _, rest = record["text"].rpartition(" [")
    return Recall(record["id"], before, f" {rest.rstrip(']')}")


def test_a_registered_kind_becomes_a_kind_that_every_process_reads(tmp_path):
    register_item("cloze", from_cloze)
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(CLOZE), encoding="utf-8")
    probe = load_probe(path)
    assert probe.items == (Recall("a", "The capital of [France] is", " Paris"),)
    store = Store(tmp_path / "run")
    store.begin([probe])
    records._OWN_KINDS.clear()
    assert store.probes() == [probe]
    with pytest.raises(
        ValueError, match=r"mine.jsonl, line 1: item 'a', field 'kind': .* got 'cloze'; .* register_item"
    ):
        load_probe(path)


@pytest.mark.parametrize(
    "make, problem",
    [
        (lambda record: record["none"], "KeyError: 'none'"),
        (lambda record: dict(record), "must return a MultipleChoice, Recall, Generation or Text, got {'kind': 'cloze'"),
        (lambda record: MultipleChoice(record["id"], "Q", ["a"], 0), "ValueError: item 'a', field 'choices'"),
    ],
)
def test_a_kind_that_fails_is_named_with_the_item(make, problem):
    register_item("cloze", make)
    with pytest.raises(ValueError, match=f"item 'a', kind 'cloze': .*{problem}"):
        parse_item(CLOZE)


@pytest.mark.parametrize("kind", ["recall", "generation", "multiple_choice", "", None])
def test_a_built_in_kind_cannot_be_replaced(kind):
    with pytest.raises(ValueError, match="kind must be a name other than multiple_choice, recall, generation"):
        register_item(kind, from_cloze)
