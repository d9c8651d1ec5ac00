"""Two runs against each other at their last checkpoints: whether one lost more than the other."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from forget_callback.metrics.intervals import NO_INTERVAL, Interval
from forget_callback.metrics.transitions import Transitions, compare
from forget_callback.runs.history import History
from forget_callback.snapshots.snapshot import Snapshot


@dataclass(frozen=True)
class Difference:
    """A second run less a first one, on one probe; fractions of items.

    Attributes:
        lost: `knowledge_lost` of the second less that of the first.
        interval: 95%, NaN where there is none.
        between: From the last checkpoint of the first to that of the second, item by item, where both answered the
            same items, so that what they share cancels; else None.
    """

    lost: float
    interval: Interval
    between: Transitions | None


def difference(first: History, second: History, probe: str, last: tuple[Snapshot, Snapshot] | None) -> Difference:
    """How much more the second run lost on a probe; `last` are both last snapshots, where their items are the same."""
    one, two = (history.select(probe)[-1].transitions for history in (first, second))
    r = 0.0 if last is None else correlation(first.lost_scores(probe)[-1], second.lost_scores(probe)[-1])
    ends = mover_difference(
        one.knowledge_lost, one.knowledge_lost_interval, two.knowledge_lost, two.knowledge_lost_interval, r
    )
    between = None if last is None else compare(*last)
    return Difference(two.knowledge_lost - one.knowledge_lost, ends, between)


def mover_difference(a: float, of_a: Interval, b: float, of_b: Interval, r: float) -> Interval:
    """Interval of b - a from their own intervals and the correlation of their estimates (Zou and Donner 2008).

    >>> mover_difference(0.10, Interval(0.08, 0.12), 0.10, Interval(0.08, 0.12), 1.0)
    Interval(low=0.0, high=0.0)
    """
    if np.isnan([a, b, *of_a, *of_b]).any():
        return NO_INTERVAL

    def reach(da: float, db: float) -> float:
        return sqrt(max(da**2 + db**2 - 2 * r * da * db, 0.0))

    return Interval(b - a - reach(of_a.high - a, b - of_b.low), b - a + reach(a - of_a.low, of_b.high - b))


def correlation(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """Of the items that both have; 0 where one side does not vary."""
    both = ~np.isnan(x) & ~np.isnan(y)
    x, y = x[both].astype(float), y[both].astype(float)
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])
