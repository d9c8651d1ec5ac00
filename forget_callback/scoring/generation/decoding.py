"""Decoding with continuous batching: every forward pass does as little work as it can.

A prompt prefix that several requests share is forwarded once, prompts of similar length are prefilled together, and a
row that has finished leaves the batch, whose place another takes. Prefills are the same batches at every snapshot; how
rows are batched afterwards depends on the generated lengths. Does not know whether the model supports this: see
`generate.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from forget_callback.probes.probe import Probe
from forget_callback.scoring import cache as kv
from forget_callback.scoring.generation.sampling import next_tokens
from forget_callback.scoring.generation.text import GeneratedText, GenerationRequest, StopChecker
from forget_callback.scoring.likelihood.head import head_of
from forget_callback.scoring.memory import Progress, spare_memory
from forget_callback.scoring.models import layer_settings, text_config
from forget_callback.scoring.prefixes import prefix_groups
from forget_callback.scoring.progress import PROMPTS, SPARED, TEXTS

# The batch is filled by prefills of similar prompt length, this many to a full batch; more as rows leave.
_PREFILLS = 4


class DecodingLoop:
    """Generates for requests in one batch that rows leave and join.

    Args:
        model: A causal language model in eval mode with a KV cache.
        budget: Tokens of one prefill, padding included.
        advance: Called with the number of texts that are finished.
        count: Called with PROMPTS or TEXTS and the tokens of them that are done, see `progress`; a text that ends early
            counts whole, and is called SPARED what it lacks.
        progress: Filled while the loop runs, by the requests' places: the generated texts, None where the model's
            logits are NaN, and the requests that are in memory now.
    """

    def __init__(
        self,
        model: Any,
        checker: StopChecker,
        requests: Sequence[GenerationRequest],
        probe: Probe,
        *,
        budget: int,
        advance: Callable[[int], object],
        count: Callable[[str, float], object],
        progress: Progress[GeneratedText | None],
    ) -> None:
        self.model, self.checker, self.requests, self.probe = model, checker, requests, probe
        self.budget, self.advance, self.count, self.progress = budget, advance, count, progress
        self._tokens: list[list[int]] = [[] for _ in requests]
        self._logits: list[list[float]] = [[] for _ in requests]

    def run(self) -> None:
        """Generates all texts."""
        contexts = [request.prompt[:-1] for request in self.requests]
        groups = prefix_groups(contexts) if self._may_share() else [(0, list(range(len(contexts))))]
        with last_logits_only(self.model, 1), spare_memory(next(self.model.parameters()).device) as spare:
            # All ranks of a tensor-parallel group must decode the same rows.
            parallel = (getattr(self.model, "tp_size", None) or 1) > 1
            self._cached = kv.max_tokens(self.model, self.budget, 0 if parallel else spare)
            for depth, members in groups:
                if members:
                    self._decode_group(members, depth)

    def run_plainly(self) -> None:
        """The same by definition: one request at a time, and its whole text through the model for every token."""
        device = next(self.model.parameters()).device
        with last_logits_only(self.model, 1):
            for i, request in enumerate(self.requests):
                self.progress.running = [i]
                self.count(PROMPTS, len(request.prompt))
                unfinished = [0]
                while unfinished:
                    ids = torch.tensor([[*request.prompt, *self._tokens[i]]], device=device)
                    logits = self.model(input_ids=ids, use_cache=False).logits[:, -1]
                    _, unfinished = self._append_tokens([i], logits)
                    self._advance([i], unfinished)

    def _may_share(self) -> bool:
        """Whether a prefix may be shared: a sliding window would count the padding between it and a shorter prompt."""
        windows = layer_settings(text_config(self.model), "sliding_window")
        return max(len(q.prompt) + q.max_new_tokens for q in self.requests) <= min(windows, default=2**62)

    def _decode_group(self, members: list[int], depth: int) -> None:
        """Generates for requests whose prompts share their first `depth` tokens."""
        chosen = [self.requests[i] for i in members]
        longest = max(len(request.prompt) for request in chosen)
        row_tokens = longest + max(request.max_new_tokens for request in chosen)
        max_rows = max(min(self._cached // row_tokens, self.budget), 1)
        size = max(min(min(max_rows, len(members)) // _PREFILLS, self.budget // (longest - depth)), 1)
        # Longest first, so that the last rows of the batch are short ones.
        order = sorted(members, key=lambda i: (-self.requests[i].max_new_tokens - len(self.requests[i].prompt), i))
        prefills = [order[at : at + size] for at in range(0, len(order), size)]
        self.progress.running = members
        batch = _ActiveBatch(self.model, self.checker.pad, chosen[0].prompt[:depth])
        while prefills or batch.members:
            if prefills and len(batch.members) + len(prefills[0]) <= max_rows:
                members = prefills.pop(0)
                self.progress.running = [*batch.members, *members]
                pairs, mask, logits = batch.prefill([self.requests[i].prompt for i in members])
                token, unfinished = self._append_tokens(members, logits)
                self.count(
                    PROMPTS, sum(len(self.requests[i].prompt) for i in members)
                )  # the device has finished it now
                left = max(self.requests[i].max_new_tokens - len(self._tokens[i]) for i in [*batch.members, *members])
                batch.join(pairs, mask, members, token, unfinished, left)
            else:
                self.progress.running = members = batch.members
                token, unfinished = self._append_tokens(members, batch.step())
                batch.keep(token, unfinished)
            self._advance(members, unfinished)

    def _advance(self, members: Sequence[int], unfinished: Sequence[int]) -> None:
        """Counts a token of each row, and of the finished ones those that they do without."""
        rest = set(unfinished)
        finished = [i for row, i in enumerate(members) if row not in rest]
        self.advance(len(finished))
        spared = sum(self.requests[i].max_new_tokens - len(self._tokens[i]) for i in finished)
        self.count(SPARED, spared)
        self.count(TEXTS, len(members) + spared)

    def _append_tokens(self, members: Sequence[int], logits: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """Appends each row's next token; returns the tokens and the indices of the rows that are unfinished."""
        uniform = None
        if self.probe.temperature > 0:
            drawn = [float(self.requests[i].draws[len(self._tokens[i])]) for i in members]
            uniform = torch.tensor(drawn, device=logits.device)
        token = next_tokens(logits, uniform, temperature=self.probe.temperature, top_p=self.probe.top_p)
        chosen = logits.gather(1, token.clamp(min=0)[:, None]).squeeze(1)
        unfinished = []
        for row, (i, new, logit) in enumerate(zip(members, token.tolist(), chosen.tolist())):
            tokens, request = self._tokens[i], self.requests[i]
            tokens.append(new)
            self._logits[i].append(logit)
            if new >= 0 and len(tokens) < request.max_new_tokens and not self.checker.should_stop(request, tokens):
                unfinished.append(row)
            else:
                text = None if new < 0 else self.checker.generated(request, tokens)
                self.progress.found[i] = text and replace(text, logits=tuple(self._logits[i]))
        return token, unfinished


