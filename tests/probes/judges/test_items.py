"""Needles and second turns have rules of several kinds: hand-written answers to items of `builtin:behaviour`."""

import json
from collections import Counter
from pathlib import Path

import pytest

from forget_callback import load_probe
from forget_callback.probes.judging import judge_all

TABLES = {path.stem: path for path in (Path(__file__).parent / "items").glob("*.jsonl")}


@pytest.mark.parametrize("ability", ["needle", "second_turn"])
def test_no_answer_is_judged_wrong(ability):
    items = {item.id: item for item in load_probe(f"builtin:behaviour?category={ability}").items}
    rows = [json.loads(line) for line in TABLES[ability].read_text(encoding="utf-8").splitlines()]
    found = judge_all([(items[row["id"]], row["text"], row.get("finished", True)) for row in rows])
    judged = zip(rows, found.judgements)
    wrong = [(row["id"], row["text"], one.outcome, one.why) for row, one in judged if one.outcome != row["outcome"]]
    assert not wrong
    counts = Counter(row["outcome"] for row in rows)
    assert counts.total() >= 40 and counts["correct"] >= 15 and counts["wrong"] >= 15
