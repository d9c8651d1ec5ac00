"""Which categories of a probe lost something: a claim about several at once, so p-values are adjusted (Holm).

With 14 categories and 20 looks, some category's own interval excludes 0 in 71 to 94% of runs in which nothing is lost.
What is only listed or plotted needs none of this; what is said to be lost does.
"""

from __future__ import annotations

from collections.abc import Sequence

from forget_callback.metrics.intervals import holm
from forget_callback.runs.history import Row

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
    return sorted(found, key=lambda row: -row.value("knowledge_lost"))
