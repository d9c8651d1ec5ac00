"""Finds the fastest scoring path that gives correct log-probabilities on a model.

At first use a few continuations are compared with plain, unpadded forward passes. Where they differ, or where the model
raises, the next path is the fallback: a wrong number is never used silently. Does not know what the continuations mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from forget_callback.scoring import cache as kv
from forget_callback.scoring.likelihood.forward import Likelihood, ScoringPath, likelihoods
from forget_callback.scoring.likelihood.head import computes_in, head_of, is_matrix, keeps_logits, rounding
from forget_callback.scoring.likelihood.plan import Chunk, plan
from forget_callback.scoring.likelihood.tokens import Continuation
from forget_callback.scoring.models import layer_settings, require_next_tokens, text_config, varies_from
from forget_callback.scoring.self_check import first_correct
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
# Logits that the model itself may compute in one forward pass: 512 MiB in float32.
_MAX_LOGITS = 2**27
# Contexts whose continuations are compared with plain forward passes.
_CHECKED = 4


class LikelihoodScorer:
    """Scores the same continuations snapshot after snapshot; their batches and the scoring path are kept.

    Args:
        rows: Continuations, none longer than the model's context.
        replicate: Another number gives other batches.

    Attributes:
        path: Chosen at first use, None before.
        dtype: The dtype in which the model computes, known after first use.
    """

    def __init__(self, rows: Sequence[Continuation], *, replicate: int = 0) -> None:
        self.rows = rows
        self.replicate = replicate
        self.path: ScoringPath | None = None
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
            budget: Tokens of one batch, padding included; a single continuation may have more.
            shard: This rank's shard of the batches; all ranks must call this.
            advance: Called with the number of continuations that are finished.

        Raises:
            Exception: What the model raises even on the plainest path, and out of memory (OOM) on any.
            RuntimeError: If no path agrees with plain forward passes.
        """
        if not self.rows:
            return []
        run = partial(self._run, model, budget, shard, advance)
        if self.path is not None:
            return run(self.path)
        self.dtype = computes_in(model)
        require_next_tokens(model, min((row.tokens for row in self.rows), key=len), self.dtype)
        paths = _supported(model, self.rows)
        reference, tolerance = _reference(model, self.rows, self.dtype)
        self.path, found = first_correct(
            paths,
            run,
            lambda found: shard.broadcast(_disagreement(self.rows, found, reference, tolerance)),
            name="scoring path",
            dtype=self.dtype,
        )
        return found

    def _run(
        self, model: Any, budget: int, shard: RankShard, advance: Callable[[int], object], path: ScoringPath
    ) -> list[Likelihood]:
        if path.head != "tiles":
            budget = min(budget, max(_MAX_LOGITS // text_config(model).vocab_size, 256))
        key = (path.body, path.head, budget)
        if key not in self._plans:
            self._plans[key] = _planned(self.rows, path, budget, model, self.replicate)
        own = shard.select(self._plans[key])
        found = shard.gather(model, lambda: likelihoods(model, own, path, self.dtype, advance))
        broken = [i for i, one in found.items() if np.isnan(one.logprob)]
        if path.body == "tree" and 0 < len(broken) < len(self.rows):
            # In a packed row one NaN token spoils its neighbours, because a masked 0 x NaN is NaN.
            alone = ScoringPath("rows", path.head)
            again = likelihoods(model, _planned([self.rows[i] for i in broken], alone, budget), alone, self.dtype)
            found.update({broken[i]: one for i, one in again.items()})
        return [found[i] for i in range(len(self.rows))]


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
    if max(len(row.tokens) for row in rows) > varies_from(model):
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

    The longest and the shortest are among them.
    """
    by_length = sorted(range(len(rows)), key=lambda i: (len(rows[i].tokens), i))
    chosen = {by_length[round(at)] for at in np.linspace(0, len(rows) - 1, min(_CHECKED, len(rows)))}
    # The last continuation of each context as well: only what follows another in its trie needs a mask.
    contexts = {rows[i].tokens[: rows[i].n_context] for i in chosen}
    last = {row.tokens[: row.n_context]: i for i, row in sorted(enumerate(rows), key=lambda pair: pair[1].tokens)}
    chosen |= {last[context] for context in contexts}
    device = next(model.parameters()).device
    result, tolerance = {}, 0.0
    for i in sorted(chosen):
        tokens, n_context = rows[i].tokens, rows[i].n_context
        ids = torch.tensor([tokens[:-1]], device=device)
        logits = model(input_ids=ids, use_cache=False).logits[0, n_context - 1 :].float()
        targets = torch.tensor(tokens[n_context:], device=device)
        result[i] = float(torch.log_softmax(logits, dim=-1).gather(1, targets[:, None]).double().sum())
        tolerance = max(tolerance, rounding(logits, dtype))
    return result, tolerance


def _disagreement(
    rows: Sequence[Continuation], found: Sequence[Likelihood], reference: dict[int, float], tolerance: float
) -> str | None:
    """How the log-probabilities differ from the reference, None if a token's differs by no more than the tolerance."""
    if any(np.isnan(found[i].logprob) != np.isnan(expected) for i, expected in reference.items()):
        return "log-probabilities are NaN where a plain forward pass gives numbers"
    errors = [
        (found[i].logprob - expected) / (len(rows[i].tokens) - rows[i].n_context) for i, expected in reference.items()
    ]
    rms = float(np.sqrt(np.nanmean(np.square(errors)))) if not np.isnan(errors).all() else 0.0
    if rms > tolerance:
        return (
            f"a token's log-probability differs by {rms:.2g} nats from a plain forward pass, {tolerance:.2g} is allowed"
        )
    return None
