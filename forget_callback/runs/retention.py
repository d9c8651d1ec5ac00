"""Retention: survival analysis of the items that were right at the baseline, in every prompt that they were asked in.

Uses raw answers: an item is lost when it is first wrong in all its prompts, even if it had been a lucky guess. With one
prompt, what is no longer said in that prompt counts as lost, and every look adds to it. `metrics` has the estimates
that correct for guessing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from forget_callback.runs.series import Floats, answered
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.joined import align
from forget_callback.snapshots.snapshot import Snapshot


@dataclass(frozen=True, eq=False)
class FirstLoss:
    """When each item that was right at the baseline was first wrong, in all its prompts; ``(n_right_at_baseline,)``.

    Attributes:
        ids: The items.
        samples_seen: Training samples at the snapshot of the first loss; for an item never observed wrong, at the last
            snapshot that scored it (right-censored).
        lost: Whether it was observed wrong.
    """

    ids: NDArray[np.object_]
    samples_seen: Floats
    lost: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Retention:
    """Share of the items right at the baseline and never wrong since, in all prompts; vectors are ``(n_snapshots,)``.

    Attributes:
        samples_seen: Training samples at each snapshot, the baseline first.
        survival: Kaplan-Meier estimate; NaN where no item was at risk.
        low, high: Its pointwise confidence interval.
        at_risk: Items not lost before, and still scored at this snapshot or later.
        lost: Items first wrong at this snapshot.
        variants: Prompts of an item that must all show a loss, at most; with 1 a loss is one of that prompt.
    """

    samples_seen: Floats
    survival: Floats
    low: Floats
    high: Floats
    at_risk: NDArray[np.int64]
    lost: NDArray[np.int64]
    variants: int = 1


def first_loss(snapshots: Sequence[Snapshot]) -> FirstLoss:
    """Time to the first loss of each item that was right at the baseline, in every prompt; as for `retention`.

    A snapshot of the first prompts alone says nothing of an item with further ones, unless it was right.

    Raises:
        ValueError: If there is none, they are of different probes, or `samples_seen` is unknown or does not grow.
    """
    times, first = _times(snapshots), snapshots[0]
    variants = _variants(snapshots)
    known = np.flatnonzero((_by_prompt(first, first, variants) == 1).all(axis=0))
    by_prompt = [_by_prompt(first, snapshot, variants)[:, known] for snapshot in snapshots]
    wrong = np.stack([(right == 0).all(axis=0) for right in by_prompt])
    scored = wrong | np.stack([(right == 1).any(axis=0) for right in by_prompt])
    last_scored = len(times) - 1 - scored[::-1].argmax(axis=0)
    lost: NDArray[np.bool_] = np.any(wrong, axis=0)
    return FirstLoss(first.ids[known], times[np.where(lost, wrong.argmax(axis=0), last_scored)], lost)


def retention(snapshots: Sequence[Snapshot], *, confidence: float = 0.95) -> Retention:
    """The retention curve: share of the items right at the baseline that were not lost yet, over samples seen.

    Kaplan and Meier 1958. The interval is Greenwood's on the scale log(-log S), which stays in [0, 1]; at S = 1 and
    S = 0, where that scale ends, Wilson's. At the baseline the share is 1 by definition.

    Args:
        snapshots: Of one probe, the baseline first; joined by item id. An item that stays unscored to the end is
            censored after the last snapshot that scored it.
        confidence: Of the pointwise interval.

    Raises:
        ValueError: If there is none, they are of different probes, or `samples_seen` is unknown or does not grow.

    >>> rows = [[1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 1, 1]]
    >>> path = [Snapshot("p", "f", t, list("abcd"), row, samples_seen=8 * t) for t, row in enumerate(rows)]
    >>> retention(path).survival.tolist()
    [1.0, 0.75, 0.5]
    """
    times, items = _times(snapshots), first_loss(snapshots)
    at = np.searchsorted(times, items.samples_seen)
    lost = np.bincount(at[items.lost], minlength=len(times))
    at_risk = np.bincount(at, minlength=len(times))[::-1].cumsum()[::-1]
    with np.errstate(divide="ignore", invalid="ignore"):  # no item at risk: NaN on purpose
        survival = np.cumprod(1 - lost / at_risk)
        variance = np.cumsum(lost / (at_risk * (at_risk - lost)))
    gone = np.maximum.accumulate((lost == at_risk) & (lost > 0))
    survival[gone] = 0.0
    low, high = _band(survival, variance, at_risk, float(ndtri(0.5 + confidence / 2)))
    return Retention(times, survival, low, high, at_risk, lost, 1 + len(_variants(snapshots)))


def _variants(snapshots: Sequence[Snapshot]) -> list[Answers]:
    """The baseline's answers to its further prompts, of those that a later snapshot was asked too."""
    later = {answers.fingerprint for snapshot in snapshots[1:] for answers in snapshot.further}
    return [answers for answers in snapshots[0].further if answers.fingerprint in later]


def _by_prompt(first: Snapshot, snapshot: Snapshot, variants: Sequence[Answers]) -> Floats:
    """Right (1), wrong (0) or unknown (NaN) in the first prompt and in these of the baseline, ``(n_prompts, n_items)``.

    An item that the baseline was not asked in a prompt repeats its first one there.
    """
    now = align(first, snapshot)
    own = {answers.fingerprint: answered(answers) for answers in now.further}
    rows, unknown = [answered(now)], np.full(len(first), np.nan)
    rows += [np.where(answers.asked, own.get(answers.fingerprint, unknown), rows[0]) for answers in variants]
    return np.stack(rows)


def _band(survival: Floats, variance: Floats, at_risk: NDArray[np.int64], z: float) -> tuple[Floats, Floats]:
    """Both ends of the interval; `variance` is Greenwood's of log S."""
    low, high = survival.copy(), survival.copy()
    inside = (survival > 0) & (survival < 1)
    s = survival[inside]
    reach = z * np.sqrt(variance[inside]) / -np.log(s)
    low[inside], high[inside] = s ** np.exp(reach), s ** np.exp(-reach)
    whole = survival == 1
    whole[:1] = False
    low[whole] = at_risk[whole] / (at_risk[whole] + z**2)
    if (survival == 0).any():
        high[survival == 0] = z**2 / (at_risk[int((survival == 0).argmax())] + z**2)
    return low, high


def _times(snapshots: Sequence[Snapshot]) -> Floats:
    """Samples seen at each snapshot, 0 at step 0 even where they were not counted."""
    if not snapshots:
        raise ValueError("snapshots must be one or more, the baseline first; got none")
    counted = [0.0 if s.step == 0 and np.isnan(s.samples_seen) else s.samples_seen for s in snapshots]
    if not all(a < b for a, b in zip([-1.0, *counted], counted)):
        raise ValueError(f"samples_seen must be known and grow from snapshot to snapshot, got {counted}")
    return np.array(counted, float)
