"""What the table of changed items promises: each change by its name, with its texts and what all prompts say."""

from dataclasses import replace

import numpy as np
import pytest

from forget_callback import Generation, MultipleChoice, Probe, Recall, Snapshot
from forget_callback.runs.history import History
from forget_callback.snapshots.answers import Answers

PROBE = Probe(
    "facts",
    [
        MultipleChoice("a", "A?", [" no", " yes"], 1, "x"),
        Recall("b", "B is", " bee", "x"),
        Generation("c", "C?", ["see", "sea"], category="y"),
        Recall("d", "D is", " dee"),
    ],
)


def snapshots(*rows, margins=(0, 0, 0, 0)):
    """One snapshot a row of right and wrong, each 10 samples after the last."""
    for step, row in enumerate(rows):
        said = np.array([f"{name}{step}" for name in "abcd"], object)
        yield Snapshot(
            *("facts", PROBE.fingerprint, step, np.array(PROBE.ids), np.array(row, float)),
            category=np.array([item.category for item in PROBE.items], object),
            prediction=said,
            margin=np.array(margins, float),
            samples_seen=10.0 * step,
        )


def changes(*rows, **more):
    """The table after each snapshot."""
    history, tables = History(), []
    for now in snapshots(*rows, **more):
        history.append([now])
        tables.append(history.changes(PROBE, now))
    return tables


def test_each_change_has_its_name_by_what_the_item_was_at_the_baseline():
    first, second, third = changes([1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 0, 0])
    assert first.empty
    assert second[["id", "change"]].values.tolist() == [["a", "lost"], ["c", "gained"]]
    assert third[["id", "change"]].values.tolist() == [["c", "unlearned"], ["a", "recovered"]]


def test_a_row_says_what_was_asked_expected_and_answered_then_and_now():
    table = changes([1, 1, 1, 1], [0, 0, 0, 1], margins=(1, 2, 3, 4))[1].set_index("id")
    assert table["prompt"].to_dict() == {"a": "A?", "b": "B is", "c": "C?"}
    assert table["expected"].to_dict() == {"a": " yes", "b": " bee", "c": "see | sea"}
    assert table["answer_at_baseline"].to_dict() == {"a": "a0", "b": "b0", "c": "c0"}
    assert table["answer_now"].to_dict() == {"a": "a1", "b": "b1", "c": "c1"}
    assert table["category"].to_dict() == {"a": "x", "b": "x", "c": "y"}
    assert list(table.index) == ["c", "b", "a"]  # what was surest comes first


def test_an_item_that_is_lost_in_one_of_its_prompts_is_told_from_one_that_is_lost_in_all():
    history = History()
    further = ([1, 1, 1, np.nan], [1, 0, np.nan, np.nan])
    for now, second in zip(snapshots([1, 1, 1, 1], [0, 0, 0, 0]), further):
        more = Answers("second", second, asked=[True, True, True, False])
        now = replace(now, further=(more,))
        history.append([now])
    table = history.changes(PROBE, now).set_index("id")
    assert table["change"].tolist() == ["lost"] * 4
    assert table["prompts"].to_dict() == {"a": 2, "b": 2, "c": 1, "d": 1}
    assert table["prompts_right"].to_dict() == {"a": 1, "b": 0, "c": 0, "d": 0}


def test_an_item_is_first_lost_only_once_and_an_unscored_one_did_not_change():
    tables = changes([1, 1, 1, 1], [0, np.nan, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1])
    assert tables[3].set_index("id")["first_lost_at"].to_dict() == {"a": 10.0, "b": 30.0}
    assert tables[1]["id"].tolist() == ["a"]
    assert tables[2]["id"].tolist() == ["a"]  # nobody knows what b was in between


def test_the_order_of_the_items_does_not_matter():
    before, now = snapshots([1, 1, 0, 0], [0, 1, 1, 0])
    history = History()
    history.append([before])
    turned = now.select(np.array([3, 2, 1, 0]))
    history.append([turned])
    table = history.changes(PROBE, turned).set_index("id")
    assert table["answer_now"].to_dict() == {"a": "a1", "c": "c1"}
    assert table["change"].to_dict() == {"a": "lost", "c": "gained"}


@pytest.mark.parametrize("missing", [float("nan"), 3.0])
def test_samples_that_nobody_counted_leave_the_loss_without_a_place(missing):
    history = History()
    for now in snapshots([1, 1, 1, 1], [0, 1, 1, 1]):
        history.append([Snapshot(**{**vars(now), "samples_seen": missing})])
    lost = history.changes(PROBE, now)["first_lost_at"].iloc[0]
    assert str(lost) == str(missing)
