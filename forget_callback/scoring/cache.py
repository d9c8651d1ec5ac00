"""A preallocated KV cache: it grows in place, is truncated back to a prompt prefix, and lets rows leave the batch.

transformers' own dynamic cache copies all keys and values for every new token; static caches need one fixed batch.
Knows nothing of prompts or padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from transformers.cache_utils import Cache, DynamicLayer

Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]

# KV cache memory per token of the batch: 1 GiB for a batch of 8,192 tokens.
_BYTES = 2**17


def max_tokens(model: Any, budget: int) -> int:
    """Tokens that the KV cache may hold beside a batch of `budget` tokens."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None) or 1
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    heads = getattr(config, "num_key_value_heads", None) or heads
    own = 2 * config.num_hidden_layers * heads * size * torch.finfo(model.dtype).bits // 8
    return int(budget * _BYTES // own)


class PreallocatedLayer(DynamicLayer):
    """One layer's keys and values as views of larger buffers, ``(rows, heads, length, head_dim)``.

    Args:
        capacity: Tokens to allocate for at the first update.
    """

    def __init__(self, capacity: int = 0) -> None:
        super().__init__()
        self.capacity = capacity
        self.buffers: Pair | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends new tokens in place; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, length = key_states.shape[0], self.get_seq_length()
        end = length + key_states.shape[-2]
        if self.buffers is None or self.buffers[0].shape[-2] < end:
            kept = (self.keys, self.values) if length else None
            # Spare capacity, so that the next token does not copy the buffers again.
            size = max(end, self.capacity) if kept is None else end + end // 4
            self._allocate((key_states, value_states), kept, size)
        assert self.buffers is not None
        for buffer, new in zip(self.buffers, (key_states, value_states)):
            buffer[:rows, :, length:end] = new
        self._set_view(rows, end)
        return self.keys, self.values

    def _allocate(self, like: Pair, kept: Pair | None, size: int) -> None:
        keys, values = (new.new_empty((*new.shape[:-2], size, new.shape[-1])) for new in like)
        if kept is not None:
            keys[:, :, : kept[0].shape[-2]], values[:, :, : kept[1].shape[-2]] = kept
        self.buffers = (keys, values)

    def _set_view(self, rows: int, length: int) -> None:
        assert self.buffers is not None
        self.keys, self.values = (buffer[:rows, :, :length] for buffer in self.buffers)

    def truncate(self, rows: int, length: int) -> None:
        """Keeps the first `rows` and the first `length` tokens of each; the buffers stay allocated."""
        self._set_view(rows, length)

    def replace(self, kept: Pair, capacity: int) -> None:
        """Copies these keys and values into new buffers with capacity for `capacity` tokens."""
        self.lazy_initialization(*kept)
        self._allocate(kept, kept, max(capacity, kept[0].shape[-2]))
        self._set_view(*kept[0].shape[:3:2])


def empty(capacity: int = 0) -> Cache:
    """An empty cache with capacity for `capacity` tokens."""
    return Cache(layer_class_to_replicate=partial(PreallocatedLayer, capacity))


def from_pairs(pairs: Sequence[Pair], capacity: int) -> Cache:
    """A cache that holds a copy of these keys and values, one pair per layer, with capacity for `capacity` tokens."""
    layers = [PreallocatedLayer() for _ in pairs]
    for layer, pair in zip(layers, pairs):
        layer.replace(pair, capacity)
    return Cache(layers=layers)


def truncate(cache: Cache, rows: int, length: int) -> None:
    """Keeps the first `rows` and the first `length` tokens of each."""
    for layer in cache.layers:
        layer.truncate(rows, length)


def compact(cache: Cache, sources: Sequence[int], targets: Sequence[int], rows: int) -> None:
    """Copies rows `sources` over rows `targets`, then keeps the first `rows`."""
    length = cache.get_seq_length()
    for layer in cache.layers:
        for buffer in layer.buffers if sources else ():
            buffer[list(targets), :, :length] = buffer[list(sources), :, :length]
        layer.truncate(rows, length)


def pairs(cache: Cache) -> list[Pair]:
    """Keys and values of each layer.

    Raises:
        TypeError: If the model replaced the cache's layers by its own.
    """
    kept = [isinstance(layer, PreallocatedLayer) and layer.buffers is not None for layer in cache.layers]
    if not kept or not all(kept):
        raise TypeError(f"the model does not keep keys and values in the cache that was passed to it: {cache}")
    return [(layer.keys, layer.values) for layer in cache.layers]
