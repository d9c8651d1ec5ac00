"""Which categories of a probe lost something: a claim about several at once, so p-values are adjusted (Holm).

With 14 categories and 20 looks, some category's own interval excludes 0 in 71 to 94% of runs in which nothing is lost.
What is only listed or plotted needs none of this; what is said to be lost does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from forget_callback.metrics.intervals import holm
from forget_callback.runs.rows import Row

# Of all categories of a probe at one look together: that of the verdict on a probe.
FAMILY_ERROR = 0.025


def significant_categories(rows: Sequence[Row]) -> list[Row]:
    """The categories that lost something, most first: Holm over the categories of each probe.

    Args:
        rows: Of one look, of one probe or several; whole probes among them are passed over, and so is
            what was not asked in all prompts.
    """
    found = []
    for probe in dict.fromkeys(row.probe for row in rows):
        own = [row for row in rows if row.probe == probe and row.category and row.confirmed]
        adjusted = holm([row.transitions.loss_p_value for row in own])
        found += [row for row, p in zip(own, adjusted) if p < FAMILY_ERROR]
    return sorted(found, key=lambda row: -loss_order(row))


def lost_share(row: Row) -> float:
    """The share that was lost of what the model could do before; of text the share of documents that got worse.

    Of the mean score where its fall is what is told. Where next to nothing was there before, or not all prompts were
    asked, of the items that were right, guesses included; NaN without any, and of the training data.
    """
    t = row.transitions
    if t.training:
        return math.nan
    if t.ability == "text":
        return t.forgetting
    if row.confirmed and t.told_by_score:
        return t.score_lost / t.score_before
    known = row.value("known_lost")
    if not math.isnan(known):
        return max(known, 0.0)
    return t.n10 / (t.n11 + t.n10) if t.n11 + t.n10 else math.nan


def loss_order(row: Row) -> float:
    """By what categories of one ability are ordered: `lost_share`, of text the rise in units of its floor."""
    by = row.value("bits_per_byte_change") / row.transitions.floor if row.transitions.ability == "text" else math.nan
    by = lost_share(row) if math.isnan(by) else by
    return -math.inf if math.isnan(by) else by
