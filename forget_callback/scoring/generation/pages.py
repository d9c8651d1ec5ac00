"""Keys and values in pages, behind a prompt prefix that all rows share, and the attention that reads them in place.

Queries attend to the prefix, which is kept once, in one matrix product for all rows, and to pages in one for all pages;
one softmax runs over both. Nothing is copied when rows join, grow or leave. Knows nothing of requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer

from forget_callback.scoring import cache as kv
from forget_callback.scoring.generation.schedule import PAGE
from forget_callback.scoring.generation.tables import PrefillTable, StepTable

# The name of `attend` among the attention implementations of transformers.
ATTENTION = "forget_callback_pages"


class PagedLayer(DynamicLayer):
    """One layer's keys and values: those of the prefix in one row, and pools of pages.

    Attributes:
        prefix: ``(1, heads, depth, head_dim)`` each.
        depth: Tokens of the prefix.
        pools: ``(n_pages, heads, PAGE, head_dim)`` each.
        table: Of this forward pass.
        attended: How often attention has read it.
        window: The sliding window that attention was given last, None if none.
    """

    table: PrefillTable | StepTable

    def __init__(self, prefix: kv.Pair, n_pages: int) -> None:
        super().__init__()
        self.prefix, self.depth = prefix, int(prefix[0].shape[2])
        # Zeros, because masked values must not be NaN either.
        keys, values = (part.new_zeros((n_pages, part.shape[1], PAGE, part.shape[3])) for part in prefix)
        self.pools = keys, values
        self.attended = 0
        self.window: int | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Puts new tokens into their pages, or keeps those of a prefill; returns only them."""
        if isinstance(self.table, PrefillTable):
            self.keys, self.values = key_states, value_states
        else:
            page, at = self.table.new
            for pool, new in zip(self.pools, (key_states, value_states)):
                pool[page, :, at] = new[:, :, 0]
        key_states.paged = self  # type: ignore[attr-defined]  # for `attend`
        return key_states, value_states

    def prefilled(self) -> kv.Pair:
        """What the last prefill has added to the prefix, ``(rows, heads, width, head_dim)`` each."""
        assert isinstance(self.table, PrefillTable)
        keys, values = (self.table.rows(part).transpose(0, 1) for part in (self.keys, self.values))
        return keys, values

    def get_seq_length(self) -> int:
        """Tokens before those of the next forward pass, in the longest row."""
        return self.depth + self.table.before


class PagedCache(Cache):
    """The layers of a model.

    Args:
        prefix: Keys and values of each layer; of no tokens where no prefix is shared.
    """

    layers: list[PagedLayer]

    def __init__(self, prefix: Sequence[kv.Pair], n_pages: int) -> None:
        super().__init__(layers=[PagedLayer(pair, n_pages) for pair in prefix])

    def use(self, table: PrefillTable | StepTable) -> None:
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
        """What the last prefill has added to the prefix, ``(rows, heads, width, head_dim)`` each."""
        return [layer.prefilled() for layer in self.layers]

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
    # All tokens behind one another: (kv_heads, queries of one head of keys, tokens, head_dim).
    queries = scaled.transpose(0, 1).reshape(kv_heads, -1, rows * width, size)
    scores = table.scores(queries, key, layer.pools)
    if depth:
        scores = torch.cat([_times(queries, layer.prefix[0].transpose(-1, -2)), scores], dim=-1)
    scores = scores.float()
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    hidden = table.hidden(depth, sliding_window)
    scores[..., scores.shape[-1] - hidden.shape[-1] :].masked_fill_(hidden, -torch.inf)
    if s_aux is not None:
        sinks = s_aux.float().view(kv_heads, -1, 1, 1).expand(-1, -1, rows * width, -1)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    found = table.mix(weights[..., depth : depth + table.width], value, layer.pools)
    if depth:
        found = found + _times(weights[..., :depth], layer.prefix[1])
    return found.flatten(0, 1).transpose(0, 1).reshape(rows, width, heads, -1), None


def _times(tokens: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    """``(heads, group, n, a) @ (1, heads, a, b)`` as one product a head."""
    product = tokens.flatten(1, 2) @ shared[0]
    return product.view(*tokens.shape[:3], -1)


AttentionInterface.register(ATTENTION, attend)
