"""Out of memory (OOM): what was not finished is retried with half the batch, and what does not fit alone is given up.

Knows which errors mean OOM on CUDA, MPS and the CPU, and nothing of what is being computed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")

TOO_LARGE = "too large for memory"
# Share of a device's memory that is left for what nobody counts: fragments, other libraries, one batch.
_MARGIN = 0.1
# By device, in bytes: the most that training had allocated at once, and the peak as scoring left it.
_peaks: dict[torch.device, tuple[int, int]] = {}
# Items that are tried and found too large, one after the other, before size alone decides: every OOM takes time.
_TRIED = 8


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory (OOM): on an accelerator or the CPU, on this rank or another."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The last two are how `distributed.together` reports another rank's error.
    phrases = ("out of memory", "can't allocate memory", ": MemoryError:", ": OutOfMemoryError:")
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)


def spare_bytes(*, free: int, total: int, reserved: int, allocated: int, peak: int) -> int:
    """Bytes of a device that scoring may take so that the next training step still finds what it needs.

    Args:
        free: That no process has taken.
        reserved: That torch has taken from the device, of which `allocated` bytes are in use.
        peak: The most that training had in use at once.
    """
    return max(free + reserved - allocated - max(peak - allocated, 0) - int(_MARGIN * total), 0)


def training_peak(kept: tuple[int, int], now: int) -> int:
    """The most that training had allocated at once: scoring raises the peak, too, and only training resets it.

    Args:
        kept: That of the last time, and the peak as scoring left it then.
        now: The peak before scoring.
    """
    return kept[0] if now == kept[1] else now


@contextlib.contextmanager
def spare_memory(device: torch.device) -> Iterator[int]:
    """`spare_bytes` of a CUDA device, 0 elsewhere; what torch has reserved by then is given back on exit."""
    if device.type != "cuda":
        yield 0
        return
    peak = training_peak(_peaks.get(device, (0, 0)), torch.cuda.max_memory_allocated(device))
    free, total = torch.cuda.mem_get_info(device)
    reserved, allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    try:
        yield spare_bytes(free=free, total=total, reserved=reserved, allocated=allocated, peak=peak)
    finally:
        _peaks[device] = peak, torch.cuda.max_memory_allocated(device)
        torch.cuda.empty_cache()


@dataclass
class Progress(Generic[T]):
    """How far some work has come.

    Attributes:
        found: Its results so far, by key.
        running: Keys of what is in memory together now.
    """

    found: dict[int, T] = field(default_factory=dict)
    running: Sequence[int] = ()


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """What came of some work on one rank.

    Attributes:
        found: Its results, by key.
        failed: Keys of what was in memory together when that ran out; empty if it did not.
        reason: The first line of the error then.
    """

    found: dict[int, T]
    failed: tuple[int, ...] = ()
    reason: str = ""


def attempted(work: Callable[[Progress[T]], object]) -> Attempt[T]:
    """Does some work until it is through or out of memory; what it has finished counts.

    Raises:
        Exception: Any other error, and OOM before the work has begun.
    """
    progress: Progress[T] = Progress()
    try:
        work(progress)
    except Exception as error:  # torch raises several types for OOM
        if not is_out_of_memory(error) or not progress.running:
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
    else:
        return Attempt(progress.found)
    # Outside the except clause: the traceback there keeps the tensors of the failed forward pass alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Attempt(progress.found, tuple(progress.running), reason)


# Of keys, a budget in tokens, and whether the batches of these keys are planned anew: an attempt of each rank.
Work: TypeAlias = Callable[[Sequence[int], int, bool], list[Attempt[T]]]


def within_memory(
    work: Work[T], keys: Iterable[int], budget: int, *, item: Callable[[int], int], size: Callable[[int], int]
) -> tuple[dict[int, T], int]:
    """Does work on all keys that fit into memory, with a budget in tokens that is halved on OOM.

    What is finished is not done again. A batch of one item is tried once more with each key alone; an item that fails
    then is given up, and the others go on with the original budget. After some such items all that are as large are
    given up untried, and the others go on from the smallest. All ranks get the same attempts and so decide alike.

    Args:
        work: Returns the attempts of all ranks.
        item: The item that a key belongs to; it is given up as a whole.
        size: Tokens of a key.

    Returns:
        The results by key, without those given up, and the budget that fitted.

    Raises:
        torch.OutOfMemoryError: If not even the smallest key fits and nothing else did.
        Exception: What `work` raises otherwise.
    """
    original, anew = budget, False
    found: dict[int, T] = {}
    lost: set[int] = set()  # items
    left = list(keys)

    def failures(asked: Sequence[int], tokens: int, anew: bool) -> dict[tuple[int, ...], str]:
        attempts = work(asked, tokens, anew)
        for one in attempts:
            found.update(one.found)
        return {one.failed: one.reason for one in attempts if one.failed}

    while left:
        asked = left if len(lost) < _TRIED else sorted(left, key=size)[: (len(left) + 1) // 2]
        failed = failures(asked, budget, anew)
        assert failed or found.keys() >= set(asked), "work that neither fails nor gives results would never end"
        anew, before, halved = False, len(lost), ""
        for group, reason in failed.items():
            if budget > 1 and len({item(key) for key in group}) > 1:
                halved = reason
                continue
            alone = failures(group, 1, True)
            lost |= {item(key) for one in alone for key in one}
            if alone and not found:
                smallest = [key for key in left if item(key) not in lost]
                if not smallest or failures([min(smallest, key=size)], 1, True):
                    raise torch.OutOfMemoryError(reason)
            if alone and len(lost) > _TRIED:
                least = min(size(key) for one in alone for key in one)
                lost |= {item(key) for key in left if size(key) >= least and key not in found}
        left = [key for key in left if key not in found and item(key) not in lost]
        if len(lost) > before:
            anew = budget < original and len(lost) <= _TRIED
            budget = original if anew else budget
            logger.info("%d items are %s; going on with batch_tokens=%d", len(lost), TOO_LARGE, budget)
        elif halved:
            anew, budget = True, budget // 2
            logger.warning(
                "out of memory while scoring a probe (%s): continuing with batch_tokens=%d. Items near a tie may flip "
                "from the other batches alone; pass batch_tokens=%d from the start to score every snapshot in the same "
                "batches",
                halved,
                budget,
                budget,
            )
    return found, budget
