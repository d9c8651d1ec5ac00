"""Intervals and tests of counts.

Pure scipy and numpy: counts in, numbers out. Knows nothing of snapshots or of what the items are.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special


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
    return wilson_at(successes, n, float(special.ndtri(0.5 + confidence / 2))) if n > 0 else NO_INTERVAL


def wilson_at(successes: float, n: float, z: float) -> Interval:
    """The same at a quantile of the standard normal; `n` is above 0."""
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
        pmf = _binomial_pmf(int(sizes[group]), float(levels[group]))
        seen = np.flatnonzero(pmf > 1e-30)  # the rest adds time, and nothing
        rest, at = np.convolve(rest, pmf[seen[0] : seen[-1] + 1]), at + int(seen[0])
    n = int(sizes[largest])
    needed = successes - at - np.arange(-1, len(rest))  # of the largest group's: one more than for `successes`, then so
    tail = np.where(needed > 0, special.bdtrc(np.clip(needed - 1, 0, n), n, levels[largest]), 1.0)
    exact, above = float(rest @ tail[1:]), float(rest @ tail[:-1])
    return Tail(exact, (exact + above) / 2)


def _binomial_pmf(n: int, p: float) -> NDArray[np.float64]:
    """Probabilities of 0 to n successes, ``(n + 1,)``: scipy.stats has them too, and takes half a second to import."""
    k = np.arange(n + 1)
    log_ways = -np.log(n + 1) - special.betaln(n - k + 1, k + 1)
    return np.asarray(np.exp(log_ways + special.xlogy(k, p) + special.xlog1py(n - k, -p)))


def _binomial_sf(x: int, n: int, p: float) -> float:
    """P(X >= x) of X ~ Bin(n, p), any whole `x`."""
    return 1.0 if x <= 0 else 0.0 if x > n else float(special.bdtrc(x - 1, n, p))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p-values (Holm 1979), ``(n_tests,)``, in the order given: a claim holds below alpha it holds.

    NaN stays NaN and counts as no test.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, float)
    adjusted, order = np.full(p.shape, np.nan), np.argsort(p, kind="stable")  # NaN comes last
    n = int((~np.isnan(p)).sum())
    order = order[:n]
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(n, 0, -1)), 1.0)
    return adjusted
