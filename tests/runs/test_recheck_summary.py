"""Rows of a recheck in numbers and words, and on the page: no more than they show."""

import numpy as np
import pandas as pd
import pytest

from forget_callback import Store
from forget_callback.report import report_data, write_report
from forget_callback.runs.recheck_summary import beyond, summarize
from forget_callback.runs.rechecked import SCHEMA, read_recheck, write_summary
from tests.recorded import make_probe, make_run, page_data

ABOUT = {"run": "x", "step": 30, "model": "m", "baseline": None, "probes": {"facts": "f"}}


def rows(*answers, probe="facts"):
    """A row each of (id, group, help, options shown, right now, right at the baseline)."""
    blank = dict.fromkeys(SCHEMA.names)
    told = [
        {
            **blank,
            "probe": probe,
            "id": id,
            "group": group,
            "help": help,
            "shown": shown,
            "correct": now,
            "cluster": "",
            "baseline_correct": before,
        }
        for id, group, help, shown, now, before in answers
    ]
    return pd.DataFrame(told).astype({"correct": float, "baseline_correct": float})


def many(group, start, n, right, help="choice", shown=7, before=np.nan):
    return [(f"{i}", group, help, shown, float(i < start + right), before) for i in range(start, start + n)]


def test_open_ended_items_and_those_with_options_are_told_apart():
    open_ended = [*many("lost", 0, 40, 30), *many("control", 100, 40, 4)]
    open_ended += [(id, group, "again", 0, 0.0, before) for id, group, _, _, _, before in open_ended]
    closed = [row for help in ("choice", "chat", "wording") for row in many("lost", 200, 20, 9, help, 4)]
    found = summarize(rows(*open_ended, *closed), ABOUT)["probes"]["facts"]
    assert (found["lost"], found["there"], found["gone"]) == (60, 39, 21)
    forms = found["forms"]
    assert {form: (one["lost"], one["there"]) for form, one in forms.items()} == {
        "open-ended": (40, 30), "with options": (20, 9),
    }  # fmt: skip
    said = forms["open-ended"]["sentence"]
    assert said.startswith(
        "facts, open-ended: of 40 lost items at step 30, 30 came back with help and 10 did not (gone"
    )
    assert "of 40 never known 10.0% come right with it and guesses may in up to 14.3%: 60.7% [" in said
    assert "there, but not said" in said and "baseline" not in said
    assert forms["with options"]["any"]["chance"] == 0.25 and forms["with options"]["any"]["control_n"] == 0
    assert found["items"]["0"] == "there" and found["items"]["39"] == "gone" and "100" not in found["items"]


@pytest.mark.parametrize("right", [0, 4, 6])
def test_what_is_no_more_than_help_alone_is_said_to_be_that(right):
    found = summarize(rows(*many("lost", 0, 40, right, shown=0), *many("control", 100, 40, 4, shown=0)), ABOUT)
    assert found["all"]["sentence"].endswith("this is not shown to be more than help alone gives")
    assert found["probes"]["facts"]["forms"] == {}, "of one form only"


def test_without_a_control_what_open_ended_help_gives_is_not_known():
    told = [*many("lost", 0, 40, 30), *many("lost", 0, 40, 35, "examples", 0)]
    found = summarize(rows(*told), ABOUT)["all"]
    assert np.isnan(found["any"]["there"]) and found["helps"]["choice"]["there_low"] > 0.4
    assert "none was never known" in found["sentence"] and "more come right than guesses" in found["sentence"]
    assert beyond(found["any"]) == "not known"


def test_the_baseline_counts_with_help_alone_and_what_was_not_scored_not_at_all():
    told = [
        ("a", "lost", "again", 0, 0.0, 1.0),
        ("a", "lost", "chat", 0, np.nan, 0.0),
        ("b", "lost", "again", 0, np.nan, np.nan),
        ("c", "control", "choice", 7, 0.0, 0.0),
    ]
    found = summarize(rows(*told), {**ABOUT, "baseline": "first"})["probes"]["facts"]
    assert set(found["helps"]) == {"again", "chat"}, "what no lost item was asked is no help of theirs"
    assert found["items"] == {"a": "gone"} and (found["there"], found["gone"]) == (0, 1)
    assert found["any"]["baseline"]["before"] == 0.0, "without help it answers all of them"


def test_no_share_is_shown_beyond_what_is_possible():
    def of(low, centre, high):
        return beyond({"there_low": low, "there": centre, "there_high": high})

    assert of(0.237, 0.407, 0.542) == "40.7% [23.7, 54.2]" and of(-0.1, -0.02, 0.3) == "0.0% [0.0, 30.0]"
    assert of(-0.3, -0.2, -0.1) == "0.0%", "an interval [0, 0] would be sure of it"


