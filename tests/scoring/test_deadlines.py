"""Texts that take for ever to judge, from the model to the snapshot: unparsed, counted, and said once."""

import sys

import numpy as np
import pytest

from forget_callback import Generation, Probe, score_probe
from forget_callback.probes import apart, judge_process

# On any text of some words; on none.
ENDLESS, SHORT = r"(?:.|\n|\W|\w|[^\d])*\d{9}", r"\w"
PROMPTS = ("The capital of France is", "Once upon a time", "No number:", "Who wrote this?", "The opposite of cold is")


def probe(match="regex", endless=(1, 2), **more):
    """Two of five prompts have a pattern that does not end on what the model has learned to say."""
    items = [
        Generation(f"g{i}", prompt, ENDLESS if i in endless else SHORT, match, max_new_tokens=40, **more)
        for i, prompt in enumerate(PROMPTS)
    ]
    return Probe("p", items)


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(apart, "SECONDS", 0.3)
    monkeypatch.setattr(apart, "LONG_SECONDS", 0.4)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_they_are_unparsed_counted_and_said(taught, hasty, caplog):
    snapshot = score_probe(taught.model, taught.tokenizer, probe())  # what it writes of the fourth is empty
    assert snapshot.outcome.tolist() == ["correct", "unparsed", "unparsed", "unparsed", "correct"]
    assert snapshot.correct.tolist() == [1, 0, 0, 0, 1] and snapshot.metadata["overdue"] == 2
    assert warnings(caplog) == [
        "probe 'p': 2 answers took longer than 0.4 seconds, or too much memory, to judge, and count as unparsed: g1, g2"
    ]


def test_one_line_for_all_prompts_of_a_probe(taught, hasty, caplog):
    snapshot = score_probe(taught.model, taught.tokenizer, probe(endless=(1,), variants=["Half as a fraction:"]))
    assert snapshot.outcome_2.tolist()[:3] == ["correct", "unparsed", "correct"] and snapshot.metadata["overdue"] == 2
    assert len(warnings(caplog)) == 1 and warnings(caplog)[0].endswith("unparsed: g1")


def test_ordinary_texts_are_said_nothing_of(taught, caplog):
    snapshot = score_probe(taught.model, taught.tokenizer, probe(endless=()))
    assert "overdue" not in snapshot.metadata and not warnings(caplog)


def test_without_a_process_only_these_items_are_not_scored(taught, monkeypatch, caplog):
    judge_process.end()
    monkeypatch.setattr(sys, "executable", "")
    items = [*probe().items[:2], Generation("n", "The opposite of cold is", "hot", "contains")]
    snapshot = score_probe(taught.model, taught.tokenizer, Probe("p", items))
    np.testing.assert_array_equal(snapshot.correct, [np.nan, np.nan, 1])
    (said,) = warnings(caplog)
    assert said.startswith(
        "probe 'p': 2 of 3 items are not scored: g0, g1 (the process that judges answers does not st"
    )
