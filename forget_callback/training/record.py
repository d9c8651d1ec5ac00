"""What a rank knows of a run: rank 0 its directory and the monitor, with history and trackers, the others its rows.

Also the place where what was not measured is kept, with how far the run is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from transformers import TrainerState, TrainingArguments

from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted
from forget_callback.runs.rows import Row
from forget_callback.runs.run_at import RunAt
from forget_callback.runs.store import Store
from forget_callback.runs.training import Training
from forget_callback.scoring.distributed import on_main, rank
from forget_callback.snapshots.joined import complete
from forget_callback.snapshots.reference import Reference
from forget_callback.snapshots.snapshot import Snapshot
from forget_callback.training.claim import claim, lock
from forget_callback.training.description import described
from forget_callback.training.monitor import ForgetMonitor
from forget_callback.training.resume import Notes
from forget_callback.training.setup import Settings, log_again, open_monitor, open_store
from forget_callback.training.start import idle_lines, rules_of
from forget_callback.training.unmeasured import Unmeasured, alarm, reason

logger = logging.getLogger(__name__)


class Record:
    """The record of one run.

    Attributes:
        store: Its directory, on rank 0.
        monitor: None on all ranks but 0, and before the baseline.
        unmeasured: What was not measured.
    """

    def __init__(self) -> None:
        self.store: Store | None = None
        self.monitor: ForgetMonitor | None = None
        self.unmeasured = Unmeasured()
        self._copies: list[Row] = []
        self._begun = time.perf_counter()

    @property
    def main(self) -> ForgetMonitor:
        """The monitor, for what runs on rank 0 only."""
        assert self.monitor is not None
        return self.monitor

    @property
    def run_id(self) -> str:
        """Which run this is, on rank 0."""
        return "" if self.store is None else self.store.run_id

    @property
    def rows(self) -> list[Row]:
        """The history so far, oldest first; the same on all ranks."""
        return self._copies if self.monitor is None else self.monitor.rows

    @property
    def last_step(self) -> int | None:
        """Step of the last snapshot, None before the first."""
        rows = self.rows
        return rows[-1].step if rows else None

    @property
    def last_rows(self) -> list[Row]:
        """The rows of the last snapshot."""
        if self.monitor is not None:
            return self.monitor.last_rows
        step = self.last_step
        return list(takewhile(lambda row: row.step == step, reversed(self._copies)))[::-1]

    def worth_asking(self, snapshots: Sequence[Snapshot]) -> Mapping[str, Collection[str]]:
        """The items whose further prompts can count, given their answers to the first ones; the same on all ranks."""
        return on_main(lambda: self.main.worth_asking(snapshots))

    def add(self, rows: Sequence[Row]) -> None:
        """Takes the rows of one more step, or of the last one with more prompts; a monitor has them already."""
        if self.monitor is None and rows:
            while self._copies and self._copies[-1].step == rows[0].step:
                self._copies.pop()
            self._copies += rows

    def claim(
        self, settings: Settings, args: TrainingArguments, state: TrainerState, notes: Notes, training: Training
    ) -> None:
        """On rank 0, takes the run's directory. What a resumed run had not measured by then stays noted."""
        self.store = open_store(settings, args, state, notes, training)
        if state.global_step > 0 and self.store.exists:
            self.unmeasured = Unmeasured(self.store.run.not_measured, up_to=state.global_step)

    def claim_again(self, before: Record, state: TrainerState, training: Training) -> None:
        """On rank 0, takes the directory of a training that starts again, with its snapshots up to there.

        Raises:
            ValueError: If another run has taken it.
        """
        self.store, before.store = before.store, None
        self.unmeasured = Unmeasured(before.unmeasured.entries, up_to=state.global_step)
        if self.store is None:
            raise ValueError("the first start of this training has no record")
        self.store.close()  # the lock goes with the state of the first start
        if not lock(self.store, state):
            raise ValueError(f"another run has taken {self.store.path} since; use another output_dir")
        self.store.drop_task(after=state.global_step)
        self.store.set_aside(after=state.global_step)
        self.store.write_training(training)

    def steps(self, probes: Sequence[Probe]) -> dict[str, list[int]]:
        """On rank 0, the steps at which the directory has a snapshot of each probe."""
        return {probe.name: [] if self.store is None else self.store.steps(probe.name) for probe in probes}

    def without_start(self, probes: Sequence[Probe]) -> dict[str, str]:
        """On rank 0, why of some of these probes, all of which were measured, there is no baseline in the directory.

        Empty where there is one of none: that is an error of the run, not of a probe.
        """
        steps = [found for found in self.steps(probes).values() if found]
        if self.store is None or not steps:
            return {}
        failed = {}
        for probe in probes:
            try:
                complete(self.store.read(probe.name, min(found[0] for found in steps)), probe)
                self.store.beside("baseline", [probe])
            except ValueError as error:
                failed[probe.name] = reason(error)
        return failed if len(failed) < len(probes) else {}

    def remaining(self, settings: Settings, probes: Sequence[Probe], failed: Mapping[str, str]) -> Sequence[Probe]:
        """The probes that can be measured; that others cannot, and are dropped from the run, is noted and said.

        Args:
            failed: Why, by name.

        Raises:
            RuntimeError: If none is left, or training must not start without one.
        """
        whys = [f"probe {quoted(name)} cannot be measured: {why}" for name, why in failed.items()]
        if whys and (not probes or settings.on_error != "warn"):
            raise RuntimeError("; ".join(whys))
        for name, why in failed.items():
            self.unmeasured.add(why, probe=name)
        if whys:
            alarm(*(f"NOT WATCHED: {why}" for why in whys), *idle_lines(settings.stop, probes))
        return probes

    def open(
        self,
        settings: Settings,
        trainer: Any,
        args: TrainingArguments,
        state: TrainerState,
        probes: Sequence[Probe],
        notes: Notes,
    ) -> int | None:
        """Makes the monitor; the batch size of the run's last snapshot, None where it has none. A collective."""

        def on_disk() -> tuple[list[Row], int | None]:
            assert self.store is not None
            own = replace(settings, probes=tuple(probes), stop=rules_of(settings.stop, probes))
            self.monitor = open_monitor(own, trainer, args, state, probes, self.store, started=self._begun)
            if self.monitor.last_step is None:
                return [], None
            log_again(self.monitor, notes)
            last = self.monitor.store.read(probes[0].name, self.monitor.last_step)
            return self.monitor.rows, last.metadata.get("batch_tokens")

        rows, batch_tokens = on_main(on_disk)
        self.add(rows)
        return batch_tokens

    def references(self, probes: Sequence[Probe]) -> dict[str, Reference]:
        """On rank 0, what the baseline expected in documents, for a run that goes on."""
        return {} if self.store is None else RunAt(self.store, None).references(probes)

    def write(self, **changes: Any) -> None:
        """On rank 0, writes to the manifest what was not measured, and how far the run is.

        Args:
            **changes: Attributes of `RunState`.
        """
        if self.store is None:
            return
        try:
            self.store.set_run(not_measured=self.unmeasured.entries, **changes)
        except (OSError, ValueError) as error:
            logger.warning("the state of the run could not be written to %s: %s", self.store.path, reason(error))

    def close(self) -> None:
        """Lets other runs have the directory."""
        if self.store is not None:
            self.store.close()


def keep_references(store: Store, references: Iterable[Reference]) -> None:
    """Writes what the baseline expected in documents; without it, only a run that goes on has no KL divergence."""
    for one in references:
        try:
            store.write_reference(one)
        except OSError as error:
            logger.warning("probe %r will have no KL divergence once this run is resumed: %s", one.probe, error)


def record_unwatched(settings: Settings, args: TrainingArguments, state: TrainerState, why: str) -> None:
    """On rank 0, leaves in the directory of a training that it was not watched, in place of an earlier run's record.

    A record that another process keeps is left alone.
    """
    if rank() > 0 or settings.remote:
        return
    try:
        store = claim(settings.output_dir or args.output_dir or ".", state, None, described(None, args, state, None))
        store.set_run(status="unwatched", not_measured=[{"probe": "", "step": None, "why": why}])
        store.close()
    except (OSError, ValueError) as error:
        logger.warning("that this run is not watched could not be written to its directory: %s", reason(error))
