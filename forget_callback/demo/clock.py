"""How long a demo run still takes: a line now and then, on a terminal and in a log alike.

Training steps and evaluations cost very different amounts of time, so each is measured by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from forget_callback.scoring.progress import about


class Tracks(Protocol):
    """What shows how far some steps are; rich's `Progress` does too."""

    def track(self, sequence: Sequence[int], *, description: str) -> Iterable[int]:
        """Gives the steps one by one."""


class Stages:
    """How far each stage of a program is: a bar on a terminal, elsewhere a line now and then.

    Args:
        console: Where to say it.
        pause: Seconds between two lines; the first line of a stage comes after a fifth of that.
    """

    def __init__(self, console: Console, *, pause: float = 15.0) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal)
        self._console, self._pause = console, pause

    def __enter__(self) -> Stages:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, what: str, total: int) -> Callable[[int], None]:
        """Begins a stage; gives what is called with the steps that are done."""
        task = self._bars.add_task(what, total=total)
        begun, due = time.monotonic(), self._pause / 5

        def advance(done: int) -> None:
            nonlocal due
            self._bars.update(task, completed=done)
            passed = time.monotonic() - begun
            if self._bars.disable and passed >= due and done < total:
                due = passed + self._pause
                left = about(passed / done * (total - done))
                self._console.print(
                    f"{what}: {done:,} of {total:,} steps, {left} left", highlight=False, soft_wrap=True
                )

        return advance

    def track(self, sequence: Sequence[int], *, description: str) -> Iterator[int]:
        """Gives the steps of a stage one by one."""
        advance = self.begin(description, len(sequence))
        for done, step in enumerate(sequence, start=1):
            yield step
            advance(done)


class TimeLeft(TrainerCallback):
    """Says where the training is and how long it still takes.

    Stands before the ForgetCallback of its trainer: what passes between its own end of a step and the start of the next
    one is the evaluation of a probe.

    Args:
        say: Takes a line.
        every: Steps between two evaluations; the last step is one in any case.
        pause: Seconds between two lines, at least.
    """

    def __init__(self, say: Callable[[str], None], *, every: int, pause: float = 15.0) -> None:
        self._say, self._every, self._pause = say, every, pause
        self._ended = self._begun = self._said = 0.0  # times, by `time.monotonic`
        self._step = self._evaluation = self._baseline = float("nan")  # seconds of each

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The baseline is scored next."""
        self._ended = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training continues, the first time after the baseline, later after an evaluation if there was one."""
        self._begun = time.monotonic()
        passed = self._begun - self._ended
        if state.global_step == 0:
            # Evaluations in between ask the first prompts alone, about half as much as the baseline and the last one.
            self._baseline, self._evaluation = passed, passed / 2
        elif state.global_step % self._every == 0:
            self._evaluation = passed

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step is done, and perhaps an evaluation is next."""
        self._ended = time.monotonic()
        took = self._ended - self._begun
        # The first step warms up; later ones weigh more the later they are.
        self._step = took if state.global_step <= 2 else 0.8 * self._step + 0.2 * took
        due = state.global_step % self._every == 0
        if due or state.global_step == 2 or self._ended - self._said >= self._pause:
            self._said = self._ended
            self._say(f"step {state.global_step:,} of {state.max_steps:,}, {about(self._left(state))} left")

    def _left(self, state: Any) -> float:
        """Seconds; an evaluation that is due at this step is still to come."""
        done, last = state.global_step, state.max_steps
        evaluations = sum(step % self._every == 0 for step in range(done, last))
        return float((last - done) * self._step + evaluations * self._evaluation + self._baseline)
