"""The guessing model: what of an item's answers before and after was known, and what was guessed.

Each item is of one of four latent classes: known both times, lost, gained, never known. An item that is not known is
guessed among its k options (chance c = 1/k, 0 where open-ended); guesses may persist: on items never known the same
option comes again with probability rho + (1 - rho) c. Plain vectors of the items that were scored both times come in;
knows nothing of snapshots, categories or time. Estimates are not clipped: slightly negative is possible, and right.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from forget_callback.metrics.intervals import NO_INTERVAL, Interval, SignedShares, Tail, signed_shares, upper_tail

Floats = NDArray[np.float64]
Choices = tuple[NDArray[np.int64], NDArray[np.int64]]
Flags = NDArray[np.bool_]
NAN = float("nan")


@dataclass(frozen=True)
class Classes:
    """Shares of the four latent classes, and of what was known before and after; NaN without items."""

    kept: float
    lost: float
    gained: float
    never: float
    known_before: float
    known_after: float

    @property
    def clipped(self) -> Classes:
        """Each share clipped to [0, 1], for display: they need not add up."""
        return Classes(**{f.name: float(np.clip(getattr(self, f.name), 0.0, 1.0)) for f in fields(self)})


@dataclass(frozen=True)
class Knowledge:
    """Estimates of one method.

    Attributes:
        lost, gained: Share and weight of the events behind each estimate; their `mean` is the estimate.
        known_before, known_after: Estimated shares known.
        method: "choice" uses the chosen options and is right whatever the guesses do; "joint" assumes independent
            guesses; "exact" needs no correction (open-ended items); "mixed" pools items of several kinds.
        lost_bounds: What was lost if guesses on items whose persistence cannot be seen (two options, or no options
            stored) are independent, and if they all persist; NaN if there is no such item.
    """

    lost: SignedShares
    gained: SignedShares
    known_before: float
    known_after: float
    method: str
    lost_bounds: Interval

    @property
    def classes(self) -> Classes:
        """All shares, with kept = known_before - lost and never = 1 - known_before - gained."""
        lost, gained, before = self.lost.mean, self.gained.mean, self.known_before
        return Classes(before - lost, lost, gained, 1 - before - gained, before, self.known_after)


@dataclass(frozen=True)
class GuessPersistence:
    """How often an item that is wrong both times keeps its option; items of three or more options only.

    Attributes:
        n: Items wrong both times with an option both times.
        same, different: Those with the same option, and with another.
        rho: Estimated persistence, unclipped, NaN if `n` is 0; 0 is independent guesses, 1 always the same.
        p_value: Exact one-sided test of rho = 0, 1 if `n` is 0.
    """

    n: int
    same: int
    different: int
    rho: float
    p_value: float

    @property
    def clipped(self) -> float:
        """`rho` clipped to [0, 1], for display."""
        return float(np.clip(self.rho, 0.0, 1.0))


def estimate(a: Floats, b: Floats, k: Floats, choices: Choices | None) -> Knowledge:
    """The best estimate that the data allow.

    Args:
        a: 1 right, 0 wrong before, ``(n,)``.
        b: The same after.
        k: Options, infinite where open-ended, ``(n,)``.
        choices: Chosen option before and after, -1 if none, or None if options were not stored.
    """
    if choices is not None and (np.isfinite(k) & (k > 2)).any():
        return by_choice(a, b, k, *choices)
    return by_joint(a, b, k)


def lost_scores(a: Floats, b: Floats, k: Floats, choices: Choices | None) -> Floats:
    """Each item's part in `estimate(a, b, k, choices)`, ``(n,)``: their mean is what was lost."""
    if choices is not None and (np.isfinite(k) & (k > 2)).any():
        return _choice_scores(a, b, k, *choices).lost
    found: Floats = (a - 1 / k) * (1 - b) / (1 - 1 / k) ** 2
    return found


def by_joint(a: Floats, b: Floats, k: Floats) -> Knowledge:
    """From right and wrong alone, for independent guesses; exact where open-ended.

    lost = mean (a - c)(1 - b)/(1 - c)^2, with the upper bound mean a(1 - b)/(1 - c) where all guesses persist. The bias
    is -never rho/(k - 1).
    """
    closed = np.isfinite(k)
    c = 1 / k
    d = 1 - c
    lost, gained = (a - c) * (1 - b) / d**2, (b - c) * (1 - a) / d**2
    positive, negative = _mean(1 / d), _mean(c / d**2)
    return Knowledge(
        lost=signed_shares(lost, positive_weight=positive, negative_weight=negative),
        gained=signed_shares(gained, positive_weight=positive, negative_weight=negative),
        known_before=_mean((a - c) / d),
        known_after=_mean((b - c) / d),
        method="joint" if closed.all() else "mixed" if closed.any() else "exact",
        lost_bounds=Interval(_mean(lost), _mean(a * (1 - b) / d)) if closed.any() else NO_INTERVAL,
    )


