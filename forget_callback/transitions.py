"""From two snapshots of one probe to transitions: the 2x2 counts, their rates, and what guessing explains.

Signs: forgetting is 1->0 and never negative, backward transfer is 0->1 and never negative; all rates are fractions of
the items that both snapshots scored. `knowledge_lost` and `knowledge_gained` estimate how many items were known and
are not, or the reverse, and are not clipped: slightly negative is possible, and right. Knows nothing of files or time.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forget_callback.snapshot import Snapshot, align
from forget_callback.statistics import Interval, SignedShares, mcnemar_midp, mover, signed_shares, wilson

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Transitions:
    """What changed between two snapshots; rates are fractions of `n`, NaN if `n` is 0.

    Attributes:
        n: Items scored both times; `n11`, `n10`, `n01`, `n00` count them by right (1) or wrong (0), before and after.
        n_unscored: Items that at least one snapshot did not score; they are in no other number.
        forgetting_chance: Forgetting that the paper expects from guessing alone (arXiv 2510.17776), the same for
            backward transfer; per number of options, weighted by share.
        forgetting_max: The paper's ceiling on forgetting, accuracy before without lucky guesses.
        backward_transfer_max: The paper's ceiling on backward transfer, from the accuracy after.
        lost, gained: Share and weight of the events behind `knowledge_lost` and `knowledge_gained`.
        knowledge_method: "choice" uses the chosen options and is right whatever the guesses do; "joint" assumes
            independent guesses; "exact" needs no correction (open-ended items); "mixed" pools items of several kinds.
    """

    n: int
    n11: int
    n10: int
    n01: int
    n00: int
    n_unscored: int
    forgetting_chance: float
    forgetting_max: float
    backward_transfer_max: float
    lost: SignedShares
    gained: SignedShares
    knowledge_method: str

    @property
    def accuracy_before(self) -> float:
        """Share right before."""
        return _share(self.n11 + self.n10, self.n)

    @property
    def accuracy_after(self) -> float:
        """Share right after."""
        return _share(self.n11 + self.n01, self.n)

    @property
    def net_change(self) -> float:
        """Accuracy after minus accuracy before: what a task average shows."""
        return _share(self.n01 - self.n10, self.n)

    @property
    def forgetting(self) -> float:
        """Share of items that went from right to wrong (1->0), guesses included."""
        return _share(self.n10, self.n)

    @property
    def backward_transfer(self) -> float:
        """Share of items that went from wrong to right (0->1), guesses included."""
        return _share(self.n01, self.n)

    @property
    def forgetting_adjusted(self) -> float:
        """The paper's forgetting: less what guessing explains, clipped at 0 (arXiv 2510.17776)."""
        return _clip(self.forgetting - self.forgetting_chance)

    @property
    def backward_transfer_adjusted(self) -> float:
        """The paper's backward transfer: less what guessing explains, clipped at 0 (arXiv 2510.17776)."""
        return _clip(self.backward_transfer - self.forgetting_chance)

    @property
    def knowledge_lost(self) -> float:
        """Estimated share of items known before and not known after; unclipped."""
        return self.lost.mean

    @property
    def knowledge_gained(self) -> float:
        """Estimated share of items not known before and known after; unclipped."""
        return self.gained.mean

    @property
    def p_value(self) -> float:
        """McNemar's test of equal accuracy, mid-p; NaN without items."""
        return mcnemar_midp(self.n10, self.n01) if self.n else float("nan")

    @property
    def forgetting_interval(self) -> Interval:
        """95% Wilson interval."""
        return self.interval("forgetting")

    @property
    def backward_transfer_interval(self) -> Interval:
        """95% Wilson interval."""
        return self.interval("backward_transfer")

    @property
    def net_change_interval(self) -> Interval:
        """95% MOVER interval."""
        return self.interval("net_change")

    @property
    def knowledge_lost_interval(self) -> Interval:
        """95% MOVER interval."""
        return self.interval("knowledge_lost")

    @property
    def knowledge_gained_interval(self) -> Interval:
        """95% MOVER interval."""
        return self.interval("knowledge_gained")

    def interval(self, metric: str, *, confidence: float = 0.95) -> Interval:
        """Two-sided interval of a metric of `INTERVALS`. Its low end is a one-sided bound at ``(1 + confidence) / 2``.

        Raises:
            ValueError: If the metric has no interval.
        """
        if metric in ("forgetting", "backward_transfer"):
            return wilson(self.n10 if metric == "forgetting" else self.n01, self.n, confidence=confidence)
        shares = {"knowledge_lost": self.lost, "knowledge_gained": self.gained}
        n = max(self.n, 1)
        shares["net_change"] = SignedShares(self.n, self.n01 / n, 1.0, self.n10 / n, 1.0)
        if metric not in shares:
            raise ValueError(f"metric {metric!r} has no interval; {', '.join(INTERVALS)} have one")
        return mover(shares[metric], confidence=confidence)

    def as_dict(self) -> dict[str, float | str]:
        """Every number by its metric name, intervals as `<metric>_low` and `<metric>_high`."""
        row: dict[str, float | str] = {name: getattr(self, name) for name in METRICS}
        for name in INTERVALS:
            row[f"{name}_low"], row[f"{name}_high"] = self.interval(name)
        return {**row, "knowledge_method": self.knowledge_method}


