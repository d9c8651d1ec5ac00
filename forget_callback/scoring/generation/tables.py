"""Where the tokens of rows lie, and the products of their queries with keys and of their weights with values there.

The rows of a prefill lie behind one another, without padding; those of a decoding step have a token each, and their
earlier ones in pages. A table is made once a forward pass and read by every layer. Knows neither prefix nor softmax.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from forget_callback.scoring.generation.schedule import PAGE

Pools = tuple[torch.Tensor, torch.Tensor]


@dataclass(eq=False)
class Table:
    """The new tokens of a forward pass, ``n`` in all.

    Attributes:
        ids: Which they are, ``(n,)``.
        tokens: Tokens of its row up to each, itself included and the prefix not, ``(n,)``.
        before: The most tokens that a row had before.
        width: Of the scores.
    """

    ids: torch.Tensor
    tokens: torch.Tensor
    before: int
    width: int
    _hidden: dict[tuple[int, int | None], torch.Tensor] = field(default_factory=dict, init=False)

    def hidden(self, depth: int, window: int | None) -> torch.Tensor:
        """What each new token does not see of its row, with a window of the prefix before it too, ``(n, columns)``."""
        if (depth, window) not in self._hidden:
            at = torch.arange(0 if window is None else -depth, self.width, device=self.tokens.device)
            hidden = at >= self.tokens[:, None]
            if window is not None:
                hidden = hidden | (at < self.tokens[:, None] - window)
            self._hidden[depth, window] = hidden
        return self._hidden[depth, window]

    def scores(self, queries: torch.Tensor, keys: torch.Tensor, pools: Pools) -> torch.Tensor:
        """Products with the keys of each one's row, ``(kv_heads, group, n, width)``; any where those are hidden.

        Args:
            queries: ``(kv_heads, group, n, head_dim)``.
            keys: The new ones.
            pools: Keys and values in pages.
        """
        raise NotImplementedError

    def mix(self, weights: torch.Tensor, values: torch.Tensor, pools: Pools) -> torch.Tensor:
        """Sums of values by weights that are as the scores were, ``(kv_heads, group, n, head_dim)``."""
        raise NotImplementedError


@dataclass(eq=False)
class PrefillTable(Table):
    """Rows behind one another.

    Attributes:
        at: Where each row's tokens are, its last one again and again after them, ``(rows, width)``.
        place: Where each token is there, ``(n,)``.
        last: The last token of each row, ``(rows,)``.
    """

    at: torch.Tensor
    place: torch.Tensor
    last: torch.Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], device: torch.device) -> PrefillTable:
        """The table of some rows' tokens after the prefix."""
        lengths, width = np.array([len(row) for row in rows]), max(map(len, rows))
        ends, columns = np.cumsum(lengths), np.arange(width)
        at = (ends - lengths)[:, None] + np.minimum(columns, lengths[:, None] - 1)
        place = np.flatnonzero(columns < lengths[:, None])
        new = np.array([token for row in rows for token in row])
        ids, tokens, *own = _moved([new, place % width + 1, place, ends - 1, at.ravel()], device)
        return cls(ids, tokens, 0, width, at=own[2].view(-1, width), place=own[0], last=own[1])

    def scores(self, queries: torch.Tensor, keys: torch.Tensor, pools: Pools) -> torch.Tensor:
        """Scores, a row a product."""
        return self._packed(self._by_row(queries) @ self.rows(keys).transpose(-1, -2))

    def mix(self, weights: torch.Tensor, values: torch.Tensor, pools: Pools) -> torch.Tensor:
        """Sums of values, a row a product."""
        return self._packed(self._by_row(weights) @ self.rows(values))

    def rows(self, keys: torch.Tensor) -> torch.Tensor:
        """Keys or values of each row, ``(1, kv_heads, n, head_dim)`` as ``(kv_heads, rows, width, head_dim)``."""
        return keys[0][:, self.at]

    def _by_row(self, packed: torch.Tensor) -> torch.Tensor:
        """``(kv_heads, group, n, ...)`` as ``(kv_heads, rows, group * width, ...)``."""
        return packed[:, :, self.at].transpose(1, 2).flatten(2, 3)

    def _packed(self, by_row: torch.Tensor) -> torch.Tensor:
        split: torch.Tensor = by_row.unflatten(2, (-1, self.width))
        return split.transpose(1, 2).flatten(2, 3)[:, :, self.place]


@dataclass(eq=False)
class StepTable(Table):
    """Rows in pages, and a new token of each.

    Attributes:
        pages: Pages of each row, in the order of its tokens, then any others, ``(rows, most pages of a row)``.
        owner: The row of each page, ``(pages,)``; any for a free one.
        column: Where it stands in the row, ``(pages,)``.
    """

    pages: torch.Tensor
    owner: torch.Tensor
    column: torch.Tensor

    @classmethod
    def of(
        cls, rows: Sequence[Sequence[int]], tokens: Sequence[int], ids: Sequence[int], device: torch.device
    ) -> StepTable:
        """The table of some rows' pages."""
        lengths, flat = np.array([len(own) for own in rows]), np.array([page for own in rows for page in own])
        row = np.repeat(np.arange(len(rows)), lengths)
        at = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        pages, of_page = np.zeros((len(rows), lengths.max()), np.int64), np.zeros((2, flat.max() + 1), np.int64)
        pages[row, at], of_page[0, flat], of_page[1, flat] = flat, row, at
        parts = [np.array(ids), np.array(tokens), pages.ravel(), of_page[0], of_page[1]]
        new, n_tokens, own, owner, column = _moved(parts, device)
        most = pages.shape[1]
        return cls(new, n_tokens, max(tokens) - 1, most * PAGE, pages=own.view(-1, most), owner=owner, column=column)

    @functools.cached_property
    def new(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Page and place in it of each row's new token, ``(rows,)`` each."""
        at = (self.tokens - 1) // PAGE
        return self.pages.gather(1, at[:, None]).squeeze(1), (self.tokens - 1) % PAGE

    @functools.cached_property
    def others(self) -> torch.Tensor:
        """Which of `pages` are not the row's, ``(rows, most pages of a row, 1, 1, 1)``."""
        at = torch.arange(self.pages.shape[1], device=self.tokens.device)
        return (at >= -(-self.tokens // PAGE)[:, None])[:, :, None, None, None]

    def scores(self, queries: torch.Tensor, keys: torch.Tensor, pools: Pools) -> torch.Tensor:
        """Scores, a page a product."""
        asked = queries.permute(2, 0, 1, 3)[self.owner]
        found = asked @ pools[0][: len(self.owner)].transpose(-1, -2)
        return found[self.pages].permute(2, 3, 0, 1, 4).flatten(3)

    def mix(self, weights: torch.Tensor, values: torch.Tensor, pools: Pools) -> torch.Tensor:
        """Sums of values, a page a product."""
        own = weights.unflatten(3, (-1, PAGE)).permute(2, 3, 0, 1, 4)[self.owner, self.column]
        found: torch.Tensor = (own @ pools[1][: len(self.owner)])[self.pages]
        return found.masked_fill_(self.others, 0).sum(dim=1).permute(1, 2, 0, 3)


def _moved(parts: Sequence[NDArray[np.int64]], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Arrays on the device, in one copy, for which the host does not wait."""
    packed: torch.Tensor = torch.from_numpy(np.concatenate(parts))
    packed = packed.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else packed.to(device)
    return torch.split(packed, [part.size for part in parts])
