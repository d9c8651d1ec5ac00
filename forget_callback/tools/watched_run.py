"""A run that is watched from outside: what it has written, what of that is recorded, and what is to be done next.

Only the main process has one, so that all processes do the same. What it knows it reads from the disk: the checkpoints,
`training.json`, and the record, whose snapshots say which checkpoint they are of. So a watcher may be killed at any
moment, and the next one goes on. Scores nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from forget_callback.probes.quoting import printable, quoted
from forget_callback.probes.remote import model_problem
from forget_callback.runs.manifest import RunState
from forget_callback.runs.recorded import Recorded
from forget_callback.runs.remote import TRAINING, RemoteTraining, read_training
from forget_callback.runs.store import Store
from forget_callback.runs.training import Training
from forget_callback.snapshots.snapshot import Snapshot
from forget_callback.tools.arrivals import Arrival, Arrivals
from forget_callback.tools.checkpoints import Checkpoint
from forget_callback.tools.lineage import is_last, may_continue, missing_steps, run_id_of, started_from, state_of
from forget_callback.tools.whole import judge, listing_of
from forget_callback.training.unmeasured import Unmeasured, reason

# In the metadata of a snapshot: which checkpoint it is of.
DIGEST = "checkpoint"
_FOREVER = 1 << 62


@dataclass(frozen=True)
class Next:
    """What to do: wait; score a checkpoint; open the record anew, of which steps were set aside; or end.

    Attributes:
        checkpoint: To be scored.
        digest: Of it.
        last: Whether training ends with it.
        over: Whether the run has ended, where the watcher does; else patience ran out.
    """

    do: Literal["wait", "score", "reopen", "end"]
    checkpoint: Checkpoint | None = None
    digest: str = ""
    last: bool = False
    over: bool = False


class WatchedRun:
    """What is known of the run.

    Args:
        run: Its directory.
        store: Where it is recorded.
        patience: Seconds without a sign of life after which the watcher ends.
        settle: Seconds without a change after which what was written is quiet.
        note: Called with what there is to say.

    Attributes:
        training: What it says of itself, None where it says nothing.

    Raises:
        ValueError: If the store holds the record of something else.
    """

    def __init__(
        self,
        run: Path,
        pattern: str,
        store: Store,
        *,
        patience: float,
        settle: float,
        note: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self.store = run, store
        self._patience, self._settle, self._clock = patience, settle, clock
        self._arrivals = Arrivals(run, pattern, settle=settle, clock=clock)
        self._say = note
        self.training: RemoteTraining | None = None
        self._recorded: dict[int, str] = {}
        self._earlier: set[str] = set()  # digests of checkpoints that are of a training before, or were gone back over
        self._left: set[str] = set()  # digests of those that are left out
        self._waiting: dict[str, Arrival] = {}
        self._said: set[str] = set()
        self._opened = False
        self._unmeasured = Unmeasured()
        self._end = ("", False)  # the last checkpoint that is recorded, and whether training ends with it
        self._sign: object = None
        self._since = clock()
        self._require_own()
        if not run.is_dir():
            self._note(f"{run} is not there yet; waiting for it")

    @property
    def home(self) -> Path:
        """The folder in which the training and its watcher talk to each other."""
        return self.store.path if (self.store.path / TRAINING).is_file() else self._run / "forget"

    @property
    def steps(self) -> list[int]:
        """Recorded steps."""
        return sorted(self._recorded)

    @property
    def left_out(self) -> list[dict[str, object]]:
        """What was not measured, as the manifest keeps it."""
        return self._unmeasured.entries

    def next(self) -> Next:
        """What to do now.

        Raises:
            ValueError: If the store holds the record of something else.
        """
        self._read_training()
        found = self._arrivals.look()
        sign = [(one.name, one.ready, one.quiet, one.digest) for one in found], self.training
        if sign != self._sign:
            self._sign, self._since = sign, self._clock()
        if not self._opened and (self.store.exists or any(one.ready for one in found)):
            self._open()
        if self._opened and self.training is not None and self.store.run_id != self.training.run:
            self._begin_anew("another training has begun in this directory")
            return Next("reopen")
        self._note_removed(found)
        ready: list[Arrival] = []
        for one in found:
            if not self._is_due(one):
                continue
            if one.step in self._recorded or (self.steps and (one.step or 0) < self.steps[-1]):
                if self._came_late(one, found):
                    continue
                self._go_back(one, found)
                return Next("reopen")
            if ready and ready[-1].step == one.step:
                self._leave_out(one, f"{ready[-1].name} is of the same step", gap=False)
                continue
            ready.append(one)
        if ready and not any(self._is_being_written(one) and is_old(one, [ready[0].step or 0]) for one in found):
            self._note_missing(ready[0], found)
            checkpoint = replace(Checkpoint.of(str(ready[0].path)), step=ready[0].step)
            return Next("score", checkpoint, ready[0].digest, last=is_last(state_of(ready[0].path)))
        if ready or any(self._is_being_written(one) for one in found):
            return Next("wait")
        if self._has_ended(found):
            self._note_unfinished(found)
            return Next("end", over=True)
        if self._clock() - self._since >= self._patience:
            self._note_unfinished(found)
            return Next("end")
        return Next("wait")

    def scored(self, step: int, digest: str, snapshots: Sequence[Snapshot]) -> None:
        """Notes that a checkpoint, or with "" another model, is recorded."""
        self._recorded[step] = digest
        self._unmeasured.measured(step, snapshots)
        self._write_run()
        self._since = self._clock()

    def failed(self, todo: Next, error: Exception) -> str:
        """Notes that a checkpoint could not be scored; why, "" where rotation removed it meanwhile."""
        assert todo.checkpoint is not None
        step, name = todo.checkpoint.step, Path(todo.checkpoint.model).relative_to(self._run).as_posix()
        self._left.add(todo.digest)
        self._waiting.pop(name, None)
        gone = self.is_gone(todo.checkpoint)
        why = "it was removed while it was scored" if gone else f"it could not be scored: {reason(error)}"
        self._gap(step, f"{name}: {why}")
        self._note(f"{name} is left out: {why}")
        self._since = self._clock()
        return "" if gone else f"{name}: {why}"

    @staticmethod
    def is_gone(checkpoint: Checkpoint) -> bool:
        """Whether its files were removed, or are being removed."""
        path = Path(checkpoint.model)
        try:
            judged = judge(path, listing_of(path))
        except OSError:
            return True
        return judged.kind != "whole"

    def baseline(self, checkpoint: Checkpoint) -> str | None:
        """The model before training, as far as the training, its adapter or its model card says; None if none does."""
        path = Path(checkpoint.model)
        own = None if self.training is None or self.training.first_step else self.training.training.model
        for name in dict.fromkeys([*filter(None, [own]), *started_from(path)]):
            problem = model_problem(name)
            if problem is None:
                self._note(f"the baseline is {quoted(name)}, which this run started from; --baseline names another")
                return name
            self._note(f"no baseline at {quoted(name)}, which this run started from: {problem}; --baseline names it")
        self._note(
            f"no --baseline: everything is compared with step {checkpoint.step}, and what was forgotten before it is "
            "not seen"
        )
        return None

    def finish(self, *, over: bool) -> None:
        """Writes how far the run is, and lets other processes have the record."""
        if self._opened and self.store.exists:
            known = [*self._recorded, *(one["step"] or 0 for one in self._unmeasured.entries)]
            known.append(0 if self.training is None else self.training.step)
            changes = {"status": "ended", "steps": max(known)} if over else {}
            self._write_run(**changes)
        self.store.close()

    # The record.

    def _require_own(self) -> None:
        if self.store.exists and not self.store.watched:
            raise ValueError(
                f"{self.store.path} is a record that the training itself or another command keeps; give --out DIR for "
                "the watcher's, or train with ForgetCallback(remote=True)"
            )

    def _open(self) -> None:
        """Takes the record, or makes it.

        Raises:
            ValueError: If it is another's, or another process writes there.
        """
        if not self.store.lock():
            raise ValueError(f"{self.store.path} is being written by another process; end that first, or give --out")
        self._require_own()
        self._opened = True
        if self.store.exists:
            self._unmeasured = Unmeasured(self.store.run.not_measured, up_to=_FOREVER)
            self.store.set_run(status="training", steps=None)
        self._read_digests()
        if not self.store.exists:
            self._start()

    def _start(self) -> None:
        known = self.training
        run = RunState(status="training")
        if known is not None:
            run = RunState(known.run, "training", planned_steps=known.max_steps or None)
        self.store.start_run(run, Training() if known is None else known.training, watched=True)
        self._write_run()

    def _read_digests(self) -> None:
        probes = list(self.store.manifest()["probes"]) if self.store.exists else []
        self._recorded = _digests(self.store, probes)
        self._earlier = set()
        for folder in (self.store.path / "set-aside").glob("*"):
            aside = Recorded(folder)
            # A step that lacks a probe was set aside because the watcher was killed in it, and is scored once more.
            measured = _digests(aside, list(aside.manifest()["probes"]) if aside.exists else probes)
            self._earlier |= {digest for digest in measured.values() if digest}

    def _begin_anew(self, why: str) -> None:
        moved = self.store.set_aside()
        self._note(f"{why}: a new record begins" + ("" if moved is None else f", the one before is in {moved}"))
        self._unmeasured = Unmeasured()
        self._read_digests()
        self._start()

    def _go_back(self, one: Arrival, found: Sequence[Arrival]) -> None:
        """Training went back before a step that is recorded: it was resumed from an earlier one, or begun anew."""
        step = one.step or 0
        kept = any(self._is_recorded(before) and (before.step or 0) < step for before in found)
        if kept or (self.training is not None and self.training.first_step > 0):
            moved = self.store.set_aside(after=step - 1)
            self._note(f"{one.name} was written anew, training went back: snapshots from step {step} on are in {moved}")
            self._unmeasured = Unmeasured(self._unmeasured.entries, up_to=step - 1)
            self._write_run()
            self._read_digests()
        else:
            self._begin_anew(f"{one.name} was written by another training than what is recorded")

    # Checkpoints.

    def _is_due(self, one: Arrival) -> bool:
        """Whether it is whole, of this training, and was not dealt with."""
        if one.judged.kind == "foreign" and one.quiet:
            self._once(one.name, f"{one.name} is skipped: {one.judged.why}")
        if not one.ready:
            return False
        if one.step is None:
            self._once(one.name, f"{one.name} is skipped: its step is not known, its name has no number")
            return False
        if one.digest in self._left or one.digest in self._earlier or self._is_recorded(one):
            self._arrivals.done(one)
            return False
        if one.step == 0 and 0 in self._recorded:
            return False
        if self.training is not None and run_id_of(one.path) not in ("", self.training.run):
            self._leave_out(one, "it is of an earlier training in this directory", gap=False)
            return False
        return True

    def _is_recorded(self, one: Arrival) -> bool:
        return one.step is not None and bool(one.digest) and self._recorded.get(one.step) == one.digest

    def _is_being_written(self, one: Arrival) -> bool:
        return not one.ready and not one.quiet and one.judged.kind != "foreign" and one.step is not None

    def _came_late(self, one: Arrival, found: Sequence[Arrival]) -> bool:
        """Whether a checkpoint of a step below the last belongs to this training, and is left out."""
        step, last = one.step or 0, self.steps[-1]
        after = [other for other in found if other.ready and (other.step or 0) >= last and other is not one]
        after = [other for other in after if other.step != last or self._is_recorded(other)]
        if step in self._recorded or not after or not may_continue(one.path, after[-1].path):
            return False
        self._leave_out(one, f"it came after step {last} was scored, and a history grows by later steps alone")
        return True

    def _leave_out(self, one: Arrival, why: str, *, gap: bool = True) -> None:
        self._left.add(one.digest)
        self._once(one.name + one.digest, f"{one.name} is left out: {why}")
        if gap:
            self._gap(one.step, f"{one.name}: {why}")

    def _note_removed(self, found: Sequence[Arrival]) -> None:
        """What was there before, was not scored, and is gone."""
        now = {one.name for one in found}
        for name, one in self._waiting.items():
            if name not in now and not one.path.exists() and one.step not in self._recorded:
                self._gap(one.step, f"{name}: it was removed before it could be scored")
                self._note(f"{name} was removed before it could be scored, and is left out")
        done = self._left | self._earlier
        self._waiting = {
            one.name: one
            for one in found
            if one.judged.kind != "foreign"
            and one.step is not None
            and one.digest not in done
            and not self._is_recorded(one)
        }

    def _note_missing(self, one: Arrival, found: Sequence[Arrival]) -> None:
        """Steps at which the Trainer must have saved since the last that is recorded, of which nothing was seen."""
        step = one.step or 0
        first = 0 if self.training is None else self.training.first_step
        since = max([first, *(at for at in self._recorded if at < step)])
        known = {one["step"] or 0 for one in self._unmeasured.entries} | {other.step or 0 for other in found}
        missing = missing_steps(state_of(one.path), step, since=since, seen=known | self._recorded.keys())
        for at in missing:
            self._gap(at, "its checkpoint was removed before it could be scored")
        if missing:
            listed = ", ".join(map(str, missing[:10])) + (f" and {len(missing) - 10} more" if missing[10:] else "")
            self._note(f"the checkpoints of steps {listed} were removed before they could be scored, and are left out")

    def _note_unfinished(self, found: Sequence[Arrival]) -> None:
        for one in found:
            if one.judged.kind == "unfinished" and one.step not in self._recorded and not is_old(one, self.steps):
                self._gap(one.step, f"{one.name}: it was never finished: {one.judged.why}")
                self._once(one.name, f"{one.name} is left out, it was never finished: {one.judged.why}")

    def _has_ended(self, found: Sequence[Arrival]) -> bool:
        """Whether the run is over, and all that it left is recorded."""
        recorded = [one for one in found if self._is_recorded(one)]
        if recorded and self._is_end(recorded[-1]):
            return True
        if self.training is None or self.training.status == "training":
            return False
        # On a shared disk the last checkpoint may be seen after the word that training has ended.
        reached = bool(self.steps) and self.steps[-1] >= self.training.step
        return reached or self._clock() - self._since >= self._settle

    def _is_end(self, one: Arrival) -> bool:
        if self._end[0] != one.digest:  # read once
            self._end = one.digest, is_last(state_of(one.path))
        return self._end[1]

    def _gap(self, step: int | None, why: str) -> None:
        self._unmeasured.add(why, step=step)
        if self._opened and self.store.exists:
            self._write_run()

    def _write_run(self, **changes: Any) -> None:
        try:
            self.store.set_run(not_measured=self._unmeasured.entries, **changes)
        except OSError as error:
            self._note(f"the state of the run could not be written to {self.store.path}: {reason(error)}")

    def _read_training(self) -> None:
        try:
            self.training = read_training(self.home)
        except (ValueError, OSError) as error:  # it may be whole the next time
            self._once(str(error), str(error))

    def _once(self, key: str, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self._note(text)

    def _note(self, text: str) -> None:
        self._say(printable(text))


def is_old(one: Arrival, steps: Sequence[int]) -> bool:
    """Whether it is of a step below the last that is recorded: a leftover of before."""
    return bool(steps) and (one.step or 0) < steps[-1]


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