METRICS = (
    *("n", "n11", "n10", "n01", "n00", "n_unscored"),
    *("accuracy_before", "accuracy_after", "net_change", "forgetting", "backward_transfer"),
    *("forgetting_chance", "forgetting_adjusted", "backward_transfer_adjusted"),
    *("forgetting_max", "backward_transfer_max", "knowledge_lost", "knowledge_gained", "p_value"),
)
INTERVALS = ("forgetting", "backward_transfer", "net_change", "knowledge_lost", "knowledge_gained")


def compare(before: Snapshot, after: Snapshot) -> Transitions:
    """Transitions between two snapshots of one probe, joined by item id.

    Raises:
        ValueError: If fingerprints or items differ.
    """
    after = align(before, after)
    return transitions(
        before.correct,
        after.correct,
        n_choices=before.n_choices,
        before_choice=before.choice,
        after_choice=after.choice,
        answer=before.answer,
    )


def transitions(
    before: ArrayLike,
    after: ArrayLike,
    *,
    n_choices: ArrayLike | None = None,
    before_choice: ArrayLike | None = None,
    after_choice: ArrayLike | None = None,
    answer: ArrayLike | None = None,
) -> Transitions:
    """Counts transitions and removes what guessing explains.

    Args:
        before: 1 right, 0 wrong, NaN not scored, ``(n,)``.
        after: The same items in the same order.
        n_choices: Options per item: one number, ``(n,)``, or None if answers are open-ended (infinite in a vector).
        before_choice: Index of the chosen option, -1 if no option could be read, ``(n,)``.
        after_choice: The same after.
        answer: Index of the right option, ``(n,)``; checked against `before` and `after` where given.

    Raises:
        ValueError: If shapes differ, a value is not 1, 0 or NaN, there are fewer than 2 options, only one of the two
            choices is given, or a choice contradicts whether the item was right.

    >>> t = transitions([1, 1, 1, 0], [1, 0, 1, 1])
    >>> t.n10, t.n01, t.forgetting, t.net_change
    (1, 1, 0.25, 0.0)
    """
    a, b = np.asarray(before, float), np.asarray(after, float)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise ValueError(f"before and after must be vectors of one length of at least 1, got {a.shape} and {b.shape}")
    for name, values in (("before", a), ("after", b)):
        odd = values[~np.isnan(values) & (values != 0) & (values != 1)]
        if len(odd):
            raise ValueError(f"{name} must hold 1, 0 or NaN (not scored), got {odd[0]}")
    k = np.broadcast_to(np.asarray(np.inf if n_choices is None else n_choices, float), a.shape)
    if not (k >= 2).all():
        raise ValueError(f"n_choices must be 2 or more (None where open-ended), got {k[~(k >= 2)][0]}")
    choices = _checked_choices(a, b, k, before_choice, after_choice, answer)
    scored = ~np.isnan(a) & ~np.isnan(b)
    a, b, k = a[scored], b[scored], k[scored]
    choices = None if choices is None else (choices[0][scored], choices[1][scored])
    n10, n01 = int((a * (1 - b)).sum()), int(((1 - a) * b).sum())
    n11, n00 = int((a * b).sum()), int(((1 - a) * (1 - b)).sum())
    knowledge = _knowledge(a, b, k, choices)
    return Transitions(
        n=len(a),
        n11=n11,
        n10=n10,
        n01=n01,
        n00=n00,
        n_unscored=int((~scored).sum()),
        forgetting_chance=_paper_chance(a, b, k),
        forgetting_max=_clip(_mean(a - (1 - a) / (k - 1))),
        backward_transfer_max=_clip(_mean(b - (1 - b) / (k - 1))),
        lost=knowledge.lost,
        gained=knowledge.gained,
        knowledge_method=knowledge.method,
    )