def by_choice(
    a: Floats,
    b: Floats,
    k: Floats,
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    *,
    two_option_persistence: float = 1.0,
) -> Knowledge:
    """From the chosen options: right whatever rho is where k >= 3.

    Assumes that on an item not known the right option is uniform given the two chosen ones. Then switches from one
    wrong option to another show how much guessing moves.

    Args:
        a: 1 right, 0 wrong before, ``(n,)``.
        b: The same after.
        k: Options, infinite where open-ended.
        x: Chosen option before, -1 if none could be read.
        y: The same after.
        two_option_persistence: The rho of items with two options, which have no other wrong option to switch to; 1
            subtracts nothing, an upper bound.
    """
    chance, closed, two = 1 / (k - 1), np.isfinite(k), k == 2
    same_weight = (1 - two_option_persistence) / (1 + two_option_persistence)
    scores = _choice_scores(a, b, k, x, y, same_weight)
    taken = scores.other + same_weight * two
    weights = {"positive_weight": _mean(1 + chance), "negative_weight": _mean(taken * (1 + chance))}
    lost = signed_shares(scores.lost, **weights)
    bounds = NO_INTERVAL
    if two.any():
        independent = _mean(scores.same_two)
        upper = lost.mean + same_weight * independent
        bounds = Interval(upper - independent, upper)
    return Knowledge(
        lost=lost,
        gained=signed_shares(scores.gained, **weights),
        known_before=_mean(a - (1 - a) * (x >= 0) * chance),
        known_after=_mean(b - (1 - b) * (y >= 0) * chance),
        method="choice" if closed.all() else "mixed",
        lost_bounds=bounds,
    )


class _Scores(NamedTuple):
    """Per item, ``(n,)``.

    Attributes:
        lost, gained: Its part in the estimates.
        other: What a switch from one wrong option to another takes off, times k/(k - 1).
        same_two: What an item of two options, wrong both times, would take off if guesses were independent.
    """

    lost: Floats
    gained: Floats
    other: Floats
    same_two: Floats


def _choice_scores(
    a: Floats, b: Floats, k: Floats, x: NDArray[np.int64], y: NDArray[np.int64], same_weight: float = 0.0
) -> _Scores:
    """The scores of method "choice"; `same_weight` is what counts of an item of two options, wrong both times."""
    c, right_x, right_y, valid_x, valid_y = 1 / k, a == 1, b == 1, x >= 0, y >= 0
    closed, two = c > 0, k == 2
    several = closed & ~two
    other = several / np.where(several, k - 2, 1.0)
    both = closed & valid_x & valid_y & ~right_x & ~right_y
    moved = both * np.where(two, same_weight, (x != y) * other)

    def towards(event: Flags, right: Flags, valid: Flags, wrong_before: Flags) -> tuple[Floats, Floats]:
        """Scores of changes to wrong, and the factor in them that allows for lucky guesses."""
        g, taken = 1.0, moved
        invalid = closed & ~valid
        n_invalid = np.count_nonzero(invalid)
        if n_invalid:  # g is the share of an unknown item's answers that can be read
            guessed = float(((closed & valid & ~right) / (1 - c)).sum())
            g = guessed / (guessed + n_invalid)
            taken = moved + (invalid & wrong_before & several) * (c / (1 - c))
        scale = 1 / (1 - g * c)
        return (event - taken) * scale, scale

    lost, scale = towards(right_x & ~right_y, right_y, valid_y, ~right_x & valid_x)
    gained, _ = towards(right_y & ~right_x, right_x, valid_x, ~right_y & valid_y)
    return _Scores(lost, gained, other, both * two * scale)


