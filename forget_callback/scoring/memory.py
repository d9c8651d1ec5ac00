"""When memory ends: a forward is tried again with half the tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ended, on an accelerator or on the CPU, here or on another process."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    said = ("out of memory", "can't allocate memory", ": MemoryError:", ": OutOfMemoryError:")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


def halve_on_oom(work: Callable[[int], T], budget: int) -> tuple[T, int]:
    """Does `work` with a budget of tokens, halved as often as memory ends; returns what it gave and the budget.

    Raises:
        Exception: What `work` raises, and out of memory where nothing is left to halve.
    """
    while True:
        try:
            return work(budget), budget
        except Exception as error:  # torch raises several types for it
            if not is_out_of_memory(error) or budget <= 1:
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
        # Out of the except clause, for the traceback there holds what the forward had allocated.
        budget //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning(
            "out of memory in a probe (%s): going on with batch_tokens=%d from here on. Items near a tie may flip from "
            "the other batches alone; pass batch_tokens=%d from the start to compare alike",
            reason,
            budget,
            budget,
        )
