"""A mean of per-item scores as an estimate: what its interval and its test need, without the items.

By MOVER over Wilson limits where items are independent and few of them score, by t over clusters or where scores are
shares of samples. Counts and scores in, numbers out; knows nothing of snapshots or of what the items are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from forget_callback.metrics.intervals import NO_INTERVAL, Interval, wilson_at


class Stratum(NamedTuple):
    """Items of which each shows at most one of several events.

    Attributes:
        n: Items.
        counts: How many show each event; may be fractional, for weighted counts.
        weights: Score of an item that shows it; 0 for an item that shows none.
    """

    n: int
    counts: tuple[float, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Shares:
    """A mean of per-item scores as a weighted sum of shares of items, by strata: all that its interval needs."""

    strata: tuple[Stratum, ...]

    @cached_property
    def n(self) -> int:
        """Items."""
        return sum(stratum.n for stratum in self.strata)

    @cached_property
    def mean(self) -> float:
        """The mean score, NaN without items."""
        total = sum(count * weight for s in self.strata for count, weight in zip(s.counts, s.weights))
        return total / self.n if self.n else float("nan")

    def interval(self, *, confidence: float = 0.95) -> Interval:
        """Interval of the mean; NaN without items.

        Method of variance estimates recovery on Wilson limits (Zou and Donner 2008), with the negative correlation of
        shares that no item can be in at once. Wald and bootstrap intervals under-cover here.
        """
        if not self.n:
            return NO_INTERVAL
        z, centre = float(special.ndtri(0.5 + confidence / 2)), self.mean
        return Interval(centre - self._reach(z, -1), centre + self._reach(z, 1))

    def p_value(self) -> float:
        """One-sided p-value of "the mean is not above 0": where the lower bound meets 0; NaN without items."""
        centre = self.mean
        if not self.n or centre == 0:
            return 0.5 if self.n else float("nan")
        side = -1 if centre > 0 else 1
        if self._reach(_FAR, side) <= abs(centre):
            z = _FAR
        else:
            z = float(optimize.brentq(lambda z: self._reach(z, side) - abs(centre), 0.0, _FAR, xtol=1e-6))
        return float(special.ndtr(side * z))

    def _reach(self, z: float, side: int) -> float:
        """How far the upper (`side` 1) or lower (-1) end is from the mean."""
        total, n = 0.0, self.n
        for stratum in self.strata:
            parts: list[tuple[float, float]] = []
            for count, weight in zip(stratum.counts, stratum.weights):
                if weight:
                    p = count / stratum.n
                    low, high = wilson_at(count, stratum.n, z)
                    # A negative weight takes the end down by the upper limit of its share.
                    part = weight * stratum.n / n * (high - p if (weight > 0) == (side > 0) else p - low)
                    total += part**2
                    for other, q in parts:
                        spread = (1 - p) * (1 - q)
                        total -= 2 * sqrt(p * q / spread) * part * other if spread > 0 else 0.0
                    parts.append((part, p))
        return sqrt(max(total, 0.0))


_FAR = 38.0  # standard normal tails end at the smallest float there


def signed_shares(scores: ArrayLike, *, positive_weight: float, negative_weight: float) -> Shares:
    """Splits per-item scores, most of which are 0, by sign.

    Where scores of one sign differ (mixed numbers of options), the share is that of events of the effective weight
    sum s^2 / sum |s|, so that it has the variance of the mixture.

    Args:
        scores: ``(n_items,)``.
        positive_weight: Weight of one positive event, used where no item has one.
        negative_weight: The same for negative events.
    """
    s = np.asarray(scores, float)
    (more, plus), (less, minus) = _events(s[s > 0], positive_weight), _events(-s[s < 0], negative_weight)
    return Shares((Stratum(len(s), (more, less), (plus, -minus)),))


def _events(scores: NDArray[np.float64], default_weight: float) -> tuple[float, float]:
    """Effective number of events and their weight; `scores` are positive."""
    total = float(scores.sum())
    weight = float((scores**2).sum()) / total if total > 0 else default_weight
    return min(total / weight, len(scores)) if total > 0 else 0.0, weight  # all of one size: not more, by rounding


def shares_of(stratum: ArrayLike, *events: tuple[ArrayLike, ArrayLike]) -> Shares:
    """Events of items by strata, in each of which every event has one weight.

    Args:
        stratum: What tells the strata apart, such as the number of options, ``(n_items,)``.
        events: Of each event which items show it, no item two, and the score of one that does, ``(n_items,)``.
    """
    key = np.asarray(stratum)
    if len(key) == 0:
        return Shares(())
    _, first, code = np.unique(key, return_index=True, return_inverse=True) if (key != key[0]).any() else (0, [0], None)
    size = [len(key)] if code is None else np.bincount(code).tolist()
    counts, weights = [], []
    for shown, weight in events:
        flags = np.asarray(shown, float)
        counts.append([float(flags.sum())] if code is None else np.bincount(code, flags).tolist())
        weights.append(np.asarray(weight, float)[first].tolist())
    return Shares(tuple(Stratum(n, tuple(c), tuple(w)) for n, c, w in zip(size, zip(*counts), zip(*weights))))


class Scored(NamedTuple):
    """Each item's score, ``(n_items,)``, and the same as events."""

    scores: NDArray[np.float64]
    shares: Shares

    @property
    def mean(self) -> float:
        """The mean score, NaN without items."""
        return self.shares.mean


