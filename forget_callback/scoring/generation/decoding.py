"""The loop that writes answers: every forward does as little as it can.

A prefix that prompts share is forwarded once, prompts of like length are prefilled together, a row leaves the batch
with its last token and others take its place. Prefills are the same batches at every snapshot; who meets whom later
depends on what is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from forget_callback.probes.probe import Probe
from forget_callback.scoring import cache as kv
from forget_callback.scoring.generation.sampling import next_tokens
from forget_callback.scoring.generation.text import GeneratedText, GenerationRequest, StopChecker
from forget_callback.scoring.likelihood.head import head_of
from forget_callback.scoring.likelihood.plan import prefix_groups

# Rows come in parts of like length, of which so many fit, and more as others leave.
_PARTS = 4


class DecodingLoop:
    """Answers requests in one batch that rows leave and join.

    Attributes:
        rows: Rows forwarded in decoding steps of the last run.
        least: As few as there can be: a row for each token written but the first of an answer, which the prefill gives.
    """

    def __init__(self, requests: Sequence[GenerationRequest], probe: Probe) -> None:
        self.requests = requests
        self.temperature, self.top_p = probe.temperature, probe.top_p
        self.rows = self.least = 0
        self._written: list[list[int]] = []
        self._broken: set[int] = set()

    def run(
        self, model: Any, checker: StopChecker, *, budget: int, advance: Callable[[int], object] = lambda n: None
    ) -> list[GeneratedText | None]:
        """An answer to each request, in order; None where the model gave NaN.

        Args:
            model: A causal language model in eval mode, whose cache holds keys and values.
            budget: Tokens of one prefill, padding included.
        """
        self.rows, self._broken = 0, set()
        self._written = [[] for _ in self.requests]
        contexts = [request.prompt[:-1] for request in self.requests]
        groups = prefix_groups(contexts) if self._may_share(model) else [(0, list(range(len(contexts))))]
        with last_logits_only(model, 1):
            for depth, members in groups:
                self._decode_group(model, checker, members, depth, budget, advance)
        self.least = sum(len(tokens) - 1 for tokens in self._written)
        return [
            None if i in self._broken else checker.generated(q, self._written[i]) for i, q in enumerate(self.requests)
        ]

    def _may_share(self, model: Any) -> bool:
        """Between a prefix and a shorter prompt there is padding, which a window would count."""
        window = getattr(model.config.get_text_config(), "sliding_window", None)
        return window is None or max(len(q.prompt) + q.max_new_tokens for q in self.requests) <= window

    def _decode_group(
        self,
        model: Any,
        checker: StopChecker,
        members: list[int],
        depth: int,
        budget: int,
        advance: Callable[[int], object],
    ) -> None:
        """Answers requests whose prompts share their first `depth` tokens."""
        if not members:
            return
        chosen = [self.requests[i] for i in members]
        longest = max(len(request.prompt) for request in chosen)
        room = max(
            min(kv.max_tokens(model, budget) // (longest + max(request.max_new_tokens for request in chosen)), budget),
            1,
        )
        part = max(min(min(room, len(members)) // _PARTS, budget // (longest - depth)), 1)
        # Long ones first, so that the last rows left are short ones.
        order = sorted(members, key=lambda i: (-self.requests[i].max_new_tokens - len(self.requests[i].prompt), i))
        parts = [order[at : at + part] for at in range(0, len(order), part)]
        active = _ActiveBatch(model, checker.pad, chosen[0].prompt[:depth])
        while parts or active.members:
            if parts and len(active.members) + len(parts[0]) <= room:
                members = parts.pop(0)
                prefilled = active.prefill([self.requests[i].prompt for i in members])
                token, unfinished = self._append_tokens(checker, members, prefilled.logits)
                left = max(self.requests[i].max_new_tokens - len(self._written[i]) for i in [*active.members, *members])
                active.join(prefilled, members, token, unfinished, left)
            else:
                self.rows += len(active.members)
                token, unfinished = self._append_tokens(checker, active.members, active.step())
                members = active.members
                active.keep(token, unfinished)
            advance(len(members) - len(unfinished))

    def _append_tokens(
        self, checker: StopChecker, members: Sequence[int], logits: torch.Tensor
    ) -> tuple[torch.Tensor, list[int]]:
        """Writes each row's next token; returns the tokens and the places of the rows that go on."""
        at = None
        if self.temperature > 0:
            drawn = [self.requests[i].draw(len(self._written[i])) for i in members]
            at = torch.tensor(drawn, device=logits.device)
        token = next_tokens(logits, at, temperature=self.temperature, top_p=self.top_p)
        unfinished = []
        for place, (i, new) in enumerate(zip(members, token.tolist())):
            written, request = self._written[i], self.requests[i]
            written.append(new)
            if new < 0:
                self._broken.add(i)
            elif len(written) < request.max_new_tokens and not checker.should_stop(request, written):
                unfinished.append(place)
        return token, unfinished


@dataclass(frozen=True)
class _Prefilled:
    """Prompts that were forwarded: their cache, mask and lengths, and the logits after each, ``(rows, vocabulary)``."""

    pairs: list[kv.Pair]
    mask: torch.Tensor
    length: torch.Tensor
    logits: torch.Tensor


