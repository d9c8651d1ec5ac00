"""One run, read from its store for the page: history, each item's trajectory, what was trained and how long it took."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias

from forget_callback.probes.probe import Probe
from forget_callback.report.items import Paths
from forget_callback.runs.history import History
from forget_callback.runs.rechecked import Recheck, read_recheck
from forget_callback.runs.run_at import open_run
from forget_callback.runs.store import Store
from forget_callback.snapshots.snapshot import Snapshot, scoring_seconds


class Run:
    """One run: its history, and each item's trajectory. Every snapshot is read once.

    Args:
        run: A store, or a run directory.
        probes: Of the run; None reads them from its store.
        history: Of the run and these probes, where it is at hand; it is computed again if its steps are not those on
            disk, as a full disk leaves it.

    Attributes:
        seconds: Time that scoring took at each step, all probes together; NaN where it is not known.
        first: The snapshots of the first step, by probe.
        last: Those of the last step.
        again: The model of the first step, scored once more, by the probes on which it was.
        training: What was trained.
        task: The task's own metrics as the trainer logged them.
        recheck: What the lost items answered with help, None where they were not asked so.
        incomplete: In which ways the record is not that of a whole run, a sentence each.

    Raises:
        ValueError: If there is no run, or no checkpoint at which all of its probes were measured.
    """

    def __init__(
        self,
        run: Store | str | os.PathLike[str],
        *,
        probes: Sequence[Probe] | None = None,
        history: History | None = None,
    ) -> None:
        if not isinstance(run, Store):
            named = open_run(run)
            if named.step is not None:
                raise ValueError(
                    f"{os.fspath(run)} names one step; a report is of a whole run: leave @{named.step} out"
                )
            run = named.store
        self.path, self.manifest, self.stage = run.path, run.manifest(), run.stage
        self.training, self.task, self.incomplete = run.training, run.task_curves(), run.incomplete()
        self.recheck: Recheck | None = read_recheck(run)
        self.probes = run.probes() if probes is None else probes
        self.steps = run.steps(*(probe.name for probe in self.probes))
        if not self.steps:
            raise ValueError(
                f"{run.path} holds no checkpoint at which all of its probes were measured: nothing to report yet "
                f"({'; '.join(self.incomplete)})"
            )
        self.paths = {probe.name: Paths(probe) for probe in self.probes}
        base = run.beside("baseline", self.probes)
        for snapshot in base:
            self.paths[snapshot.probe].add(snapshot)
        self.other_baseline = bool(base)
        if history is None or {row.step for row in history.rows} != set(self.steps):
            history = History(base, stage=run.stage)
        self.history, computed = history, bool(history.rows)
        self.seconds: list[float] = []
        self.first: dict[str, Snapshot] = {}
        self.again: dict[str, Snapshot] = {}
        for snapshots, again in run.evaluations(self.probes):
            if not computed:
                history.append(snapshots, again=again)
            for snapshot in snapshots:
                self.paths[snapshot.probe].add(snapshot)
            self.seconds.append(scoring_seconds(snapshots))
            self.last = {snapshot.probe: snapshot for snapshot in snapshots}
            self.first = self.first or self.last
            self.again |= {snapshot.probe: snapshot for snapshot in again}


AnyRun: TypeAlias = Run | Store | str | os.PathLike[str]
