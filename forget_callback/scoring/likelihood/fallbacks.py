"""Finds the fastest scoring path that gives correct log-probabilities on a model.

At first use a few continuations are compared with plain, unpadded forward passes. Where they differ, or where the model
raises, the next path is the fallback: a wrong number is never used silently. Does not know what the continuations mean.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from forget_callback.scoring import cache as kv
from forget_callback.scoring.likelihood.divergence import Reading
from forget_callback.scoring.likelihood.forward import Likelihood, ScoringPath, likelihoods
from forget_callback.scoring.likelihood.head import FULL, computes_in, head_of, is_matrix, keeps_logits, rounding
from forget_callback.scoring.likelihood.plan import Chunk, plan, renumbered
from forget_callback.scoring.likelihood.tokens import Continuation
from forget_callback.scoring.memory import Attempt, Progress, attempted, within_memory
from forget_callback.scoring.models import (
    head_cost,
    is_sparse,
    layer_settings,
    require_next_tokens,
    text_config,
    varies_from,
)
from forget_callback.scoring.once import once
from forget_callback.scoring.self_check import first_correct
from forget_callback.scoring.sharding import RankShard

logger = logging.getLogger(__name__)

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
# Logits that the model itself may compute in one forward pass: 512 MiB in float32.
_MAX_LOGITS = 2**27
# Contexts whose continuations are compared with plain forward passes.
_CHECKED = 4


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
            reference, tolerance = shard.collect(model, lambda: _reference(model, self.rows, self.dtype))[0]
        self.path, found = first_correct(
            paths,
            run,
            lambda found: shard.broadcast(_disagreement(self.rows, found, reference, tolerance, self.dtype)),
            name="scoring path",
            dtype=self.dtype,
        )
        self._too_large = frozenset(i for i, one in enumerate(found) if one is None)
        return found

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
        limit = 2**62 if path.head == "tiles" else max(_MAX_LOGITS // text_config(model).vocab_size, 256)
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
        own = _share(model, shard, self._batched(model, path, keys, budget, anew=anew))
        done = lambda rows: advance(self.tokens(rows))  # noqa: E731
        work = partial(likelihoods, model, own, path, self.dtype, done, reading=reading)
        advance(0)
        return shard.collect(model, lambda: attempted(work))

    def _batched(self, model: Any, path: ScoringPath, keys: Sequence[int], budget: int, *, anew: bool) -> list[Chunk]:
        """The batches of some rows: those that there are, so that every snapshot forwards the same, and others.

        Args:
            anew: Whether batches that these rows have are replaced.
        """
        wanted, members = set(keys), {id(chunk): set(chunk.continuations.tolist()) for chunk in self._chunks}
        kept = [] if anew else [chunk for chunk in self._chunks if members[id(chunk)] <= wanted]
        others = [chunk for chunk in self._chunks if members[id(chunk)].isdisjoint(wanted)]
        rest = sorted(wanted.difference(*(members[id(chunk)] for chunk in kept)))
        if rest:
            with once():
                planned = _planned([self.rows[i] for i in rest], path, budget, model, self.replicate)
            kept = [*kept, *(renumbered(chunk, rest) for chunk in planned)]
        self._chunks = [*others, *kept]
        return kept


def _share(model: Any, shard: RankShard, chunks: Sequence[Chunk]) -> list[Chunk]:
    """This rank's share of the work."""
    if shard.in_lockstep:  # each forward pass on one rank is one on all: their number is what counts
        return shard.select(chunks, lambda chunk: len(chunk.batches), lambda chunk: dict.fromkeys(chunk.prefixes, 1))
    return shard.select(chunks, partial(Chunk.cost, head=head_cost(model)), lambda chunk: chunk.prefixes)


def _planned(
    rows: Sequence[Continuation], path: ScoringPath, budget: int, model: Any = None, replicate: int = 0
) -> list[Chunk]:
    share, pad, join = path.body == "tree", path.body != "unpadded", path.head == "tiles"
    how: dict[str, Any] = {"share": share, "pad": pad, "join": join, "replicate": replicate}
    chunks = plan(rows, budget, **how)
    if any(batch.prefix for chunk in chunks for batch in chunk.batches):
        chunks = plan(rows, budget, cached=kv.max_tokens(model, budget), **how)
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


