"""Snapshots in order -> the one table that trackers, reports, stop rules and people read.

A row per step, probe and category, all computed once, here. The first snapshot of a probe is its baseline. Keeps one
baseline and a few vectors per probe, not every snapshot; anything older can be read back from the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from forget_callback.metrics.diagnostics import Advice, advice
from forget_callback.metrics.knowledge import lost_by_item
from forget_callback.metrics.pairs import mean
from forget_callback.metrics.transitions import INTERVALS, METRICS, Transitions, compare_groups, pairs_of
from forget_callback.probes.probe import Probe
from forget_callback.runs.item_changes import item_changes
from forget_callback.runs.series import OVER_TIME, STAGE, Series
from forget_callback.snapshots.snapshot import Snapshot, align, pool

ALL_METRICS = (*METRICS, *(f"{name}_{end}" for name in INTERVALS for end in ("low", "high")), *OVER_TIME)
KEYS = ("step", "samples_seen", "tokens_seen", "probe", "category")
COLUMNS = (*KEYS, *ALL_METRICS, "knowledge_method", "stage", "total_samples_seen")


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
        """The number of one metric of `ALL_METRICS`."""
        return float(self.numbers[metric])

    @cached_property
    def numbers(self) -> Mapping[str, Any]:
        """The row of the table, by the names of its columns; computed once."""
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
        self._lost_scores: dict[str, list[NDArray[np.float32]]] = {}
        self._noise: dict[tuple[str, str], float] = {}
        self._selected: dict[tuple[str, str], list[Row]] = {}
        self._arrow: pa.Table | None = None

    @property
    def last_step(self) -> int | None:
        """Step of the last snapshots, None before the first."""
        return self.rows[-1].step if self.rows else None

    @property
    def last_rows(self) -> list[Row]:
        """The rows of the last step."""
        return [rows[-1] for rows in self._selected.values() if rows[-1].step == self.last_step]

    def append(self, snapshots: Sequence[Snapshot], *, again: Sequence[Snapshot] = ()) -> list[Row]:
        """Adds one step, a snapshot of each probe, and gives its rows; "all" pools several probes.

        Args:
            again: At the baseline, the same model scored once more: what seems lost between the two is noise.

        Raises:
            ValueError: If the steps of the snapshots differ, do not grow, or a snapshot does not fit its baseline.
        """
        steps = {snapshot.step for snapshot in snapshots}
        last = self.last_step
        if len(steps) != 1 or (last is not None and min(steps) <= last):
            raise ValueError(f"snapshots must be of one step after the last, {last}; got steps {sorted(steps)}")
        if again:
            same = History()
            same.append(snapshots)
            noise = same.append([replace(snapshot, step=snapshots[0].step + 1) for snapshot in again])
            self._noise = {(row.probe, row.category): row.transitions.knowledge_lost for row in noise}
        taken = [self._take(snapshot) for snapshot in _pooled(snapshots)]  # raises before anything is changed
        for series, lost_scores, _ in taken:
            self._series[series.baseline.probe] = series
            self._lost_scores.setdefault(series.baseline.probe, []).append(lost_scores)
        rows = [row for _, _, own in taken for row in own]
        for row in rows:
            self._selected.setdefault((row.probe, row.category), []).append(row)
        self.rows += rows
        return rows

    def select(self, probe: str, category: str = "") -> Sequence[Row]:
        """The rows of one probe and category, oldest first."""
        return self._selected.get((probe, category), ())

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

    def advice(self, probe: Probe, now: Snapshot) -> tuple[Advice, ...]:
        """What there is to know about a probe and its answers at its last snapshot, see `diagnostics.advice`.

        Args:
            now: That snapshot.
        """
        rows = self.select(probe.name)
        measured = not np.isnan(rows[0].value("noise_floor"))
        changed = rows[-1].transitions
        return advice(self.baseline(probe.name), now, changed=changed, sampled=probe.sampled, noise_measured=measured)

    def lost_scores(self, probe: str, category: str = "") -> NDArray[np.float32]:
        """Each item's part in `knowledge_lost`, ``(n_snapshots, n_items)``: a row's mean is the estimate.

        NaN where an item was not scored both at the baseline and then.
        """
        return np.stack(self._lost_scores[probe])[:, self._items(probe, category)]

    def clusters(self, probe: str, category: str = "") -> NDArray[np.object_]:
        """The group of each of these items, "" where it has none, ``(n_items,)``."""
        return self.baseline(probe).cluster[self._items(probe, category)]

    def _items(self, probe: str, category: str) -> slice | NDArray[np.bool_]:
        return slice(None) if category == "" else self.baseline(probe).category.astype(str) == category

    @property
    def table(self) -> pd.DataFrame:
        """What `table_of` makes of its rows."""
        return table_of(self.rows)

    @property
    def arrow(self) -> pa.Table:
        """The same for a file; rows that were converted before are not converted again."""
        done = 0 if self._arrow is None else self._arrow.num_rows
        if self._arrow is None or done < len(self.rows):  # no rows have no types and could not be appended
            new = pa.Table.from_pandas(table_of(self.rows[done:]), preserve_index=False)
            self._arrow = new if self._arrow is None else pa.concat_tables([self._arrow, new]).combine_chunks()
        return self._arrow

    def _take(self, snapshot: Snapshot) -> tuple[Series, NDArray[np.float32], list[Row]]:
        """What a snapshot adds to the history, which is not changed yet: its series, lost scores and rows."""
        series = copy(self._series.get(snapshot.probe)) or self._new_series(snapshot)
        now = align(series.baseline, snapshot)
        pairs = pairs_of(series.baseline, now)
        items = series.update(now)
        groups = _groups(series.baseline)
        in_stage = {} if series.start is None else compare_groups(pairs_of(series.start, now), groups)
        rows = []
        for name, changed in sorted(compare_groups(pairs, groups).items()):
            of_group = {metric: values[groups[name]] for metric, values in items.items()}
            over_time = {metric: mean(values[~np.isnan(values)]) for metric, values in of_group.items()}
            over_time["noise_floor"] = self._noise.get((snapshot.probe, name), float("nan"))
            for metric in STAGE:
                over_time[metric] = getattr(in_stage[name], metric.removeprefix("stage_")) if in_stage else float("nan")
            key = (snapshot.step, float(snapshot.samples_seen), float(snapshot.tokens_seen), snapshot.probe, name)
            rows.append(Row(*key, changed, over_time, self.stage))
        return series, lost_by_item(pairs).astype(np.float32), rows

    def _new_series(self, snapshot: Snapshot) -> Series:
        base = self._begun.get(snapshot.probe)
        return Series(snapshot) if base is None else Series(base, start=align(base, snapshot))


def _groups(base: Snapshot) -> dict[str, Any]:
    """The items of each category, and of the whole probe, ""; of the pool of several probes the whole alone."""
    groups: dict[str, Any] = {}
    if base.probe != "all":
        # Sorted once: a mask per category would go through all items again and again.
        code, found = pd.factorize(base.category.astype(str).astype(object))
        groups.update(zip(found, np.split(np.argsort(code, kind="stable"), np.cumsum(np.bincount(code))[:-1])))
    return {**groups, "": slice(None)}


def table_of(rows: Sequence[Row]) -> pd.DataFrame:
    """The table, a row per (step, probe, category).

    Columns: step, samples_seen, tokens_seen, probe, category, every metric, knowledge_method, and of a pipeline the
    stage and the samples seen in all stages so far.
    """
    return pd.DataFrame([row.numbers for row in rows], columns=list(COLUMNS))


def _pooled(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    return [*snapshots, pool(snapshots)] if len(snapshots) > 1 else list(snapshots)
