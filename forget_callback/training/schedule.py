"""When to look, by the number of optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Iterable

Schedule = int | frozenset[int] | str | None


def checked(every: int | Iterable[int] | str | None) -> Schedule:
    """A schedule as `ForgetCallback` takes it: None, a number of steps, a list of them or "log2".

    Raises:
        ValueError: If it is anything else.
    """
    if every is None or every == "log2":
        return every
    steps = [every] if isinstance(every, int) else list(every) if not isinstance(every, str) else []
    if not steps or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in steps):
        raise ValueError(f"every must be None, a number of steps of 1 or more, a list of them or 'log2', got {every!r}")
    return every if isinstance(every, int) else frozenset(steps)


def is_due(every: Schedule, step: int) -> bool:
    """Whether a schedule names this step.

    >>> [step for step in range(1, 20) if is_due("log2", step)]
    [1, 2, 4, 8, 16]
    """
    if every is None:
        return False
    if isinstance(every, int):
        return step % every == 0
    return step in every if isinstance(every, frozenset) else step & (step - 1) == 0


def planned(every: Schedule, last: int, *, evaluations: int) -> int:
    """Looks after the baseline in a run of `last` steps, of which the last is one; evaluations are looks by None."""
    if every is None:
        return max(evaluations, 1)
    return sum(1 for step in range(1, last + 1) if is_due(every, step) or step == last)


def evaluations(strategy: str, last: int, *, steps: float, epochs: float) -> int:
    """Evaluations that a Trainer plans by its `eval_strategy`, every so many steps or once an epoch."""
    if strategy == "steps":
        return math.ceil(last / max(int(steps or last), 1))
    return math.ceil(epochs) if strategy == "epoch" else 0
