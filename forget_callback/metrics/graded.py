"""Mean change of a number that items have before and after: a graded score, or bits per byte of a text.

Paired: each item is compared with itself, so what makes items differ from one another adds no noise. By t, over
clusters where items are not independent. Vectors in, numbers out; knows nothing of snapshots.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from scipy import special

from forget_callback.metrics.estimates import Shares, signed_shares
from forget_callback.metrics.intervals import NO_INTERVAL, Interval
from forget_callback.metrics.pairs import Floats, Ints, Numbers


@dataclass(frozen=True, slots=True)
class Change:
    """Means before and after, and what the interval of their difference needs, without the items.

    Attributes:
        n: Items that have the number both times.
        n_asked: Items that have it once at least.
        before: Mean before, of the `n` items.
        after: Mean after.
        change: Mean of after less before.
        error: Standard error of `change`; NaN with one item or cluster.
        freedom: Degrees of freedom of `error`.
        shares: Of numbers in [0, 1] the changes as events: where few items change, t is too narrow, and the interval is
            never narrower than that of these. None of numbers without a bound.
    """

    n: int
    n_asked: int
    before: float
    after: float
    change: float
    error: float
    freedom: int
    shares: Shares | None = None

    def interval(self, *, confidence: float = 0.95) -> Interval:
        """Two-sided interval of `change`; its low end is a one-sided bound at ``(1 + confidence) / 2``.

        NaN with one item or cluster. Where all items change by the same, that, if the number has no bound.
        """
        if not self.error >= 0:
            return NO_INTERVAL
        half = float(special.stdtrit(self.freedom, 0.5 + confidence / 2)) * self.error
        low, high = self.change - half, self.change + half
        if self.shares is None:
            return Interval(low, high)
        events = self.shares.interval(confidence=confidence)
        return Interval(max(min(low, events.low), -1.0), min(max(high, events.high), 1.0))

    def p_value(self, above: float) -> float:
        """One-sided p-value by t of "the mean change is not above this"; NaN with one item or cluster."""
        if not self.error >= 0:
            return nan
        if self.error == 0:
            return 0.0 if self.change > above else 1.0
        return float(special.stdtr(self.freedom, (above - self.change) / self.error))

    def fall_p_value(self, by: float = 0.0) -> float:
        """One-sided p-value of "the mean did not fall by more than this"; NaN with one item or cluster.

        By t, and where the number is bounded not below that of the changes as events, of "it did not fall".
        """
        if not self.error >= 0:
            return nan
        fell = self.change + by
        by_t = float(special.stdtr(self.freedom, fell / self.error)) if self.error else float(fell >= 0)
        return by_t if self.shares is None else max(by_t, 1 - self.shares.p_value())


class GradedNumbers:
    """The numbers of a comparison that are no counts of right and wrong.

    Attributes:
        n: Items scored both times.
        score: Change of graded scores; None where there are none.
        bits: Change of bits per byte; None where no item is a text.
    """

    n: int
    score: Change | None
    bits: Change | None

    @property
    def graded(self) -> bool:
        """Whether every item that was scored both times has a graded score."""
        return self.score is not None and 0 < self.n <= self.score.n

    @property
    def score_before(self) -> float:
        """Mean graded score before, of the items that have one both times; NaN where there are none."""
        return self.score.before if self.score else float("nan")

    @property
    def score_after(self) -> float:
        """Mean graded score after."""
        return self.score.after if self.score else float("nan")

    @property
    def score_change(self) -> float:
        """Mean change of the graded scores: below 0 where they fell."""
        return self.score.change if self.score else float("nan")

    @property
    def score_lost(self) -> float:
        """By how much graded scores fell, `score_change` with the other sign: what a rule can be above."""
        return -self.score_change

    @property
    def bits_per_byte_before(self) -> float:
        """Mean over the texts before; NaN where no item is one."""
        return self.bits.before if self.bits else float("nan")

    @property
    def bits_per_byte_after(self) -> float:
        """Mean over the texts after."""
        return self.bits.after if self.bits else float("nan")

    @property
    def bits_per_byte_change(self) -> float:
        """Mean change over the texts: above 0 where the model predicts them worse."""
        return self.bits.change if self.bits else float("nan")


def change_of(numbers: Numbers, cluster: Ints | None, *, bounded: bool) -> Change:
    """The change of items of which some may lack the number.

    Args:
        numbers: NaN where an item has none.
        cluster: Number of the cluster of each item, ``(n_items,)``; None if every item stands for itself.
        bounded: Whether the number lies in [0, 1].
    """
    both = ~np.isnan(numbers.before) & ~np.isnan(numbers.after)
    before, after = numbers.before[both], numbers.after[both]
    asked = int((~np.isnan(numbers.before) | ~np.isnan(numbers.after)).sum())
    changes = after - before
    n = len(changes)
    if n == 0:
        return Change(0, asked, nan, nan, nan, nan, 0)
    error, freedom = _error(changes, None if cluster is None else cluster[both])
    shares = signed_shares(changes, positive_weight=1.0, negative_weight=1.0) if bounded else None
    return Change(n, asked, float(before.mean()), float(after.mean()), float(changes.mean()), error, freedom, shares)


def _error(changes: Floats, cluster: Ints | None) -> tuple[float, int]:
    """Standard error of the mean and its degrees of freedom, by the sums of clusters."""
    residuals = changes - changes.mean()
    if cluster is not None:
        residuals = np.bincount(np.unique(cluster, return_inverse=True)[1], residuals)
    groups = len(residuals)
    if groups < 2:
        return nan, 0
    return sqrt(groups / (groups - 1) * float(residuals @ residuals)) / len(changes), groups - 1
