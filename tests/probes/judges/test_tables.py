"""Each judge on hand-written answers, right ones and wrong ones: what becomes of each, and that a reason is given.

A table is a file a `match`: of each answer its item without id and match, the text, and the outcome.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from forget_callback import Generation
from forget_callback.probes.judges.rules import RULES
from forget_callback.probes.judging import judge_all

TABLES = {path.stem: path for path in Path(__file__).parent.glob("*.jsonl")}


def rows(name):
    return [json.loads(line) for line in TABLES[name].read_text(encoding="utf-8").splitlines()]


def asked(name, number, row):
    asked = row["item"].get("prompt", "Q")
    question = [{"role": "user", "content": asked}]  # tools are offered in a conversation
    item = Generation(f"{name}/{number}", match=name, **row["item"] | {"prompt": "", "messages": question})
    return item, row["text"], row.get("finished", True)


def test_every_judge_has_a_table():
    assert set(TABLES) == set(RULES)


@pytest.mark.parametrize("name", TABLES)
def test_no_answer_is_judged_wrong(name):
    table = rows(name)
    found = judge_all([asked(name, number, row) for number, row in enumerate(table, 1)], run_code=True)
    wrong = [
        (number, row["text"], row["outcome"], one)
        for number, (row, one) in enumerate(zip(table, found.judgements), 1)
        if one.outcome != row["outcome"]
    ]
    assert not wrong
    assert all((one.outcome == "correct") == (one.why == "") for one in found.judgements)
    assert all("\n" not in one.why and len(one.why) < 300 for one in found.judgements)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_large_and_balanced(name):
    counts = Counter(row["outcome"] for row in rows(name))
    assert sum(counts.values()) >= 40
    assert min(counts["correct"], sum(counts.values()) - counts["correct"]) >= 15


@pytest.mark.parametrize("name", TABLES)
def test_without_a_text_there_is_nothing_to_judge(name):
    item, _, _ = asked(name, 0, rows(name)[0])
    texts = ["", " \n\t ", "```\n```", "\u200b", "\xa0", "<think>Let me see.</think>\n", "<think>Let me see"]
    found = judge_all([(item, text, finished) for text in texts for finished in (True, False)], run_code=True)
    assert [one.outcome for one in found.judgements] == ["unparsed", "truncated"] * len(texts)
    assert {one.prediction for one in found.judgements} == {None}
