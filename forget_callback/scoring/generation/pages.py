"""Keys and values in pages, behind a prompt prefix that all rows share, and the attention that reads them in place.

Queries attend to the prefix, which is kept once, in one matrix product for all rows, and to pages in one for all pages;
one softmax runs over both. Nothing is copied when rows join, grow or leave. Knows nothing of requests.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer

from forget_callback.scoring import cache as kv
from forget_callback.scoring.generation.schedule import PAGE

# The name of `attend` among the attention implementations of transformers.
ATTENTION = "forget_callback_pages"


@dataclass(eq=False)
class Table:
    """What holds the tokens of which row, in one decoding step.

    Attributes:
        pages: Pages of each row, in the order of its tokens, then any others, ``(rows, most pages of a row)``.
        others: Which of them are not the row's, ``(rows, most pages of a row, 1, 1, 1)``.
        owner: The row of each page, ``(pages,)``; any for a free one.
        column: Where it stands in the row, ``(pages,)``.
        tokens: Tokens of each row, the prefix not counted and the new one included, ``(rows,)``.
        ids: The new tokens, ``(rows,)``.
        longest: The most tokens of a row.
    """

    pages: torch.Tensor
    others: torch.Tensor
    owner: torch.Tensor
    column: torch.Tensor
    tokens: torch.Tensor
    ids: torch.Tensor
    longest: int
    _hidden: dict[tuple[int, int | None], torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, rows: Sequence[Sequence[int]], tokens: Sequence[int], ids: Sequence[int], device: torch.device
    ) -> Table:
        """The table of some rows' pages."""
        lengths, flat = np.array([len(own) for own in rows]), np.array([page for own in rows for page in own])
        row = np.repeat(np.arange(len(rows)), lengths)
        at = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        pages, of_page = np.zeros((len(rows), lengths.max()), np.int64), np.zeros((2, flat.max() + 1), np.int64)
        pages[row, at], of_page[0, flat], of_page[1, flat] = flat, row, at
        parts = [pages.ravel(), of_page.ravel(), np.array(tokens), np.array(ids)]
        # In one copy, for which the host does not wait.
        packed = torch.from_numpy(np.concatenate(parts))
        packed = packed.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else packed.to(device)
        moved = packed.split([part.size for part in parts])
        others = torch.arange(pages.shape[1], device=device) >= -(-moved[2] // PAGE)[:, None]
        owner, column = moved[1].view(2, -1)
        return cls(
            moved[0].view(pages.shape),
            others[:, :, None, None, None],
            owner,
            column,
            moved[2],
            moved[3],
            longest=max(tokens),
        )

    @functools.cached_property
    def new(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Page and place in it of each row's new token, ``(rows,)`` each."""
        at = (self.tokens - 1) // PAGE
        return self.pages.gather(1, at[:, None]).squeeze(1), (self.tokens - 1) % PAGE

    def hidden(self, depth: int, window: int | None) -> torch.Tensor:
        """What each row's new token does not see of the prefix and of its pages, ``(rows, 1, 1, columns)``."""
        if (depth, window) not in self._hidden:
            at = torch.arange(-depth, self.pages.shape[1] * PAGE, device=self.tokens.device)
            hidden = at >= self.tokens[:, None]
            if window is not None:
                hidden = hidden | (at < self.tokens[:, None] - window)
            self._hidden[depth, window] = hidden[:, None, None]
        return self._hidden[depth, window]


class PagedLayer(DynamicLayer):
    """One layer's keys and values: those of the prefix in one row, and pools of pages.

    Attributes:
        prefix: ``(1, heads, depth, head_dim)`` each.
        depth: Tokens of the prefix.
        pools: ``(n_pages, heads, PAGE, head_dim)`` each.
        table: Of this decoding step, None while rows are prefilled.
        attended: How often attention has read it.
        window: The sliding window that attention was given last, None if none.
    """

    def __init__(self, prefix: kv.Pair, n_pages: int) -> None:
        super().__init__()
        self.prefix, self.depth = prefix, int(prefix[0].shape[2])
        # Zeros, because masked values must not be NaN either.
        shapes = [(n_pages, part.shape[1], PAGE, part.shape[3]) for part in prefix]
        self.pools = tuple(part.new_zeros(shape) for part, shape in zip(prefix, shapes))
        self.table: Table | None = None
        self.attended = 0
        self.window: int | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Puts new tokens into their pages, or keeps those of a prefill; returns only them."""
        if self.table is None:
            self.keys, self.values = key_states, value_states
        else:
            page, at = self.table.new
            for pool, new in zip(self.pools, (key_states, value_states)):
                pool[page, :, at] = new[:, :, 0]
        key_states.paged = self  # type: ignore[attr-defined]  # for `attend`
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Tokens before those of the next forward pass, in the longest row."""
        return self.depth + (0 if self.table is None else self.table.longest - 1)


class PagedCache(Cache):
    """The layers of a model.

    Args:
        prefix: Keys and values of each layer; of no tokens where no prefix is shared.
    """

    layers: list[PagedLayer]

    def __init__(self, prefix: Sequence[kv.Pair], n_pages: int) -> None:
        super().__init__(layers=[PagedLayer(pair, n_pages) for pair in prefix])

    def use(self, table: Table | None) -> None:
        """Sets the table of the next forward pass."""
        for layer in self.layers:
            layer.table, layer.attended = table, 0

    def require_attended(self) -> None:
        """Checks that each layer was read after the last `use`.

        Raises:
            TypeError: If the model's attention did not come by `attend`.
        """
        if not all(layer.attended for layer in self.layers):
            raise TypeError("the model does not attend through transformers' AttentionInterface")

    def require_window(self) -> None:
        """Checks that a layer was read through a sliding window last: `attend` does not read masks.

        Raises:
            TypeError: If none was.
        """
        if all(layer.window is None for layer in self.layers):
            raise TypeError("the model's sliding window is in its masks alone")

    def prefilled(self) -> list[kv.Pair]:
        """What the last prefill has added to the prefix."""
        return [(layer.keys, layer.values) for layer in self.layers]

    def store(self, prefilled: Sequence[kv.Pair], rows: Sequence[int], pages: Sequence[Sequence[int]]) -> None:
        """Copies rows of a prefill into pages.

        Args:
            prefilled: Keys and values of each layer, ``(rows, heads, width, head_dim)``.
            rows: Which of its rows, one or several times.
            pages: The pages of each of them; the last one may hold padding after the row's tokens.
        """
        device = prefilled[0][0].device
        at = torch.tensor([row for row, own in zip(rows, pages) for _ in own], device=device)
        column = torch.tensor([n for own in pages for n in range(len(own))], device=device)
        page = torch.tensor([page for own in pages for page in own], device=device)
        for layer, pair in zip(self.layers, prefilled):
            for pool, part in zip(layer.pools, pair):
                part = torch.nn.functional.pad(part, (0, 0, 0, -part.shape[2] % PAGE))
                pool[page] = part.unflatten(2, (-1, PAGE))[at, :, column]

    def move(self, moves: Mapping[int, int]) -> None:
        """Copies pages to where they are moved."""
        if moves:
            pools = [pool for layer in self.layers for pool in layer.pools]
            sources, targets = torch.tensor([[*moves], [*moves.values()]], device=pools[0].device)
            for pool in pools:
                pool[targets] = pool[sources]

    def clear(self, pages: Sequence[int]) -> None:
        """Removes what a row with NaN has left."""
        for pool in (pool for layer in self.layers for pool in layer.pools if pages):
            pool[list(pages)] = 0


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Attention of new tokens to the prefix, to their rows' pages and to each other.

    Args:
        query: ``(rows, heads, width, head_dim)``.
        key: What `PagedLayer.update` returned.
        value: What it returned.
        attention_mask: Not read: rows are chains.
        scaling: Of the scores; the root of the size of a head by default.
        sliding_window: Tokens that a token sees, itself included.
        softcap: The scores' bound.
        s_aux: A score of each head that takes part in the softmax and has no value, ``(heads,)``.

    Returns:
        ``(rows, width, heads, head_dim)``, and no weights.

    Raises:
        TypeError: If the keys do not come from a `PagedLayer`, or scores depend on positions.
    """
    layer = getattr(key, "paged", None)
    if not isinstance(layer, PagedLayer) or position_bias is not None:
        raise TypeError("the model's attention needs more than queries, keys and values")
    layer.attended, layer.window = layer.attended + 1, sliding_window
    rows, heads, width, size = query.shape
    kv_heads, depth, table = key.shape[1], layer.depth, layer.table
    scaled = query * (size**-0.5 if scaling is None else scaling)
    # Queries of one head of keys side by side: (rows, kv_heads, queries, head_dim).
    grouped = scaled.reshape(rows, kv_heads, -1, size)
    if table is None:
        own = grouped @ key.transpose(-1, -2)
        hidden = _later(width, depth, sliding_window, query.device).repeat(heads // kv_heads, 1)
    else:
        own = grouped[table.owner] @ layer.pools[0][: len(table.owner)].transpose(-1, -2)
        own = own[table.pages].permute(0, 2, 3, 1, 4).flatten(3)
        hidden = table.hidden(depth, sliding_window)
    if depth:
        own = torch.cat([_times(grouped, layer.prefix[0].transpose(-1, -2)), own], dim=-1)
    scores = own.float()
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill_(hidden, -torch.inf)
    if s_aux is not None:
        sinks = s_aux.view(1, kv_heads, -1, 1).repeat_interleave(width, dim=2).expand(rows, -1, -1, -1)
        scores = torch.cat([scores, sinks.float()], dim=-1)
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    of_own = weights[..., depth : own.shape[-1]]
    if table is None:
        found = of_own @ value
    else:
        of_own = of_own.unflatten(3, (-1, PAGE)).permute(0, 3, 1, 2, 4)[table.owner, table.column]
        parts = (of_own @ layer.pools[1][: len(table.owner)])[table.pages]
        found = parts.masked_fill_(table.others, 0).sum(dim=1)
    if depth:
        found = found + _times(weights[..., :depth], layer.prefix[1])
    return found.reshape(rows, heads, width, -1).transpose(1, 2), None


def _times(rows: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    """``(rows, heads, n, a) @ (1, heads, a, b)`` as one product a head: a broadcast one reads `shared` for each row."""
    n_rows, heads, n, _ = rows.shape
    product = rows.transpose(0, 1).reshape(heads, n_rows * n, -1) @ shared[0]
    return product.view(heads, n_rows, n, -1).transpose(0, 1)


def _later(width: int, depth: int, window: int | None, device: torch.device) -> torch.Tensor:
    """What each of `width` tokens after a prefix does not see of it and of them, ``(width, depth + width)``."""
    at = torch.arange(-depth, width, device=device)
    tokens = at[depth:, None]
    hidden = at > tokens
    return hidden if window is None else hidden | (at <= tokens - window)


AttentionInterface.register(ATTENTION, attend)
