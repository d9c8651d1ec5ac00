"""Which categories of a probe lost something: a claim about several at once, so p-values are adjusted (Holm).

With 14 categories and 20 looks, some category's own interval excludes 0 in 71 to 94% of runs in which nothing is lost.
What is only listed or plotted needs none of this; what is said to be lost does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from forget_callback.metrics.intervals import Interval
from forget_callback.runs.history import Row

# Of all categories of a probe at one look together: that of the verdict on a probe.
FAMILY_ERROR = 0.025


def significant_categories(rows: Sequence[Row]) -> list[Row]:
    """The categories that lost something, most first: Holm over the categories of each probe.

    Args:
        rows: Of one look, of one probe or several; whole probes among them are passed over.
    """
    found = []
    for probe in dict.fromkeys(row.probe for row in rows):
        own = [row for row in rows if row.probe == probe and row.category]
        adjusted = _holm([_p_value(row) for row in own])
        found += [row for row, p in zip(own, adjusted) if p < FAMILY_ERROR]
    return sorted(found, key=lambda row: -row.value("knowledge_lost"))


def _p_value(row: Row) -> float:
    """The level at which the lower end of `knowledge_lost` is 0, one-sided; NaN without a number."""

    def interval(level: float) -> Interval:
        return row.transitions.interval("knowledge_lost", confidence=1 - 2 * level)

    if not row.transitions.knowledge_lost > 0:
        return 1.0
    low, high = -8.0, 0.0  # of the normal quantile of the level
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if interval(float(ndtr(middle))).low > 0 else (middle, high)
    return float(ndtr(high)) if high > ndtri(1e-14) else 0.0


def _holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979), in the order given."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(value) for value in adjusted]
