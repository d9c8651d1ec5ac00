"""From two snapshots of one probe to transitions: the 2x2 counts, their rates, and what guessing explains.

Signs: forgetting is 1->0 and never negative, backward transfer is 0->1 and never negative; all rates are fractions of
the items that both snapshots scored. `knowledge_lost` and `knowledge_gained` estimate how many items were known and
are not, or the reverse, and are not clipped: slightly negative is possible, and right. Knows nothing of files or time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forget_callback.metrics.guessing import GuessPersistence, Knowledge, estimate, guess_persistence, nothing_forgotten
from forget_callback.metrics.intervals import Interval, SignedShares, mcnemar_midp, mover, wilson
from forget_callback.metrics.pairs import Pairs, mean, paired
from forget_callback.snapshots.snapshot import Snapshot, align


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
        knowledge: What was known before and after, lost and gained: the estimate, its method and its bounds.
        persistence: How often items wrong both times keep their option; None where options are not known.
        no_forgetting_p_value: Exact one-sided test of "nothing forgotten", mid-p; NaN where no item can be guessed
            right.
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
    knowledge: Knowledge
    persistence: GuessPersistence | None
    no_forgetting_p_value: float

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
        return self.knowledge.lost.mean

    @property
    def knowledge_gained(self) -> float:
        """Estimated share of items not known before and known after; unclipped."""
        return self.knowledge.gained.mean

    @property
    def knowledge_method(self) -> str:
        """How that was estimated: "choice", "joint", "exact" or "mixed", see `Knowledge`."""
        return self.knowledge.method

    @property
    def knowledge_lost_bounds_low(self) -> float:
        """`knowledge_lost` if guesses whose persistence cannot be seen are independent.

        For items of two options or without stored options; NaN where there are none, so that nothing is assumed.
        """
        return self.knowledge.lost_bounds.low

    @property
    def knowledge_lost_bounds_high(self) -> float:
        """The same if they all persist."""
        return self.knowledge.lost_bounds.high

    @property
    def guess_persistence(self) -> float:
        """How much guesses repeat: 0 is independent, 1 always the same; unclipped, NaN if it cannot be seen."""
        return self.persistence.rho if self.persistence else float("nan")

    @property
    def persistence_p_value(self) -> float:
        """Exact one-sided test of independent guesses; NaN if no item shows it."""
        return self.persistence.p_value if self.persistence and self.persistence.n else float("nan")

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

    def interval(self, metric: str, *, confidence: float = 0.95) -> Interval:
        """Two-sided interval of a metric of `INTERVALS`. Its low end is a one-sided bound at ``(1 + confidence) / 2``.

        Raises:
            ValueError: If the metric has no interval.
        """
        if metric in ("forgetting", "backward_transfer"):
            return wilson(self.n10 if metric == "forgetting" else self.n01, self.n, confidence=confidence)
        shares = {"knowledge_lost": self.knowledge.lost, "knowledge_gained": self.knowledge.gained}
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
    *("knowledge_lost_bounds_low", "knowledge_lost_bounds_high"),
    *("guess_persistence", "persistence_p_value", "no_forgetting_p_value"),
)
INTERVALS = ("forgetting", "backward_transfer", "net_change", "knowledge_lost", "knowledge_gained")


def compare(before: Snapshot, after: Snapshot) -> Transitions:
    """Transitions between two snapshots of one probe, joined by item id.

    Raises:
        ValueError: If fingerprints or items differ, or one is no snapshot.
    """
    for name, given in (("before", before), ("after", after)):
        if not isinstance(given, Snapshot):
            raise ValueError(
                f"{name} must be a Snapshot, got {type(given).__name__}; load a file with Snapshot.load(path)"
            )
    return _count(pairs_of(before, after))


def compare_groups(pairs: Pairs, groups: Mapping[str, slice | NDArray[np.int64]]) -> dict[str, Transitions]:
    """Transitions of several groups of items, such as categories; `groups` has each one's items by position."""
    return {name: _count(pairs.take(rows)) for name, rows in groups.items()}


def pairs_of(before: Snapshot, after: Snapshot) -> Pairs:
    """The answers of two snapshots, joined by item id in the order of `before`, validated once for all that reads them.

    Raises:
        ValueError: If fingerprints or items differ, or a choice contradicts whether the item was right.
    """
    after = align(before, after)
    return paired(
        before.correct,
        after.correct,
        before.n_choices,
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
    return _count(
        paired(before, after, n_choices, before_choice=before_choice, after_choice=after_choice, answer=answer)
    )


def _count(pairs: Pairs) -> Transitions:
    """Transitions of validated answers."""
    scored = pairs.scored()
    before, after, k = scored.before, scored.after, scored.n_choices
    right_before, right_after, n11 = int(before.sum()), int(after.sum()), int(before @ after)
    return Transitions(
        n=len(scored),
        n11=n11,
        n10=right_before - n11,
        n01=right_after - n11,
        n00=len(scored) - right_before - right_after + n11,
        n_unscored=len(pairs) - len(scored),
        forgetting_chance=_paper_chance(scored),
        forgetting_max=_clip(mean(before - (1 - before) / (k - 1))),
        backward_transfer_max=_clip(mean(after - (1 - after) / (k - 1))),
        knowledge=estimate(scored),
        persistence=None if scored.choices is None else guess_persistence(scored),
        no_forgetting_p_value=nothing_forgotten(scored),
    )


def _paper_chance(pairs: Pairs) -> float:
    """The paper's f = (1 - acc_before)(1 - acc_after)/(k - 1), per number of options, weighted by share."""
    if len(pairs) == 0:
        return float("nan")
    wrong_before, wrong_after, k = 1 - pairs.before, 1 - pairs.after, pairs.n_choices
    if (k == k[0]).all():
        return mean(wrong_before) * mean(wrong_after) / float(k[0] - 1)
    options, stratum = np.unique(k, return_inverse=True)
    size = np.bincount(stratum)
    rates = np.bincount(stratum, wrong_before) * np.bincount(stratum, wrong_after) / size**2
    return float((size / len(pairs) * rates / (options - 1)).sum())


def _share(count: int, n: int) -> float:
    return count / n if n else float("nan")


def _clip(value: float) -> float:
    return value if np.isnan(value) else max(value, 0.0)