@dataclass(frozen=True, slots=True)
class Spread:
    """Standard error of a mean of per-item scores and its degrees of freedom, for t."""

    error: float
    freedom: int

    def p_value(self, centre: float) -> float:
        """One-sided p-value of "the mean, which is `centre`, is not above 0"."""
        return float(special.stdtr(self.freedom, -centre / self.error))


def spread(scores: ArrayLike, cluster: ArrayLike | None = None) -> Spread | None:
    """By items, or by the sums of clusters, which is robust to what the items of one have in common.

    None where t has nothing to go by: nothing varies, or there is one item or cluster only.

    Args:
        scores: ``(n_items,)``.
        cluster: Number of the cluster of each item.
    """
    s = np.asarray(scores, float)
    if len(s) < 2:
        return None
    residuals = s - s.mean()
    if cluster is not None:
        residuals = np.bincount(np.unique(np.asarray(cluster), return_inverse=True)[1], residuals)
    groups = len(residuals)
    squares = float(residuals @ residuals)
    if groups < 2 or squares <= 1e-18 * len(s):
        return None
    return Spread(sqrt(groups / (groups - 1) * squares) / len(s), groups - 1)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of per-item scores and how far it can be trusted.

    Attributes:
        shares: Its events.
        spread: By t: over clusters, or over items whose scores are shares of samples; None where MOVER holds.
        clustered: Whether `spread` is over clusters. The interval is then never narrower than that of independent
            items, because t is too narrow where few of them score.
    """

    shares: Shares
    spread: Spread | None = None
    clustered: bool = False

    @property
    def mean(self) -> float:
        """The mean score, NaN without items."""
        return self.shares.mean

    @property
    def n(self) -> int:
        """Items."""
        return self.shares.n

    def interval(self, *, confidence: float = 0.95) -> Interval:
        """Two-sided interval; its low end is a one-sided bound at ``(1 + confidence) / 2``; NaN without items."""
        if self.spread is None:
            return self.shares.interval(confidence=confidence)
        half = float(special.stdtrit(self.spread.freedom, 0.5 + confidence / 2)) * self.spread.error
        low, high = self.mean - half, self.mean + half
        if not self.clustered:
            return Interval(low, high)
        plain = self.shares.interval(confidence=confidence)
        return Interval(min(low, plain.low), max(high, plain.high))

    def p_value(self) -> float:
        """One-sided p-value of "the mean is not above 0", by the lower ends of the interval; NaN without items."""
        if self.spread is None:
            return self.shares.p_value()
        by_t = self.spread.p_value(self.mean)
        return max(by_t, self.shares.p_value()) if self.clustered else by_t


def estimate_of(scored: Scored, cluster: ArrayLike | None, *, sampled: bool = False) -> Estimate:
    """By MOVER; by t over clusters, ``(n_items,)``, if some cluster has several items, and over sampled items."""
    if cluster is not None and len(np.unique(np.asarray(cluster))) < len(scored.scores):
        return Estimate(scored.shares, spread(scored.scores, cluster), clustered=not sampled)
    return Estimate(scored.shares, spread(scored.scores)) if sampled else Estimate(scored.shares)


def lesser(one: Interval, other: Interval) -> Interval:
    """Interval of the lesser of two quantities."""
    return Interval(min(one.low, other.low), min(one.high, other.high))
