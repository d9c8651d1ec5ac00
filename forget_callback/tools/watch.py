"""Watches a training run from outside: scores its checkpoints as they come, and says whether it should go on.

The history, the page and the decisions are those that the callback would have made in the training. All processes run
this; what there is to do is found out by the main one (see `watched_run.py`), so all score the same checkpoint.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from forget_callback.probes.probe import Probe
from forget_callback.runs.remote import Decision, RemoteTraining, read_decision, write_decision
from forget_callback.runs.rows import Row
from forget_callback.runs.stop_rules import StopRule
from forget_callback.runs.stopping import StopDecision
from forget_callback.runs.store import Store
from forget_callback.scoring.distributed import on_main, rank
from forget_callback.tools.checkpoint_history import CheckpointHistory, ModelScorer
from forget_callback.tools.checkpoints import Checkpoint, baseline_of
from forget_callback.tools.watch_record import DIGEST
from forget_callback.tools.watched_run import Next, WatchedRun
from forget_callback.training.monitor import ForgetMonitor, Observation
from forget_callback.training.setup import Variants
from forget_callback.training.trackers import Tracker
from forget_callback.training.unmeasured import reason
from forget_callback.training.wandb_watcher import lacks_curves

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Watched:
    """What there was to see.

    Attributes:
        steps: That are recorded.
        rows: Of the last of them, on the main process.
        left_out: What was not measured: `probe`, `step` and `why` each.
        over: Whether the run has ended; else patience ran out.
        failed: Why the last checkpoint could not be scored, "" if it was.
        decision: The last one, None where there is none.
    """

    steps: Sequence[int]
    rows: Sequence[Row]
    left_out: Sequence[Mapping[str, Any]]
    over: bool
    failed: str
    decision: Decision | None


class Watcher:
    """One run, from the first checkpoint to the last. All processes make one and call `watch`.

    Args:
        run: Its directory.
        pattern: Which directories in it are checkpoints.
        store: Where it is recorded.
        make_scorer: Makes what scores, once there is a checkpoint; with what the training says of itself.
        given: Probes that a record which goes on must be of; none for those that it has.
        baseline: The model before training; None to find it out.
        stop: Rules that decide whether the training goes on, beside those that it was given itself.
        variants: When the further prompts are asked.
        trackers: Made where a record is opened, with what the training says of itself; they get the curves so far.
        interval: Seconds between two looks at the disk.
        patience: Seconds without a sign of life after which to end.
        shown: Called with each observation, and whether all is compared with it, on the main process.
        note: Called with what there is to say, on the main process.

    Raises:
        ValueError: If the store holds the record of something else.
    """

    def __init__(
        self,
        run: Path,
        pattern: str,
        store: Store,
        make_scorer: Callable[[Checkpoint, RemoteTraining | None], ModelScorer],
        *,
        given: Sequence[Probe] = (),
        baseline: str | None = None,
        stop: Sequence[StopRule] = (),
        variants: Variants = "all",
        trackers: Callable[[RemoteTraining | None], Sequence[Tracker]] = lambda training: (),
        interval: float = 10.0,
        patience: float = 7200.0,
        shown: Callable[[Observation, bool], object] = lambda observation, first: None,
        note: Callable[[str], object] = lambda text: None,
    ) -> None:
        self._store, self._make_scorer, self._given, self._baseline = store, make_scorer, given, baseline
        self._stop, self._variants, self._trackers = tuple(stop), variants, trackers
        self._interval, self._shown, self._note = interval, shown, note
        self._run: WatchedRun | None = None
        self._scorer: ModelScorer | None = None
        self._history: CheckpointHistory | None = None
        self._last: Next | None = None
        self._failed = ""

        def begin() -> None:
            # Files that have not changed for three looks are no longer written.
            self._run = WatchedRun(run, pattern, store, patience=patience, settle=3 * interval, note=note)

        on_main(begin)

    @property
    def main(self) -> WatchedRun:
        """What is known of the run, for what runs on the main process only."""
        assert self._run is not None
        return self._run

    def watch(self) -> Watched:
        """Scores checkpoints until the run ends or patience runs out.

        Raises:
            ValueError: If a probe, the baseline or the record is not as it must be.
            KeyboardInterrupt: If the process is interrupted or told to end; the record is whole then.
        """
        try:
            with _terminated_as_interrupted():
                return self._watch()
        except KeyboardInterrupt:
            if rank() == 0:
                self._finish(over=False)
                self._note("interrupted; the same command goes on where it was")
            raise
        finally:
            self._store.close()

    def _watch(self) -> Watched:
        while True:
            todo = on_main(lambda: self.main.next())
            if todo.do == "wait":
                time.sleep(self._interval)
            elif todo.do == "reopen":
                if self._history is not None:
                    self._history.finish()
                self._history = None
                on_main(lambda: self.main.reopen())
            elif todo.do == "score":
                self._score(todo)
            else:
                self._score_whole(todo)
                return on_main(partial(self._end, over=todo.over))

    def _score(self, todo: Next) -> None:
        """Scores a checkpoint, and the baseline before the first; what is the matter with one ends nothing."""
        assert todo.checkpoint is not None
        checkpoint, observation = todo.checkpoint, None
        try:
            history = self._history or self._open(checkpoint)
        except Exception as error:
            if not on_main(lambda: self.main.is_gone(checkpoint)):
                raise
            on_main(lambda error=error: self.main.failed(todo, error))  # type: ignore[misc]
            return
        if not history.steps:
            zero = checkpoint.step == 0  # the model before training, unless another is given
            before = on_main(lambda: self._baseline or (None if zero else self.main.baseline(checkpoint)))
            if before is not None:
                self._record(history.add(baseline_of(before, checkpoint), variants=self._variants != "off"), "", True)
                if zero:
                    on_main(lambda: self._note(f"{Path(checkpoint.model).name} is not scored: --baseline is step 0"))
                    return
        first = not history.steps
        # Which is the last is known of Trainers that end as planned; else its further prompts are asked at the end.
        whole = first or todo.last
        variants = self._variants in ("all", "changed") or (self._variants == "ends" and whole)
        changed = self._variants == "changed" and not whole
        try:
            observation = history.add(checkpoint, variants=variants, changed=changed, metadata={DIGEST: todo.digest})
        except Exception as error:
            self._failed = on_main(lambda error=error: self.main.failed(todo, error))  # type: ignore[misc]
            logger.debug("the error in full", exc_info=True)
        else:
            self._failed, self._last = "", todo
            self._record(observation, todo.digest, first)
        _free_memory()

    def _record(self, observation: Observation | None, digest: str, first: bool) -> None:
        """Notes what was observed, shows it and decides."""

        def record() -> None:
            assert observation is not None
            self.main.record.add(observation.step, digest, observation.snapshots)
            self.main.seen()
            self._shown(observation, first)
            self._decide(observation.step, observation.decisions)

        on_main(record)

    def _open(self, checkpoint: Checkpoint) -> CheckpointHistory:
        training = on_main(lambda: self.main.training)
        on_main(lambda: self.main.record.require_baseline(self._baseline))
        if self._scorer is None:
            self._scorer = self._make_scorer(checkpoint, training)
        self._history = history = CheckpointHistory(
            self._scorer,
            self._store,
            training=None if training is not None else {"model": self._baseline},
            stop=self._rules(training),
            trackers=lambda: self._trackers(training),
            **_logged(training),
        )
        on_main(lambda: self._go_on(history.main))
        return history

    def _rules(self, training: RemoteTraining | None) -> tuple[StopRule, ...]:
        return tuple(dict.fromkeys([*self._stop, *(() if training is None else training.stop)]))

    def _go_on(self, monitor: ForgetMonitor) -> None:
        """Where a record goes on: trackers get its curves, and the decision that a kill may have cost is made."""
        if monitor.last_step is None:
            return
        for tracker in filter(lacks_curves, monitor.trackers):
            monitor.relog(tracker)
        self._decide(monitor.last_step, monitor.decisions)

    def _score_whole(self, todo: Next) -> None:
        """Asks the last checkpoint the further prompts that it was not asked, as it was not known to be the last."""
        if self._variants == "off" or self._history is None or self._last is None:
            return
        last, history = self._last, self._history
        if not todo.over or on_main(lambda: history.main.confirmed):
            return
        assert last.checkpoint is not None
        try:
            observation = history.add(last.checkpoint, metadata={DIGEST: last.digest})
        except Exception as error:
            if rank() == 0:
                self._note(f"the further prompts of the last checkpoint could not be asked: {reason(error)}")
        else:
            self._record(observation, last.digest, False)

    def _decide(self, step: int, decisions: Sequence[StopDecision]) -> None:
        """Writes what the rules say, for the training; on the main process."""
        if not self._rules(self.main.training):
            return
        training, home = self.main.training, self.main.home
        run = None if training is None else training.run
        with contextlib.suppress(ValueError):  # a damaged file is written anew
            before = read_decision(home)
            before = before if before is not None and before.run == run and before.step <= step else None
            fired = [one for one in decisions if one.fired]
            stops = [one.reason for one in fired if one.stop]
            alerts = [one.reason for one in fired]
            if before is not None and training is not None and before != training.obeyed:
                # The training has not read it yet: what it says must not be lost.
                alerts = [*(text for text in before.alerts if text not in training.said), *alerts]
                stops = stops or ([before.reason] if before.action == "stop" else [])
            why = stops[0] if stops else "no rule says that training should stop"
            made = Decision(run, step, "stop" if stops else "continue", False, list(dict.fromkeys(alerts)), why)
            self._write(home, made)

    def _write(self, home: Path, decision: Decision) -> None:
        try:
            write_decision(home, decision)
        except OSError as error:
            self._note(f"the decision could not be written to {home}: {reason(error)}")

    def _end(self, *, over: bool) -> Watched:
        """Ends, on the main process; where nothing was scored, what was asked for is answered from the record."""
        record, training = self.main.record, self.main.training
        monitor = None if self._history is None else self._history.monitor
        if monitor is None and record.steps:
            try:
                record.require_probes(self._given)
                record.require_baseline(self._baseline)
                made = self._trackers(training), self._rules(training)
                monitor = ForgetMonitor(self._store.probes(), self._store, *made, **_logged(training))
                self._go_on(monitor)
            except ValueError:
                self.main.finish(over=over)  # the record is what it was
                raise
        return self._finish(over=over, monitor=monitor)

    def _finish(self, *, over: bool, monitor: ForgetMonitor | None = None) -> Watched:
        """Writes the page and how far the run is; on the main process."""
        monitor = monitor or (None if self._history is None else self._history.monitor)
        record = self.main.record
        if monitor is None and record.steps:
            monitor = ForgetMonitor(self._store.probes(), self._store)
        self.main.finish(over=over)
        if monitor is not None:
            monitor.finish()
        decision = None
        with contextlib.suppress(ValueError, OSError):
            decision = read_decision(self.main.home)
        rows = [] if monitor is None else monitor.last_rows
        failed = self._failed or self.main.unfinished
        return Watched(sorted(record.steps), rows, record.left_out, over, failed, decision)


def _logged(training: RemoteTraining | None) -> dict[str, Any]:
    """What the training was told about trackers."""
    return {} if training is None else {"log": training.log, "upload": training.upload}


def _free_memory() -> None:
    """A training may share the device: the next checkpoint is hours away."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.memory.empty_cache()


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, which SLURM and torchrun send, ends a run as Ctrl-C does; in a thread signals are not ours."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