def test_the_page_shows_what_came_back_and_else_how_to_ask(tmp_path):
    probe = make_probe("facts", 60)
    make_run(tmp_path / "sft", [probe])
    before = report_data([tmp_path / "sft"])["runs"][0]["recheck"]
    assert before["how"].endswith(f"recheck {tmp_path / 'sft'}") and not before["labels"] and not before["sentences"]
    page = write_report(tmp_path / "sft", tmp_path / "page.html").read_text(encoding="utf-8")
    assert before["how"] in page and "Asked again with help" not in page.split("<script")[0]
    store = Store(tmp_path / "sft")
    about = {**ABOUT, "run": store.run.id, "probes": {"facts": probe.fingerprint}}
    told = [*many("lost", 0, 4, 3), *many("control", 10, 4, 0)]
    write_summary(store.path, summarize(rows(*told), about))
    found = read_recheck(store)
    shown = report_data([tmp_path / "sft"])["runs"][0]["recheck"]
    assert shown == {"step": 30, "sentences": list(found.sentences), "labels": found.labels, "how": ""}
    text = write_report(tmp_path / "sft", tmp_path / "page.html").read_text(encoding="utf-8")
    assert page_data(tmp_path / "page.html")["runs"][0]["recheck"]["labels"]["facts"]["3"] == "gone"
    assert "of 4 lost items at step 30, 3 came back with help" in text and "asks it once more" not in text


def test_where_nothing_was_lost_the_page_does_not_say_how(tmp_path):
    make_run(tmp_path / "kept", [make_probe("facts", 60)], lose=0.0)
    data = report_data([tmp_path / "kept"])["runs"][0]
    counts = data["probes"][0]["series"][""]["n10"]
    assert (data["recheck"] is None) == (counts[-1] == 0)


def again(group, start, n, right):
    return many(group, start, n, right, "again", 0)


def test_what_is_right_without_help_is_no_help_and_has_no_label():
    told = [
        *again("lost", 0, 40, 8),
        *many("lost", 0, 40, 10),
        *again("control", 100, 40, 0),
        *many("control", 100, 40, 4),
    ]
    found = summarize(rows(*told), ABOUT)
    block = found["probes"]["facts"]
    assert (block["lost"], block["not_lost"], block["there"], block["gone"]) == (40, 8, 2, 30)
    assert set(block["items"]) == {f"{i}" for i in range(8, 40)} and block["items"]["9"] == "there"
    assert block["any"]["n"] == 32 and block["any"]["right"] == pytest.approx(2 / 32)
    assert block["helps"]["again"]["right"] == 0.2 and block["helps"]["choice"]["n"] == 32
    assert "8 are right without any help, and so not lost in this model, 2 came back with help" in block["sentence"]
    (warning,) = found["warnings"]
    assert warning.startswith("20.0% of the lost items are right without any help: 'm' is not the model")
    assert summarize(rows(*again("lost", 0, 40, 0), *told[40:]), ABOUT)["warnings"] == []


def test_items_with_options_that_are_right_without_help_have_no_label_either():
    told = [
        (f"{i}", "lost", help, 4, float(help == "again" and i < 2), np.nan)
        for i in range(9)
        for help in ("again", "chat")
    ]
    block = summarize(rows(*told), ABOUT)["probes"]["facts"]
    assert (block["not_lost"], block["there"], block["gone"]) == (2, 0, 7) and not {"0", "1"} & set(block["items"])


def test_where_most_are_right_without_help_nothing_is_claimed_anywhere(tmp_path):
    probe = make_probe("facts", 60)
    make_run(tmp_path / "sft", [probe])
    store = Store(tmp_path / "sft")
    about = {**ABOUT, "run": store.run.id, "probes": {"facts": probe.fingerprint}}
    told = [*again("lost", 0, 40, 30), *many("lost", 0, 40, 38), *many("control", 100, 40, 4)]
    found = summarize(rows(*told), about)
    for block in (found["all"], found["probes"]["facts"]):
        assert (block["not_lost"], block["there"], block["gone"]) == (30, 0, 0)
        assert "the model that was asked is not the model that was measured" in block["sentence"]
        assert "came back" not in block["sentence"] and "gone, as far" not in block["sentence"]
        assert np.isnan([block["any"]["there"], block["helps"]["choice"]["there_low"]]).all()
    assert found["probes"]["facts"]["items"] == {}, "so that a replay of what is gone has nothing to go by"
    write_summary(store.path, found)
    kept = read_recheck(store)
    assert kept.labels == {"facts": {}} and kept.sentences[0] == found["warnings"][0]
    page = write_report(tmp_path / "sft", tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>Asked again with help:</b> 75.0% of the lost items are right without any help" in page
