"""Snapshots in order -> the one table that trackers, reports, stop rules and people read.

A row per step, probe and category, all computed once, here. The first snapshot of a probe is its baseline. Keeps one
baseline and a few vectors per probe, not every snapshot; anything older can be read back from the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from forget_callback.metrics.collapse import collapse
from forget_callback.metrics.diagnostics import Advice, advice
from forget_callback.metrics.pairs import mean
from forget_callback.metrics.texts import noise_of
from forget_callback.metrics.transitions import compare_groups, loss_by_item, pairs_of
from forget_callback.probes.probe import Probe
from forget_callback.runs.item_changes import item_changes
from forget_callback.runs.rows import Row, Stage, table_of
from forget_callback.runs.series import OF_TEXT, STAGE, Floats, Series, flips
from forget_callback.snapshots.joined import align, pool
from forget_callback.snapshots.reference import with_own_kl
from forget_callback.snapshots.skipped import can_count
from forget_callback.snapshots.snapshot import NOISE, Snapshot


@dataclass(frozen=True)
class _Look:
    """What a snapshot adds to the history: its probe's series, each item's part in what was lost, and its rows."""

    series: Series
    lost_scores: NDArray[np.float32]
    rows: list[Row]


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

    def __init__(self, baseline: Sequence[Snapshot] = (), *, stage: Stage = Stage()) -> None:  # noqa: B008 - frozen
        self.rows: list[Row] = []
        self.stage = stage
        self._begun = {s.probe: s for s in _pooled(baseline)}
        self._series: dict[str, Series] = {}
        self._series_before: dict[str, Series] = {}  # before the last step, which may be replaced
        self._lost_scores: dict[str, list[NDArray[np.float32]]] = {}
        self._flipped: dict[str, Floats] = {}
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
            again: At the baseline, the same model scored once more in another way, on some of the probes or all: the
                share of items that flip between the two is `rescored_flips`, NaN of other probes, and of "all" then.

        Raises:
            ValueError: If the steps of the snapshots differ, do not grow, or a snapshot does not fit its baseline.
        """
        self._require_later(snapshots)
        if again:
            others = {one.probe: one for one in (_pooled(again) if len(again) == len(snapshots) else again)}
            twice = [(one, others[one.probe]) for one in _pooled(snapshots) if one.probe in others]
            self._flipped = {one.probe: flips(one, align(one, other)) for one, other in twice}
        return self._add(self._looks(snapshots, self._series))

    def preview(self, snapshots: Sequence[Snapshot]) -> History:
        """A copy with one more step; this history stays as it is.

        Raises:
            ValueError: As `append`.
        """
        found = copy(self)
        found.rows = list(self.rows)
        found._selected = {name: list(rows) for name, rows in self._selected.items()}
        found._lost_scores = {name: list(scores) for name, scores in self._lost_scores.items()}
        found.append(snapshots)
        return found

    def replace_last(self, snapshots: Sequence[Snapshot]) -> list[Row]:
        """Puts snapshots of the same models that were asked more prompts in the place of the last ones.

        Raises:
            ValueError: If they are of another step, or do not fit the baseline.
        """
        if {snapshot.step for snapshot in snapshots} != {self.last_step}:
            raise ValueError(
                f"snapshots must be of the last step, {self.last_step}; got steps {sorted({s.step for s in snapshots})}"
            )
        looks = self._looks(snapshots, self._series_before)  # raises before anything is changed
        replaced = len(self.last_rows)
        self.rows = self.rows[:-replaced]
        self._series = self._series_before
        for look in looks:
            self._lost_scores[look.series.baseline.probe].pop()
            for row in look.rows:
                self._selected[row.probe, row.category].pop()
        if self._arrow is not None:
            self._arrow = self._arrow.slice(0, min(self._arrow.num_rows, len(self.rows)))
        return self._add(looks)

    def _require_later(self, snapshots: Sequence[Snapshot]) -> None:
        steps, last = {snapshot.step for snapshot in snapshots}, self.last_step
        if len(steps) != 1 or (last is not None and min(steps) <= last):
            raise ValueError(f"snapshots must be of one step after the last, {last}; got steps {sorted(steps)}")

    def _looks(self, snapshots: Sequence[Snapshot], series: Mapping[str, Series]) -> list[_Look]:
        """What snapshots add to a history whose series are these; nothing is changed."""
        bases = self._begun | {name: own.baseline for name, own in series.items()}
        snapshots = [with_own_kl(one, bases.get(one.probe, one)) for one in snapshots]
        looks = [self._look(snapshot, series.get(snapshot.probe)) for snapshot in _pooled(snapshots)]
        for row in looks[-1].rows if len(looks) > 1 else ():
            exact = row.transitions.knowledge_method == "exact"  # else the pool has no open-ended items in it either
            own = [look.rows[0] for look in looks[:-1]]
            counted = [
                one.value("knowledge_lost") for one in own if (one.transitions.knowledge_method == "exact") == exact
            ]
            row.over_time["macro_knowledge_lost"] = _known_mean(np.array(counted))
            for name, column in OF_TEXT.items():  # also of the training data, which is in no other number of the pool
                values = _known_mean(np.concatenate([getattr(one, column) for one in snapshots]))
                # Where a probe has its KL no more, that of the others is not that of all.
                row.over_time[name] = float("nan") if any(look.series.lacks_kl for look in looks[:-1]) else values
        return looks

    def _add(self, looks: Sequence[_Look]) -> list[Row]:
        self._series_before = self._series
        self._series = {**self._series, **{look.series.baseline.probe: look.series for look in looks}}
        rows = [row for look in looks for row in look.rows]
        for look in looks:
            self._lost_scores.setdefault(look.series.baseline.probe, []).append(look.lost_scores)
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

    def worth_asking(self, snapshots: Sequence[Snapshot]) -> dict[str, set[str]]:
        """By probe, ids of the items whose further prompts can count beside the baseline and this run's start.

        Args:
            snapshots: The answers to the first prompts; of all probes together, for a fact may be in several.
        """
        pooled = _pooled(snapshots)[-1]
        series = self._series[pooled.probe]
        now = align(series.baseline, pooled)
        sides = [side for side in (series.baseline, series.start) if side is not None]
        found = set(now.ids[np.any([can_count(side, now) for side in sides], axis=0)])
        several = pooled.probe == "all"
        return {
            s.probe: {name for name in s.ids if (f"{s.probe}/{name}" if several else name) in found} for s in snapshots
        }

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
        changed = self.select(probe.name)[-1].transitions
        return advice(self.baseline(probe.name), now, changed=changed, sampled=probe.sampled)

    def lost_scores(self, probe: str, category: str = "", *, unconfirmed: bool = False) -> NDArray[np.float32]:
        """Each item's part in `knowledge_lost`, ``(n_snapshots, n_items)``: a row's mean is the estimate, uncapped.

        Of texts alone in the change of their bits per byte.

        NaN where an item does not enter the estimate, or was not scored both at the baseline and then.

        Args:
            unconfirmed: Give snapshots of the first prompts alone their part in that prompt's estimate, not NaN.
        """
        scores = np.stack(self._lost_scores[probe])[:, self._items(probe, category)]
        if not unconfirmed:
            scores[[not row.confirmed for row in self.select(probe)]] = np.nan
        return scores

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

    def _look(self, snapshot: Snapshot, so_far: Series | None) -> _Look:
        series = self._new_series(snapshot) if so_far is None else copy(so_far)
        now = align(series.baseline, snapshot)
        pairs = pairs_of(series.baseline, now)
        series.n_variants = series.n_variants or pairs.n_prompts
        confirmed = pairs.n_prompts >= series.n_variants
        skipped = any(one.skipped.any() for one in snapshot.further)
        items = series.update(now)
        groups = _groups(series.baseline)
        in_stage = {} if series.start is None else compare_groups(pairs_of(series.start, now), groups)
        flipped = self._flipped.get(snapshot.probe)
        rows = []
        for name, changed in sorted(compare_groups(pairs, groups).items()):
            own, every = series.counted(groups[name]), groups[name]
            over_time = {one: _known_mean(values[every if one in OF_TEXT else own]) for one, values in items.items()}
            over_time |= series.by_chance(own)
            over_time["macro_knowledge_lost"] = float("nan")
            over_time["rescored_flips"] = float("nan") if flipped is None else _known_mean(flipped[own])
            for metric in STAGE:
                over_time[metric] = getattr(in_stage[name], metric.removeprefix("stage_")) if in_stage else float("nan")
            key = (snapshot.step, float(snapshot.samples_seen), float(snapshot.tokens_seen), snapshot.probe, name)
            said = "" if name else collapse(series.baseline, now)
            rows.append(Row(*key, changed, over_time, self.stage, confirmed, said, skipped))
        return _Look(series, loss_by_item(pairs).astype(np.float32), rows)

    def _new_series(self, snapshot: Snapshot) -> Series:
        base = self._begun.get(snapshot.probe)
        if base is None:
            return Series(snapshot)
        # A model of this run may differ from itself by more than the one that it is compared with.
        noise = max(noise_of(base), noise_of(snapshot))
        return Series(base.with_metadata(**{NOISE: noise}) if noise else base, start=align(base, snapshot))


def _groups(base: Snapshot) -> dict[str, Any]:
    """The items of each category, and of the whole probe, ""; of the pool of several probes the whole alone."""
    groups: dict[str, Any] = {}
    if base.probe != "all":
        # Sorted once: a mask per category would go through all items again and again.
        code, found = pd.factorize(base.category.astype(str).astype(object))
        groups.update(zip(found, np.split(np.argsort(code, kind="stable"), np.cumsum(np.bincount(code))[:-1])))
    return {**groups, "": slice(None)}


def _pooled(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    return [*snapshots, pool(snapshots)] if len(snapshots) > 1 else list(snapshots)


def _known_mean(values: Floats) -> float:
    """Of those that are not NaN, NaN if all are."""
    return mean(values[~np.isnan(values)])
