"""Finds the cheapest way to score continuations that gives the right numbers on the model at hand.

At first use a few continuations are compared with plain unpadded forwards; where they differ, or where the model
raises, the next path is tried. Never a wrong number in silence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from forget_callback.scoring import cache as kv
from forget_callback.scoring.likelihood.forward import Likelihood, ScoringPath, likelihoods
from forget_callback.scoring.likelihood.head import FULL, computes_in, head_of, is_matrix, keeps_logits, rounding
from forget_callback.scoring.likelihood.plan import Chunk, plan
from forget_callback.scoring.likelihood.tokens import Continuation
from forget_callback.scoring.memory import is_out_of_memory
from forget_callback.scoring.sharding import RankShard

logger = logging.getLogger(__name__)

PATHS = (
    ScoringPath("tree", "tiles"),
    ScoringPath("tree", "own"),
    ScoringPath("rows", "tiles"),
    ScoringPath("rows", "own"),
    ScoringPath("rows", "all"),
    ScoringPath("unpadded", "all"),
)
# Layers whose every token sees what a mask lets it see.
_MASKED_LAYERS = {"full_attention", "sliding_attention"}
# Logits that the model itself may compute at once: 512 MiB in float32.
_LOGITS = 2**27
# Contexts of which continuations are compared with plain forwards.
_CHECKED = 4


@dataclass(frozen=True)
class Work:
    """What a scoring forwarded: tokens with padding, tokens without, and rows through the head."""

    forwarded: int = 0
    unique: int = 0
    head_rows: int = 0


class LikelihoodScorer:
    """Continuations that are scored again and again; their plans and the path that serves the model are kept.

    Args:
        rows: None longer than the model's context.
        variant: Another number, other batches.

    Attributes:
        path: Chosen at first use, None before.
        rejected: Levels that were tried before it, with the reason why they do not serve.
        dtype: The precision in which the model computes, known after first use.
        work: What the last scoring forwarded.
    """

    def __init__(self, rows: Sequence[Continuation], *, variant: int = 0) -> None:
        self.rows = rows
        self.variant = variant
        self.path: ScoringPath | None = None
        self.rejected: dict[str, str] = {}
        self.work = Work()
        self.dtype = torch.float32
        self._plans: dict[tuple[str, str, int], list[Chunk]] = {}

    def score(
        self,
        model: Any,
        *,
        budget: int,
        shard: RankShard = RankShard(),  # noqa: B008 - it is frozen
        advance: Callable[[int], object] = lambda n: None,
    ) -> list[Likelihood]:
        """The likelihoods of all rows, in order, under a causal language model in eval mode.

        Args:
            budget: Tokens of one forward, padding included; a single continuation may have more.
            shard: The processes that share the forwards; all of them call this.
            advance: Called with the number of continuations that are done.

        Raises:
            Exception: What the model raises even when it is called in the plainest way, and out of memory.
        """
        if not self.rows:
            return []
        if self.path is not None:
            return self._run(model, self.path, budget, shard, advance)
        self.dtype = computes_in(model)
        paths, (reference, allowed) = _possible(model, self.rows), _plainly(model, self.rows, self.dtype)
        for path in paths:
            try:
                found = self._run(model, path, budget, shard, advance)
            except Exception as error:  # any model's code may run here, and the next path may suit it
                if is_out_of_memory(error) or path == paths[-1]:
                    raise
                problem: str | None = f"{type(error).__name__}: {error}"
            else:
                problem = shard.broadcast(_difference(self.rows, found, reference, allowed))
                rounded = self.dtype not in FULL and path == paths[-1]
                if problem is not None and rounded:
                    logger.warning(
                        "%s, even in the plainest way, in %s: near ties items flip by rounding alone",
                        problem,
                        self.dtype,
                    )
                if problem is None or rounded:
                    self.path = path
                    return found
            self.rejected[str(path)] = str(problem)
            logger.info("continuations cannot be scored by %s: %s", path, problem)
        raise RuntimeError(f"the model gives other numbers whenever it is asked the same: {self.rejected}")

    def _run(
        self, model: Any, path: ScoringPath, budget: int, shard: RankShard, advance: Callable[[int], object]
    ) -> list[Likelihood]:
        if path.head != "tiles":
            budget = min(budget, max(_LOGITS // model.config.get_text_config().vocab_size, 256))
        key = (path.body, path.head, budget)
        if key not in self._plans:
            self._plans[key] = _planned(self.rows, path, budget, kv.max_tokens(model, budget), self.variant)
        chunks = self._plans[key]
        self.work = _work(chunks)
        own = shard.select(chunks)
        found = shard.gather(model, lambda: likelihoods(model, own, path, self.dtype, advance))
        broken = [i for i, one in found.items() if np.isnan(one.logprob)]
        if path.body == "tree" and 0 < len(broken) < len(self.rows):
            # In a packed row one token of NaN spoils its neighbours, for 0 x NaN is NaN.
            alone = ScoringPath("rows", path.head)
            again = likelihoods(model, _planned([self.rows[i] for i in broken], alone, budget, 0, 0), alone, self.dtype)
            found.update({broken[i]: one for i, one in again.items()})
        return [found[i] for i in range(len(self.rows))]


def _planned(rows: Sequence[Continuation], path: ScoringPath, budget: int, cached: int, variant: int) -> list[Chunk]:
    share, pad = path.body == "tree", path.body != "unpadded"
    return plan(rows, budget, cached=cached, share=share, pad=pad, join=path.head == "tiles", variant=variant)


def _work(chunks: Sequence[Chunk]) -> Work:
    batches = [batch for chunk in chunks for batch in chunk.batches]
    prefixes = sum(map(len, {batch.prefix for batch in batches}))
    return Work(
        sum(batch.ids.size for batch in batches) + prefixes,
        sum(batch.n_tokens for batch in batches) + prefixes,
        sum(len(chunk.order) for chunk in chunks),
    )


def _possible(model: Any, rows: Sequence[Continuation]) -> list[ScoringPath]:
    """The paths that the model's make does not rule out."""
    config, head = model.config.get_text_config(), head_of(model)
    heads = {"all"} if head is None else {"own", "all"}
    if head is not None and is_matrix(head):
        ids = torch.tensor([rows[0].tokens[:1]], device=next(model.parameters()).device)
        if keeps_logits(model, head, ids):
            heads.add("tiles")
    masked = set(getattr(config, "layer_types", None) or ()) <= _MASKED_LAYERS
    return [path for path in PATHS if path.head in heads and (masked or path.body != "tree")]


