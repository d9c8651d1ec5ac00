"""The processes that score a probe together: each does a part, all get the whole.

What is forwarded does not depend on how many they are, so a snapshot of eight processes is that of one. Where weights
are sharded every forward is a collective, and a process that is done keeps step with the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from forget_callback.scoring import distributed

T = TypeVar("T")


@dataclass(frozen=True)
class RankShard:
    """One process of several that hold copies, or shards, of one model. Alone by default.

    Attributes:
        index: Its part, from 0; processes that hold one copy between them (tensor parallelism) have the same one.
        count: How many parts there are.
        in_lockstep: Whether a forward on one process needs the same forward on all.
    """

    index: int = 0
    count: int = 1
    in_lockstep: bool = False

    @staticmethod
    def of(model: Any) -> RankShard:
        """All processes of this run. Each must score then, or all hang."""
        if distributed.world_size() == 1:
            return RankShard()
        # Of a group of tensor parallelism all must forward the same; torch's own layout puts such a group together.
        # Not run here: it needs several accelerators.
        size = getattr(model, "tp_size", None) or 1
        return RankShard(distributed.rank() // size, distributed.world_size() // size, _is_sharded(model))

    def select(self, things: Sequence[T]) -> list[T]:
        """What this process does: one of `count` parts, or what another does too, where there are too few."""
        return list(things[self.index :: self.count] or things[:1])

    def gather(self, model: Any, work: Callable[[], dict[int, T]]) -> dict[int, T]:
        """What all processes found together.

        Raises:
            Exception: On all processes, if `work` fails on one.
        """
        if self.count == 1:
            return work()
        own = distributed.together(lambda: _in_lockstep(model, work) if self.in_lockstep else work())
        return {key: value for part in distributed.all_gather(own) for key, value in part.items()}

    def broadcast(self, value: T) -> T:
        """The main process' value: what is decided by it is decided alike."""
        return value if self.count == 1 else distributed.on_main(lambda: value)


def _is_sharded(model: torch.nn.Module) -> bool:
    """Whether a forward fetches weights from other processes: FSDP 1 and 2, and DeepSpeed ZeRO-3 (not run here)."""
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        return True
    return any(isinstance(p, DTensor) or getattr(p, "ds_id", None) is not None for p in model.parameters())


def _in_lockstep(model: Any, work: Callable[[], T]) -> T:
    """Does `work`, and as many forwards as any other process needs, also where `work` fails between two of them.

    Each forward is announced; a process without work answers with a forward of one token. A failure within a forward,
    after it fetched its first weights, leaves the processes apart: then the backend's timeout ends the wait.
    """
    announced = 0

    def announce(module: Any, args: Any) -> None:
        nonlocal announced
        if announced == 0:
            distributed.any_rank(True)
        announced += 1

    def finish(module: Any, args: Any, output: Any) -> None:
        nonlocal announced
        announced -= 1

    def follow() -> None:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)

    # Before the hooks that fetch weights. `generate` of a PEFT model calls the model within.
    roots = {model, getattr(model, "get_base_model", lambda: model)()}
    handles = [root.register_forward_pre_hook(announce, prepend=True) for root in roots]
    handles += [root.register_forward_hook(finish) for root in roots]
    error: Exception | None = None
    result: Any = None
    try:
        result = work()
    except Exception as raised:  # the others must not wait for it
        error = raised
    finally:
        for handle in handles:
            handle.remove()
    if announced:
        follow()
    while distributed.any_rank(False):
        follow()
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]
