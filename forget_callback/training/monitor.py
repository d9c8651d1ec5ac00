"""Watches one training run: compare, store, track, decide.

Takes snapshots, so it needs no model and any training loop can use it. What only shows numbers (trackers, tables,
advice) is inside one guard: it may fail, and history, disk and stop rules still have the step.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd

from forget_callback.metrics.texts import with_noise
from forget_callback.probes.load import Probes, as_probes
from forget_callback.probes.quoting import quoted
from forget_callback.runs.decisions import decide_all
from forget_callback.runs.history import History
from forget_callback.runs.rows import Row, Stage
from forget_callback.runs.stop_rules import StopRule, check_targets, stop_rules
from forget_callback.runs.stopping import StopDecision
from forget_callback.runs.store import Store
from forget_callback.runs.task import beside
from forget_callback.runs.training import Training
from forget_callback.snapshots.joined import complete
from forget_callback.snapshots.snapshot import Snapshot, scoring_seconds
from forget_callback.training.archive import Archive
from forget_callback.training.display import Display, guarded
from forget_callback.training.notices import Notices
from forget_callback.training.trackers import Log, Tracker, Upload, checked_trackers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Observation:
    """What one call of `observe` measured and decided.

    Attributes:
        rows: The history's rows of this step, one per probe and category.
        decisions: One per stop rule, in the order of the rules; empty at the baseline.
        seconds: Time that scoring took, as the snapshots say; NaN if none does.
        error: Why the snapshots are not on disk yet, None if they are. They are kept and written with the next ones.
    """

    step: int
    snapshots: tuple[Snapshot, ...]
    rows: tuple[Row, ...]
    decisions: tuple[StopDecision, ...]
    seconds: float
    error: Exception | None = None

    @property
    def stop(self) -> bool:
        """Whether a rule says that training should end."""
        return any(decision.stop for decision in self.decisions)


class ForgetMonitor:
    """Keeps a run's history, in memory and on disk.

    A store that already holds snapshots of these probes is read back, so a resumed run continues where it was.

    Items that have further prompts need not be asked in them every time. A snapshot of the first prompts alone gives
    the raw numbers, and a rule on what was lost can only be triggered by it: where `would_act` says so, ask the same
    model all prompts and observe that.

    Args:
        probes: One or several, with different names, in any form that `ForgetCallback` takes.
        store: A `Store`, or the directory for one.
        trackers: Where the numbers go, one `Tracker` or several; one that fails is logged and skipped.
        stop: One rule or several, a `StopRule` or "METRIC>VALUE" each, evaluated after each snapshot; one that warns
            does so once a run.
        planned: Snapshots planned for the run, for strict rules.
        log: Which metrics trackers get: "main", eight or so a probe and three a category, or "all".
        upload: What trackers get at all: "metrics", nothing that holds a prompt or an answer; "all"; "none", nothing.
        started: When the run began, by `time.perf_counter`; now by default.
        training: What is trained, for the page: any of the fields of `runs.training.Training`, such as "model", "data"
            and "learning_rate".

    Attributes:
        task: The task's own metrics, which stand beside what was forgotten: ``task.add(step, {"loss": 0.3})``.

    Raises:
        ValueError: If names repeat, a rule names an unknown probe or category, the store holds another probe or a
            damaged baseline, or another process records in it.
    """

    def __init__(
        self,
        probes: Probes,
        store: Store | str | os.PathLike[str],
        trackers: Tracker | Iterable[Tracker] = (),
        stop: StopRule | str | Iterable[StopRule | str] = (),
        *,
        planned: int | None = None,
        log: Log = "main",
        upload: Upload = "metrics",
        started: float | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> None:
        self.probes = as_probes(probes)
        self.store = store if isinstance(store, Store) else Store(store)
        self._display = Display(self.probes, checked_trackers(trackers), log=log, upload=upload)
        self.rules = stop_rules(stop)
        self.planned = planned
        check_targets(self.rules, self.probes)
        if planned is None and any(rule.strict for rule in self.rules):
            raise ValueError("a strict stop rule needs planned=, the number of snapshots planned for the run")
        self._notices = Notices(self.probes, self.store, self.rules, planned=planned, alert=self._display.alert)
        self._probe_seconds = self._last_seconds = 0.0
        self._started = time.perf_counter() if started is None else started
        self._archive = Archive(self.store, self.probes, None if training is None else Training.of(training))
        self.task = self._archive.task
        self._history = self._archive.read()
        if self._history.rows:
            self._notices.recall(self._history)
            self._archive.save(self._history)

    @property
    def trackers(self) -> tuple[Tracker, ...]:
        """Where the numbers go."""
        return self._display.trackers

    @property
    def history(self) -> pd.DataFrame:
        """The table: a row per (step, probe, category)."""
        return self._history.table

    @property
    def rows(self) -> list[Row]:
        """The history's rows, oldest first."""
        return list(self._history.rows)

    @property
    def last_step(self) -> int | None:
        """Step of the last snapshot, None before the baseline."""
        return self._history.last_step

    @property
    def last_rows(self) -> list[Row]:
        """The history's rows of the last snapshot."""
        return self._history.last_rows

    @property
    def confirmed(self) -> bool:
        """Whether the last snapshot was asked all prompts; so is the baseline, whatever it was asked."""
        return all(row.confirmed and not row.skipped for row in self.last_rows)

    @property
    def decisions(self) -> tuple[StopDecision, ...]:
        """What the rules say of the last snapshot, one each; empty at the baseline."""
        return self._decisions(self._history)

    @property
    def probe_seconds(self) -> tuple[float, float]:
        """Time that probing took so far, and the last snapshot alone."""
        return self._probe_seconds, self._last_seconds

    @property
    def elapsed(self) -> float:
        """Time since the run began."""
        return time.perf_counter() - self._started

    def compare_with(self, snapshots: Snapshot | Sequence[Snapshot], *, stage: Stage = Stage()) -> None:  # noqa: B008 - frozen
        """Sets what all is compared against, where that is not the first snapshot of this run.

        Args:
            snapshots: One of each probe.
            stage: Of a pipeline: the samples of the stages before are added to this run's.

        Raises:
            ValueError: If a step was observed already, or the snapshots are not one of each probe.
        """
        if self.last_step is not None:
            raise ValueError(f"the baseline is set before the first snapshot, but step {self.last_step} was observed")
        base = self._one_of_each(snapshots)
        self._history = History(base, stage=stage)
        self._archive.add_baseline(base, stage)

    def observe(
        self,
        step: int,
        snapshots: Snapshot | Sequence[Snapshot],
        *,
        samples_seen: float = math.nan,
        tokens_seen: float = math.nan,
        again: Snapshot | Sequence[Snapshot] | None = None,
    ) -> Observation:
        """Adds a step to the history and evaluates the rules. The first one is the baseline.

        Args:
            step: Optimizer steps so far, more than at the last call. Where the last snapshot was not of all prompts,
                its step once more: then these snapshots of the same model take its place.
            snapshots: What was scored: one of each probe, in any order, their items too. Their `step` and counts are
                filled in here.
            samples_seen: Training samples so far, the x-axis of the curves; never fewer than at the last call.
            tokens_seen: Training tokens so far.
            again: At the baseline, the same model scored once more in another way (other batches, other samples), on
                some of the probes or all: what flips then is `rescored_flips`, of the others nothing is known.

        Raises:
            ValueError: If the step does not grow, samples_seen falls or the snapshots are not one of each probe. What
                the disk refuses is logged, and written at the next call.
        """
        first = self.last_step is None
        adds = self._check(step, samples_seen)
        now, same = self._one_of_each(snapshots), self._one_of_each(again if first and again else [], some=True)
        now = [one.at(step, samples_seen=samples_seen, tokens_seen=tokens_seen) for one in now]
        others = {one.probe: one for one in same}
        now = [with_noise(one, others[one.probe]) if one.probe in others else one for one in now]
        rows = self._history.replace_last(now) if adds else self._history.append(now, again=same)
        seconds = scoring_seconds(now)
        self._last_seconds = float(np.nansum([seconds]))
        self._probe_seconds += float(np.nansum([seconds, scoring_seconds(same)]))
        self._archive.add(now, again=same, adds=adds)
        error = self._archive.save(self._history)
        with guarded("logging of what to know about the probes"):
            if first:
                self._notices.start(self._history, now, same)
            self._notices.advise(self._history, now)
        # Nothing was trained before the baseline: its share of the time means nothing.
        overhead = math.nan if len(rows) == len(self._history.rows) else self._probe_seconds / self.elapsed
        beside = self._task_beside()[-1]
        self._display.show(self._history, now, rows, seconds=seconds, overhead=overhead, shown=adds, task=beside)
        decisions = self._decisions(self._history)
        self._notices.decided(decisions, self.last_rows)
        return Observation(step, tuple(now), tuple(rows), decisions, seconds, error)

    def _check(self, step: int, samples_seen: float) -> bool:
        """Whether a step is the last one once more, in all prompts.

        Raises:
            ValueError: If the step does not grow or samples_seen falls.
        """
        if isinstance(step, bool) or not isinstance(step, Integral):
            raise ValueError(f"step must be a whole number of optimizer steps, got {quoted(step)}")
        if not isinstance(samples_seen, Real):
            raise ValueError(f"samples_seen must be a number, got {quoted(samples_seen)}")
        adds = step == self.last_step and not self.confirmed
        if self.last_step is not None and step <= self.last_step and not adds:
            raise ValueError(
                f"step must be above the last snapshot's, {self.last_step}, got {step}; to start a new run in "
                f"{self.store.path}, call Store.set_aside() first"
            )
        seen = math.nan if self.last_step is None else self.last_rows[0].samples_seen
        if samples_seen < seen:
            raise ValueError(f"samples_seen must not fall: the last snapshot's is {seen:g}, got {samples_seen:g}")
        return adds

    def would_act(self, step: int, snapshots: Snapshot | Sequence[Snapshot]) -> bool:
        """Whether a rule would stop or warn at these snapshots of the first prompts, if the further ones confirm it.

        Then ask the same model all prompts, and observe that: of what was lost in one prompt, half may be a matter of
        form. Nothing is added to the history.

        Raises:
            ValueError: As `observe`.
        """
        if not self.rules or self.last_step is None:
            return False
        history = self._history.preview([one.at(step) for one in self._one_of_each(snapshots)])
        if all(row.confirmed for row in history.last_rows):
            return False
        return any(decision.triggered for decision in self._decisions(history))

    def worth_asking(self, snapshots: Sequence[Snapshot]) -> dict[str, set[str]]:
        """By probe, the items whose further prompts can count, given their answers to the first ones."""
        return self._history.worth_asking(snapshots)

    def _one_of_each(self, snapshots: Snapshot | Sequence[Snapshot], *, some: bool = False) -> list[Snapshot]:
        """The snapshots in the order of the probes, completed from them.

        Args:
            some: Whether probes may be missing.

        Raises:
            ValueError: If they are not one of each probe.
        """
        given = list(snapshots) if isinstance(snapshots, Iterable) else [snapshots]
        if other := [one for one in given if not isinstance(one, Snapshot)]:
            raise ValueError(f"snapshots must be what score_probe returns, one of each probe, got {quoted(other[0])}")
        by_name = {snapshot.probe: snapshot for snapshot in given}
        expected, names = [probe.name for probe in self.probes], [snapshot.probe for snapshot in given]
        if sorted(names) != sorted(name for name in expected if name in by_name or not some):
            raise ValueError(
                f"snapshots must be one of each probe, {expected}: missing {sorted(set(expected) - set(names))}, more "
                f"than one of {sorted({name for name in names if names.count(name) > 1})}, of other probes "
                f"{sorted(set(names) - set(expected))}"
            )
        return [complete(by_name[probe.name], probe) for probe in self.probes if probe.name in by_name]

    def finish(self) -> None:
        """Writes `report.html`, and hands the whole run to the trackers that show more than numbers.

        Call it once, when training has ended: other processes may then record in its directory.
        """
        if self._history.rows:
            with guarded("writing what was logged of the task"):
                self.task.write()
            self._archive.write_report(self._history)
            self._display.finish(self._history.rows, self.store.path)
        self._archive.close()

    def _task_beside(self) -> list[dict[str, float]]:
        """What of the task stands beside each snapshot so far."""
        steps = list(dict.fromkeys(row.step for row in self._history.rows))
        return beside(self.task.curves, steps, best=self.store.training.metric_for_best_model)

    def alert(self, title: str, text: str) -> None:
        """Sends a message through every tracker."""
        self._display.alert(title, text)

    def relog(self, tracker: Tracker) -> None:
        """Logs every snapshot so far to one tracker: a resumed run may continue in another place."""
        self._display.relog(tracker, self._history.rows, self._task_beside())

    def _decisions(self, history: History) -> tuple[StopDecision, ...]:
        return decide_all(self.rules, history, [probe.name for probe in self.probes], planned=self.planned)
