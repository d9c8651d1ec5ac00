"""Snapshots in order -> the one table that trackers, reports, stop rules and people read.

A row per step, probe and category, all computed once, here. The first snapshot of a probe is its baseline. Keeps one
baseline and a few vectors per probe, not every snapshot; anything older can be read back from the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forget_callback.metrics.transitions import INTERVALS, METRICS, Transitions, compare_groups, lost_by_item
from forget_callback.probes.probe import Probe
from forget_callback.runs.item_changes import item_changes
from forget_callback.runs.series import OVER_TIME, Series
from forget_callback.snapshots.snapshot import Snapshot, align, pool

ALL_METRICS = (*METRICS, *(f"{name}_{end}" for name in INTERVALS for end in ("low", "high")), *OVER_TIME)
KEYS = ("step", "samples_seen", "tokens_seen", "probe", "category")
STAGE = ("stage_forgetting", "stage_backward_transfer", "stage_knowledge_lost")


@dataclass(frozen=True)
class Stage:
    """Which stage of a pipeline a run is, such as SFT and then GRPO; the first one by default.

    Attributes:
        number: From 1.
        samples_before: Training samples of the stages before.
    """

    number: int = 1
    samples_before: float = 0.0


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
    stage: Stage = Stage()

    @property
    def total_samples_seen(self) -> float:
        """Training samples of this stage so far and of all stages before it."""
        return self.stage.samples_before + self.samples_seen

    def value(self, metric: str) -> float:
        """The number of one metric of `METRICS` or `OVER_TIME`."""
        return self.over_time[metric] if metric in OVER_TIME else float(getattr(self.transitions, metric))

    def as_dict(self) -> dict[str, Any]:
        """The row of the table."""
        keys = {name: getattr(self, name) for name in KEYS}
        stage = {"stage": self.stage.number, "total_samples_seen": self.total_samples_seen}
        return {**keys, **self.transitions.as_dict(), **self.over_time, **stage}


class History:
    """Grows by one step at a time.

    Args:
        baseline: A snapshot of each probe, where another model than that of the first step is compared against.
        stage: Of the run.

    >>> import numpy as np
    >>> h = History()
    >>> for step, correct in enumerate([[1, 1, 0], [0, 1, 1], [1, 1, 0]]):
    ...     rows = h.append([Snapshot("facts", "f", step, ids=list("abc"), correct=correct)])
    >>> h.table[["step", "forgetting", "ever_forgotten", "recovered"]].round(2).values.tolist()
    [[0.0, 0.0, 0.0, nan], [1.0, 0.33, 0.5, 0.0], [2.0, 0.0, 0.5, 1.0]]
    """

    def __init__(self, baseline: Sequence[Snapshot] = (), *, stage: Stage = Stage()) -> None:
        self.rows: list[Row] = []
        self.stage = stage
        self._begun = {s.probe: s for s in _pooled(baseline)}
        self._series: dict[str, Series] = {}
        self._noise: dict[tuple[str, str], float] = {}

    def append(self, snapshots: Sequence[Snapshot], *, again: Sequence[Snapshot] = ()) -> list[Row]:
        """Adds one step, a snapshot of each probe, and gives its rows; "all" pools several probes.

        Args:
            again: At the baseline, the same model scored once more: what seems lost between the two is noise, and
                `knowledge_lost_net` is what later steps lose beyond it.

        Raises:
            ValueError: If the steps of the snapshots differ, do not grow, or a snapshot does not fit its baseline.
        """
        steps = {snapshot.step for snapshot in snapshots}
        if len(steps) != 1 or (self.rows and min(steps) <= self.rows[-1].step):
            last = self.rows[-1].step if self.rows else None
            raise ValueError(f"snapshots must be of one step after the last, {last}; got steps {sorted(steps)}")
        if again:
            same = History()
            same.append(snapshots)
            noise = same.append([replace(snapshot, step=snapshots[0].step + 1) for snapshot in again])
            self._noise = {(row.probe, row.category): row.transitions.knowledge_lost for row in noise}
        pooled = _pooled(snapshots)
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
    def probes(self) -> tuple[str, ...]:
        """Names of the probes so far, and "all" if there are several."""
        return tuple(self._series)

    def baseline(self, probe: str) -> Snapshot:
        """The first snapshot of a probe."""
        return self._series[probe].baseline

    def changes(self, probe: Probe, now: Snapshot) -> pd.DataFrame:
        """The items that changed at the last snapshot of a probe, see `item_changes`.

        Args:
            now: That snapshot.
        """
        series = self._series[probe.name]
        return item_changes(probe, series, align(series.baseline, now))

    def lost_scores(self, probe: str, category: str = "") -> NDArray[np.float32]:
        """Each item's part in `knowledge_lost`, ``(n_snapshots, n_items)``: a row's mean is the estimate.

        NaN where an item was not scored both at the baseline and then.
        """
        series = self._series[probe]
        items = slice(None) if category == "" else series.baseline.category.astype(str) == category
        return np.stack(series.lost_scores)[:, items]

    @property
    def table(self) -> pd.DataFrame:
        """What `table_of` makes of its rows."""
        return table_of(self.rows)

    def _rows_of(self, snapshot: Snapshot) -> list[Row]:
        series = self._series.get(snapshot.probe)
        if series is None:
            base = self._begun.get(snapshot.probe)
            new = Series(snapshot) if base is None else Series(base, start=align(base, snapshot))
            series = self._series[snapshot.probe] = new
        now = align(series.baseline, snapshot)
        items = series.update(now)
        series.lost_scores = [*series.lost_scores, lost_by_item(series.baseline, now).astype(np.float32)]
        base = series.baseline
        # Sorted once: a mask per category would go through all items again and again.
        code, found = pd.factorize(base.category.astype(str).astype(object))
        of_category = np.split(np.argsort(code, kind="stable"), np.cumsum(np.bincount(code))[:-1])
        groups: dict[str, Any] = {} if snapshot.probe == "all" else dict(zip(found, of_category))
        groups[""] = slice(None)
        in_stage = {} if series.start is None else compare_groups(series.start, now, groups)
        rows = []
        for name, changed in sorted(compare_groups(base, now, groups).items()):
            mask = groups[name]
            over_time = {metric: _nanmean(values[mask]) for metric, values in items.items()}
            over_time["noise_floor"] = noise = self._noise.get((snapshot.probe, name), float("nan"))
            over_time["knowledge_lost_net"] = changed.knowledge_lost - noise
            for metric in STAGE:
                own = getattr(in_stage[name], metric.removeprefix("stage_")) if in_stage else float("nan")
                over_time[metric] = own
            key = (snapshot.step, float(snapshot.samples_seen), float(snapshot.tokens_seen), snapshot.probe, name)
            rows.append(Row(*key, changed, over_time, self.stage))
        return rows


def table_of(rows: Sequence[Row]) -> pd.DataFrame:
    """The table, a row per (step, probe, category).

    Columns: step, samples_seen, tokens_seen, probe, category, every metric, knowledge_method, and of a pipeline the
    stage and the samples seen in all stages so far.
    """
    columns = [*KEYS, *ALL_METRICS, "knowledge_method", "stage", "total_samples_seen"]
    return pd.DataFrame([row.as_dict() for row in rows], columns=columns)


def _pooled(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    return [*snapshots, pool(snapshots)] if len(snapshots) > 1 else list(snapshots)


def _nanmean(values: NDArray[np.float64]) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")
