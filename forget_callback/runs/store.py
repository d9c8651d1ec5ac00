"""Snapshots on disk: the `forget/` folder of a run, each file written whole or not at all.

    manifest.json                                what was probed, with what
    probes/<probe>.jsonl                         the items
    snapshots/<probe>/step-00000000.parquet      one row an item
    baseline/<probe>.parquet                     what is compared against, where that is not the first snapshot
    again/<probe>.parquet                        the first model, scored a second time: what flips for no reason
    history.parquet                              the table
    report.html                                  the page, at the end of training
    set-aside/<n>/...                            what an earlier run left here, or a resumed one went back over

A snapshot is never overwritten; answers to further prompts may be added to it. Knows nothing of models, training or
what the numbers mean.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from forget_callback.probes.jsonl import dump_items, read_items
from forget_callback.probes.probe import Probe
from forget_callback.runs.files import write_text, write_whole
from forget_callback.runs.history import History, Stage
from forget_callback.runs.manifest import RunState, incomplete, new_manifest, read_manifest, run_of
from forget_callback.snapshots.snapshot import Snapshot, complete

_STEP = re.compile(r"step-(\d{8,})\.parquet")


class Store:
    """One run's `forget/` folder.

    Args:
        directory: The run's directory, which holds or will hold `forget/`, or that folder itself.
        writable: False makes every write do nothing: of several processes only one writes.
    """

    def __init__(self, directory: str | os.PathLike[str], *, writable: bool = True) -> None:
        path = Path(directory)
        self.path = path if path.name == "forget" else path / "forget"
        self.writable = writable

    @property
    def exists(self) -> bool:
        """Whether a run was recorded here."""
        return (self.path / "manifest.json").is_file()

    def begin(self, probes: Sequence[Probe], *, source: str | None = None) -> None:
        """Makes the folder and records the probes; called again with the same probes it changes nothing.

        Args:
            source: What the snapshots are made of, where no model was scored: logs.

        Raises:
            ValueError: If another probe was measured here under the same name.
        """
        manifest = self.manifest() if self.exists else new_manifest(RunState())
        for probe in probes:
            known = manifest["probes"].get(probe.name)
            if known is not None and known["fingerprint"] != probe.fingerprint and self.steps(probe.name):
                raise ValueError(
                    f"{self.path} holds another probe named {probe.name!r}: fingerprint {known['fingerprint'][:12]} "
                    f"there, {probe.fingerprint[:12]} here; use another output directory, or the probe of that run"
                )
        if not self.writable:
            return
        for probe in probes:
            write_text(self.path / "probes" / f"{probe.name}.jsonl", dump_items(probe.items))
            entry = {"fingerprint": probe.fingerprint, "items": len(probe), "settings": probe.settings}
            manifest["probes"][probe.name] = entry
        if source is not None:
            manifest["source"] = source
        self._write_manifest(manifest)

    def probes(self) -> list[Probe]:
        """The probes of the run.

        Raises:
            ValueError: If there is no run here, or a probe's file was changed.
        """
        probes = []
        for name, entry in self.manifest()["probes"].items():
            path = self.path / "probes" / f"{name}.jsonl"
            probe = Probe(name, read_items(path), **entry["settings"])
            if probe.fingerprint != entry["fingerprint"]:
                raise ValueError(
                    f"{path} was changed: its fingerprint is {probe.fingerprint}, the run's {entry['fingerprint']}"
                )
            probes.append(probe)
        return probes

    def write(self, snapshot: Snapshot) -> None:
        """Adds a snapshot.

        Raises:
            ValueError: If the store has one of that probe and step: no snapshot is ever overwritten.
        """
        if not self.writable:
            return
        path = self._file(snapshot.probe, snapshot.step)
        if path.exists():
            raise ValueError(
                f"{path} exists and is not overwritten; use another output directory, or set the earlier run aside "
                "with Store.set_aside()"
            )
        write_whole(path, snapshot.save)

    def add_variants(self, snapshot: Snapshot) -> None:
        """Puts a snapshot in the place of one of the same model that was asked fewer prompts.

        Raises:
            ValueError: If the stored one was asked as many.
        """
        if not self.writable:
            return
        path = self._file(snapshot.probe, snapshot.step)
        if path.exists() and Snapshot.load(path).n_variants >= snapshot.n_variants:
            raise ValueError(f"{path} exists, was asked as many prompts, and is not overwritten")
        write_whole(path, snapshot.save)

    def write_beside(self, kind: Literal["baseline", "again"], snapshot: Snapshot) -> None:
        """Keeps a baseline that is not this run's first snapshot, or the second scoring of the first model."""
        if self.writable:
            write_whole(self.path / kind / f"{snapshot.probe}.parquet", snapshot.save)

    def read_beside(self, kind: Literal["baseline", "again"], probe: str) -> Snapshot | None:
        """What `write_beside` kept, None if there is nothing."""
        path = self.path / kind / f"{probe}.parquet"
        return Snapshot.load(path) if path.is_file() else None

    @property
    def stage(self) -> Stage:
        """Which stage of a pipeline this run is."""
        return Stage(**self.manifest().get("stage", {})) if self.exists else Stage()

    def write_stage(self, stage: Stage) -> None:
        """Records which stage of a pipeline this run is."""
        if self.writable:
            self._write_manifest({**self.manifest(), "stage": asdict(stage)})

    def steps(self, *probes: str) -> list[int]:
        """Steps at which there is a snapshot of each of these probes, in order."""
        folders = [self.path / "snapshots" / probe for probe in probes]
        found = [{int(m[1]) for path in folder.glob("*") if (m := _STEP.fullmatch(path.name))} for folder in folders]
        return sorted(set.intersection(*found)) if found else []

    def read(self, probe: str, step: int) -> Snapshot:
        """One snapshot.

        Raises:
            ValueError: If there is none of that probe and step; shows the steps that there are.
        """
        path = self._file(probe, step)
        if not path.is_file():
            raise ValueError(f"{self.path} has no snapshot of probe {probe!r} at step {step}; has {self.steps(probe)}")
        return Snapshot.load(path)

    def history(self, probes: Sequence[Probe] | None = None) -> History:
        """The run's history, computed again from its snapshots: the steps at which all of these probes were measured.

        Raises:
            ValueError: If there is no run here, or a probe's file was changed.
        """
        probes = self.probes() if probes is None else probes
        history = History(self.beside("baseline", probes), stage=self.stage)
        for snapshots, again in self.evaluations(probes):
            history.append(snapshots, again=again)
        return history

    def evaluations(self, probes: Sequence[Probe]) -> Iterator[tuple[list[Snapshot], list[Snapshot]]]:
        """Reads the steps at which all of these probes were measured, oldest first.

        Yields:
            A snapshot of each probe; and, at the first step only, of the same model scored again, if it was.
        """
        again = self.beside("again", probes)
        for step in self.steps(*(probe.name for probe in probes)):
            yield [complete(self.read(probe.name, step), probe) for probe in probes], again
            again = []

    def beside(self, kind: Literal["baseline", "again"], probes: Sequence[Probe]) -> list[Snapshot]:
        """What `write_beside` kept of these probes; none where one is missing."""
        found = [snapshot for probe in probes if (snapshot := self.read_beside(kind, probe.name)) is not None]
        return found if len(found) == len(probes) else []

    def write_history(self, table: pa.Table) -> None:
        """Replaces `history.parquet`."""
        if self.writable:
            # It is written whole each time: a dictionary of numbers that hardly repeat would cost more than the rest.
            text = [column.name for column in table.schema if not pa.types.is_primitive(column.type)]
            file = self.path / "history.parquet"
            write_whole(file, lambda temporary: parquet.write_table(table, temporary, use_dictionary=text))

    def set_aside(self, *, after: int = -1) -> Path | None:
        """Moves the snapshots of steps after `after`, and with -1 the whole record, to `set-aside/<n>/`.

        Returns:
            Where they are now, None if there were none.
        """
        names = [folder.name for folder in (self.path / "snapshots").glob("*")]
        moved = [self._file(name, step) for name in names for step in self.steps(name) if step > after]
        if not moved or not self.writable:
            return None
        if after < 0:
            beside = ("manifest.json", "history.parquet", "report.html", "probes", "baseline", "again")
            moved += [self.path / name for name in beside if (self.path / name).exists()]
        earlier = [int(folder.name) for folder in (self.path / "set-aside").glob("*") if folder.name.isdigit()]
        aside = self.path / "set-aside" / str(1 + max(earlier, default=0))
        for source in moved:
            target = aside / source.relative_to(self.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
        return aside

    def _file(self, probe: str, step: int) -> Path:
        return self.path / "snapshots" / probe / f"step-{step:08d}.parquet"

    def manifest(self) -> dict[str, Any]:
        """What was probed, with what.

        Raises:
            ValueError: If there is no run here, or its manifest is damaged.
        """
        return read_manifest(self.path / "manifest.json")

    @property
    def run(self) -> RunState:
        """Which run this is a record of, and how far that got.

        Raises:
            ValueError: As `manifest`.
        """
        return run_of(self.manifest())

    def set_run(self, **changes: Any) -> None:
        """Changes the part "run" of the manifest.

        Args:
            **changes: Attributes of `RunState`.

        Raises:
            ValueError: If there is no run here, its manifest is damaged, or a value is not of its type.
        """
        if self.writable:
            manifest = self.manifest()
            self._write_manifest({**manifest, "run": asdict(replace(run_of(manifest), **changes))})

    def incomplete(self) -> list[str]:
        """In which ways this record is not that of a whole run, a sentence each; none if it is.

        Raises:
            ValueError: As `manifest`.
        """
        manifest = self.manifest()
        return incomplete(run_of(manifest), {name: self.steps(name) for name in manifest["probes"]})

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        write_text(self.path / "manifest.json", json.dumps(manifest, indent=2) + "\n")


@dataclass(frozen=True)
class RunAt:
    """A store and, where the user named one, a step of it."""

    store: Store
    step: int | None

    def read(self, probe: str, *, default: Literal["first", "last"]) -> Snapshot:
        """The snapshot of a probe at the named step, else at the first or last one.

        Raises:
            ValueError: If there is none.
        """
        steps = self.store.steps(probe)
        if self.step is None and not steps:
            raise ValueError(f"{self.store.path} has no snapshot of probe {probe!r}")
        return self.store.read(probe, self.step if self.step is not None else steps[0 if default == "first" else -1])

    def baseline(self, probe: str) -> Snapshot:
        """What a later stage is compared against: the named step, else what this run was, else its first snapshot.

        Raises:
            ValueError: If there is none.
        """
        own = self.store.read_beside("baseline", probe) if self.step is None else None
        return self.read(probe, default="first") if own is None else own

    def next_stage(self, probe: str) -> Stage:
        """The stage of a run that continues from here; the same one if nothing was trained yet."""
        last, before = self.read(probe, default="last"), self.store.stage
        trained = 0.0 if np.isnan(last.samples_seen) else last.samples_seen
        return Stage(before.number + (last.step > 0), before.samples_before + trained)


def open_run(run: str | os.PathLike[str]) -> RunAt:
    """What RUN or RUN@N names.

    Raises:
        ValueError: If there is no run there.
    """
    text = os.fspath(run)
    directory, at, step = text.rpartition("@")
    named = bool(at) and step.isdigit() and not Path(text).exists()
    store = Store(directory if named else text)
    if not store.exists:
        raise ValueError(f"{text} is not a run: expected a directory that holds forget/, RUN or RUN@STEP")
    return RunAt(store, int(step) if named else None)
