"""What comes back with help: of the items that were lost, how many are there beyond what help alone explains.

Help gives answers away, to a model that never knew them too: so the same help is given to items that were never known,
and among k options a guess is right with chance 1/k. The greater of both is what help alone explains; what is above it
is there, but was not said. Flags in, numbers out; knows nothing of snapshots or of what the helps are.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isnan, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forget_callback.metrics.estimates import Estimate, Scored, estimate_of, lesser, shares_of, signed_shares
from forget_callback.metrics.intervals import NO_INTERVAL, Interval


@dataclass(frozen=True)
class Elicited:
    """How lost items answer with help, beside items that were never known; shares of the items that were scored.

    Attributes:
        n: Lost items that were asked and scored.
        right: Share of these that were right; `right_low` and `right_high` are its 95% interval.
        control_n: Items that were never known, asked with the same help and scored.
        control: Share of these that were right, NaN without any; with its interval as well.
        chance: Share that guessing gives the lost items.
        there: `right` less the greater of `control` and `chance`. Without a control less chance, and NaN where the
            answer of some lost item is open-ended: what help alone gives there is not known. With its interval.
    """

    n: int
    right: float
    right_low: float
    right_high: float
    control_n: int
    control: float
    control_low: float
    control_high: float
    chance: float
    there: float
    there_low: float
    there_high: float

    def as_dict(self) -> dict[str, float]:
        """All numbers by name."""
        return asdict(self)


def elicited(
    lost: ArrayLike,
    control: ArrayLike,
    chance: ArrayLike,
    *,
    cluster: ArrayLike | None = None,
    control_cluster: ArrayLike | None = None,
) -> Elicited:
    """Compares lost items with items that were never known, both under the same help.

    The difference of two independent shares has the interval of MOVER on their Wilson limits (Newcombe 1998, method
    10), with clusters on t over these. Of the differences from the control and from chance the lesser counts, so
    neither a control that happens to be low nor one of other items makes more of it.

    Args:
        lost: Whether each lost item was right, NaN where it was not scored, ``(n_lost,)``.
        control: The same of items that were never known, ``(n_control,)``.
        chance: Chance of each lost item to be guessed, 0 where the answer is open-ended, ``(n_lost,)``.
        cluster: What lost items share that are no independent draws, ``(n_lost,)``; `control_cluster` likewise.
    """
    one, other = _estimate(lost, cluster), _estimate(control, control_cluster)
    scored = ~np.isnan(np.asarray(lost, float))
    chances = np.asarray(chance, float)[scored]
    guessed = float(chances.mean()) if scored.any() else float("nan")
    ends, others = _clipped(one), _clipped(other)
    there, interval = float("nan"), NO_INTERVAL
    above_chance = Interval(ends.low - guessed, ends.high - guessed)
    if one.n and other.n:
        above_control = _difference(one.mean, ends, other.mean, others)
        there = one.mean - max(other.mean, guessed)
        interval = lesser(above_control, above_chance)
    elif one.n and (chances > 0).all():
        there, interval = one.mean - guessed, above_chance
    return Elicited(one.n, one.mean, *ends, other.n, other.mean, *others, guessed, there, *interval)


@dataclass(frozen=True)
class Kept:
    """Lost items under the same help before and after: what the help shows of the baseline model.

    Attributes:
        n: Items that were scored both times.
        before: Share that the baseline model gave right.
        now: Share of the same items that are right now.
        change: `now` less `before`, with its 95% interval.
        still: Of the items that the baseline gave right, the share that is right now, with its interval.
    """

    n: int
    before: float
    now: float
    change: float
    change_low: float
    change_high: float
    still: float
    still_low: float
    still_high: float

    def as_dict(self) -> dict[str, float]:
        """All numbers by name."""
        return asdict(self)


def kept(before: ArrayLike, now: ArrayLike, *, cluster: ArrayLike | None = None) -> Kept:
    """Compares the same items under the same help in two models.

    Args:
        before: Whether the baseline model was right, NaN where it was not scored, ``(n_items,)``.
        now: The same of the model at hand.
        cluster: As in `elicited`.
    """
    b, a = np.asarray(before, float), np.asarray(now, float)
    both = ~np.isnan(b) & ~np.isnan(a)
    groups = None if cluster is None else np.asarray(cluster)[both]
    b, a = b[both], a[both]
    if not len(b):
        nothing = [float("nan")] * 8
        return Kept(0, *nothing)
    change = estimate_of(Scored(a - b, signed_shares(a - b, positive_weight=1.0, negative_weight=1.0)), groups)
    given = b == 1
    still = _estimate(a[given], None if groups is None else groups[given])
    moved = change.interval()
    ends = Interval(max(moved.low, -1.0), min(moved.high, 1.0))
    return Kept(len(b), float(b.mean()), float(a.mean()), change.mean, *ends, still.mean, *_clipped(still))


def _estimate(right: ArrayLike, cluster: ArrayLike | None) -> Estimate:
    """The share of right answers among those that were scored."""
    flags = np.asarray(right, float)
    scored = ~np.isnan(flags)
    own: NDArray[np.float64] = flags[scored]
    groups = None if cluster is None else np.asarray(cluster)[scored]
    one = np.ones(len(own))
    return estimate_of(Scored(own, shares_of(one, (own, one))), groups)


def _clipped(share: Estimate) -> Interval:
    """Its 95% interval within what a share can be: t over clusters may reach beyond."""
    low, high = share.interval()
    return NO_INTERVAL if isnan(low) else Interval(max(low, 0.0), min(high, 1.0))


def _difference(one: float, ends: Interval, other: float, others: Interval) -> Interval:
    centre = one - other
    low = sqrt((one - ends.low) ** 2 + (others.high - other) ** 2)
    high = sqrt((ends.high - one) ** 2 + (other - others.low) ** 2)
    return Interval(centre - low, centre + high)
