"""The record that a watcher keeps of a run: which checkpoints are in it, which were left out, and whose it is.

Each snapshot says which checkpoint it is of, and what was set aside is looked through as well. So all is known again
after a kill, and there is no second file that could say something else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from forget_callback.probes.probe import PLAIN, Probe
from forget_callback.probes.quoting import quoted
from forget_callback.runs.manifest import RunState
from forget_callback.runs.recorded import Recorded
from forget_callback.runs.remote import RemoteTraining
from forget_callback.runs.store import Store
from forget_callback.runs.training import Training
from forget_callback.snapshots.snapshot import Snapshot
from forget_callback.tools.checkpoint_history import require_same_probes
from forget_callback.training.unmeasured import Unmeasured, reason

# In the metadata of a snapshot: which checkpoint it is of.
DIGEST = "checkpoint"
_FOREVER = 1 << 62


class WatchRecord:
    """One record.

    Args:
        store: Where it is.
        note: Called with what there is to say.

    Attributes:
        steps: Of each recorded step the digest of the checkpoint, "" of a model that is none.
        earlier: Digests of checkpoints that were scored and set aside: training went back over them, or they are of a
            training before.
        opened: Whether it was taken.

    Raises:
        ValueError: If it is another's.
    """

    def __init__(self, store: Store, note: Callable[[str], object]) -> None:
        self.store, self._note = store, note
        self.steps: dict[int, str] = {}
        self.earlier: set[str] = set()
        self.opened = False
        self._unmeasured = Unmeasured()
        store.require_watched()

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last(self) -> int:
        """The last recorded step, -1 before the first."""
        return max(self.steps, default=-1)

    @property
    def left_out(self) -> list[dict[str, Any]]:
        """What was not measured, as the manifest keeps it."""
        return self._unmeasured.entries

    def open(self, training: RemoteTraining | None) -> None:
        """Takes the record, or makes it.

        Args:
            training: What the training says of itself.

        Raises:
            ValueError: If it is another's, or another process writes there.
        """
        if not self.store.lock():
            raise ValueError(f"{self.store.path} is being written by another process; end that first, or give --out")
        self.store.require_watched()
        self.opened = True
        if self.store.exists:
            self._unmeasured = Unmeasured(self.store.run.not_measured, up_to=_FOREVER)
            self.store.set_run(status="training", steps=None)
        self._read()
        if not self.store.exists:
            self._start(training)

    def begin_anew(self, why: str, training: RemoteTraining | None) -> None:
        """Sets the record aside and begins one of another training."""
        moved = self.store.set_aside()
        self._note(f"{why}: a new record begins" + ("" if moved is None else f", the one before is in {moved}"))
        self._unmeasured = Unmeasured()
        self._read()
        self._start(training)

    def go_back(self, name: str, step: int) -> None:
        """Sets aside what was recorded from a step on: training was resumed from before it, and wrote it anew."""
        moved = self.store.set_aside(after=step - 1)
        self._note(f"{name} was written anew, training went back: snapshots from step {step} on are in {moved}")
        self._unmeasured = Unmeasured(self._unmeasured.entries, up_to=step - 1)
        self._write()
        self._read()

    def add(self, step: int, digest: str, snapshots: Sequence[Snapshot]) -> None:
        """Notes that a checkpoint, or with "" another model, is recorded."""
        self.steps[step] = digest
        self._unmeasured.measured(step, snapshots)
        self._write()

    def leave_out(self, step: int | None, why: str) -> None:
        """Notes that there is no snapshot of a checkpoint, and why."""
        if step is not None:
            self._unmeasured.add(why, step=step)
            self._write()

    def finish(self, *, over: bool, reached: int) -> None:
        """Writes how far the run is, and lets other processes have the record.

        Args:
            over: Whether the run has ended.
            reached: The last step that the training is known to have reached.
        """
        if self.opened and self.store.exists:
            known = [reached, *self.steps, *(one["step"] or 0 for one in self.left_out)]
            self._write(**({"status": "ended", "steps": max(known)} if over else {}))
        self.store.close()

    def require_probes(self, given: Sequence[Probe]) -> None:
        """That what is recorded, if anything, is of these probes.

        Args:
            given: As they were read, without a chat template; none to take those of the record.

        Raises:
            ValueError: If not.
        """
        if not given or not self.steps:
            return
        require_same_probes(self.store, given)
        recorded = {own.name: own for own in self.store.probes()}
        for probe in given:
            own = recorded[probe.name]
            bound = _bound_as(probe, own)
            if (bound.fingerprint, bound.variant_fingerprints) != (own.fingerprint, own.variant_fingerprints):
                raise ValueError(
                    f"{self.store.path} holds another probe named {probe.name!r}: its items or settings differ from "
                    "those of --probe; give the one of that record, or --out DIR for another"
                )

    def require_baseline(self, given: str | None) -> None:
        """That what is recorded, if anything, is compared with this model; None to take that of the record.

        Raises:
            ValueError: If not.
        """
        if given is None or not self.steps:
            return
        first = min(self.steps)
        name = next(iter(self.store.manifest()["probes"]))
        own = None if self.steps[first] else self.store.read(name, first).metadata.get("model")
        if own is None or (own != given and Path(own).resolve() != Path(given).resolve()):
            compared = f"step {first}, the first checkpoint" if own is None else quoted(own)
            raise ValueError(
                f"{self.store.path} is compared with {compared}, and --baseline is {quoted(given)}; leave that out to "
                "go on as before, or give --out DIR for another record"
            )

    def _start(self, known: RemoteTraining | None) -> None:
        run = RunState(status="training")
        if known is not None:
            run = RunState(known.run, "training", planned_steps=known.max_steps or None)
        self.store.start_run(run, Training() if known is None else known.training, watched=True)
        self._write()

    def _read(self) -> None:
        probes = list(self.store.manifest()["probes"]) if self.store.exists else []
        self.steps, self.earlier = _digests(self.store, probes), set()
        for folder in Path(self.store.path / "set-aside").glob("*"):
            aside = Recorded(folder)
            # A step that lacks a probe was set aside because the watcher was killed in it, and is scored once more.
            measured = _digests(aside, list(aside.manifest()["probes"]) if aside.exists else probes)
            self.earlier |= {digest for digest in measured.values() if digest}

    def _write(self, **changes: Any) -> None:
        if not (self.opened and self.store.exists):
            return
        try:
            self.store.set_run(not_measured=self.left_out, **changes)
        except OSError as error:
            self._note(f"the state of the run could not be written to {self.store.path}: {reason(error)}")


def _bound_as(probe: Probe, own: Probe) -> Probe:
    """A probe with the chat template that the recorded one was bound with."""
    if probe.chat is False or probe.template:
        return probe
    if probe.chat is None and own.chat is False:
        return replace(probe, **PLAIN)
    return replace(probe, chat=True, template=own.template)


def _digests(record: Recorded, probes: Sequence[str]) -> dict[int, str]:
    """Of each step that was measured in all of these probes the checkpoint that was scored, "" of another model."""
    found: dict[int, str] = {}
    for step in record.steps(*probes):
        try:
            digests = [str(record.read(name, step).metadata.get(DIGEST, "")) for name in probes]
        except ValueError:  # damaged: the monitor sets it aside, and it may be scored once more
            continue
        found[step] = digests[0]
    return found
