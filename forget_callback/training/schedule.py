"""When to evaluate the probes, by the number of optimizer steps.

Arithmetic on steps alone: nothing here knows a model or a Trainer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from operator import index
from typing import Any

from forget_callback.probes.quoting import quoted

Schedule = int | frozenset[int] | str | None


def checked(every: int | str | Iterable[int] | None) -> Schedule:
    """A schedule as `ForgetCallback` and recipes take it.

    Args:
        every: None, a number of optimizer steps, a list of steps or "log2"; in text (YAML) also "500" and "100,200".

    >>> checked("100"), sorted(checked("100,200,400"))
    (100, [100, 200, 400])

    Raises:
        ValueError: If it is anything else; says what to write instead.
    """
    if every is None or (isinstance(every, str) and every == "log2"):
        return every
    several = isinstance(every, Iterable) and not isinstance(every, str)
    try:
        steps = [int(part) for part in every.split(",")] if isinstance(every, str) else _whole(every)
    except (TypeError, ValueError):
        steps = []
    if not steps or min(steps) < 1:
        raise ValueError(
            "every must be None (at each evaluation of the Trainer), a number of optimizer steps of 1 or more, a list "
            f"of such steps or 'log2', got {quoted(every)}{_instead(every)}"
        )
    return frozenset(steps) if several or len(steps) > 1 else steps[0]


def _whole(every: Any) -> list[int]:
    """The numbers as int, those of numpy too; neither bool nor float is one, not even 1.0."""
    numbers = list(every) if isinstance(every, Iterable) else [every]
    if any(isinstance(number, bool) for number in numbers):
        raise TypeError("a bool is no number of steps")
    return [index(number) for number in numbers]


def _instead(every: object) -> str:
    """What to do instead, where it is plain what was meant."""
    if isinstance(every, float) and 0 < every < 1:
        share = f"eval_strategy='steps', eval_steps={every}"
        return f"; for a share of the run, leave every out and set {share} in TrainingArguments"
    if isinstance(every, str) and every in ("epoch", "steps"):
        return f"; leave every out and set eval_strategy={quoted(every)} in TrainingArguments"
    return "; for each evaluation, leave every out" if isinstance(every, bool) else ""


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
    """Snapshots after the baseline in a run of `last` steps, the last step always among them.

    `evaluations` is how many the Trainer plans: the schedule where `every` is None.
    """
    if every is None:
        return max(evaluations, 1)
    return sum(1 for step in range(1, last + 1) if is_due(every, step) or step == last)


def evaluations(strategy: str, last: int, *, steps: float, epochs: float) -> int:
    """Evaluations that a Trainer plans by its `eval_strategy`, every so many steps or once an epoch."""
    if strategy == "steps":
        return math.ceil(last / max(int(steps or last), 1))
    return math.ceil(epochs) if strategy == "epoch" else 0


def to_come(every: Schedule, step: int, last: int, *, evaluations: int) -> int:
    """Snapshots after a step, that of the last step among them.

    Args:
        evaluations: How many the Trainer plans in all: the schedule where `every` is None.

    >>> [to_come(every, 8, 20, evaluations=5) for every in (8, frozenset([3, 8]), "log2", None)]
    [2, 1, 2, 3]
    """
    if every is None:
        return math.ceil(max(evaluations, 1) * (last - step) / last)
    if isinstance(every, int):
        due = last // every - step // every
    elif isinstance(every, frozenset):
        due = sum(step < one <= last for one in every)
    else:  # powers of two
        due = last.bit_length() - step.bit_length()
    return due + (step < last and not is_due(every, last))


# A training step runs a sample forward and backward: about three forward passes.
_PASSES = 3


def baseline_share(prompts: int, trained: float) -> float:
    """About which share of a run's time its baseline takes, as known before anything is timed.

    As if a prompt took as long as the forward pass of a training sample; generated answers take longer.

    Args:
        prompts: That the baseline scores.
        trained: Samples that the run trains on.

    >>> round(baseline_share(96, 64), 3)
    0.333
    """
    return prompts / (prompts + _PASSES * trained)
