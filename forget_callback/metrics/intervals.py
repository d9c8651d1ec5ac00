"""Intervals and tests for shares of items and for differences of two shares.

Pure scipy and numpy: counts and per-item scores in, numbers out. Knows nothing of snapshots or of what the items are.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats


class Interval(NamedTuple):
    """Both ends of a confidence interval."""

    low: float
    high: float


NO_INTERVAL = Interval(float("nan"), float("nan"))


def wilson(successes: float, n: float, *, confidence: float = 0.95) -> Interval:
    """Two-sided Wilson score interval of a share (Wilson 1927); NaN if `n` is 0.

    `successes` and `n` may be fractional, for weighted counts.

    >>> wilson(0, 10).high
    0.2775327998628892
    """
    if n <= 0:
        return NO_INTERVAL
    z = float(special.ndtri(0.5 + confidence / 2))
    p = successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # The ends at p = 0 and p = 1 are exact; rounding would miss them by 1e-17.
    return Interval(0.0 if p <= 0 else centre - half, 1.0 if p >= 1 else centre + half)


def mcnemar_midp(n10: int, n01: int) -> float:
    """Two-sided mid-p value of McNemar's exact test of equal accuracy (Fagerland et al. 2013); 1 if nothing changed."""
    n, larger = n10 + n01, max(n10, n01)
    # Twice the mid-p tail: the chance of more, and of as many or more.
    return _binomial_sf(larger + 1, n, 0.5) + _binomial_sf(larger, n, 0.5) if n else 1.0


class Tail(NamedTuple):
    """One-sided p-values of a count: of as many or more (`exact`), and with half the chance of as many (`midp`)."""

    exact: float
    midp: float


def upper_tail(successes: int, chance: ArrayLike) -> Tail:
    """Whether there are more successes than independent trials of known chances give: binomial or Poisson-binomial.

    Trials of one chance are a binomial; several binomials are convolved, the largest one left for the end.

    Args:
        successes: Their number.
        chance: Chance of each trial, ``(n_trials,)``; without trials, `exact` is 1 and `midp` 0.5.

    >>> upper_tail(2, [0.5, 0.5, 0.5])
    Tail(exact=0.5, midp=0.3125)
    """
    p = np.asarray(chance, float)
    if len(p) == 0 or (p == p[0]).all():
        exact, above = (_binomial_sf(successes + more, len(p), float(p[0]) if len(p) else 0.5) for more in (0, 1))
        return Tail(exact, (exact + above) / 2)
    levels, sizes = np.unique(p, return_counts=True)
    *small, largest = np.argsort(sizes)
    rest, at = np.ones(1), 0  # distribution of the successes of all but the largest group, from `at` on
    for group in small:
        pmf = stats.binom.pmf(np.arange(sizes[group] + 1), sizes[group], levels[group])
        seen = np.flatnonzero(pmf > 1e-30)  # the rest adds time, and nothing
        rest, at = np.convolve(rest, pmf[seen[0] : seen[-1] + 1]), at + int(seen[0])
    n = int(sizes[largest])
    needed = successes - at - np.arange(-1, len(rest))  # of the largest group's: one more than for `successes`, then so
    tail = np.where(needed > 0, special.bdtrc(np.clip(needed - 1, 0, n), n, levels[largest]), 1.0)
    exact, above = float(rest @ tail[1:]), float(rest @ tail[:-1])
    return Tail(exact, (exact + above) / 2)


def _binomial_sf(x: int, n: int, p: float) -> float:
    """P(X >= x) of X ~ Bin(n, p), any whole `x`."""
    return 1.0 if x <= 0 else 0.0 if x > n else float(special.bdtrc(x - 1, n, p))


class SignedShares(NamedTuple):
    """A mean of per-item scores as a weighted difference of two shares of `n` items: all that its interval needs."""

    n: int
    positive: float
    positive_weight: float
    negative: float
    negative_weight: float

    @property
    def mean(self) -> float:
        """The mean score, NaN without items."""
        return self.positive_weight * self.positive - self.negative_weight * self.negative if self.n else float("nan")


def signed_shares(scores: ArrayLike, *, positive_weight: float, negative_weight: float) -> SignedShares:
    """Splits per-item scores, most of which are 0, by sign.

    Where scores of one sign differ (mixed numbers of options), the share is that of events of the effective weight
    sum s^2 / sum |s|, so that it has the variance of the mixture.

    Args:
        scores: ``(n_items,)``.
        positive_weight: Weight of one positive event, used where no item has one.
        negative_weight: The same for negative events.
    """
    s = np.asarray(scores, float)
    weight, share = zip(_events(s[s > 0], len(s), positive_weight), _events(-s[s < 0], len(s), negative_weight))
    return SignedShares(len(s), share[0], weight[0], share[1], weight[1])


def _events(scores: NDArray[np.float64], n: int, default_weight: float) -> tuple[float, float]:
    """Effective weight of an event and the share of such events among `n` items; `scores` are positive."""
    total = float(scores.sum())
    weight = float((scores**2).sum()) / total if total > 0 else default_weight
    return weight, total / weight / n if total > 0 else 0.0


def mover(shares: SignedShares, *, confidence: float = 0.95) -> Interval:
    """Interval of a weighted difference of two shares of the same items; NaN without items.

    Method of variance estimates recovery on Wilson limits (Zou and Donner 2008), with the negative correlation of two
    shares that no item can be in at once. Wald and bootstrap intervals under-cover here.
    """
    n, p, wp, q, wq = shares
    if n == 0:
        return NO_INTERVAL
    (lp, up), (lq, uq) = wilson(p * n, n, confidence=confidence), wilson(q * n, n, confidence=confidence)
    spread = (1 - p) * (1 - q)
    r = -sqrt(p * q / spread) if spread > 0 else 0.0

    def reach(dp: float, dq: float) -> float:
        return sqrt(max((wp * dp) ** 2 + (wq * dq) ** 2 - 2 * r * wp * dp * wq * dq, 0.0))

    return Interval(shares.mean - reach(p - lp, uq - q), shares.mean + reach(up - p, q - lq))
