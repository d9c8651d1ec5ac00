"""The self-check at first use: the fastest way to score that agrees with plain forward passes on the model.

Tries several ways in order and falls back to the next where one raises or disagrees, so that a wrong number is never
used silently. Does not know what the ways are, nor how agreement is measured.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from forget_callback.scoring.likelihood.head import FULL
from forget_callback.scoring.memory import is_out_of_memory
from forget_callback.scoring.once import once

logger = logging.getLogger(__name__)

Way = TypeVar("Way")
Result = TypeVar("Result")


def first_correct(
    ways: Sequence[Way],
    run: Callable[[Way], Result],
    disagreement: Callable[[Result], str | None],
    *,
    name: str,
    dtype: torch.dtype,
) -> tuple[Way, Result]:
    """The first way that agrees with plain forward passes, and its result.

    Args:
        ways: Fastest first; the last one is the plainest.
        run: Scores in one way.
        disagreement: How a result differs from plain forward passes, None if it agrees.
        name: What a way is called in logs and errors.
        dtype: The dtype in which the model computes. In low precision the plainest way is used even if it disagrees,
            with a warning: nothing but rounding is left to explain it.

    Raises:
        Exception: What the plainest way raises, and out of memory (OOM) in any way.
        RuntimeError: If no way agrees.
    """
    rejected: dict[str, str] = {}
    for way in ways:
        plainest = way == ways[-1]
        with once() as attempt:
            try:
                found = run(way)
            except Exception as error:  # any model's code may run here, and the next way may suit it
                if is_out_of_memory(error) or plainest:
                    raise
                problem: str | None = f"{type(error).__name__}: {error}"
            else:
                with once():
                    problem = disagreement(found)
                if problem is not None and plainest and dtype not in FULL:
                    logger.warning("%s, even without batching, in %s: near ties flip by rounding alone", problem, dtype)
                    problem = None
                attempt.repeated = problem is None
                if problem is None:
                    return way, found
        rejected[str(way)] = str(problem)
        logger.info("%s %r rejected, falling back to the next one: %s", name, str(way), problem)
    raise RuntimeError(
        f"no {name} agrees with plain forward passes; check that the model is deterministic in eval mode: {rejected}"
    )
