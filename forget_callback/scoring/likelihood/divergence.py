"""How far a model's next tokens are from a baseline's in documents, read from the tiles of the LM head.

Of the baseline the most likely tokens are kept (`TopTokens`); of a later model their probabilities are read, its most
likely token and its least likely one. Rows x vocabulary logits are never held. Knows nothing of items or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from forget_callback.scoring.likelihood.plan import Chunk
from forget_callback.snapshots.reference import TopTokens

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Divergence:
    """How far a model is from a baseline on the tokens of one text; all are sums over its tokens.

    Attributes:
        kl: KL divergence of the model's next-token distribution from the baseline's in nats, as far as the kept tokens
            show it: never more than the whole.
        error: At most this is missing in `kl`, in nats; NaN if there is no bound.
        agree: Tokens whose most likely next token is the baseline's; a tie agrees.
        n: Tokens.
    """

    kl: float
    error: float
    agree: int
    n: int


class TileReader(Protocol):
    """Reads the logits of a chunk tile by tile."""

    def add(self, tile: torch.Tensor, start: int) -> None:
        """Takes the logits of the tokens from `start` on, ``(n_rows, width)``, and leaves them as they are."""

    def finish(self, log_sum_exp: torch.Tensor) -> Mapping[int, TopTokens | Divergence]:
        """What was read of each continuation, once all tiles are added; `log_sum_exp` is ``(n_rows,)``."""


@dataclass(frozen=True)
class Reading:
    """What is read beside the log-probabilities, of continuations that are documents.

    Attributes:
        keep: So many of the most likely next tokens are kept; then nothing is compared.
        documents: Of these continuations.
        against: What a baseline's were, by continuation.
    """

    keep: int = 0
    documents: frozenset[int] = frozenset()
    against: Mapping[int, TopTokens] = field(default_factory=dict)

    def reader(self, chunk: Chunk, device: torch.device) -> TileReader | None:
        """A new reader of a chunk, None where nothing is to be read in it."""
        wanted = self.documents if self.keep else self.against.keys()
        spans = [(low, high) for low, high in pairwise([0, *chunk.ends.tolist()])]
        own = [(i, span) for i, span in zip(chunk.continuations.tolist(), spans) if i in wanted]
        if not own:
            return None
        rows = np.concatenate([chunk.edge_row[chunk.edge_index[low:high]] for _, (low, high) in own])
        lengths = {i: high - low for i, (low, high) in own}
        if self.keep:
            return _Keeping(rows, lengths, self.keep, len(chunk.order), device)
        return _Comparing(rows, lengths, [self.against[i] for i in lengths], len(chunk.order), device)


class _Keeping:
    """Keeps the most likely next tokens of some rows."""

    def __init__(
        self, rows: NDArray[np.int64], lengths: Mapping[int, int], keep: int, n_rows: int, device: torch.device
    ) -> None:
        self._rows, self._lengths, self._keep = torch.from_numpy(rows).to(device), lengths, keep
        # Of all rows: to choose some in every tile would copy it.
        self._logit = torch.empty(n_rows, 0, device=device)
        self._token = torch.empty(n_rows, 0, dtype=torch.long, device=device)

    def add(self, tile: torch.Tensor, start: int) -> None:
        logit, at = tile.topk(min(self._keep, tile.shape[1]), dim=1)
        logit, token = torch.cat([self._logit, logit], dim=1), torch.cat([self._token, at + start], dim=1)
        self._logit, at = logit.topk(min(self._keep, logit.shape[1]), dim=1)
        self._token = token.gather(1, at)

    def finish(self, log_sum_exp: torch.Tensor) -> dict[int, TopTokens | Divergence]:
        logprob = (self._logit - log_sum_exp[:, None])[self._rows].cpu().numpy().astype(np.float64)
        with np.errstate(divide="ignore"):  # nothing is left where the vocabulary is as small as what is kept
            rest = np.log(np.maximum(1 - np.exp(logprob).sum(axis=1), 0.0))
        tokens = self._token[self._rows].cpu().numpy().astype(np.int32)
        whole = (tokens, logprob.astype(np.float16), rest.astype(np.float16))
        ends = np.cumsum(list(self._lengths.values()))[:-1]
        parts = zip(*(np.split(part, ends) for part in whole))
        return {i: TopTokens(*part) for i, part in zip(self._lengths, parts)}


class _Comparing:
    """Reads what a later model makes of the tokens that a baseline found most likely."""

    def __init__(
        self,
        rows: NDArray[np.int64],
        lengths: Mapping[int, int],
        top: Sequence[TopTokens],
        n_rows: int,
        device: torch.device,
    ) -> None:
        self._lengths, self._top, self._rows = lengths, top, rows
        k = max(one.tokens.shape[1] for one in top)
        # One reference may have been kept with more tokens than another: what is lacking has probability 0.
        self._tokens = np.concatenate([_padded(one.tokens, k, 0) for one in top])
        self._logprob = np.concatenate([_padded(one.logprob.astype(np.float64), k, -np.inf) for one in top])
        flat = self._tokens.ravel()
        self._order = np.argsort(flat, kind="stable")  # so that those of a tile are one slice
        self._sorted = flat[self._order]
        to_device = partial(torch.as_tensor, device=device)
        self._row, self._column = to_device(np.repeat(rows, k)[self._order]), to_device(self._sorted.astype(np.int64))
        self._logit = torch.empty(len(flat), device=device)
        self._least = torch.full((n_rows,), torch.inf, device=device)
        self._most = torch.full((n_rows,), -torch.inf, device=device)
        self._vocabulary = 0

    def add(self, tile: torch.Tensor, start: int) -> None:
        low, high = np.searchsorted(self._sorted, [start, start + tile.shape[1]])
        self._logit[low:high] = tile[self._row[low:high], self._column[low:high] - start]
        least, most = tile.aminmax(dim=1)
        self._least, self._most = torch.minimum(self._least, least), torch.maximum(self._most, most)
        self._vocabulary = start + tile.shape[1]

    def finish(self, log_sum_exp: torch.Tensor) -> dict[int, TopTokens | Divergence]:
        logit = np.empty(self._tokens.shape)
        logit.ravel()[self._order] = self._logit.cpu().numpy()
        parts = (log_sum_exp, self._least, self._most)
        total, least, most = (part.cpu().numpy().astype(np.float64)[self._rows] for part in parts)
        rest = np.concatenate([one.rest for one in self._top]).astype(np.float64)
        n_others = self._vocabulary - np.isfinite(self._logprob).sum(axis=1)
        kl, error = _bounds(self._logprob, rest, logit - total[:, None], least - total, n_others)
        likeliest = np.take_along_axis(logit, self._logprob.argmax(axis=1)[:, None], axis=1)[:, 0]
        found: dict[int, TopTokens | Divergence] = {}
        low = 0
        for i, n in self._lengths.items():
            own = slice(low, low + n)
            agree = int((likeliest[own] >= most[own]).sum())
            found[i] = Divergence(float(kl[own].sum()), float(error[own].sum()), agree, n)
            low += n
        return found


def _bounds(p: Floats, rest: Floats, q: Floats, least: Floats, n_others: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Lower bound of the KL divergence at each position, and what it lacks at most, in nats.

    With P and Q the probability of the kept tokens under the baseline p and the model q, the log-sum inequality gives
    sum over kept of p log(p/q) + (1-P) log((1-P)/(1-Q)) <= KL (Cover and Thomas, Theorem 2.7.1). What is missing is
    (1-P) KL(p'||q') of the two distributions among the other tokens, of which p' is at most p_k / (1-P), with p_k the
    least likely kept token, and q' at least min q / (1-Q).

    Args:
        p, q: Log-probabilities of the kept tokens, ``(n_tokens, k)``; -inf in `p` where fewer were kept.
        rest: Log-probability of all other tokens under the baseline, ``(n_tokens,)``.
        least: Log-probability of the model's least likely token, ``(n_tokens,)``.
        n_others: How many other tokens there are, ``(n_tokens,)``.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # Where all tokens are kept, rounding still leaves a rest.
        others = np.minimum(np.exp(rest), n_others * np.exp(np.where(np.isfinite(p), p, np.inf).min(axis=1)))
        share = np.exp(p)
        share *= ((1 - others) / share.sum(axis=1))[:, None]  # float16 rounds each by itself
        kept = np.where(share > 0, share * (np.log(share) - q), 0.0).sum(axis=1)
        mass = np.where(np.isfinite(p), np.exp(q), 0.0).sum(axis=1)
        # Other tokens have at least the least probability each: where next to nothing is left, rounding gives less.
        left = np.log(np.maximum(1 - mass, n_others * np.exp(least)))
        at_rest = np.where(others > 0, others * (rest - left), 0.0)
        last = np.log(np.where(share > 0, share, np.inf).min(axis=1))
        missing = np.where(others > 0, others * ((last - rest) - (least - left)), 0.0)
    return kept + at_rest, np.where(np.isfinite(missing), np.maximum(missing, 0.0), np.nan)


def _padded(values: NDArray[np.generic], k: int, fill: float) -> NDArray[np.generic]:
    return np.pad(values, ((0, 0), (0, k - values.shape[1])), constant_values=fill)
