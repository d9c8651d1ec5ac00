"""The few things that processes of one training run must do together; with one process they cost nothing.

Each is a collective: all processes call it at the same place, or all of them hang.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def summed(values: Sequence[float] | torch.Tensor) -> list[float]:
    """The sums of `values` over all processes."""
    here = torch.as_tensor(values, dtype=torch.float64)
    if _several():
        # NCCL moves device tensors only, Gloo moves both.
        device = torch.device("cuda") if torch.distributed.get_backend() == "nccl" else torch.device("cpu")
        here = here.to(device, copy=True)
        torch.distributed.all_reduce(here)
    result: list[float] = here.tolist()
    return result


def any_of(flag: bool) -> bool:
    """Whether `flag` holds on any process; the same answer on all."""
    return summed([float(flag)])[0] > 0


def wait() -> None:
    """Until every process is here."""
    if _several():
        torch.distributed.barrier()