class _ActiveBatch:
    """The rows that are being decoded.

    In the KV cache each row is the shared prefix, then padding, then the rest of its prompt and its generated tokens,
    so that all rows end in the same column.

    Attributes:
        members: Index of each row's request.
        cache: KV cache, None while there are no rows.
        mask: Attention mask, ``(rows, columns of the cache)``.
        token: The last token of each row, which the cache does not hold yet, ``(rows,)``.
    """

    def __init__(self, model: Any, pad: int, prefix: tuple[int, ...]) -> None:
        self.model, self.pad, self.prefix = model, pad, prefix
        self.device = next(model.parameters()).device
        self.members: list[int] = []
        self.cache: Any = None
        self.mask = torch.zeros(0, len(prefix), dtype=torch.long, device=self.device)
        self.token = torch.zeros(0, dtype=torch.long, device=self.device)
        self._shared = kv.of_prefix(model, prefix) if prefix else []

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> tuple[list[kv.Pair], torch.Tensor, torch.Tensor]:
        """Prefills prompts, each distinct one once.

        Returns:
            Keys and values of each layer; the attention mask, ``(rows, width)``; the logits after the last token of
            each prompt, ``(rows, vocabulary)``.
        """
        distinct = list(dict.fromkeys(prompts))
        depth, width = len(self.prefix), max(map(len, distinct)) - len(self.prefix)
        padding = [width + depth - len(prompt) for prompt in distinct]
        ids = torch.tensor([[self.pad] * n + list(p[depth:]) for n, p in zip(padding, distinct)], device=self.device)
        mask = torch.ones(len(distinct), depth + width, dtype=torch.long, device=self.device)
        for row, n in enumerate(padding):
            mask[row, depth : depth + n] = 0
        cache = kv.from_pairs(self._shared, depth + width, rows=len(distinct)) if self.prefix else kv.empty()
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, depth:]
        logits = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, **kv.argument(self.model, cache)
        ).logits[:, -1]
        place = {prompt: row for row, prompt in enumerate(distinct)}
        rows = torch.tensor([place[prompt] for prompt in prompts], device=self.device)
        pairs = [(keys[rows], values[rows]) for keys, values in kv.pairs(cache)]
        return pairs, mask[rows], logits[rows]

    def join(
        self,
        pairs: Sequence[kv.Pair],
        mask: torch.Tensor,
        members: Sequence[int],
        token: torch.Tensor,
        unfinished: Sequence[int],
        left: int,
    ) -> None:
        """Adds the unfinished ones of the prefilled rows, with capacity for `left` more tokens."""
        if not unfinished:
            return
        rows, depth = torch.tensor(unfinished, device=self.device), len(self.prefix)
        old = kv.pairs(self.cache) if self.members else [(keys[:0], values[:0]) for keys, values in pairs]
        width = int(torch.cat([self.mask.sum(dim=1), mask[rows].sum(dim=1)]).max())
        joined = [
            (_aligned(old_keys, keys[rows], depth, width), _aligned(old_values, values[rows], depth, width))
            for (old_keys, old_values), (keys, values) in zip(old, pairs)
        ]
        self.cache = kv.from_pairs(joined, width + left)
        self.mask = _aligned(self.mask, mask[rows], depth, width, dim=1)
        self.token = torch.cat([self.token, token[rows]])
        self.members = [*self.members, *(members[at] for at in unfinished)]

    def step(self) -> torch.Tensor:
        """Forwards the last token of each row; returns the logits after it, ``(rows, vocabulary)``."""
        positions = self.mask.sum(dim=1, keepdim=True)
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        logits: torch.Tensor = self.model(
            input_ids=self.token[:, None],
            attention_mask=self.mask,
            position_ids=positions,
            **kv.argument(self.model, self.cache),
        ).logits[:, -1]
        return logits

    def keep(self, token: torch.Tensor, unfinished: Sequence[int]) -> None:
        """Drops all rows but the unfinished ones; the last of these move into the freed places."""
        n = len(unfinished)
        if n < len(self.members):
            free = [at for at in range(n) if at not in set(unfinished)]
            moved = [at for at in unfinished if at >= n]
            source = dict(zip(free, moved))
            order = [source.get(at, at) for at in range(n)]
            kv.compact(self.cache, moved, free, n)
            rows = torch.tensor(order, device=self.device, dtype=torch.long)
            self.mask, token = self.mask[rows], token[rows]
            self.members = [self.members[at] for at in order]
        self.token = token


def _aligned(old: torch.Tensor, new: torch.Tensor, depth: int, width: int, dim: int = 2) -> torch.Tensor:
    """Rows of two batches, the first `depth` columns aligned left and all others aligned right in `width` columns."""
    size = list(new.shape)
    size[0], size[dim] = len(old) + len(new), width
    result = new.new_zeros(size)  # zeros, because masked values must not be NaN either
    at = 0
    for part in (old, new):
        n = min(part.shape[dim], width) - depth
        rows = result[at : at + len(part)]
        rows.narrow(dim, 0, depth).copy_(part.narrow(dim, 0, depth))
        rows.narrow(dim, width - n, n).copy_(part.narrow(dim, part.shape[dim] - n, n))
        at += len(part)
    return result


def last_logits_only(model: torch.nn.Module, n: int) -> contextlib.AbstractContextManager[Any]:
    """Computes logits of the last `n` tokens of each row only; of all tokens where the model names no head."""
    head = head_of(model)
    if head is None:
        return contextlib.nullcontext()
    return head.register_forward_pre_hook(lambda module, args: (args[0][:, -n:], *args[1:]))
