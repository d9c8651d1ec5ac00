"""Finds the fastest scoring path that gives correct log-probabilities on a model.

At first use a few continuations are compared with plain, unpadded forward passes, before all are scored. Where they
differ, or where the model raises, the next path is the fallback: a wrong number is never used silently. Does not know
what the continuations mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from forget_callback.scoring import cache as kv
from forget_callback.scoring.likelihood.divergence import Reading
from forget_callback.scoring.likelihood.forward import Likelihood, ScoringPath, likelihoods
from forget_callback.scoring.likelihood.head import computes_in, head_of, is_matrix, keeps_logits
from forget_callback.scoring.likelihood.plain import MAX_LOGITS, plain_passes
from forget_callback.scoring.likelihood.plan import Chunk, plan, renumbered
from forget_callback.scoring.likelihood.tokens import Continuation
from forget_callback.scoring.memory import Attempt, attempted, within_memory
from forget_callback.scoring.models import (
    head_cost,
    is_sparse,
    layer_settings,
    require_next_tokens,
    text_config,
    varies_from,
)
from forget_callback.scoring.once import once
from forget_callback.scoring.self_check import Stage, first_correct
from forget_callback.scoring.sharding import RankShard

# Fastest first: each path is the fallback of those before it.
PATHS = (
    ScoringPath("tree", "tiles"),
    ScoringPath("tree", "own"),
    ScoringPath("rows", "tiles"),
    ScoringPath("rows", "own"),
    ScoringPath("rows", "all"),
    ScoringPath("unpadded", "all"),
)
# Layer types that are plain attention under a mask. Linear attention and state spaces see every token before.
_MASKED_LAYERS = {"full_attention", "sliding_attention"}


class LikelihoodScorer:
    """Scores the same continuations snapshot after snapshot; their batches and the scoring path are kept.

    Args:
        rows: Continuations, none longer than the model's context.
        items: The item that each belongs to, ``(n_rows,)``; one that is too large for memory is dropped as a whole.
        replicate: Another number gives other batches.

    Attributes:
        path: Chosen at first use, None before.
        dtype: The dtype in which the model computes, known after first use.
        budget: Tokens of a batch that fitted the memory, known after first use.
    """

    def __init__(self, rows: Sequence[Continuation], items: Sequence[int] | None = None, *, replicate: int = 0) -> None:
        self.rows = rows
        self.items = [row.item for row in rows] if items is None else items
        self.replicate = replicate
        self.path: ScoringPath | None = None
        self.dtype = torch.float32
        self.budget = 0
        self._asked: tuple[ScoringPath, int] | None = None  # what the batches were made for
        self._chunks: list[Chunk] = []
        self._too_large: frozenset[int] = frozenset()  # at first use, and since then not tried again

    def score(
        self,
        model: Any,
        *,
        budget: int,
        shard: RankShard = RankShard(),  # noqa: B008 - it is frozen
        advance: Callable[[int], object] = lambda tokens: None,
        reading: Reading = Reading(),  # noqa: B008 - it is frozen
    ) -> list[Likelihood | None]:
        """The likelihoods of all rows, in order, under a causal language model in eval mode.

        None where a row is too large for memory: at first use for good, later for this time.

        Args:
            budget: Tokens of one batch, padding included; a single continuation may have more. The batches of the last
                time are kept where it is the same.
            shard: This rank's shard of the batches; all ranks must call this.
            advance: Called with the tokens of the continuations that are finished, 0 where forward passes begin.
            reading: What is read of documents beside their log-probabilities.

        Raises:
            Exception: What the model raises even on the plainest path.
            torch.OutOfMemoryError: If not even the shortest row fits into memory.
            RuntimeError: If no path agrees with plain forward passes.
        """
        if not self.rows:
            self.budget = budget
            return []
        run = partial(self._run, model, budget, shard, advance, reading)
        if self.path is not None:
            return run(self.path)
        with once():
            self.dtype = computes_in(model)
            require_next_tokens(model, min((row.tokens for row in self.rows), key=len)[:16], self.dtype)
            paths = _supported(model, self.rows)
            plain = shard.collect(model, lambda: plain_passes(model, self.rows, self.dtype))[0]
        few = sorted(plain.logprobs)
        differs = lambda found: shard.broadcast(plain.disagreement(self.rows, found))  # noqa: E731
        stages: list[Stage[ScoringPath]] = [(partial(self._few, model, budget, shard, few), differs), (run, differs)]
        whole = len(few) == len(self.rows)
        found: list[Likelihood | None]
        path, found = first_correct(paths, *stages[whole:], name="scoring path", dtype=self.dtype)
        self.path = path
        self._too_large = frozenset(i for i, one in enumerate(found) if one is None)
        return found

    def _few(
        self, model: Any, budget: int, shard: RankShard, few: Sequence[int], path: ScoringPath
    ) -> dict[int, Likelihood | None]:
        """The likelihoods of a few rows, which every rank finds by itself, in batches of their own."""
        alone = LikelihoodScorer([self.rows[i] for i in few], [self.items[i] for i in few])
        alone.dtype = self.dtype
        run = partial(alone._run, model, budget, RankShard(), lambda tokens: None, Reading(), path)
        return dict(zip(few, shard.collect(model, run)[0]))

    def tokens(self, rows: Iterable[int]) -> int:
        """Tokens of some continuations with their contexts, by which work on them is measured."""
        return sum(len(self.rows[i].tokens) for i in rows)

    def _run(
        self,
        model: Any,
        budget: int,
        shard: RankShard,
        advance: Callable[[int], object],
        reading: Reading,
        path: ScoringPath,
    ) -> list[Likelihood | None]:
        limit = 2**62 if path.head == "tiles" else max(MAX_LOGITS // text_config(model).vocab_size, 256)
        if self._asked != (path, budget):
            self._asked, self._chunks, self.budget = (path, budget), [], budget
        found, fitted = within_memory(
            partial(self._attempts, model, path, shard, advance, reading),
            [i for i in range(len(self.rows)) if i not in self._too_large],
            min(self.budget, limit),
            item=self.items.__getitem__,
            size=lambda i: len(self.rows[i].tokens),
        )
        if fitted < min(self.budget, limit):
            self.budget = fitted
        broken = [i for i, one in sorted(found.items()) if np.isnan(one.logprob)]
        if path.body == "tree" and 0 < len(broken) < len(self.rows):
            # In a packed row one NaN token spoils its neighbours, because a masked 0 x NaN is NaN.
            alone = ScoringPath("rows", path.head)
            chunks = [renumbered(c, broken) for c in _planned([self.rows[i] for i in broken], alone, fitted)]
            own = partial(likelihoods, model, chunks, alone, self.dtype, lambda done: None, reading=reading)
            found.update(attempted(own).found)
        return [found.get(i) for i in range(len(self.rows))]

    def _attempts(
        self,
        model: Any,
        path: ScoringPath,
        shard: RankShard,
        advance: Callable[[int], object],
        reading: Reading,
        keys: Sequence[int],
        budget: int,
        anew: bool,
    ) -> list[Attempt[Likelihood]]:
        head = shard.broadcast(head_cost(model))
        own = _share(shard, self._batched(model, path, keys, budget, head, anew=anew), head)
        done = lambda rows: advance(self.tokens(rows))  # noqa: E731
        work = partial(likelihoods, model, own, path, self.dtype, done, reading=reading)
        advance(0)
        return shard.collect(model, lambda: attempted(work))

    def _batched(
        self, model: Any, path: ScoringPath, keys: Sequence[int], budget: int, head: float, *, anew: bool
    ) -> list[Chunk]:
        """The batches of some rows: those that there are, so that every snapshot forwards the same, and others.

        Args:
            head: As in `plan`.
            anew: Whether batches that these rows have are replaced.
        """
        wanted, members = set(keys), {id(chunk): set(chunk.continuations.tolist()) for chunk in self._chunks}
        kept = [] if anew else [chunk for chunk in self._chunks if members[id(chunk)] <= wanted]
        others = [chunk for chunk in self._chunks if members[id(chunk)].isdisjoint(wanted)]
        rest = sorted(wanted.difference(*(members[id(chunk)] for chunk in kept)))
        if rest:
            with once():
                planned = _planned([self.rows[i] for i in rest], path, budget, model, self.replicate, head)
            kept = [*kept, *(renumbered(chunk, rest) for chunk in planned)]
        self._chunks = [*others, *kept]
        return kept


def _share(shard: RankShard, chunks: Sequence[Chunk], head: float) -> list[Chunk]:
    """This rank's share of the work."""
    if shard.in_lockstep:  # each forward pass on one rank is one on all: their number is what counts
        return shard.select(chunks, lambda chunk: len(chunk.batches), lambda chunk: dict.fromkeys(chunk.prefixes, 1))
    return shard.select(chunks, partial(Chunk.cost, head=head), lambda chunk: chunk.prefixes)