def _checked_choices(
    a: Floats,
    b: Floats,
    k: Floats,
    before_choice: ArrayLike | None,
    after_choice: ArrayLike | None,
    answer: ArrayLike | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Both choices, or None where they are not known for every multiple-choice item that was scored."""
    if (before_choice is None) != (after_choice is None):
        raise ValueError("before_choice and after_choice go together: give both, or none")
    if before_choice is None or after_choice is None:
        return None
    x, y = np.asarray(before_choice, np.int64), np.asarray(after_choice, np.int64)
    if x.shape != a.shape or y.shape != a.shape:
        raise ValueError(f"choices must have the shape of before {a.shape}, got {x.shape} and {y.shape}")
    closed = np.isfinite(k)
    if answer is not None:
        right = np.asarray(answer, np.int64)
        for name, choice, correct in (("before", x, a), ("after", y, b)):
            bad = closed & ~np.isnan(correct) & (choice >= 0) & ((choice == right) != (correct == 1))
            if bad.any():
                i = int(np.argmax(bad))
                raise ValueError(
                    f"item {i}: {name}_choice {choice[i]} and answer {right[i]} contradict {name} {correct[i]}"
                )
    # A right item without a choice: the choices were not stored (an imported log, say).
    scored = ~np.isnan(a) & ~np.isnan(b)
    unknown = closed & scored & (((a == 1) & (x < 0)) | ((b == 1) & (y < 0)))
    return None if unknown.any() else (x, y)


def _paper_chance(a: Floats, b: Floats, k: Floats) -> float:
    """The paper's f = (1 - acc_before)(1 - acc_after)/(k - 1), per number of options, weighted by share."""
    if len(a) == 0:
        return float("nan")
    options, stratum = np.unique(k, return_inverse=True)
    size = np.bincount(stratum)
    wrong_before = np.bincount(stratum, 1 - a) / size
    wrong_after = np.bincount(stratum, 1 - b) / size
    return float((size / len(a) * wrong_before * wrong_after / (options - 1)).sum())


class _Knowledge(NamedTuple):
    lost: SignedShares
    gained: SignedShares
    method: str


def _knowledge(
    a: Floats, b: Floats, k: Floats, choices: tuple[NDArray[np.int64], NDArray[np.int64]] | None
) -> _Knowledge:
    """Estimates of what was lost and gained (STATISTICS sections 2 and 3)."""
    closed = np.isfinite(k)
    if choices is not None and (closed & (k > 2)).any():
        x, y = choices
        invalid_before, invalid_after = closed & (x < 0), closed & (y < 0)
        both = closed & (a == 0) & (b == 0)
        differ = both & (x >= 0) & (y >= 0) & (x != y)
        lost = _choice_shares(a * (1 - b), differ, both & (x >= 0) & (y < 0), k, 1 - b, invalid_after)
        gained = _choice_shares(b * (1 - a), differ, both & (y >= 0) & (x < 0), k, 1 - a, invalid_before)
        return _Knowledge(lost, gained, "choice" if closed.all() else "mixed")
    c = 1 / k
    weights = {"positive_weight": _mean(1 / (1 - c)), "negative_weight": _mean(c / (1 - c) ** 2)}
    lost = signed_shares((a - c) * (1 - b) / (1 - c) ** 2, **weights)
    gained = signed_shares((b - c) * (1 - a) / (1 - c) ** 2, **weights)
    return _Knowledge(lost, gained, "joint" if closed.all() else "exact" if not closed.any() else "mixed")


def _choice_shares(
    event: Floats,
    differ: NDArray[np.bool_],
    dropped: NDArray[np.bool_],
    k: Floats,
    wrong: Floats,
    invalid: NDArray[np.bool_],
) -> SignedShares:
    """Method "choice" for one direction, from the items that went from wrong to another wrong option.

    Args:
        event: 1 where the item went from right to wrong (or wrong to right), ``(n,)``.
        differ: Wrong both times, with two different options.
        dropped: Wrong both times, with no option on the side where `event` is wrong.
        k: Options, infinite where open-ended. With 2 there is no other wrong option: nothing is subtracted.
        wrong: 1 where wrong on that side.
        invalid: No option could be read on that side.
    """
    c = 1 / k
    # Share of an unknown item's answers that are guesses of an option: 1 unless some could not be parsed.
    guessed = float((wrong * np.isfinite(k) * ~invalid / (1 - c)).sum())
    g = guessed / (guessed + invalid.sum()) if invalid.any() else 1.0
    several = np.isfinite(k) & (k > 2)
    with np.errstate(divide="ignore"):
        other = np.where(several, 1 / (k - 2), 0.0)
    scores = (event - differ * other - several * dropped / (k - 1)) / (1 - g * c)
    with np.errstate(divide="ignore", invalid="ignore"):
        negative = np.where(several, c / ((1 - c) * (1 - 2 * c)), 0.0)
    return signed_shares(scores, positive_weight=_mean(1 / (1 - c)), negative_weight=_mean(negative))


def _share(count: int, n: int) -> float:
    return count / n if n else float("nan")


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _clip(value: float) -> float:
    return value if np.isnan(value) else max(value, 0.0)


class _CallableModule(ModuleType):
    """`from forget_callback import transitions` gives the function, or this module once it has been imported."""

    __call__ = staticmethod(transitions)


sys.modules[__name__].__class__ = _CallableModule
