"""The checkpoints that appear in a directory while a training runs: which there are, of which step, which are whole.

Polls, for a shared disk tells nobody of new files: a listing of each checkpoint that is not done yet, and a `stat` or
two of each that is. Knows nothing of scores.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from forget_callback.tools.checkpoints import Checkpoint
from forget_callback.tools.whole import TRAINER_STATE, Judged, digest_of, is_temporary, judge, listing_of

PATTERN = "checkpoint-*"
_WILD = re.compile(r"(?:\*+|\?|\[[^\]/]+\])+")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Arrival:
    """A directory that the pattern matches.

    Attributes:
        path: Where it is.
        name: Its path within the run's directory.
        step: None where neither the trainer's state nor the name says.
        judged: What it is.
        quiet: Whether its files have not changed for a while.
        digest: Of a whole one, what tells it from another of its step; "" while it changes.
    """

    path: Path
    name: str
    step: int | None
    judged: Judged
    quiet: bool
    digest: str = ""

    @property
    def ready(self) -> bool:
        """Whether it can be loaded: whole, and nobody writes to it any more."""
        return self.judged.kind == "whole" and (self.judged.marked or self.quiet)


class Arrivals:
    """The checkpoints of one run.

    Args:
        run: Its directory, which need not be there yet.
        pattern: Which directories in it are checkpoints, such as "step-*" or "step*/hf".
        settle: Seconds without a change after which a directory is quiet.
        clock: In seconds.

    Raises:
        ValueError: If the pattern leads out of the directory.
    """

    def __init__(self, run: Path, pattern: str, *, settle: float, clock: Callable[[], float] = time.monotonic) -> None:
        parts = PurePosixPath(pattern).parts
        if not parts or pattern.startswith(("/", "~")) or ".." in parts or "\\" in pattern:
            raise ValueError(
                f"--pattern {pattern!r} must name directories within the run's, such as 'checkpoint-*', 'step-*' or "
                "'step*/hf'"
            )
        self._run, self._pattern, self._settle, self._clock = run, pattern, settle, clock
        self._changed: dict[str, tuple[object, float]] = {}  # what was listed, and when that was first so
        self._done: dict[str, tuple[Arrival, object]] = {}

    def look(self) -> list[Arrival]:
        """What there is now, by step; those without one last."""
        found = []
        for path in self._run.glob(self._pattern):
            name = path.relative_to(self._run).as_posix()
            if is_temporary(name) or name == "forget" or name.startswith("forget/"):
                continue
            try:
                if path.is_dir():
                    found.append(self._look_at(path, name))
            except OSError:  # it is being removed
                continue
        return sorted(found, key=lambda one: (one.step is None, one.step or 0, one.name))

    def would_take(self, path: Path) -> bool:
        """Whether a path lies in a directory that would be taken for a checkpoint."""
        within = path.resolve()
        if not within.is_relative_to(self._run.resolve()):
            return False
        parts = within.relative_to(self._run.resolve()).parts
        depth = len(PurePosixPath(self._pattern).parts)
        return len(parts) >= depth and parts[0] != "forget" and PurePosixPath(*parts[:depth]).match(self._pattern)

    def done(self, arrival: Arrival) -> None:
        """Need not be listed again unless its weights or state change."""
        self._done[arrival.name] = arrival, _stamp(arrival)

    def _look_at(self, path: Path, name: str) -> Arrival:
        if name in self._done:
            known, stamp = self._done[name]
            if _stamp(known) == stamp:
                return known
            del self._done[name]
        listing, now = listing_of(path), self._clock()
        if self._changed.get(name, (None, 0.0))[0] != listing:
            self._changed[name] = listing, now
        found = Arrival(path, name, None, judge(path, listing), now - self._changed[name][1] >= self._settle)
        found = replace(found, step=self._step(found))
        return replace(found, digest=digest_of(path, found.judged)) if found.ready else found

    def _step(self, found: Arrival) -> int | None:
        if found.ready and (found.path / TRAINER_STATE).is_file():
            return Checkpoint.of(str(found.path)).step
        return step_in(found.name, self._pattern)


def _stamp(arrival: Arrival) -> object:
    """What changes when a checkpoint is written anew."""
    names = [*arrival.judged.weights[:1], *arrival.judged.weights[-1:], TRAINER_STATE]
    files = [arrival.path / name for name in names]
    stats = [file.stat() for file in files if file.name != TRAINER_STATE or file.is_file()]
    return [(one.st_size, one.st_mtime_ns) for one in stats]


def step_in(name: str, pattern: str) -> int | None:
    """The step in a name: the last number in what the wildcards of the pattern stand for, else in the name.

    >>> step_in("step1000-hf", "step*"), step_in("step1000/hf-bf16", "step*/hf-bf16"), step_in("final", "*")
    (1000, 1000, None)
    """
    expression, at = "", 0
    for wild in _WILD.finditer(pattern):
        expression += re.escape(pattern[at : wild.start()]) + "(.*)"
        at = wild.end()
    matched = re.fullmatch(expression + re.escape(pattern[at:]), name)
    for text in [*reversed(matched.groups() if matched else ()), name]:
        if numbers := _NUMBER.findall(text):
            return int(numbers[-1])
    return None