class _ActiveBatch:
    """The rows that are being written.

    In the cache each row has the shared prefix, then padding, then the rest of its prompt and its answer, so that all
    rows end in the same column.
    """

    def __init__(self, model: Any, pad: int, prefix: tuple[int, ...]) -> None:
        self.model, self.pad, self.prefix = model, pad, prefix
        self.device = next(model.parameters()).device
        self.members: list[int] = []
        self.cache: Any = None
        self.mask = torch.zeros(0, len(prefix), dtype=torch.long, device=self.device)
        self.length = torch.zeros(0, dtype=torch.long, device=self.device)
        self.token = torch.zeros(0, dtype=torch.long, device=self.device)
        self._shared: list[kv.Pair] = []
        if prefix:
            cache = kv.empty()
            model(input_ids=torch.tensor([prefix], device=self.device), past_key_values=cache, use_cache=True)
            self._shared = kv.pairs(cache)

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> _Prefilled:
        """Forwards prompts, each distinct one once."""
        distinct = list(dict.fromkeys(prompts))
        depth, width = len(self.prefix), max(map(len, distinct)) - len(self.prefix)
        padding = [width + depth - len(prompt) for prompt in distinct]
        ids = torch.tensor([[self.pad] * n + list(p[depth:]) for n, p in zip(padding, distinct)], device=self.device)
        mask = torch.ones(len(distinct), depth + width, dtype=torch.long, device=self.device)
        for row, n in enumerate(padding):
            mask[row, depth : depth + n] = 0
        cache = kv.empty(width)
        if self.prefix:
            repeated = [tuple(part.expand(len(distinct), -1, -1, -1) for part in pair) for pair in self._shared]
            cache = kv.from_pairs(repeated, depth + width)  # type: ignore[arg-type]
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, depth:]
        logits = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).logits[:, -1]
        place = {prompt: row for row, prompt in enumerate(distinct)}
        rows = torch.tensor([place[prompt] for prompt in prompts], device=self.device)
        pairs = [(keys[rows], values[rows]) for keys, values in kv.pairs(cache)]
        return _Prefilled(pairs, mask[rows], mask.sum(dim=1)[rows], logits[rows])

    def join(
        self, new: _Prefilled, members: Sequence[int], token: torch.Tensor, unfinished: Sequence[int], left: int
    ) -> None:
        """Takes in the prefilled rows that go on, with room for `left` more tokens."""
        if not unfinished:
            return
        rows, depth = torch.tensor(unfinished, device=self.device), len(self.prefix)
        old = kv.pairs(self.cache) if self.members else [None] * len(new.pairs)
        width = int(max(new.length[rows].max(), *self.length)) if self.members else int(new.length[rows].max())
        joined = [
            tuple(_aligned(None if o is None else o[i], n[i][rows], depth, width) for i in range(2))
            for o, n in zip(old, new.pairs)
        ]
        self.cache = kv.from_pairs(joined, width + left)  # type: ignore[arg-type]
        self.mask = _aligned(self.mask if self.members else None, new.mask[rows], depth, width, dim=1)
        self.length = torch.cat([self.length, new.length[rows]])
        self.token = torch.cat([self.token, token[rows]])
        self.members = [*self.members, *(members[at] for at in unfinished)]

    def step(self) -> torch.Tensor:
        """Forwards the last token of each row; the logits after it, ``(rows, vocabulary)``."""
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        logits: torch.Tensor = self.model(
            input_ids=self.token[:, None],
            attention_mask=self.mask,
            position_ids=self.length[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.length = self.length + 1
        return logits

    def keep(self, token: torch.Tensor, unfinished: Sequence[int]) -> None:
        """Lets the other rows go: the last ones move into their places."""
        n = len(unfinished)
        if n < len(self.members):
            free = [at for at in range(n) if at not in set(unfinished)]
            moved = [at for at in unfinished if at >= n]
            order = list(range(n))
            for to, source in zip(free, moved):
                order[to] = source
            kv.compact(self.cache, moved, free, n)
            rows = torch.tensor(order, device=self.device, dtype=torch.long)
            self.mask, self.length, token = self.mask[rows], self.length[rows], token[rows]
            self.members = [self.members[at] for at in order]
        self.token = token


def _aligned(old: torch.Tensor | None, new: torch.Tensor, depth: int, width: int, dim: int = 2) -> torch.Tensor:
    """Rows of two batches, the first `depth` columns at the left and the others at the right end of `width` columns."""
    parts = [new] if old is None else [old, new]
    size = list(new.shape)
    size[0], size[dim] = sum(len(part) for part in parts), width
    result = new.new_zeros(size)  # zeros: what is masked still must not be NaN
    at = 0
    for part in parts:
        n = min(part.shape[dim], width) - depth
        rows = result[at : at + len(part)]
        rows.narrow(dim, 0, depth).copy_(part.narrow(dim, 0, depth))
        rows.narrow(dim, width - n, n).copy_(part.narrow(dim, part.shape[dim] - n, n))
        at += len(part)
    return result


@contextlib.contextmanager
def last_logits_only(model: torch.nn.Module, n: int) -> Iterator[None]:
    """Only the last `n` tokens of each row pass the model's head; no matter where it has none to name."""
    head = head_of(model)
    if head is None:
        yield
        return
    handle = head.register_forward_pre_hook(lambda module, args: (args[0][:, -n:], *args[1:]))
    try:
        yield
    finally:
        handle.remove()