def guess_persistence(a: Floats, b: Floats, k: Floats, x: NDArray[np.int64], y: NDArray[np.int64]) -> GuessPersistence:
    """How much guesses persist, from the options of items that are wrong both times.

    For one k and s = same/n, rho = (s(k - 1) - 1)/(k - 1 - s). For several, the two moments that this is the ratio of
    are summed over items. Under rho = 0 the same option comes again with probability 1/(k - 1).
    """
    both = np.isfinite(k) & (k > 2) & (a == 0) & (b == 0) & (x >= 0) & (y >= 0)
    k, same = k[both], x[both] == y[both]
    n, n_same = len(k), int(same.sum())
    if n == 0:
        return GuessPersistence(0, 0, 0, NAN, 1.0)
    # Each sum is in units of items never known: those that kept their guess by will, and all.
    kept = same * k / (k - 1)
    persistent, total = kept - ~same * k / ((k - 1) * (k - 2)), kept + ~same * k / (k - 2)
    rho = float(persistent.sum() / total.sum())
    return GuessPersistence(n, n_same, n - n_same, rho, upper_tail(n_same, 1 / (k - 1)).exact)


def nothing_forgotten_by_choice(a: Floats, b: Floats, k: Floats, x: NDArray[np.int64], y: NDArray[np.int64]) -> Tail:
    """Exact test of "no item was lost" from the chosen options, right whatever rho is; of items with k >= 3.

    Of the items that moved between two options, not to the right one, 1/(k - 1) moved away from it; of those that went
    from an option to no readable answer, 1/k.
    """
    several = np.isfinite(k) & (k > 2) & (x >= 0) & (b == 0) & (x != y)
    lost = several & (a == 1)
    chance = np.where(y[several] >= 0, 1 / (k[several] - 1), 1 / k[several])
    return upper_tail(int(lost.sum()), chance)


def nothing_forgotten_by_joint(a: Floats, b: Floats, k: Floats) -> Tail:
    """The same test from right and wrong alone, for independent guesses: of items wrong after, 1/k were right before.

    Open-ended items say nothing here: no guess makes them right.
    """
    wrong_after = np.isfinite(k) & (b == 0)
    return upper_tail(int((a[wrong_after] == 1).sum()), 1 / k[wrong_after])


def most_likely_classes(a: Floats, b: Floats, k: Floats) -> Classes:
    """Maximum likelihood of the four classes for independent guesses, each in [0, 1], adding up to 1.

    One maximum per number of options, weighted by share. The likelihood is that of a mixture with known parts, so
    concave in the shares.
    """
    if len(a) == 0:
        return Classes(*[NAN] * 6)
    total = np.zeros(4)
    for options, size in zip(*np.unique(k, return_counts=True)):
        rows = k == options
        count = np.bincount((2 * a[rows] + b[rows]).astype(int), minlength=4)  # 00, 01, 10, 11
        known, guessed = np.array([0.0, 1.0]), np.array([1 - 1 / options, 1 / options])
        parts = [np.outer(p, q).ravel() for p in (known, guessed) for q in (known, guessed)]
        total += size / len(a) * mixture_shares(np.stack(parts, axis=1)[count > 0], count[count > 0] / size)
    kept, lost, gained, never = map(float, total)
    return Classes(kept, lost, gained, never, kept + lost, kept + gained)


def mixture_shares(likelihood: Floats, weight: Floats) -> Floats:
    """Shares of a mixture's known parts that maximise sum weight log(likelihood @ shares), ``(n_parts,)``.

    Primal-dual interior point, to about 1e-10.

    Args:
        likelihood: Of each observation under each part, ``(n_observations, n_parts)``.
        weight: Share of each observation, ``(n_observations,)``, adding up to 1.
    """
    parts = likelihood.shape[1]
    # With the constraint's multiplier known (1), only shares >= 0 is left; its slack is `dual`, its barrier `mu`.
    shares, dual, mu = np.full(parts, 1 / parts), np.ones(parts), 1.0
    for _ in range(200):
        mixed = likelihood @ shares
        gradient = 1 - likelihood.T @ (weight / mixed)
        if mu < 1e-22 and np.abs(gradient - dual).max() < 1e-11:
            break
        mu = max(0.1 * float(shares @ dual) / parts, 1e-24)
        hessian = (likelihood.T * (weight / mixed**2)) @ likelihood
        step = np.linalg.solve(hessian + np.diag(dual / shares), mu / shares - gradient)
        dual_step = mu / shares - dual - dual / shares * step
        shares = shares + _room(shares, step) * step
        dual = dual + _room(dual, dual_step) * dual_step
    found: Floats = shares / shares.sum()
    return found


def _room(value: Floats, step: Floats) -> float:
    """How far along `step` every value stays above 0, at most 1."""
    shrinking = step < 0
    return min(1.0, 0.99 * float((value[shrinking] / -step[shrinking]).min())) if shrinking.any() else 1.0


def _mean(values: Floats) -> float:
    return float(values.sum()) / len(values) if len(values) else NAN
