"""A `forget/` folder read: which run it is of, its probes, snapshots and history. `store.py` has the layout.

Whatever is damaged, cut or of another run is an error that names the file, and never left out in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pyarrow import parquet

from forget_callback.probes.jsonl import read_items
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted
from forget_callback.runs.history import History
from forget_callback.runs.manifest import RunState, incomplete, read_manifest, run_of
from forget_callback.runs.rows import Stage
from forget_callback.runs.task import FILE, TaskCurve, curves_of, read_table
from forget_callback.runs.training import Training
from forget_callback.snapshots.joined import complete
from forget_callback.snapshots.reference import Reference
from forget_callback.snapshots.snapshot import Snapshot

_STEP = re.compile(r"step-(\d{8,})\.parquet")


class Recorded:
    """What one run left in its `forget/` folder, `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        """Whether a run was recorded here."""
        return (self.path / "manifest.json").is_file()

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

    @property
    def watched(self) -> bool:
        """Whether `watch` keeps this record, from outside of the training.

        Raises:
            ValueError: As `manifest`.
        """
        return self.manifest().get("watched") is True

    def require_watched(self) -> None:
        """That there is no record here which another than `watch` keeps.

        Raises:
            ValueError: If there is, or as `manifest`.
        """
        if self.exists and not self.watched:
            raise ValueError(
                f"{self.path} is a record that the training itself or another command keeps; give --out DIR for "
                "the watcher's, or train with ForgetCallback(remote=True)"
            )

    def incomplete(self, *, texts: bool = True) -> list[str]:
        """In which ways this record is not that of a whole run, a sentence each; none if it is.

        Args:
            texts: Whether errors may be quoted, and with them prompts and answers.

        Raises:
            ValueError: As `manifest`.
        """
        manifest = self.manifest()
        steps = {name: self.steps(name) for name in manifest["probes"]}
        lost = sorted(self._steps_of_history() - set(self.steps(*steps)))
        gone = [f"history.parquet has steps whose snapshots are gone: {', '.join(map(str, lost))}"] if lost else []
        return incomplete(run_of(manifest), steps, texts=texts) + gone

    def _steps_of_history(self) -> set[int]:
        """The steps that were measured, none where the table is not there or damaged: it can be computed again."""
        try:
            with (self.path / "history.parquet").open("rb") as file:
                return set(parquet.read_table(file, columns=["step"])["step"].to_pylist())
        except (OSError, ValueError, KeyError):
            return set()

    def probes(self) -> list[Probe]:
        """The probes of the run.

        Raises:
            ValueError: If there is no run here, it has no probe, or a probe's file was changed.
        """
        entries = self.manifest()["probes"]
        if not entries:
            raise ValueError(f"{self.path} holds no probe: {'; '.join(self.incomplete())}")
        probes = []
        for name, entry in entries.items():
            path = self.path / "probes" / f"{name}.jsonl"
            items = read_items(path)
            try:
                probe = Probe(name, items, **entry["settings"])
            except TypeError as error:
                manifest = self.path / "manifest.json"
                raise ValueError(f"{manifest} is damaged: 'probes.{name}.settings': {error}") from None
            if probe.fingerprint != entry["fingerprint"]:
                raise ValueError(
                    f"{path} was changed or cut: its fingerprint is {probe.fingerprint}, the run's "
                    f"{entry['fingerprint']}; restore it from a copy"
                )
            probes.append(probe)
        return probes

    @property
    def stage(self) -> Stage:
        """Which stage of a pipeline this run is."""
        return Stage(**self.manifest().get("stage", {})) if self.exists else Stage()

    @property
    def training(self) -> Training:
        """What was trained, as far as it is known."""
        return Training.of(self.manifest().get("training")) if self.exists else Training()

    def task_curves(self) -> dict[str, TaskCurve]:
        """The task's metrics as the trainer logged them, by name; none where nothing was logged.

        Raises:
            ValueError: If the file is damaged.
        """
        return curves_of(read_table(self.path / FILE))

    def steps(self, *probes: str) -> list[int]:
        """Steps at which there is a snapshot of each of these probes, in order."""
        folders = [self.path / "snapshots" / probe for probe in probes]
        found = [{int(m[1]) for path in folder.glob("*") if (m := _STEP.fullmatch(path.name))} for folder in folders]
        return sorted(set.intersection(*found)) if found else []

    def read(self, probe: str, step: int) -> Snapshot:
        """One snapshot.

        Raises:
            ValueError: If there is none of that probe and step, which shows the steps that there are; or the file is
                damaged, or of another run.
        """
        return self._load(probe, step, *self._expected(probe))

    def _expected(self, probe: str) -> tuple[str, str]:
        """What snapshots of a probe say of themselves: the run's id and the probe's fingerprint, "" where any will do.

        Snapshots of models, of which no training was followed, may be put together from several folders.
        """
        if not self.exists:
            return "", ""
        manifest = self.manifest()
        run = run_of(manifest)
        return "" if run.status is None else run.id, manifest["probes"].get(probe, {}).get("fingerprint", "")

    def _load(self, probe: str, step: int, run_id: str, fingerprint: str) -> Snapshot:
        path = self._file(probe, step)
        if not path.is_file():
            raise ValueError(f"{self.path} has no snapshot of probe {probe!r} at step {step}; has {self.steps(probe)}")
        found = Snapshot.load(path)
        if (found.probe, found.step) != (probe, step):
            raise ValueError(f"{path} is of probe {quoted(found.probe)} at step {found.step}: it does not belong here")
        for name, own, other in (
            ("run", run_id, found.metadata.get("run", run_id)),
            ("probe", fingerprint, found.fingerprint),
        ):
            if own and other != own:
                raise ValueError(f"{path} is of another {name}: {quoted(other)}, where {own} was expected")
        return found

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
            A snapshot of each probe; and, at the first step only, of the same model scored again, of the probes that
            were.
        """
        again, expected = self.beside("again", probes), {probe.name: self._expected(probe.name) for probe in probes}
        for step in self.steps(*(probe.name for probe in probes)):
            yield [complete(self._load(probe.name, step, *expected[probe.name]), probe) for probe in probes], again
            again = []

    def beside(self, kind: Literal["baseline", "again"], probes: Sequence[Probe]) -> list[Snapshot]:
        """What `write_beside` kept of these probes: a baseline of all or none, a second scoring of any.

        Raises:
            ValueError: If some have a baseline and others do not, or a file is damaged.
        """
        found = [snapshot for probe in probes if (snapshot := self.read_beside(kind, probe.name)) is not None]
        if kind == "baseline" and 0 < len(found) < len(probes):
            missing = {probe.name for probe in probes} - {snapshot.probe for snapshot in found}
            raise ValueError(f"{self.path / kind} lacks {sorted(missing)}: restore it from a copy")
        return found

    def read_beside(self, kind: Literal["baseline", "again"], probe: str) -> Snapshot | None:
        """What `write_beside` kept, None if there is nothing."""
        path = self.path / kind / f"{probe}.parquet"
        if not path.is_file():
            return None
        found = Snapshot.load(path)
        if found.probe != probe:
            raise ValueError(f"{path} is of probe {quoted(found.probe)}: it does not belong here")
        return found

    def reference(self, baseline: Snapshot) -> Reference:
        """What `write_reference` kept of the model that a snapshot is of.

        Raises:
            ValueError: If there is nothing, it is damaged, or it is of another model.
        """
        path = self._reference(baseline.probe)
        if not path.is_file():
            raise ValueError(f"{path} is not there")
        return Reference.load(path).require_of(baseline, path)

    def _reference(self, probe: str) -> Path:
        return self.path / "reference" / f"{probe}.parquet"

    def _file(self, probe: str, step: int) -> Path:
        return self.path / "snapshots" / probe / f"step-{step:08d}.parquet"

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()
