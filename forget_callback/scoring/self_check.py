"""The self-check at first use: the fastest way to score that agrees with plain forward passes on the model.

Tries several ways in order, each on a few items first, and falls back to the next where one raises or disagrees, so
that a wrong number is never used silently. Does not know what the ways are, nor how agreement is measured.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import torch

from forget_callback.scoring.likelihood.head import FULL
from forget_callback.scoring.memory import is_out_of_memory
from forget_callback.scoring.once import once

logger = logging.getLogger(__name__)

_DISAGREES = "%s, even without batching, in %s: near ties flip by rounding alone"

Way = TypeVar("Way")
# Scores in one way, and how the result differs from plain forward passes, None if it agrees.
Stage: TypeAlias = tuple[Callable[[Way], Any], Callable[[Any], "str | None"]]


def first_correct(ways: Sequence[Way], *stages: Stage[Way], name: str, dtype: torch.dtype) -> tuple[Way, Any]:
    """The first way that agrees with plain forward passes, and the result of its last stage.

    Args:
        ways: Fastest first; the last one is the plainest.
        stages: A few items first, so that a way that is rejected costs little, and all of them last.
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
        problem: str | None = None
        for stage in stages:
            last = stage == stages[-1]
            with once() as attempt:
                found, problem = _attempt(stage, way, plainest=plainest)
                if problem is not None and plainest and dtype not in FULL:
                    if last:
                        logger.warning(_DISAGREES, problem, dtype)
                    problem = None
                attempt.repeated = last and problem is None
            if problem is not None:
                break
        else:
            return way, found
        rejected[str(way)] = problem
        logger.info("%s %r rejected, falling back to the next one: %s", name, str(way), problem)
    raise RuntimeError(
        f"no {name} agrees with plain forward passes; check that the model is deterministic in eval mode: {rejected}"
    )


def _attempt(stage: Stage[Way], way: Way, *, plainest: bool) -> tuple[Any, str | None]:
    """What a way gives, and what speaks against it."""
    run, disagreement = stage
    try:
        found = run(way)
    except Exception as error:  # any model's code may run here, and the next way may suit it
        if is_out_of_memory(error) or plainest:
            raise
        return None, f"{type(error).__name__}: {error}"
    with once():
        return found, disagreement(found)
