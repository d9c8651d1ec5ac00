"""The items whose answer changed between snapshots, with their texts, as tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from forget_callback.probes.items import Item, MultipleChoice
from forget_callback.probes.probe import Probe
from forget_callback.runs.series import Series
from forget_callback.snapshots.snapshot import Snapshot, align

COLUMNS = (
    *("samples_seen", "step", "probe", "category", "id", "change", "prompt", "expected", "answer_at_baseline"),
    *("answer_now", "margin_at_baseline", "margin_now", "first_lost_at"),
)


def item_changes(probe: Probe, series: Series, now: Snapshot) -> pd.DataFrame:
    """The items that were right at the previous snapshot and are wrong at this one, or the reverse.

    Args:
        probe: The items.
        series: Their history, this snapshot included.
        now: This snapshot, its items in the order of the probe's.

    Returns:
        A row per item with the columns of `COLUMNS`, losses first, sorted by the margin at the baseline, largest
        first. `change` is "lost" (right at the baseline), "unlearned" (gained since and lost again), "recovered" or
        "gained"; margins are in nats; `first_lost_at` is in training samples, NaN for an item that was never lost.
    """
    base, items = series.baseline, {item.id: item for item in probe.items}
    rows = []
    for i in np.flatnonzero(series.changed):
        item, known = items[str(base.ids[i])], bool(base.correct[i] == 1)
        right = bool(series.last is not None and series.last[i] == 1)
        rows.append(
            {
                "samples_seen": now.samples_seen,
                "step": now.step,
                "probe": probe.name,
                "category": item.category,
                "id": item.id,
                "change": ("recovered" if known else "gained") if right else ("lost" if known else "unlearned"),
                "prompt": item.prompt,
                "expected": expected(item),
                "answer_at_baseline": base.prediction[i],
                "answer_now": now.prediction[i],
                "margin_at_baseline": base.margin[i],
                "margin_now": now.margin[i],
                "first_lost_at": series.lost_at[i],
            }
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    order = {name: i for i, name in enumerate(("lost", "unlearned", "recovered", "gained"))}
    by = pd.DataFrame({"change": table["change"].map(order), "margin": -table["margin_at_baseline"].astype(float)})
    return table.loc[by.sort_values(["change", "margin"], kind="stable").index].reset_index(drop=True)


def expected(item: Item) -> str:
    """The ground truth of an item, as text."""
    if isinstance(item, MultipleChoice):
        return item.choices[item.answer]
    return item.answer if isinstance(item.answer, str) else " | ".join(item.answer)


def flips(once: Snapshot, again: Snapshot) -> pd.DataFrame:
    """Items right in one of two snapshots of the same model and wrong in the other, smallest margin first.

    Returns:
        A row per item: id, category, correct and correct_again (1 or 0), margin and margin_again (nats).

    Raises:
        ValueError: If the snapshots are of different probes.
    """
    again = align(once, again)
    flipped = (once.correct != again.correct) & (once.correct + again.correct == 1)
    columns = {
        "id": once.ids,
        "category": once.category,
        "correct": once.correct,
        "correct_again": again.correct,
        "margin": once.margin,
        "margin_again": again.margin,
    }
    table = pd.DataFrame({name: column[flipped] for name, column in columns.items()})
    return table.sort_values("margin", key=abs, ignore_index=True)
