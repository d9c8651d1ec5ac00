"""Log-probabilities of continuations, which decide multiple-choice and recall items.

Runs planned batches through the model along a given scoring path. Log-softmax runs in float32, sums in float64. Does
not know whether the path is correct for the model: `fallbacks.py` finds that out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from forget_callback.scoring import cache as kv
from forget_callback.scoring.guard import replaced, without_router_loss
from forget_callback.scoring.likelihood.divergence import Divergence, Reading
from forget_callback.scoring.likelihood.head import ChunkScores, HeadHook, MakeReader, head_of, read_logits
from forget_callback.scoring.likelihood.inputs import ChunkInputs
from forget_callback.scoring.likelihood.plan import Batch, Chunk
from forget_callback.scoring.memory import Progress
from forget_callback.scoring.models import layer_settings, text_config
from forget_callback.snapshots.reference import TopTokens


@dataclass(frozen=True)
class ScoringPath:
    """A way to compute the log-probabilities of continuations.

    Attributes:
        body: "tree" forwards each distinct token once (tree attention with 4-D masks); "rows" each continuation in a
            row of its own, right-padded; "unpadded" batches only rows of one length, without any mask.
        head: "tiles" multiplies the LM head's matrix in vocabulary tiles; "own" passes the scored tokens alone through
            the model's own head; "all" takes the model's logits of every token.
    """

    body: str
    head: str

    def __str__(self) -> str:
        return f"{self.body}, {self.head}"


@dataclass(frozen=True)
class Likelihood:
    """Log-probability of one continuation; the other fields are read for `Continuation.greedy` only.

    Attributes:
        logprob: Summed log-probability of the continuation's tokens, in nats; NaN if the model's logits are NaN.
        margin: Smallest margin of a token over the best other token, in nats; 0 or more if all are the argmax. NaN if
            not read.
        argmax: The most likely token at each position of the continuation, ``(n_tokens,)``; None if not read.
        document: What a `Reading` asked for; None if nothing.
    """

    logprob: float
    margin: float = float("nan")
    argmax: NDArray[np.int64] | None = None
    document: TopTokens | Divergence | None = None


def likelihoods(
    model: Any,
    chunks: Sequence[Chunk],
    path: ScoringPath,
    dtype: torch.dtype,
    advance: Callable[[Sequence[int]], object] = lambda done: None,
    progress: Progress[Likelihood] | None = None,
    *,
    reading: Reading = Reading(),  # noqa: B008 - it is frozen
) -> dict[int, Likelihood]:
    """Log-probabilities of the continuations of a plan, by continuation index.

    Args:
        model: A causal language model in eval mode, on the device to use.
        chunks: Planned for `path.body`.
        dtype: The dtype in which the model computes.
        advance: Called with the continuations that are finished.
        progress: Filled while the work goes on: what it has found, and what is in a batch now.
        reading: What is read of documents beside their log-probabilities.

    Raises:
        Exception: Whatever a model raises that does not support the path.
    """
    progress = Progress() if progress is None else progress
    forward = _Forward(model, chunks, path.body, dtype)
    head = None if path.head == "all" else head_of(model)
    hooked = contextlib.nullcontext() if head is None else HeadHook(head, tiled=path.head == "tiles")
    unread: list[tuple[Chunk, ChunkScores]] = []
    try:
        with without_router_loss(model), forward.ready(), hooked as hook:
            for chunk in chunks:
                unread.append((chunk, _scores(forward, hook, chunk, progress, advance, reading)))
    finally:  # only now, and on OOM too: to read them before would wait for the device
        for chunk, scores in unread:
            progress.found.update(_likelihoods(chunk, scores))
    return progress.found


def _scores(
    forward: _Forward,
    hook: HeadHook | None,
    chunk: Chunk,
    progress: Progress[Likelihood],
    advance: Callable[[Sequence[int]], object],
    reading: Reading,
) -> ChunkScores:
    """What is read from a chunk, still on the device."""
    scores, reader = None, partial(reading.reader, chunk, forward.device)
    progress.running = chunk.batches[0].continuations.tolist()
    inputs = ChunkInputs.of(chunk, forward.device)
    for batch, (*parts, scored) in zip(chunk.batches, inputs.batches):
        last = batch is chunk.batches[-1]
        progress.running = batch.continuations.tolist()
        if hook is None:
            assert last, "logits of all tokens are never held from one batch to the next"
            scores = read_logits(forward(batch, *parts).flatten(0, 1)[scored[inputs.order]], inputs, reader)
        else:
            hook.expect(None)
            forward.prepare(batch)
            hook.expect(scored, inputs if last else None, reader)
            logits = forward(batch, *parts)
            if last:
                scores = hook.scores if hook.tiled else _read_own(logits, inputs, reader)
        advance(batch.continuations.tolist())
    if scores is None:
        raise RuntimeError("the model does not call the module that get_output_embeddings returns")
    return scores


def _read_own(logits: torch.Tensor, inputs: ChunkInputs, reader: MakeReader) -> ChunkScores:
    n = len(inputs.order)
    if logits.shape[:2] != (1, n):
        raise RuntimeError(f"{n} scored tokens went into the LM head, but its logits have shape {tuple(logits.shape)}")
    return read_logits(logits[0], inputs, reader)


class _Forward:
    """Forward passes of rows or, with 4-D masks and position ids, of packed tries behind a cached prefix."""

    def __init__(self, model: Any, chunks: Sequence[Chunk], body: str, dtype: torch.dtype) -> None:
        self.model, self.body, self.dtype = model, body, dtype
        self.device = next(model.parameters()).device
        config = text_config(model)
        self.layer_types = layer_settings(config, "layer_types")
        # If every sequence fits into the sliding window, the window masks nothing.
        longest = max((int(b.positions.max()) for c in chunks for b in c.batches if b.ids.size), default=0)
        windows = {window for window in layer_settings(config, "sliding_window") if window <= longest}
        if body == "tree" and len(windows) > 1:
            raise ValueError(f"sliding windows of several sizes need a mask each: {sorted(windows)}")
        self.window = next(iter(windows), None)
        self._sizes: dict[tuple[int, ...], tuple[int, int]] = {}  # rows and width of the largest batches of a prefix
        for batch in (b for c in chunks for b in c.batches if b.prefix):
            rows, width = self._sizes.get(batch.prefix, (0, 0))
            self._sizes[batch.prefix] = max(rows, batch.ids.shape[0]), max(width, batch.ids.shape[1])
        self._prefix: tuple[int, ...] = ()
        self._cache: Any = None

    def ready(self) -> contextlib.AbstractContextManager[None]:
        """Switches to an attention implementation that takes 4-D masks: flash and flex attention do not."""
        config = text_config(self.model)
        if self.body != "tree" or config._attn_implementation in ("eager", "sdpa"):
            return contextlib.nullcontext()
        capped = getattr(config, "attn_logit_softcapping", None) is not None  # sdpa cannot
        return replaced(config, _attn_implementation="eager" if capped else "sdpa")

    def prepare(self, batch: Batch) -> None:
        """Forwards a new prefix once and expands its KV cache to every row."""
        if batch.prefix == self._prefix:
            return
        self._prefix, self._cache = batch.prefix, None
        if batch.prefix:
            rows, width = self._sizes[batch.prefix]
            shared = kv.of_prefix(self.model, batch.prefix)
            self._cache = kv.from_pairs(shared, len(batch.prefix) + width, rows=rows)

    def __call__(self, batch: Batch, ids: torch.Tensor, positions: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Logits of a batch, whose integers are on the device."""
        inputs: dict[str, Any] = {"use_cache": False}
        if batch.prefix:
            kv.truncate(self._cache, len(ids), len(batch.prefix))
            inputs = kv.argument(self.model, self._cache)
        # Padding comes after the tokens of a chain, which causal attention does not see.
        if self.body == "tree" and not batch.chains:
            inputs |= {"attention_mask": self._mask(positions, ends, len(batch.prefix)), "position_ids": positions}
        elif self.body == "rows":  # a row is a chain: its length is where the first token's descendants end
            inputs["attention_mask"] = (torch.arange(ids.shape[1], device=self.device) < ends[:, :1]).long()
        logits: torch.Tensor = self.model(input_ids=ids, **inputs).logits
        return logits

    def _mask(self, positions: torch.Tensor, ends: torch.Tensor, n_prefix: int) -> Any:
        """Additive attention masks, ``(rows, 1, width, n_prefix + width)``: one, or one for each layer type."""
        at = torch.arange(ends.shape[1], device=ends.device)
        seen = (at <= at[:, None]) & (at[:, None] < ends[:, None, :])
        seen = torch.nn.functional.pad(seen, (n_prefix, 0), value=True)
        full = self._additive(seen)
        if self.window is None or self.layer_types == {"full_attention"}:
            return full
        before = torch.arange(n_prefix, device=ends.device).expand(len(ends), -1)
        distance = positions[:, :, None] - torch.cat([before, positions], dim=1)[:, None, :]
        sliding = self._additive(seen & (distance < self.window))
        if "full_attention" in self.layer_types:
            return {"full_attention": full, "sliding_attention": sliding}
        return sliding

    def _additive(self, seen: torch.Tensor) -> torch.Tensor:
        # Floats: eager attention adds the mask to the scores, and a boolean one would be silently wrong.
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=seen.device)
        return mask.masked_fill_(~seen, torch.finfo(self.dtype).min)[:, None]


def _likelihoods(chunk: Chunk, scores: ChunkScores) -> Iterator[tuple[int, Likelihood]]:
    logprob, margin, argmax = (part.cpu().numpy() for part in (scores.logprob, scores.margin, scores.argmax))
    steps = logprob.astype(np.float64)[chunk.edge_index]
    for index, (low, high) in zip(chunk.continuations.tolist(), pairwise([0, *chunk.ends.tolist()])):
        total = float(steps[low:high].sum())
        own = chunk.target_index[low:high]
        if own[0] < 0:
            yield index, Likelihood(total, document=scores.documents.get(index))
        else:
            yield index, Likelihood(total, float(margin[own].min()), argmax[own])
