"""Splits a probe over the ranks of a run: each rank scores a shard, every rank gets all results.

Work is shared by what it costs. Batches of forward passes do not depend on the world size, so what eight ranks find
equals what one finds. Where weights are sharded (FSDP, ZeRO-3) every forward pass is a collective, and a rank that has
finished runs dummy forwards until all have. Knows nothing of items or scores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from forget_callback.scoring import distributed

T = TypeVar("T")


@dataclass(frozen=True)
class RankShard:
    """This rank's shard of the work; a single shard by default.

    Attributes:
        index: Shard of this rank, from 0. Ranks of one tensor-parallel group share a shard.
        count: Number of shards.
        in_lockstep: Whether a forward pass on one rank needs a forward pass on all (sharded weights).
    """

    index: int = 0
    count: int = 1
    in_lockstep: bool = False

    @staticmethod
    def of(model: Any) -> RankShard:
        """One shard per model replica of this run. All ranks must score then, or all hang."""
        if distributed.world_size() == 1:
            return RankShard()
        # All ranks of a tensor-parallel group must forward the same batch; torch's own layout numbers a group
        # consecutively. Not run here: it needs several accelerators.
        size = getattr(model, "tp_size", None) or 1
        return RankShard(distributed.rank() // size, distributed.world_size() // size, _is_sharded(model))

    def select(
        self,
        items: Sequence[T],
        cost: Callable[[T], float] = lambda item: 1,
        shared: Callable[[T], Mapping[Any, float]] = lambda item: {},
    ) -> list[T]:
        """This rank's items, in their order: the costliest first, each goes to the rank that is through with it first.

        All ranks share alike. Where there are too few items, a rank without one takes the first, redundantly.

        Args:
            cost: Of an item, above 0.
            shared: What a rank does once for all of its items that need it, and its cost.
        """
        loads, done, own = [0.0] * self.count, [set[Any]() for _ in range(self.count)], []
        costs = [(cost(item), shared(item)) for item in items]
        for at in sorted(range(len(items)), key=lambda at: (-costs[at][0], at)):
            alone, needed = costs[at]
            after = [
                load + alone + sum(more for what, more in needed.items() if what not in known)
                for load, known in zip(loads, done)
            ]
            rank = after.index(min(after))
            loads[rank] = after[rank]
            done[rank].update(needed)
            if rank == self.index:
                own.append(at)
        return [items[at] for at in sorted(own)] or list(items[:1])

    def collect(self, model: Any, work: Callable[[], T]) -> list[T]:
        """Runs `work` on every rank; the results of all of them, in rank order.

        Raises:
            Exception: On all ranks, if `work` fails on one.
        """
        if self.count == 1:
            return [work()]
        own = distributed.together(lambda: _in_lockstep(model, work) if self.in_lockstep else work())
        return distributed.all_gather(own)

    def broadcast(self, value: T) -> T:
        """The main process' value, so that all ranks take the same decision."""
        return value if self.count == 1 else distributed.on_main(lambda: value)


def _is_sharded(model: torch.nn.Module) -> bool:
    """Whether a forward pass gathers weights from other ranks: FSDP 1 and 2, and DeepSpeed ZeRO-3 (not run here)."""
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        return True
    return any(isinstance(p, DTensor) or getattr(p, "ds_id", None) is not None for p in model.parameters())


def _in_lockstep(model: Any, work: Callable[[], T]) -> T:
    """Runs `work` with as many forward passes as any other rank needs, also where `work` fails between two of them.

    Each forward pass is announced by an all-reduce; a rank that has finished answers with a dummy forward of one token.
    A failure within a forward pass, after its first all-gather of weights, leaves the ranks out of step: then the
    process group's timeout ends the wait.
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

    def dummy_forward() -> None:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)

    # Prepended: before the hooks that gather weights. `generate` of a PEFT model calls the base model directly.
    roots = {model, getattr(model, "get_base_model", lambda: model)()}
    error: Exception | None = None
    result: Any = None
    with contextlib.ExitStack() as hooks:
        for root in roots:
            hooks.enter_context(root.register_forward_pre_hook(announce, prepend=True))
            hooks.enter_context(root.register_forward_hook(finish))
        try:
            result = work()
        except Exception as raised:  # the other ranks must not wait for this one
            error = raised
    if announced:
        dummy_forward()
    while distributed.any_rank(False):
        dummy_forward()
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]
