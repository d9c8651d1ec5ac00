"""Snapshots in order -> the one table that trackers, reports, stop rules and people read.

A row per step, probe and category, all computed once, here. The first snapshot of a probe is its baseline. Keeps one
baseline and a few vectors per probe, not every snapshot; anything older can be read back from the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import rel_entr, softmax

from forget_callback.snapshot import Snapshot, align, pool
from forget_callback.transitions import INTERVALS, METRICS, Transitions, transitions

OVER_TIME = ("ever_forgotten", "recovered", "forgetting_events", "churn", "unparsed", "margin", "drift")
ALL_METRICS = (*METRICS, *(f"{name}_{end}" for name in INTERVALS for end in ("low", "high")), *OVER_TIME)
KEYS = ("step", "samples_seen", "tokens_seen", "probe", "category")


@dataclass(frozen=True)
class Row:
    """One step of one probe and category ("" is the whole probe)."""

    step: int
    samples_seen: float
    tokens_seen: float
    probe: str
    category: str
    transitions: Transitions
    over_time: dict[str, float]

    def value(self, metric: str) -> float:
        """The number of one metric of `METRICS` or `OVER_TIME`."""
        return self.over_time[metric] if metric in OVER_TIME else float(getattr(self.transitions, metric))

    def as_dict(self) -> dict[str, Any]:
        """The row of the table."""
        keys = {name: getattr(self, name) for name in KEYS}
        return {**keys, **self.transitions.as_dict(), **self.over_time}


class History:
    """Grows by one step at a time.

    >>> import numpy as np
    >>> h = History()
    >>> for step, correct in enumerate([[1, 1, 0], [0, 1, 1], [1, 1, 0]]):
    ...     rows = h.append([Snapshot("facts", "f", step, ids=list("abc"), correct=correct)])
    >>> h.table[["step", "forgetting", "ever_forgotten", "recovered"]].round(2).values.tolist()
    [[0.0, 0.0, 0.0, nan], [1.0, 0.33, 0.5, 0.0], [2.0, 0.0, 0.5, 1.0]]
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._series: dict[str, _Series] = {}

    def append(self, snapshots: Sequence[Snapshot]) -> list[Row]:
        """Adds one step, a snapshot of each probe, and gives its rows; "all" pools several probes.

        Raises:
            ValueError: If the steps of the snapshots differ, do not grow, or a snapshot does not fit its baseline.
        """
        steps = {snapshot.step for snapshot in snapshots}
        if len(steps) != 1 or (self.rows and min(steps) <= self.rows[-1].step):
            last = self.rows[-1].step if self.rows else None
            raise ValueError(f"snapshots must be of one step after the last, {last}; got steps {sorted(steps)}")
        pooled = [*snapshots, pool(snapshots)] if len(snapshots) > 1 else list(snapshots)
        kept = {name: copy(series) for name, series in self._series.items()}
        try:
            rows = [row for snapshot in pooled for row in self._rows_of(snapshot)]
        except ValueError:
            self._series = kept  # the step was not taken: it may come again, put right
            raise
        self.rows += rows
        return rows

    def select(self, probe: str, category: str = "") -> list[Row]:
        """The rows of one probe and category, oldest first."""
        return [row for row in self.rows if (row.probe, row.category) == (probe, category)]

    @property
    def table(self) -> pd.DataFrame:
        """A row per (step, probe, category): step, samples_seen, tokens_seen, probe, category, then every metric."""
        columns = [*KEYS, *ALL_METRICS, "knowledge_method"]
        return pd.DataFrame([row.as_dict() for row in self.rows], columns=columns)

    def _rows_of(self, snapshot: Snapshot) -> list[Row]:
        series = self._series.get(snapshot.probe)
        if series is None:
            series = self._series[snapshot.probe] = _Series(snapshot)
        now = align(series.baseline, snapshot)
        items = series.update(now)
        base, category = series.baseline, series.baseline.category.astype(str)
        names = [] if snapshot.probe == "all" else sorted(set(category) - {""})
        rows = []
        for name in ("", *names):
            mask = slice(None) if name == "" else category == name
            changed = transitions(
                base.correct[mask],
                now.correct[mask],
                n_choices=base.n_choices[mask],
                before_choice=base.choice[mask],
                after_choice=now.choice[mask],
                answer=base.answer[mask],
            )
            over_time = {metric: _nanmean(values[mask]) for metric, values in items.items()}
            key = (snapshot.step, float(snapshot.samples_seen), float(snapshot.tokens_seen), snapshot.probe, name)
            rows.append(Row(*key, changed, over_time))
        return rows


@dataclass
class _Series:
    """What one probe's items went through so far, in the order of the baseline's items."""

    baseline: Snapshot
    last: NDArray[np.float64] | None = None
    lost_once: NDArray[np.bool_] = field(init=False)
    events: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.lost_once = np.zeros(len(self.baseline), bool)
        self.events = np.zeros(len(self.baseline))

    def update(self, now: Snapshot) -> dict[str, NDArray[np.float64]]:
        """Takes in one more snapshot and gives each metric of `OVER_TIME` per item, NaN where it does not apply."""
        first, current = self.baseline.correct, now.correct
        last = np.full(len(now), np.nan) if self.last is None else self.last
        self.lost_once = self.lost_once | (first == 1) & (current == 0)
        self.events = self.events + ((last == 1) & (current == 0))
        self.last = current
        scored = ~np.isnan(current)
        unknown = np.isnan(last) | ~scored
        return {
            "ever_forgotten": np.where(first == 1, self.lost_once.astype(float), np.nan),
            "recovered": np.where(self.lost_once & scored, current, np.nan),
            # 1->0 steps between consecutive snapshots, after Toneva et al. 2019.
            "forgetting_events": np.where(np.isnan(first), np.nan, self.events),
            "churn": np.where(unknown, np.nan, current != last),
            "unparsed": np.where(scored, now.outcome == "unparsed", np.nan),
            "margin": np.where(scored, now.margin, np.nan),
            "drift": _drift(self.baseline, now),
        }


def _drift(before: Snapshot, after: Snapshot) -> NDArray[np.float64]:
    """KL(after || before) in nats of each item's choice distribution, ``(n,)``, NaN without options.

    The direction of the KL penalty of RL: the model of now against the reference that the baseline is.
    """
    drift = np.full(len(before), np.nan)
    sizes = np.array([len(s) for s in before.scores], np.int64)
    for k in np.unique(sizes[sizes > 0]):
        rows = np.flatnonzero((sizes == k) & ~np.isnan(after.correct) & ~np.isnan(before.correct))
        if len(rows):
            p, q = (softmax(np.stack(list(s.scores[rows])), axis=1) for s in (after, before))
            drift[rows] = rel_entr(p, q).sum(axis=1)
    return drift


def _nanmean(values: NDArray[np.float64]) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")
