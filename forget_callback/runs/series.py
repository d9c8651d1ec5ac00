"""What a probe's items go through from snapshot to snapshot: lost, recovered, and for how long each was kept.

Counts answers as they are: an item is lost when it is first wrong, also where a lucky guess was not repeated. What
guessing explains is `transitions.py`'s business.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr, softmax

from forget_callback.snapshots.snapshot import Snapshot

STAGE = ("stage_forgetting", "stage_backward_transfer", "stage_knowledge_lost")
OVER_TIME = (
    *("ever_forgotten", "recovered", "forgetting_events", "churn", "unparsed", "format_loss", "margin", "drift"),
    *("noise_floor", *STAGE),
)

Floats = NDArray[np.float64]


class Series:
    """What one probe's items went through so far, in the order of the baseline's items.

    Attributes:
        baseline: What all is compared against.
        last: Right or wrong at the last snapshot, ``(n_items,)``; NaN before the first.
        start: The first snapshot of this run, where the baseline is of another one.
        n: Snapshots so far.
        changed: Items that are right now and were wrong at the last snapshot, or the other way round.
        lost_once: Items that were right at the baseline and wrong since.
        lost_at: Training samples at the snapshot that first saw an item lost, NaN if none did.
        watched: Items scored at a later snapshot than the first, and until there is one, those scored at the first:
            where only a part of the items is scored again, nobody knows about the others.
        events: 1->0 steps of each item.
    """

    def __init__(self, baseline: Snapshot, *, start: Snapshot | None = None) -> None:
        self.baseline, self.start, self.n = baseline, start, 0
        self.last = self.lost_at = np.full(len(baseline), np.nan)
        self.changed = self.lost_once = self.watched = np.zeros(len(baseline), bool)
        self.events = np.zeros(len(baseline))

    def update(self, now: Snapshot) -> dict[str, Floats]:
        """Takes in one more snapshot and gives each metric of `OVER_TIME` per item, NaN where it does not apply.

        Replaces vectors and never writes into them, so that a shallow copy is a whole one.
        """
        first, last, current = self.baseline.correct, self.last, now.correct
        lost = (first == 1) & (current == 0)
        self.lost_at = np.where(lost & ~self.lost_once, now.samples_seen, self.lost_at)
        self.lost_once = self.lost_once | lost
        self.events = self.events + ((last == 1) & (current == 0))
        scored = ~np.isnan(current)
        self.watched = scored if self.n < 2 else self.watched | scored
        self.last, self.n = current, self.n + 1
        unknown = np.isnan(last) | ~scored
        self.changed = ~unknown & (current != last)
        unparsed = now.outcome == "unparsed"
        return {
            "ever_forgotten": np.where((first == 1) & self.watched, self.lost_once.astype(float), np.nan),
            "recovered": np.where(self.lost_once & scored, current, np.nan),
            # 1->0 steps between consecutive snapshots, after Toneva et al. 2019.
            "forgetting_events": np.where(np.isnan(first) | ~self.watched, np.nan, self.events),
            "churn": np.where(unknown, np.nan, current != last),
            "unparsed": np.where(scored, unparsed, np.nan),
            # Of the items scored both times, as `forgetting` is: this much of it is format.
            "format_loss": np.where(scored & ~np.isnan(first), (first == 1) & unparsed, np.nan),
            "margin": np.where(scored, now.margin, np.nan),
            "drift": _drift(self.baseline, now),
        }


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
