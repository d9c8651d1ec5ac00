"""The items whose answer changed between snapshots, with their texts, as tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from forget_callback.metrics.texts import FLOOR, texts_in
from forget_callback.probes.conversation import asked as asked_text
from forget_callback.probes.items import Item, MultipleChoice, accepted
from forget_callback.probes.plurals import counted
from forget_callback.probes.probe import Probe
from forget_callback.runs.series import Series, answered, answered_both, in_bits
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.joined import align
from forget_callback.snapshots.snapshot import Snapshot

_CHANGES = ("lost", "unlearned", "recovered", "gained")


def item_changes(probe: Probe, series: Series, now: Snapshot) -> pd.DataFrame:
    """The items that were right at the previous snapshot and are wrong at this one, or the reverse.

    `series` is their history, this snapshot included, whose items are in the order of the probe's.

    Returns:
        A row per item, losses first, sorted by the margin at the baseline, largest first. `change` is that of the
        first prompt: "lost" (right at the baseline), "unlearned" (gained since and lost again), "recovered" or
        "gained"; `prompts_right` of `prompts` scored now are right: an item that is lost in the first and right in
        another changed its form. Margins are in nats; `first_lost_at` is in training samples, NaN for an item that
        was never lost.
    """
    base, by_id = series.baseline, {item.id: item for item in probe.items}
    change = 2 * (series.now == 1) + (series.first != 1)  # index into _CHANGES
    prompts: list[Snapshot | Answers] = [now, *now.further]
    asked = np.sum([~np.isnan(answered(one)) for one in prompts], axis=0)
    right = np.sum([answered(one) == 1 for one in prompts], axis=0)
    right = np.where(texts_in(base), np.nan_to_num(series.now), right).astype(int)
    rows = np.flatnonzero(series.changed)
    rows = rows[np.lexsort((-base.margin[rows], change[rows]))]
    items = [by_id[str(name)] for name in base.ids[rows]]
    return pd.DataFrame(
        {
            "samples_seen": now.samples_seen,
            "step": now.step,
            "probe": probe.name,
            "category": [item.category for item in items],
            "id": [item.id for item in items],
            "change": [_CHANGES[i] for i in change[rows]],
            "prompts": asked[rows],
            "prompts_right": right[rows],
            "prompt": [asked_text(item) for item in items],
            "expected": [expected(item) for item in items],
            "answer_at_baseline": in_bits(base)[rows],
            "answer_now": in_bits(now)[rows],
            "margin_at_baseline": base.margin[rows],
            "margin_now": now.margin[rows],
            "first_lost_at": series.lost_at[rows],
        }
    )


def expected(item: Item) -> str:
    """The ground truth of an item, as text."""
    if isinstance(item, MultipleChoice):
        return item.choices[item.answer]
    return " | ".join(accepted(item))


def flips(once: Snapshot, again: Snapshot) -> pd.DataFrame:
    """Items right in one of two snapshots of the same model and wrong in the other, smallest margin first.

    Returns:
        A row per item: id, category, correct and correct_again (1 or 0), margin and margin_again (nats).

    Raises:
        ValueError: If the snapshots are of different probes.
    """
    again = align(once, again)
    one, other = answered_both(once, again, FLOOR)
    flipped = one + other == 1
    columns = {
        "id": once.ids,
        "category": once.category,
        "correct": one,
        "correct_again": other,
        "margin": once.margin,
        "margin_again": again.margin,
    }
    table = pd.DataFrame({name: column[flipped] for name, column in columns.items()})
    return table.sort_values("margin", key=abs, ignore_index=True)


def flips_line(once: Snapshot, again: Snapshot) -> str:
    """The `flips` in one line, "" if there are none."""
    table = flips(once, again)
    if not len(table):
        return ""
    named = ", ".join(f"{row.id} ({row.margin:.2g})" for row in table.head(5).itertuples())
    return (
        f"probe {once.probe!r}: {len(table)} of {counted(len(once))} {'flips' if len(table) == 1 else 'flip'} "
        f"when the same model is scored again (id and margin in nats): {named}{', ...' if len(table) > 5 else ''}"
    )
