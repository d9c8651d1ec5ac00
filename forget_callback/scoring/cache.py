"""A preallocated KV cache, which grows in place and is truncated back to a prompt prefix, and how much one may hold.

transformers' own dynamic cache copies all keys and values for every new token; static caches need one fixed batch.
Knows nothing of prompts or padding.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from transformers.cache_utils import Cache, DynamicLayer

Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]

# KV cache memory per token of the batch: 1 GiB for a batch of 8,192 tokens.
_BYTES = 2**17
# Tokens of a batch beside which the cache may take all memory that is spare; after OOM they are fewer, and so is it.
_WHOLE = 8192


def bytes_beside(budget: int) -> int:
    """Memory that the KV cache may always take beside a batch of `budget` tokens."""
    return budget * _BYTES


def max_tokens(held: Sequence[Pair], budget: int, spare: int = 0) -> int:
    """Tokens that the KV cache may hold beside a batch of `budget` tokens, by what one token takes.

    Measured, because configs do not say it: layers differ, share keys and values, or keep them compressed.

    Args:
        held: Keys and values of each layer after some tokens, see `of_prefix`.
        spare: Bytes that are, see `memory.spare_bytes`. None where batches are planned, which must be the same on all
            ranks and at every snapshot.
    """
    own = sum(part[:1, :, :1].nbytes for pair in held for part in pair)
    return int(max(bytes_beside(budget), spare * min(budget, _WHOLE) // _WHOLE) // own)


class PreallocatedLayer(DynamicLayer):
    """One layer's keys and values as views of larger buffers, ``(rows, heads, length, head_dim)``."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers: Pair | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends new tokens in place; returns all keys and values."""
        rows, length = key_states.shape[0], self.get_seq_length()
        end = length + key_states.shape[-2]
        if self.buffers is None:
            self.allocate((key_states[:, :, :0], value_states[:, :, :0]), end)
        elif self.buffers[0].shape[-2] < end:
            # Spare capacity, so that the next token does not copy the buffers again.
            self.allocate((self.keys, self.values), end + end // 4)
        assert self.buffers is not None
        for buffer, new in zip(self.buffers, (key_states, value_states)):
            buffer[:rows, :, length:end] = new
        self.truncate(rows, end)
        return self.keys, self.values

    def allocate(self, kept: Pair, capacity: int) -> None:
        """Copies these keys and values into new buffers with capacity for `capacity` tokens."""
        self.dtype, self.device = kept[0].dtype, kept[0].device
        self.is_initialized = True  # `lazy_initialization` takes other arguments in other versions of transformers
        rows, _, length, _ = kept[0].shape
        keys, values = (part.new_empty((*part.shape[:2], capacity, part.shape[-1])) for part in kept)
        keys[:, :, :length], values[:, :, :length] = kept
        self.buffers = (keys, values)
        self.truncate(rows, length)

    def truncate(self, rows: int, length: int) -> None:
        """Keeps the first `rows` and the first `length` tokens of each; the buffers stay allocated."""
        assert self.buffers is not None
        self.keys, self.values = (buffer[:rows, :, :length] for buffer in self.buffers)


def empty() -> Cache:
    """An empty cache; the first update allocates what it needs."""
    return Cache(layer_class_to_replicate=PreallocatedLayer)


def from_pairs(pairs: Sequence[Pair], capacity: int, *, rows: int = -1) -> Cache:
    """A cache that holds a copy of these keys and values, one pair per layer, with capacity for `capacity` tokens.

    A single row may be expanded to `rows` rows.
    """
    layers = [PreallocatedLayer() for _ in pairs]
    for layer, (keys, values) in zip(layers, pairs):
        layer.allocate((keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)), capacity)
    return Cache(layers=layers)


def truncate(cache: Cache, rows: int, length: int) -> None:
    """Keeps the first `rows` and the first `length` tokens of each."""
    for layer in cache.layers:
        layer.truncate(rows, length)


def argument(model: torch.nn.Module, cache: Cache) -> dict[str, Any]:
    """The arguments that pass a cache to the model: "cache" from transformers 5.24 on, "past_key_values" before.

    Found in the signature of the model that the wrappers hold, since code of other people keeps the older name.
    """
    named = (_cache_name(type(module).forward) for module in model.modules())
    return {next(filter(None, named), "past_key_values"): cache, "use_cache": True}


@functools.cache
def _cache_name(forward: Any) -> str | None:
    parameters = inspect.signature(forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in parameters), None)


def of_prefix(model: Any, prefix: Sequence[int]) -> list[Pair]:
    """Keys and values of each layer after one forward pass of a prefix, in one row.

    Raises:
        TypeError: If the model does not keep keys and values in the cache that is passed to it.
    """
    cache = empty()
    ids = torch.tensor([prefix], device=next(model.parameters()).device)
    model(input_ids=ids, **argument(model, cache))
    return pairs(cache)


def pairs(cache: Cache) -> list[Pair]:
    """Keys and values of each layer.

    Raises:
        TypeError: If the model replaced the cache's layers by its own.
    """
    kept = [isinstance(layer, PreallocatedLayer) and layer.buffers is not None for layer in cache.layers]
    if not kept or not all(kept):
        raise TypeError(f"the model does not keep keys and values in the cache that was passed to it: {cache}")
    return [(layer.keys, layer.values) for layer in cache.layers]
