"""Out of memory (OOM): the forward pass is retried with half the batch.

Knows which errors mean OOM on CUDA, MPS and the CPU, and nothing of what is being computed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory (OOM): on an accelerator or the CPU, on this rank or another."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The last two are how `distributed.together` reports another rank's error.
    phrases = ("out of memory", "can't allocate memory", ": MemoryError:", ": OutOfMemoryError:")
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)


def halve_on_oom(work: Callable[[int], T], budget: int) -> tuple[T, int]:
    """Calls `work` with a budget in tokens, halved on every OOM; returns its result and the budget that fitted.

    Raises:
        Exception: What `work` raises otherwise, and the OOM error itself at a budget of 1.
    """
    while True:
        try:
            return work(budget), budget
        except Exception as error:  # torch raises several types for OOM
            if not is_out_of_memory(error) or budget <= 1:
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
        # Outside the except clause: the traceback there keeps the tensors of the failed forward pass alive.
        budget //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning(
            "out of memory while scoring a probe (%s): continuing with batch_tokens=%d. Items near a tie may flip from "
            "the other batches alone; pass batch_tokens=%d from the start to score every snapshot in the same batches",
            reason,
            budget,
            budget,
        )
