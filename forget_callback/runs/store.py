"""Snapshots on disk: the `forget/` folder of a run, each file written whole or not at all.

    manifest.json                                what was probed, with what, and what was trained
    probes/<probe>.jsonl                         the items
    snapshots/<probe>/step-00000000.parquet      one row an item
    baseline/<probe>.parquet                     what is compared against, where that is not the first snapshot
    reference/<probe>.parquet                    the baseline's likely next tokens in documents, for KL
    again/<probe>.parquet                        the first model, scored a second time: what flips for no reason
    history.parquet                              the table
    task.parquet                                 the task's own metrics, as the trainer logged them
    report.html                                  the page, at the end of training
    recheck.json, recheck.parquet                what was lost, asked once more with help
    set-aside/<n>/...                            what an earlier run left here, or a resumed one went back over

A snapshot is never overwritten; answers to further prompts may be added to it. It says which run it is of, so that two
that got into one folder do not mix. Knows nothing of models, training or what the numbers mean.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from forget_callback.probes.jsonl import dump_items
from forget_callback.probes.probe import Probe
from forget_callback.runs import aside, task
from forget_callback.runs.files import write_text, write_whole
from forget_callback.runs.lock import DirectoryLock, take
from forget_callback.runs.manifest import RunState, new_manifest, run_of
from forget_callback.runs.recorded import Recorded
from forget_callback.runs.rows import Stage
from forget_callback.runs.training import Training
from forget_callback.snapshots.joined import complete
from forget_callback.snapshots.reference import Reference
from forget_callback.snapshots.snapshot import Snapshot

logger = logging.getLogger(__name__)


class Store(Recorded):
    """One run's `forget/` folder.

    Args:
        directory: The run's directory, which holds or will hold `forget/`, or that folder itself.
        writable: False makes every write do nothing: of several processes only one writes.
    """

    def __init__(self, directory: str | os.PathLike[str], *, writable: bool = True) -> None:
        path = Path(directory)
        super().__init__(path if path.name == "forget" else path / "forget")
        self.writable = writable
        self._lock: DirectoryLock | None = None
        self._run: RunState | None = None
        self._training = Training()

    def lock(self, *, owner: object | None = None, alive: Callable[[], bool] = lambda: False) -> bool:
        """Takes the folder for this run, until `close` or the end of the process; False while another run has it.

        Args:
            owner: Also given back when this object is collected; this store by default.
            alive: Whether the run goes on. One of this process that does not loses the folder to the next.
        """
        if self.writable and not self.locked:
            try:
                self._lock = take(self.path / ".lock", self if owner is None else owner, alive=alive)
            except OSError as error:
                logger.warning(
                    "%s cannot be locked, so no other run may be started in it until this one ends: %s",
                    self.path,
                    error,
                )
                return True
            if self._lock is None:
                return False
            aside.finish_moves(self.path)
        return True

    @property
    def locked(self) -> bool:
        """Whether this store has its folder for itself."""
        return self._lock is not None and self._lock.held

    def close(self) -> None:
        """Lets other runs have the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _may_write(self) -> bool:
        if self._lock is not None and not self._lock.held:
            raise PermissionError(f"a later run of this process records in {self.path}, and this one no longer")
        return self.writable

    @property
    def run_id(self) -> str:
        """Which run this store writes; empty before it was begun."""
        return "" if self._run is None else self._run.id

    def start_run(
        self,
        run: RunState,
        training: Training = Training(),  # noqa: B008 - frozen
        *,
        watched: bool = False,
    ) -> None:
        """Makes the folder the record of a run, whose probes `begin` adds; nothing of another one may be in it.

        Args:
            watched: Whether it is kept from outside, by `watch`, and not by the training itself.
        """
        self._run, self._training = run, training
        if self._may_write():
            self._write_manifest(new_manifest(run, training) | ({"watched": True} if watched else {}))

    def begin(self, probes: Sequence[Probe], *, source: str | None = None) -> None:
        """Makes the folder and records the probes; called again with the same probes it changes nothing.

        Args:
            source: What the snapshots are made of, where no model was scored: logs.

        Raises:
            ValueError: If another probe was measured here under the same name.
        """
        if self.exists:
            manifest = self.manifest()
            self._run = run_of(manifest)
        else:
            self._run = self._run or RunState()
            manifest = new_manifest(self._run, self._training)
        for probe in probes:
            known = manifest["probes"].get(probe.name)
            if known is not None and known["fingerprint"] != probe.fingerprint and self.steps(probe.name):
                raise ValueError(
                    f"{self.path} holds another probe named {probe.name!r}: fingerprint {known['fingerprint'][:12]} "
                    f"there, {probe.fingerprint[:12]} here; use another output directory, or the probe of that run"
                )
        if not self._may_write():
            return
        for probe in probes:
            write_text(self.path / "probes" / f"{probe.name}.jsonl", dump_items(probe.items))
            entry = {"fingerprint": probe.fingerprint, "items": len(probe), "settings": probe.settings}
            manifest["probes"][probe.name] = entry
        if source is not None:
            manifest["source"] = source
        self._write_manifest(manifest)

    def write(self, snapshot: Snapshot) -> None:
        """Adds a snapshot. What is in its place and is none of this run is set aside.

        Raises:
            ValueError: If this run has another one of that probe and step: no snapshot is ever overwritten.
        """
        before = self._in_place_of(snapshot)
        if before is None:
            self._save(snapshot)
        elif not _same_answers(before, snapshot):
            raise ValueError(
                f"{self._file(snapshot.probe, snapshot.step)} exists and is not overwritten; use another output "
                "directory, or set the earlier run aside with Store.set_aside()"
            )

    def add_variants(self, snapshot: Snapshot) -> None:
        """Puts a snapshot in the place of one of the same model that was asked fewer prompts.

        Raises:
            ValueError: If the stored one was asked as many.
        """
        before = self._in_place_of(snapshot)
        if before is not None and before.n_asked >= snapshot.n_asked:
            path = self._file(snapshot.probe, snapshot.step)
            raise ValueError(f"{path} exists, was asked as many prompts, and is not overwritten")
        self._save(snapshot)

    def write_aside(self, snapshot: Snapshot) -> Path:
        """Keeps a snapshot in `set-aside/<n>/`, where `write` found another of this run in its place."""
        folder = aside.next_folder(self.path)
        self._save(snapshot, folder)
        return folder

    def _in_place_of(self, snapshot: Snapshot) -> Snapshot | None:
        """This run's snapshot of that probe and step, None if there is none; any other file there is set aside."""
        path = self._file(snapshot.probe, snapshot.step)
        if not self.writable or not path.exists():
            return None
        try:
            return self._load(snapshot.probe, snapshot.step, self.run_id, snapshot.fingerprint)
        except ValueError as error:
            if self._may_write():
                logger.warning("%s; it was moved to %s", error, aside.set_aside(self.path, [self._relative(path)]))
            return None

    def _save(self, snapshot: Snapshot, folder: Path | None = None) -> None:
        """Writes a snapshot, in a training with the run it is of, at its place in this folder or in another."""
        if self._may_write():
            path = self._file(snapshot.probe, snapshot.step)
            path = path if folder is None else folder / self._relative(path)
            trained = self._run is not None and self._run.status is not None
            write_whole(path, snapshot.with_metadata(run=self.run_id).save if trained else snapshot.save)

    def write_beside(self, kind: Literal["baseline", "again"], snapshot: Snapshot) -> None:
        """Keeps a baseline that is not this run's first snapshot, or the second scoring of the first model."""
        if self._may_write():
            write_whole(self.path / kind / f"{snapshot.probe}.parquet", snapshot.save)

    def write_reference(self, reference: Reference) -> None:
        """Keeps what later models are compared with on documents; in place of what is there."""
        if self._may_write():
            write_whole(self._reference(reference.probe), reference.save)

    def write_stage(self, stage: Stage) -> None:
        """Records which stage of a pipeline this run is."""
        if self._may_write():
            self._write_manifest({**self.manifest(), "stage": asdict(stage)})

    def write_training(self, training: Training) -> None:
        """Records what is trained; where that is known already, as a run that continues."""
        self._training = training.continues(self.training)
        if self._may_write() and self.exists:
            self._write_manifest({**self.manifest(), "training": asdict(self._training)})

    def write_history(self, table: pa.Table) -> None:
        """Replaces `history.parquet`."""
        if self._may_write():
            # It is written whole each time: a dictionary of numbers that hardly repeat would cost more than the rest.
            text = [column.name for column in table.schema if not pa.types.is_primitive(column.type)]
            file = self.path / "history.parquet"
            write_whole(file, lambda temporary: parquet.write_table(table, temporary, use_dictionary=text))

    def read_task(self) -> pa.Table:
        """What `write_task` kept, for a resumed run; a damaged file is set aside."""
        try:
            return task.read_table(self.path / task.FILE)
        except ValueError as error:
            if self._may_write():
                logger.warning("%s; it was moved to %s", error, aside.set_aside(self.path, [task.FILE]))
            return task.SCHEMA.empty_table()

    def drop_task(self, *, after: int) -> None:
        """Drops what the trainer logged after a step, to which training went back."""
        logged = self.read_task()
        kept = logged.filter(pc.less_equal(logged["step"], after))
        if len(kept) < len(logged):
            self.write_task(kept)

    def write_task(self, table: pa.Table) -> None:
        """Replaces `task.parquet`; the table is of `task.SCHEMA`."""
        if self._may_write():
            write_whole(self.path / task.FILE, lambda temporary: parquet.write_table(table, temporary))

    def set_aside(self, *, after: int | None = None) -> Path | None:
        """Moves the whole record, or only the snapshots of steps after `after`, to `set-aside/<n>/`.

        Returns:
            Where they are now, None if there were none.
        """
        if not self._may_write():
            return None
        if after is None:
            self._run = None
            return aside.set_aside(self.path)
        names = [folder.name for folder in (self.path / "snapshots").glob("*")]
        later = [self._file(name, step) for name in names for step in self.steps(name) if step > after]
        # What was made of them too; the table is written anew with the next snapshot.
        return aside.set_aside(self.path, [*map(self._relative, later), *aside.MADE]) if later else None

    def take_back(self, run_id: str) -> bool:
        """Puts the record of a run that was set aside in its place again, and sets aside what is there instead."""
        return self._may_write() and aside.take_back(self.path, run_id)

    def mend(self, probes: Sequence[Probe]) -> list[str]:
        """Sets aside what is damaged and can be done without: later snapshots, and the second scoring of the first.

        Returns:
            What was set aside and why, a sentence each.

        Raises:
            ValueError: If the first snapshot or the baseline is damaged.
        """
        found, steps = [], self.steps(*(probe.name for probe in probes))
        self.beside("baseline", probes)
        for step in steps:
            try:
                for probe in probes:
                    complete(self.read(probe.name, step), probe)
            except ValueError as error:
                if step == steps[0]:
                    raise ValueError(f"there is no baseline: {error}") from None
                files = [self._relative(self._file(probe.name, step)) for probe in probes]
                moved = aside.set_aside(self.path, files)
                found.append(f"{error}; step {step} was moved to {moved} and is missing from here on")
        try:
            self.beside("again", probes)
        except ValueError as error:
            moved = aside.set_aside(self.path, ["again"])
            found.append(f"{error}; it was moved to {moved}, and there is no rescored_flips")
        return found

    def set_run(self, **changes: Any) -> None:
        """Changes the part "run" of the manifest.

        Args:
            **changes: Attributes of `RunState`.

        Raises:
            ValueError: If there is no run here, its manifest is damaged, or a value is not of its type.
        """
        if self._may_write():
            manifest = self.manifest()
            self._run = replace(run_of(manifest), **changes)
            self._write_manifest({**manifest, "run": asdict(self._run)})

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        write_text(self.path / "manifest.json", json.dumps(manifest, indent=2) + "\n")


def _same_answers(one: Snapshot, other: Snapshot) -> bool:
    """Whether a snapshot that is to be written is there already: forcing it to disk may fail when it is."""
    return one.n_variants == other.n_variants and all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=name not in ("ids", "choice"))
        for name in ("ids", "correct", "choice", "margin")
    )