def _plainly(model: Any, rows: Sequence[Continuation], dtype: torch.dtype) -> tuple[dict[int, float], float]:
    """Log-probabilities of some continuations, the longest and the shortest among them, in a forward for each.

    Also how much a token's may differ from them by rounding.
    """
    by_length = sorted(range(len(rows)), key=lambda i: (len(rows[i].tokens), i))
    chosen = {by_length[round(at)] for at in np.linspace(0, len(rows) - 1, min(_CHECKED, len(rows)))}
    # The last of each context as well: only what comes after another in its trie needs a mask.
    contexts = {rows[i].tokens[: rows[i].n_context] for i in chosen}
    last = {row.tokens[: row.n_context]: i for i, row in sorted(enumerate(rows), key=lambda pair: pair[1].tokens)}
    chosen |= {last[context] for context in contexts}
    device = next(model.parameters()).device
    result, allowed = {}, 0.0
    for i in sorted(chosen):
        tokens, n_context = rows[i].tokens, rows[i].n_context
        ids = torch.tensor([tokens[:-1]], device=device)
        logits = model(input_ids=ids, use_cache=False).logits[0, n_context - 1 :].float()
        wanted = torch.tensor(tokens[n_context:], device=device)
        result[i] = float(torch.log_softmax(logits, dim=-1).gather(1, wanted[:, None]).double().sum())
        allowed = max(allowed, rounding(logits, dtype))
    return result, allowed


def _difference(
    rows: Sequence[Continuation], found: Sequence[Likelihood], reference: dict[int, float], allowed: float
) -> str | None:
    """What is wrong with the numbers, None if they agree. A token may be off by rounding only."""
    if any(np.isnan(found[i].logprob) != np.isnan(wanted) for i, wanted in reference.items()):
        return "log-probabilities are NaN where a plain forward's are not"
    numbers = [
        (found[i].logprob - wanted) / (len(rows[i].tokens) - rows[i].n_context) for i, wanted in reference.items()
    ]
    off = float(np.sqrt(np.nanmean(np.square(numbers)))) if not np.isnan(numbers).all() else 0.0
    if off > allowed:
        return f"a token's log-probability differs by {off:.2g} nats from a plain forward's, {allowed:.2g} allowed"
    return None
