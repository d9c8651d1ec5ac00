"""A run that is watched from outside: what it has written, what of that is recorded, and what is to be done next.

Only the main process has one, so that all processes do the same. What it knows it reads from the disk: the checkpoints,
`training.json`, and the record. So a watcher may be killed at any moment, and the next one goes on. Scores nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from forget_callback.probes.quoting import printable, quoted
from forget_callback.probes.remote import model_problem
from forget_callback.runs.remote import TRAINING, RemoteTraining, read_training
from forget_callback.runs.store import Store
from forget_callback.tools.arrivals import Arrival, Arrivals
from forget_callback.tools.checkpoints import Checkpoint
from forget_callback.tools.lineage import is_last, may_continue, missing_steps, run_id_of, started_from, state_of
from forget_callback.tools.watch_record import WatchRecord
from forget_callback.tools.whole import TRAINER_STATE, judge, listing_of
from forget_callback.training.unmeasured import reason


@dataclass(frozen=True)
class Next:
    """What to do: wait; score a checkpoint; finish the record and `reopen` it; or end.

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
        pattern: Which directories in it are checkpoints.
        store: Where it is recorded.
        patience: Seconds without a sign of life after which the watcher ends.
        settle: Seconds without a change after which what was written is quiet.
        note: Called with what there is to say.

    Attributes:
        record: What is recorded.
        unfinished: At the end, why a checkpoint after all that are recorded has no numbers: it never became whole.
        training: What it says of itself, None where it says nothing.

    Raises:
        ValueError: If the store holds the record of something else, or lies where checkpoints are looked for.
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
        self._run, self._say = run, note
        self._patience, self._settle, self._clock = patience, settle, clock
        self._arrivals = Arrivals(run, pattern, settle=settle, clock=clock)
        if self._arrivals.would_take(store.path):
            raise ValueError(
                f"{store.path.parent} is where --pattern {pattern!r} looks for checkpoints; give another --out"
            )
        self.record = WatchRecord(store, self._note)
        self.training: RemoteTraining | None = None
        self.unfinished = ""
        # Digests of checkpoints that are left out for good, and of those that could not be scored.
        self._left: set[str] = set()
        self._failed: set[str] = set()
        self._waiting: dict[str, Arrival] = {}
        self._said: set[str] = set()
        self._idle = True  # nothing was scored yet
        self._end = ("", False)  # the last checkpoint that was dealt with, and whether training ends with it
        self._reopen: Callable[[], None] = lambda: None
        self._sign: object = None
        self._since = clock()
        if not run.is_dir():
            self._note(f"{run} is not there yet; waiting for it")

    @property
    def home(self) -> Path:
        """The folder in which the training and its watcher talk to each other."""
        own = self._run if self._run.name == "forget" else self._run / "forget"
        return own if (own / TRAINING).is_file() else self.record.store.path

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
        record, training = self.record, self.training
        if not record.opened and (record.store.exists or any(one.ready for one in found)):
            record.open(training)
        if record.opened and training is not None and record.store.run_id != training.run:
            self._reopen = partial(record.begin_anew, "another training has begun in this directory", training)
            return Next("reopen")
        self._note_removed(found)
        due = self._due(found)
        if due is None:
            return Next("reopen")
        if due and not any(self._is_being_written(one) and _step(one) < _step(due[0]) for one in found):
            self._note_missing(due[0], found)
            self._note_unfinished(found, before=_step(due[0]))
            checkpoint = replace(Checkpoint.of(str(due[0].path)), step=due[0].step)
            return Next("score", checkpoint, due[0].digest, last=is_last(state_of(due[0].path)))
        if due or any(self._is_being_written(one) for one in found):
            return Next("wait")
        over = self._has_ended(found)
        if over or self._clock() - self._since >= self._patience:
            self._note_unfinished(found)
            self._note_foreign(found)
            if over and self._idle:
                self._note_idle()
            return Next("end", over=over)
        return Next("wait")

    def reopen(self) -> None:
        """Sets aside what training went back over; whoever writes the record has finished it."""
        self._reopen()

    def seen(self) -> None:
        """Patience begins anew: scoring takes its time, in which nobody looked."""
        self._since, self._idle = self._clock(), False

    def failed(self, todo: Next, error: Exception) -> str:
        """Notes that a checkpoint could not be scored; why, "" where rotation removed it meanwhile."""
        assert todo.checkpoint is not None
        name, gone = Path(todo.checkpoint.model).relative_to(self._run).as_posix(), self.is_gone(todo.checkpoint)
        self._failed.add(todo.digest)
        self._waiting.pop(name, None)
        why = "it was removed while it was scored" if gone else f"it could not be scored: {reason(error)}"
        self._leave_out(todo.checkpoint.step, name, why)
        self.seen()
        return "" if gone else f"{name}: {why}"

    @staticmethod
    def is_gone(checkpoint: Checkpoint) -> bool:
        """Whether its files were removed, or are being removed."""
        path = Path(checkpoint.model)
        try:
            return judge(path, listing_of(path)).kind != "whole"
        except OSError:
            return True

    def baseline(self, checkpoint: Checkpoint) -> str | None:
        """The model before training, as far as the training, its adapter or its model card says; None if none does."""
        own = None if self.training is None or self.training.first_step else self.training.training.model
        for name in dict.fromkeys([*filter(None, [own]), *started_from(Path(checkpoint.model))]):
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
        self.record.finish(over=over, reached=0 if self.training is None else self.training.step)

    def _due(self, found: Sequence[Arrival]) -> list[Arrival] | None:
        """What is to be scored, by step; None where training went back."""
        due: list[Arrival] = []
        for one in found:
            if not self._is_new(one):
                continue
            same = [other for other in (*found, *due) if other is not one and other.step == one.step]
            if any(self._is_recorded(other) or other in due for other in same):
                self._leave_out(None, one.name, "there is another one of its step", digest=one.digest)
            elif one.step not in self.record.steps and _step(one) > self.record.last:
                due.append(one)
            elif self._came_late(one, found):
                why = f"it came after step {self.record.last} was scored, and a history grows by later steps alone"
                self._leave_out(one.step, one.name, why, digest=one.digest)
            else:
                self._go_back(one, found)
                return None
        return due

    def _is_new(self, one: Arrival) -> bool:
        """Whether it is whole, of this training, and was not dealt with."""
        if one.judged.kind == "foreign" and one.quiet:
            self._once(one.name, f"{one.name} is skipped: {one.judged.why}")
        if not one.ready:
            return False
        if one.step is None:
            self._once(one.name, f"{one.name} is skipped: its step is not known, its name has no number")
            return False
        if one.digest in self._left | self._failed | self.record.earlier or self._is_recorded(one):
            self._arrivals.done(one)
            return False
        if one.step == 0 and 0 in self.record.steps:  # the baseline
            return False
        if not self._is_own(one):
            self._leave_out(None, one.name, f"it is of another training than {TRAINING} names", digest=one.digest)
            return False
        return True

    def _is_own(self, one: Arrival) -> bool:
        """Whether it is of the training that is watched, and not of an earlier one in this directory.

        One that listens writes its run into every trainer's state. What lacks it may be of what it was resumed from;
        what has no state at all, and was converted by somebody, of a step that it has reached.
        """
        training = self.training
        if training is None or one.step is None:
            return True
        if run := run_id_of(one.path):
            return run == training.run
        converted = not (one.path / TRAINER_STATE).is_file()
        return one.step <= (training.step if converted else training.first_step)

    def _is_recorded(self, one: Arrival) -> bool:
        return bool(one.digest) and self.record.steps.get(_step(one)) == one.digest

    def _is_being_written(self, one: Arrival) -> bool:
        return not one.ready and not one.quiet and one.judged.kind != "foreign" and one.step is not None

    def _came_late(self, one: Arrival, found: Sequence[Arrival]) -> bool:
        """Whether a checkpoint of a step below the last belongs to the training that is recorded."""
        last = self.record.last
        after = [other for other in found if other.ready and _step(other) >= last and other is not one]
        after = [other for other in after if other.step != last or self._is_recorded(other)]
        return one.step not in self.record.steps and bool(after) and may_continue(one.path, after[-1].path)

    def _go_back(self, one: Arrival, found: Sequence[Arrival]) -> None:
        """Training went back before a step that is recorded: it was resumed from an earlier one, or begun anew."""
        kept = any(self._is_recorded(before) and _step(before) < _step(one) for before in found)
        if kept or (self.training is not None and self.training.first_step > 0):
            self._reopen = partial(self.record.go_back, one.name, _step(one))
        else:
            why = f"{one.name} was written by another training than what is recorded"
            self._reopen = partial(self.record.begin_anew, why, self.training)

    def _leave_out(self, step: int | None, name: str, why: str, *, digest: str = "") -> None:
        """Says that a checkpoint is not scored; with a step that is a gap of the record."""
        self._left |= {digest} - {""}
        self._once(f"{name} {digest} {why}", f"{name} is left out: {why}")
        self.record.leave_out(step, f"{name}: {why}")

    def _note_removed(self, found: Sequence[Arrival]) -> None:
        """What was there before, was not scored, and is gone."""
        now = {one.name for one in found}
        for name, one in self._waiting.items():
            if name not in now and not one.path.exists() and one.step not in self.record.steps:
                self._leave_out(one.step, name, "it was removed before it could be scored")
        done = self._left | self._failed | self.record.earlier
        waiting = [one for one in found if one.judged.kind != "foreign" and one.step is not None]
        self._waiting = {one.name: one for one in waiting if one.digest not in done and not self._is_recorded(one)}

    def _note_missing(self, one: Arrival, found: Sequence[Arrival]) -> None:
        """Steps at which the Trainer must have saved since the last that is recorded, of which nothing was seen."""
        first = 0 if self.training is None else self.training.first_step
        since = max([first, *(at for at in self.record.steps if at < _step(one))])
        known = {other["step"] or 0 for other in self.record.left_out} | {_step(other) for other in found}
        missing = missing_steps(state_of(one.path), _step(one), since=since, seen=known | self.record.steps.keys())
        for at in missing:
            self.record.leave_out(at, "its checkpoint was removed before it could be scored")
        if missing:
            listed = ", ".join(map(str, missing[:10])) + (f" and {len(missing) - 10} more" if missing[10:] else "")
            self._note(f"checkpoints of steps {listed} were removed before they could be scored, and are left out")

    def _note_unfinished(self, found: Sequence[Arrival], *, before: int | None = None) -> None:
        """Those that are not whole though a later one is, or, at the end, at all: each is a gap."""
        for one in found:
            due = one.judged.kind == "unfinished" and self._is_own(one) and _step(one) not in {-1, *self.record.steps}
            if due and (before is None or _step(one) < before):
                why = f"it was never finished: {one.judged.why}"
                self._leave_out(one.step, one.name, why)
                self.unfinished = f"{one.name}: {why}" if before is None and _step(one) > self.record.last else ""

    def _note_foreign(self, found: Sequence[Arrival]) -> None:
        """Those that nobody converted; that they are skipped was said. Only at the end: converting takes its time."""
        known = {other["step"] for other in self.record.left_out} | self.record.steps.keys()
        for one in found:
            if one.judged.kind == "foreign" and one.step is not None and one.step not in known:
                self.record.leave_out(one.step, f"{one.name}: {one.judged.why}")

    def _note_idle(self) -> None:
        if self.training is not None and self.training.status != "training":
            who = f"{self.home / TRAINING} says that its training has ended"
        else:
            who = "the last checkpoint is the one that its training ends with"
        self._note(
            f"nothing is left to score: {who}. A training that is still to begin here is not waited for, whatever "
            "--patience: start it before the watcher, or give each run a directory of its own"
        )

    def _has_ended(self, found: Sequence[Arrival]) -> bool:
        """Whether the run is over, and all that it left was dealt with."""
        dealt = [one for one in found if self._is_recorded(one) or one.digest in self._failed]
        if dealt and self._end[0] != dealt[-1].digest:  # read once
            self._end = dealt[-1].digest, is_last(state_of(dealt[-1].path))
        # One that was resumed may go on to later steps than its checkpoints of before had planned.
        if dealt and self._end[1] and (self.training is None or self.training.max_steps <= _step(dealt[-1])):
            return True
        if self.training is None or self.training.status == "training":
            return False
        # On a shared disk the last checkpoint may be seen after the word that training has ended.
        return self.record.last >= self.training.step or self._clock() - self._since >= self._settle

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


def _step(one: Arrival) -> int:
    return -1 if one.step is None else one.step
