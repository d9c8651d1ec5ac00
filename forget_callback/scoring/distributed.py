"""The few things that processes of one training run must do together; with one process they cost nothing.

Each is a collective: all processes call it at the same place, or all of them hang. So whatever may fail on one process
alone runs inside `together` or `on_main`, after which it has failed on all.
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
_HEARD = "_heard_by_all_processes"


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized() and world_size() > 1


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """The processes that torchrun started, joined for the time of a command; nothing where this is the only one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or torch.distributed.is_initialized():
        yield
        return
    if torch.accelerator.device_count() > 1:
        torch.get_device_module().set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # Results alone go between processes, so Gloo serves on every device.
    torch.distributed.init_process_group("gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def rank() -> int:
    """This process' number, 0 is the main one."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def all_reduce_sum(values: Sequence[float] | torch.Tensor) -> list[float]:
    """The sums of `values` over all processes."""
    here = torch.as_tensor(values, dtype=torch.float64)
    if _is_distributed():
        # NCCL moves device tensors only, Gloo moves both.
        device = torch.device("cuda") if torch.distributed.get_backend() == "nccl" else torch.device("cpu")
        here = here.to(device, copy=True)
        torch.distributed.all_reduce(here)
    result: list[float] = here.tolist()
    return result


def any_rank(flag: bool) -> bool:
    """Whether `flag` holds on any process; the same answer on all."""
    return all_reduce_sum([float(flag)])[0] > 0


def all_gather(value: T) -> list[T]:
    """What every process gave, in the order of the processes."""
    if not _is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def together(work: Callable[[], T]) -> T:
    """What `work` gives here, once it is done everywhere.

    Raises:
        Exception: What it raised, if this is the first process on which it failed.
        RuntimeError: What it raised on the first process on which it failed, if that is another one.
    """
    if not _is_distributed():
        return work()
    result: Any = None
    error: Exception | None = None
    try:
        result = work()
    except Exception as raised:  # whatever it is, the others must hear of it
        if getattr(raised, _HEARD, False):
            raise
        error = raised
    try:
        failures = all_gather(None if error is None else _said(error))
        first = next((at for at, failure in enumerate(failures) if failure is not None), None)
        if first is None:
            return result  # type: ignore[no-any-return]
        if first != rank() or error is None:
            error = RuntimeError(f"rank {first}: {failures[first]}")
        raise _heard(error)
    finally:
        del error, result  # a traceback holds what a failed forward had allocated


def on_main(work: Callable[[], T]) -> T:
    """Lets the main process alone do something, and gives what came of it to all.

    Raises:
        Exception: What it raised, on the main process.
        RuntimeError: What it raised there, on the others.
    """
    if not _is_distributed():
        return work()
    result: Any = None
    error: Exception | None = None
    box: list[Any] = [None]
    if rank() == 0:
        try:
            result = work()
            box = [(pickle.dumps(result), None)]
        except Exception as raised:  # the others wait for an answer
            error, box = raised, [(None, _said(raised))]
    torch.distributed.broadcast_object_list(box, src=0)
    data, failure = box[0]
    if failure is not None:
        raise _heard(error or RuntimeError(f"rank 0: {failure}"))
    return result if rank() == 0 else pickle.loads(data)  # type: ignore[no-any-return]


def _heard(error: Exception) -> Exception:
    """Marks an error that is raised on all processes, so that nobody tells the others of it again."""
    setattr(error, _HEARD, True)
    return error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