def _planned(
    rows: Sequence[Continuation],
    path: ScoringPath,
    budget: int,
    model: Any = None,
    replicate: int = 0,
    head: float = 0.0,
) -> list[Chunk]:
    share, pad, join = path.body == "tree", path.body != "unpadded", path.head == "tiles"
    how: dict[str, Any] = {"share": share, "pad": pad, "join": join, "replicate": replicate, "head": head}
    chunks = plan(rows, budget, **how)
    if any(batch.prefix for chunk in chunks for batch in chunk.batches):
        chunks = plan(rows, budget, cached=kv.max_tokens(kv.of_prefix(model, (0,)), budget), **how)
    return chunks


def _supported(model: Any, rows: Sequence[Continuation]) -> list[ScoringPath]:
    """The paths that the model's architecture does not rule out."""
    if is_sparse(model) or max(len(row.tokens) for row in rows) > varies_from(model):
        return [PATHS[-1]]  # rows of one length: what a row gives depends on the longest of its batch
    head = head_of(model)
    heads = {"all"} if head is None else {"own", "all"}
    if head is not None and is_matrix(head):
        ids = torch.tensor([rows[0].tokens[:1]], device=next(model.parameters()).device)
        if keeps_logits(model, head, ids):
            heads.add("tiles")
    masked = layer_settings(text_config(model), "layer_types") <= _MASKED_LAYERS
    return [path for path in PATHS if path.head in heads and (masked or path.body != "tree")]
