"""What a probe's items go through from snapshot to snapshot: lost, recovered, and for how long each was kept.

Counts answers to the first prompts as they are: an item is lost when it is first wrong, also where a lucky guess was
not repeated. A text is lost where its bits per byte are above the baseline's by more than its floor. Such counts grow
with every look, so what chance alone brings stands beside them. What guessing explains of a loss is
`transitions.py`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr, softmax

from forget_callback.metrics.texts import FLOOR, bits_of, floor_of, sides, texts_in
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.snapshot import Snapshot

STAGE = ("stage_forgetting", "stage_backward_transfer", "stage_knowledge_lost")
CHANCE = ("ever_forgotten_chance", "churn_chance")
# Metrics of documents alone, by the column that each is the mean of.
OF_TEXT = {"kl": "kl", "kl_error": "kl_error", "top1_agreement": "top1"}
OVER_TIME = (
    *("ever_forgotten", "recovered", "forgetting_events", "churn", "unparsed", "format_loss", "margin", "drift"),
    *OF_TEXT,
    *(*CHANCE, "rescored_flips", "macro_knowledge_lost", *STAGE),
)

Floats = NDArray[np.float64]
Rows = slice | NDArray[np.int64]


def answered(answers: Snapshot | Answers) -> Floats:
    """1 where an item was right, 0 wrong, NaN not scored, ``(n_items,)``; of several samples, by more than half."""
    correct: Floats = answers.correct
    return np.where(np.isnan(correct), np.nan, correct > 0.5)


def answered_both(before: Snapshot, after: Snapshot, floor: float | None = None) -> tuple[Floats, Floats]:
    """What `answered` says of both; of a text 0 where it is worse than on the other side by more than a floor.

    Args:
        after: Of the same items in the same order.
        floor: In bits per byte; that of `before` by default.
    """
    one, other = answered(before), answered(after)
    texts = texts_in(before)
    if not texts.any():
        return one, other
    was, now = sides(bits_of(before, after), floor_of(before) if floor is None else floor)
    return np.where(texts, was, one), np.where(texts, now, other)


def flips(once: Snapshot, again: Snapshot) -> Floats:
    """1 where one model's two scorings of an item differ, NaN where one has no answer, ``(n_items,)``.

    Right in one and wrong in the other; of a text, bits per byte by which it would count as worse or better.

    Args:
        again: Of the same items in the same order.
    """
    one, other = answered_both(once, again, FLOOR)
    return np.where(np.isnan(one) | np.isnan(other), np.nan, one != other)


def in_bits(snapshot: Snapshot) -> Any:
    """What was answered, of texts their bits per byte in words, ``(n_items,)``."""
    bits = snapshot.bits_per_byte
    words = np.array([f"{one:.3f} bits per byte" for one in bits], object)
    return np.where(np.isnan(bits), snapshot.prediction, words)


class Series:
    """What one probe's items went through so far, in the order of the baseline's items.

    Attributes:
        baseline: What all is compared against.
        start: The first snapshot of this run, where the baseline is of another one.
        n: Snapshots so far.
        n_variants: Prompts of an item that the baseline and the first snapshot of this run were asked in; a later
            snapshot with fewer confirms nothing.
        first: Right or wrong at the baseline, ``(n_items,)``, as `answered` says.
        now: The same at the last snapshot; NaN before the first.
        changed: Items that are right now and were wrong at the last snapshot but one, or the other way round.
        lost_once: Items that were right at the baseline and wrong since.
        lost_at: Training samples at the snapshot that first saw an item lost, NaN if none did.
        watched: Items scored at a later snapshot than the first, and until there is one, those scored at the first:
            where only a part of the items is scored again, nobody knows about the others.
        events: 1->0 steps of each item.
    """

    def __init__(self, baseline: Snapshot, *, start: Snapshot | None = None) -> None:
        self.baseline, self.start, self.n, self.n_variants = baseline, start, 0, 0
        self._texts = texts_in(baseline)
        self.first = self._answered(baseline)
        self.now = self._before = self.lost_at = np.full(len(baseline), np.nan)
        self.changed = self.lost_once = self.watched = np.zeros(len(baseline), bool)
        self.events = np.zeros(len(baseline))
        self._had_kl = np.isfinite(baseline.kl)

    def update(self, snapshot: Snapshot) -> dict[str, Floats]:
        """Takes in one more snapshot and gives metrics of `OVER_TIME` per item, NaN where one does not apply.

        Replaces vectors and never writes into them, so that a shallow copy is a whole one.
        """
        first, last, now = self.first, self.now, self._answered(snapshot)
        lost = (first == 1) & (now == 0)
        self.lost_at = np.where(lost & ~self.lost_once, snapshot.samples_seen, self.lost_at)
        self.lost_once = self.lost_once | lost
        self.events = self.events + ((last == 1) & (now == 0))
        scored = ~np.isnan(now)
        self._measured = self._texts & scored & ~np.isnan(first)
        self._has_kl = np.isfinite(snapshot.kl)
        self._had_kl = self._had_kl | self._has_kl
        self.watched = scored if self.n < 2 else self.watched | scored
        self._before, self.now, self.n = last, now, self.n + 1
        unknown = np.isnan(last) | ~scored
        self.changed = ~unknown & (now != last)
        unparsed, parsed = (
            snapshot.outcome == "unparsed",
            scored & ~self._texts,
        )  # as far as there is something to parse
        return {
            "ever_forgotten": np.where((first == 1) & self.watched, self.lost_once.astype(float), np.nan),
            "recovered": np.where(self.lost_once & scored, now, np.nan),
            # 1->0 steps between consecutive snapshots, after Toneva et al. 2019.
            "forgetting_events": np.where(np.isnan(first) | ~self.watched, np.nan, self.events),
            "churn": np.where(unknown, np.nan, now != last),
            "unparsed": np.where(parsed, unparsed, np.nan),
            # Of the items scored both times, as `forgetting` is: this much of it is format.
            "format_loss": np.where(parsed & ~np.isnan(first), (first == 1) & unparsed, np.nan),
            "margin": np.where(scored, snapshot.margin, np.nan),
            "drift": _drift(self.baseline, snapshot),
            "kl": np.where(scored, snapshot.kl, np.nan),
            "kl_error": np.where(scored, snapshot.kl_error, np.nan),
            "top1_agreement": np.where(scored, snapshot.top1, np.nan),
        }

    @property
    def lacks_kl(self) -> bool:
        """Whether a document that was measured at the last snapshot has no KL divergence any more."""
        return bool((self._measured & self._had_kl & ~self._has_kl).any())

    def counted(self, rows: Rows) -> Rows:
        """Of these items those whose right and wrong counts: texts do not where there are others."""
        texts = self._texts[rows]
        if not texts.any() or texts.all():
            return rows
        found: NDArray[np.int64] = np.arange(len(self._texts))[rows][~texts]
        return found

    def _answered(self, snapshot: Snapshot) -> Floats:
        """As `answered` says; of texts 0 where they are worse than at the baseline, 1 where not."""
        return answered_both(self.baseline, snapshot)[1] if self._texts.any() else answered(snapshot)

    def by_chance(self, rows: Rows) -> dict[str, float]:
        """What `ever_forgotten` and `churn` of these items would be if nothing had been lost or gained on balance.

        Answers that only waver get wrong as often as they get right. So of the items that moved one way, only as many
        count as moved the other way:

            ever_forgotten_chance = 1 - kept / (n11 + min(n10, n01)),  churn_chance = 2 min(m10, m01) / m

        with n the items at the baseline and now, m those at the last snapshot and now, and `kept` those right at every
        look. `ever_forgotten` is the first with n10 in place of the minimum: where nothing is lost for good the two
        are alike whatever the number of looks, and a loss that is not made good by gains is the difference.
        """
        if self._texts[rows].all():  # what gets better is not followed
            return dict.fromkeys(CHANCE, float("nan"))
        since_start, kept = _moves(self.first[rows], self.now[rows]), ~self.lost_once[rows]
        at_risk = since_start.n11 + min(since_start.n10, since_start.n01)
        never_wrong = int(((self.first[rows] == 1) & (self.now[rows] == 1) & kept).sum())
        step = _moves(self._before[rows], self.now[rows])
        return {
            "ever_forgotten_chance": (at_risk - never_wrong) / at_risk if at_risk else float("nan"),
            "churn_chance": 2 * min(step.n10, step.n01) / step.n if step.n else float("nan"),
        }


@dataclass(frozen=True)
class _Moves:
    """Items scored at two snapshots: their number, those right both times, and those that moved each way."""

    n: int
    n11: int
    n10: int
    n01: int


def _moves(before: Floats, after: Floats) -> _Moves:
    right = [(before == a) & (after == b) for a, b in ((1, 1), (1, 0), (0, 1))]
    return _Moves(int((~np.isnan(before) & ~np.isnan(after)).sum()), *(int(one.sum()) for one in right))


def _drift(before: Snapshot, after: Snapshot) -> Floats:
    """KL(after || before) in nats of each item's choice distribution, ``(n,)``, NaN without options.

    The direction of the KL penalty of RL: the model of now against the reference that the baseline is.
    """
    drift = np.full(len(before), np.nan)
    sizes = np.array([len(s) for s in before.scores], np.int64)
    for k in np.unique(sizes[sizes > 0]):
        rows = np.flatnonzero((sizes == k) & ~np.isnan(after.correct) & ~np.isnan(before.correct))
        if len(rows):
            p, q = (softmax(np.concatenate(list(s.scores[rows])).reshape(-1, k), axis=1) for s in (after, before))
            drift[rows] = rel_entr(p, q).sum(axis=1)
    return drift
