"""Collectives for the ranks of one training run; with a single process they cost nothing.

Every function here that communicates is a collective: all ranks must call it at the same place, or all of them hang.
Whatever may fail on one rank alone therefore runs inside `together` or `on_main`, which raise on every rank. Knows
nothing of models or probes.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed

T = TypeVar("T")
_ON_ALL_RANKS = "_raised_on_all_ranks"


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """The process group of a torchrun launch, for the duration of a command; a no-op for a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or torch.distributed.is_initialized():
        yield
        return
    if torch.accelerator.device_count() > 1:
        torch.get_device_module().set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # Only results are exchanged, never weights, so Gloo is enough on every device.
    torch.distributed.init_process_group("gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def rank() -> int:
    """Global rank; 0 is the main process."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def world_size() -> int:
    """Number of processes in the run; 1 without torch.distributed."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def all_reduce_sum(values: Sequence[float] | torch.Tensor) -> list[float]:
    """Sums of `values` over all ranks, element by element, in float64."""
    local = torch.as_tensor(values, dtype=torch.float64)
    if world_size() > 1:
        # NCCL moves device tensors only, Gloo moves both.
        device = torch.device("cuda") if torch.distributed.get_backend() == "nccl" else torch.device("cpu")
        local = local.to(device, copy=True)
        torch.distributed.all_reduce(local)
    result: list[float] = local.tolist()
    return result


def any_rank(flag: bool) -> bool:
    """Whether `flag` is true on any rank; the same result on all."""
    return all_reduce_sum([float(flag)])[0] > 0


def all_gather(value: T) -> list[T]:
    """The value of every rank, in rank order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def together(work: Callable[[], T]) -> T:
    """Runs `work` on every rank and returns its local result; if it fails on one rank, all ranks raise.

    Raises:
        Exception: What `work` raised, on the first rank on which it failed.
        RuntimeError: On the other ranks, naming that rank and its error.
    """
    if world_size() == 1:
        return work()
    result: Any = None
    error: Exception | None = None
    try:
        result = work()
    except Exception as raised:  # whatever it is, the other ranks must raise too
        if getattr(raised, _ON_ALL_RANKS, False):
            raise
        error = raised
    try:
        failures = all_gather(None if error is None else f"{type(error).__name__}: {error}")
        first = next((at for at, failure in enumerate(failures) if failure is not None), None)
        if first is None:
            return result  # type: ignore[no-any-return]
        if first != rank() or error is None:
            error = RuntimeError(f"rank {first}: {failures[first]}")
        setattr(error, _ON_ALL_RANKS, True)  # an enclosing `together` does not gather failures once more
        raise error
    finally:
        del error, result  # a traceback keeps the tensors of a failed forward pass alive


def on_main(work: Callable[[], T]) -> T:
    """Runs `work` on the main process only and broadcasts its result to all ranks.

    Raises:
        Exception: What `work` raised, on the main process.
        RuntimeError: On the other ranks, with the main process' error.
    """
    if world_size() == 1:
        return work()
    result: Any = None

    def dumped() -> bytes | None:
        nonlocal result
        if rank() > 0:
            return None
        result = work()
        return pickle.dumps(result)

    box: list[Any] = [together(dumped)]
    torch.distributed.broadcast_object_list(box, src=0)
    return result if rank() == 0 else pickle.loads(box[0])  # type: ignore[no-any-return]