def _reference(model: Any, rows: Sequence[Continuation], dtype: torch.dtype) -> tuple[dict[int, float], float]:
    """Log-probabilities of some continuations, one plain forward pass each; and the tolerance per token, in nats.

    The shortest and the longest are among them, as far as memory reaches.

    Raises:
        torch.OutOfMemoryError: If not even the shortest fits into memory.
    """
    by_length = sorted(range(len(rows)), key=lambda i: (len(rows[i].tokens), i))
    chosen = {by_length[round(at)] for at in np.linspace(0, len(rows) - 1, min(_CHECKED, len(rows)))}
    # The last continuation of each context as well: only what follows another in its trie needs a mask.
    contexts = {rows[i].tokens[: rows[i].n_context] for i in chosen}
    last = {row.tokens[: row.n_context]: i for i, row in sorted(enumerate(rows), key=lambda pair: pair[1].tokens)}
    chosen |= {last[context] for context in contexts}
    tolerances = {}

    def forward(progress: Progress[float]) -> None:
        for i in sorted(chosen, key=lambda i: (len(rows[i].tokens), i)):
            progress.running = [i]
            progress.found[i], tolerances[i] = _plain(model, rows[i], dtype)

    attempt = attempted(forward)
    if not attempt.found:
        raise torch.OutOfMemoryError(attempt.reason)
    if attempt.failed:
        logger.info("only %d of %d plain forward passes fit into memory", len(attempt.found), len(chosen))
    return attempt.found, max(tolerances.values())


def _plain(model: Any, row: Continuation, dtype: torch.dtype) -> tuple[float, float]:
    """The log-probability of a continuation by plain forward passes, and the tolerance per token, in nats.

    One pass where all logits fit into `_MAX_LOGITS`; of a long document one for each part of its logits.
    """
    ids = torch.tensor([row.tokens], device=next(model.parameters()).device)
    n = len(row.tokens) - 1
    head, most = head_of(model), max(_MAX_LOGITS // text_config(model).vocab_size, 1)
    spans = [(0, n)] if head is None or n <= most else [(at, min(at + most, n)) for at in range(0, n, most)]
    logprob = tolerance = 0.0
    for low, high in spans:
        cut = contextlib.nullcontext() if head is None or high - low == n else _only(head, low, high)
        with cut:
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0]
        if len(logits) != high - low:
            raise RuntimeError("the model does not call the module that get_output_embeddings returns")
        first = max(row.n_context - 1, low)
        scored, targets = logits[first - low :].float(), ids[0, first + 1 : high + 1]
        if len(targets):
            own = torch.log_softmax(scored, dim=-1).gather(1, targets[:, None])
            logprob, tolerance = logprob + float(own.double().sum()), max(tolerance, rounding(scored, dtype))
    return logprob, tolerance


def _only(head: torch.nn.Module, low: int, high: int) -> contextlib.AbstractContextManager[Any]:
    """Lets only the hidden states of some tokens pass the LM head."""
    return head.register_forward_pre_hook(lambda module, args: (args[0][:, low:high],))


def _disagreement(
    rows: Sequence[Continuation],
    found: Sequence[Likelihood | None],
    reference: dict[int, float],
    tolerance: float,
    dtype: torch.dtype,
) -> str | None:
    """How the log-probabilities differ from the reference, None if a token's differs by no more than the tolerance.

    In full precision no continuation may differ by more; in low precision, where rounding is large, their root mean
    square.
    """
    pairs = [(rows[i], one.logprob, expected) for i, expected in reference.items() if (one := found[i]) is not None]
    if any(np.isnan(logprob) != np.isnan(expected) for _, logprob, expected in pairs):
        return "log-probabilities are NaN where a plain forward pass gives numbers"
    errors = [(logprob - expected) / (len(row.tokens) - row.n_context) for row, logprob, expected in pairs]
    if np.isnan(errors).all():
        return None
    size = np.sqrt(np.nanmean(np.square(errors))) if dtype not in FULL else np.nanmax(np.abs(errors))
    said = f"a token's log-probability differs by {size:.2g} nats from a plain forward pass, {tolerance:.2g} is allowed"
    return said if size > tolerance else None
