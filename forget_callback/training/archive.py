"""The record of one run on disk as its monitor keeps it: opened, read back, written.

The disk may refuse at any time: what it did not take is kept and written with the next snapshot. Compares nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from forget_callback.probes.probe import Probe
from forget_callback.runs.history import History
from forget_callback.runs.rows import Stage
from forget_callback.runs.store import Store
from forget_callback.runs.training import Training
from forget_callback.snapshots.snapshot import Snapshot
from forget_callback.training.pending import Pending
from forget_callback.training.task_log import TaskLog

logger = logging.getLogger(__name__)


class Archive:
    """Takes a store for the snapshots of these probes.

    Args:
        training: What is trained, None where that is not known or recorded already.

    Attributes:
        task: The task's own metrics.

    Raises:
        ValueError: If another process writes there, or the store holds another probe.
    """

    def __init__(self, store: Store, probes: Sequence[Probe], training: Training | None) -> None:
        self._store, self._probes = store, probes
        self._pending = Pending(store)
        self._took = not store.locked
        self._readable = self._open(training)
        self.task = TaskLog(store)

    def _open(self, training: Training | None) -> bool:
        """Takes the store and records the probes; False where the disk refuses that for now, and nothing is there."""
        try:
            if not self._store.lock():
                raise ValueError(
                    f"{self._store.path} is being written by another process; use another directory, or end that first"
                )
            if training is not None:
                self._store.write_training(training)
            self._store.begin(self._probes)
        except OSError as error:
            logger.warning("%s cannot be written, so nothing is kept on disk for now: %s", self._store.path, error)
            self._pending.add("manifest", lambda: self._store.begin(self._probes), needed=True)
            return self._store.exists
        return True

    def read(self) -> History:
        """What was measured of this run before, without what a kill or a disk left damaged.

        Raises:
            ValueError: If its baseline is damaged.
        """
        if not self._readable:
            return History()
        names = [probe.name for probe in self._probes]
        steps = self._store.steps(*names)
        if any(self._store.steps(name)[-1:] != steps[-1:] for name in names):
            # Killed between two probes of one step: that step will be measured again.
            self._store.set_aside(after=steps[-1] if steps else -1)
        if not steps:
            return History()
        try:
            return self._store.history(self._probes)
        except ValueError:
            for line in self._store.mend(self._probes):
                logger.warning("%s", line)
            return self._store.history(self._probes)

    def add_baseline(self, snapshots: Sequence[Snapshot], stage: Stage) -> None:
        """Adds what all is compared against, where that is not the first snapshot; nothing is written before it."""
        for snapshot in snapshots:
            write = partial(self._store.write_beside, "baseline", snapshot)
            self._pending.add(("baseline", snapshot.probe), write, needed=True)
        self._pending.add("stage", partial(self._store.write_stage, stage), needed=True)

    def add(self, snapshots: Sequence[Snapshot], *, again: Sequence[Snapshot], adds: bool) -> None:
        """Adds the snapshots of a step.

        Args:
            again: The same model, scored once more.
            adds: Whether they take the place of those of the same step, which were asked fewer prompts.
        """
        # First: a run that is killed in between scores its baseline anew, but never again a second time.
        for snapshot in again:
            self._pending.add(("again", snapshot.probe), partial(self._store.write_beside, "again", snapshot))
        for snapshot in snapshots:
            self._pending.add_snapshot(snapshot, adds=adds)

    def save(
        self, history: History, *, otherwise: str = "it is kept and written with the next one"
    ) -> Exception | None:
        """Writes all that was added, and the table; what the disk refuses is logged, and the first error given."""

        def write_table() -> None:
            table, missing = history.arrow, self._pending.steps
            if missing:  # the rows of the steps that are on disk
                table = table.filter([step not in missing for step in table["step"].to_pylist()])
            self._store.write_history(table)

        self._pending.add("task", self.task.write)
        self._pending.add("history", write_table)
        return self._pending.write(step=history.last_step, otherwise=otherwise)

    def write_report(self, history: History) -> None:
        """Writes `report.html`."""
        from forget_callback.report import Run, write_report

        if not self._store.writable:
            return
        if self._pending:
            self.save(history, otherwise="report.html shows what is there")  # there may be room again
        try:
            run = Run(self._store, probes=self._probes, history=history)
            write_report(run, self._store.path / "report.html")
        except Exception as error:  # everything in it is on disk already
            logger.warning("report.html could not be written: %s: %s", type(error).__name__, error)

    def close(self) -> None:
        """Lets other processes record there, unless the store was taken by someone else before."""
        if self._took:
            self._store.close()
