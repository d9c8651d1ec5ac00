"""Decoding with continuous batching: every forward pass does as little work as it can.

A prompt prefix that several requests share is forwarded and kept once, prompts of similar length are prefilled
together, and a row that has finished leaves the batch, whose place another takes. Prefills are the same batches at
every snapshot; how rows are batched afterwards depends on the generated lengths. Does not know whether the model
supports this: see `generate.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import torch

from forget_callback.probes.probe import Probe
from forget_callback.scoring import cache as kv
from forget_callback.scoring.generation.pages import ATTENTION, PagedCache
from forget_callback.scoring.generation.sampling import next_tokens
from forget_callback.scoring.generation.schedule import Schedule, prefills
from forget_callback.scoring.generation.tables import PrefillTable, StepTable
from forget_callback.scoring.generation.text import GeneratedText, GenerationRequest, StopChecker
from forget_callback.scoring.guard import replaced
from forget_callback.scoring.likelihood.head import head_of, is_matrix
from forget_callback.scoring.memory import Progress, spare_memory
from forget_callback.scoring.models import layer_settings, text_config
from forget_callback.scoring.prefixes import halves, prefix_groups
from forget_callback.scoring.progress import PROMPTS, SPARED, TEXTS

_LAYERS = {"full_attention", "sliding_attention"}


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
        replicate: Another number prefills other prompts together.
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
        replicate: int = 0,
    ) -> None:
        self.model, self.checker, self.requests, self.probe = model, checker, requests, probe
        self.budget, self.advance, self.count, self.progress = budget, advance, count, progress
        self.replicate = replicate
        self._tokens: list[list[int]] = [[] for _ in requests]
        self._logits: list[list[float]] = [[] for _ in requests]
        self._windowed = False  # whether texts may outgrow a sliding window

    def run(self) -> None:
        """Generates all texts.

        Raises:
            TypeError: If the model does not keep keys and values, or attends in a way that `pages` does not know.
        """
        config, longest = text_config(self.model), max(len(q.prompt) + q.max_new_tokens for q in self.requests)
        chunk = min(layer_settings(config, "attention_chunk_size"), default=longest)
        if chunk < longest or not layer_settings(config, "layer_types") <= {*_LAYERS, "chunked_attention"}:
            raise TypeError("layers attend to neither all earlier tokens nor a sliding window of them")
        self._windowed = any(0 < window < longest for window in layer_settings(config, "sliding_window"))
        with spare_memory(next(self.model.parameters()).device) as spare:
            # All ranks of a tensor-parallel group must decode the same rows.
            parallel = (getattr(self.model, "tp_size", None) or 1) > 1
            for depth, members in prefix_groups([request.prompt[:-1] for request in self.requests]):
                if members:
                    self._decode_group(members, depth, 0 if parallel else spare)

    def run_plainly(self) -> None:
        """The same by definition: one request at a time, and its whole text through the model for every token."""
        device = next(self.model.parameters()).device
        with last_logits_only(self.model, 1):
            for i, request in enumerate(self.requests):
                self.progress.running = [i]
                self.count(PROMPTS, len(request.prompt))
                unfinished = [i]
                while unfinished:
                    ids = torch.tensor([[*request.prompt, *self._tokens[i]]], device=device)
                    logits = self.model(input_ids=ids, use_cache=False).logits[:, -1]
                    unfinished = self._append_tokens([i], logits)
                    self._advance([i], unfinished)

    def _decode_group(self, members: list[int], depth: int, spare: int) -> None:
        """Generates for requests whose prompts share their first `depth` tokens, with so many bytes to spare."""
        self.progress.running = members
        decoder = _Decoder(self.model, self.checker.pad, self.requests[members[0]].prompt[:depth])
        # What the cache may hold at every snapshot, on which prefills depend, and now.
        fixed, cached = (kv.max_tokens(decoder.shared, self.budget, free) for free in (0, spare))
        prompts = {i: len(self.requests[i].prompt) - depth for i in members}
        limits = {i: self.requests[i].max_new_tokens for i in members}
        # The scores of a prefill to the prefix, in float32, take no more than the cache may at every snapshot.
        heads = max(layer_settings(text_config(self.model), "num_attention_heads"), default=1)
        most = kv.bytes_beside(self.budget) // (4 * heads * (depth + max(prompts.values()))) if depth else self.budget
        parts = halves([self.requests[i].prompt for i in members], self.replicate)
        how: dict[str, Any] = {"packed": depth > 0, "apart": [[members[at] for at in part] for part in parts]}
        plan = prefills(prompts, limits, fixed, cached - depth, min(most, self.budget), **how)
        schedule = Schedule(plan, max_rows=self.budget)
        decoder.start(schedule, windowed=self._windowed)
        while schedule.unfinished:
            if rows := schedule.admit():
                self.progress.running = list(schedule.pages)
                logits = decoder.prefill(rows, [(*self.requests[i].prompt, *self._tokens[i]) for i in rows])
            else:
                schedule.grow()
                self.progress.running = rows = list(schedule.pages)
                logits = decoder.step(rows, [self._tokens[i][-1] for i in rows])
            first = [i for i in rows if not self._tokens[i]]
            unfinished = self._append_tokens(rows, logits)
            self.count(PROMPTS, sum(len(self.requests[i].prompt) for i in first))  # the device has finished them now
            decoder.drop(set(rows).difference(unfinished), [i for i in rows if self._tokens[i][-1] < 0])
            self._advance(rows, unfinished)

    def _advance(self, members: Sequence[int], unfinished: Sequence[int]) -> None:
        """Counts a token of each row, and of the finished ones those that they do without."""
        finished = set(members).difference(unfinished)
        self.advance(len(finished))
        spared = sum(self.requests[i].max_new_tokens - len(self._tokens[i]) for i in finished)
        self.count(SPARED, spared)
        self.count(TEXTS, len(members) + spared)

    def _append_tokens(self, members: Sequence[int], logits: torch.Tensor) -> list[int]:
        """Appends each row's next token; returns the rows that are unfinished."""
        uniform = None
        if self.probe.temperature > 0:
            drawn = [float(self.requests[i].draws[len(self._tokens[i])]) for i in members]
            uniform = torch.tensor(drawn, device=logits.device)
        token = next_tokens(logits, uniform, temperature=self.probe.temperature, top_p=self.probe.top_p)
        chosen = logits.gather(1, token.clamp(min=0)[:, None]).squeeze(1)
        unfinished = []
        # In one copy, for which the host waits.
        for i, new, logit in zip(members, *torch.stack([token.float(), chosen.float()]).tolist()):
            tokens, request = self._tokens[i], self.requests[i]
            tokens.append(new := int(new))
            self._logits[i].append(logit)
            if new >= 0 and len(tokens) < request.max_new_tokens and not self.checker.should_stop(request, tokens):
                unfinished.append(i)
            else:
                text = None if new < 0 else self.checker.generated(request, tokens)
                self.progress.found[i] = text and replace(text, logits=tuple(self._logits[i]))
        return unfinished


class _Decoder:
    """Forward passes of rows whose keys and values lie in pages.

    Attributes:
        shared: Keys and values of each layer after the prefix; after one token where there is none.
    """

    schedule: Schedule
    cache: PagedCache

    def __init__(self, model: Any, pad: int, prefix: tuple[int, ...]) -> None:
        self.model, self.pad, self.prefix = model, pad, prefix
        self.device = next(model.parameters()).device
        head = head_of(model)
        # No logits are needed, but a head that may be any module gets a token.
        with last_logits_only(model, 0 if head is not None and is_matrix(head) else 1):
            self.shared = kv.of_prefix(model, prefix or (pad,))

    def start(self, schedule: Schedule, *, windowed: bool) -> None:
        """Makes the pages of a schedule.

        Args:
            windowed: Whether texts may outgrow a sliding window.

        Raises:
            TypeError: If attention is then not told of it.
        """
        self.schedule, depth = schedule, len(self.prefix)
        prefix = [(keys[:, :, :depth], values[:, :, :depth]) for keys, values in self.shared]
        self.cache = PagedCache(prefix, schedule.n_pages)
        if windowed:  # seen before any text is: at first use all may end before they outgrow the window
            self._forward(PrefillTable.of([(self.pad,)], self.device), (1, 1))
            self.cache.require_window()

    def prefill(self, rows: Sequence[int], texts: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """Prefills texts, each distinct one once; the logits after each, ``(rows, vocabulary)``."""
        distinct = list(dict.fromkeys(texts))
        logits, pairs = self._prefill_packed(distinct) if self.prefix else self._prefill_padded(distinct)
        place = {text: at for at, text in enumerate(distinct)}
        at = [place[text] for text in texts]
        self.cache.store(pairs, at, [self.schedule.pages[row] for row in rows])
        return logits[torch.tensor(at, device=self.device)]

    def step(self, rows: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """Forwards the last token of each row; the logits after it, ``(rows, vocabulary)``."""
        lengths = [self.schedule.tokens[row] for row in rows]
        table = StepTable.of([self.schedule.pages[row] for row in rows], lengths, tokens, self.device)
        logits = self._forward(table, (len(rows), 1))[:, -1]
        self.cache.require_attended()
        return logits

    def drop(self, finished: Collection[int], broken: Sequence[int]) -> None:
        """Frees the pages of rows; of those with NaN nothing may stay."""
        self.cache.clear([page for row in broken for page in self.schedule.pages[row]])
        self.schedule.leave(finished)
        self.cache.move(self.schedule.gather())

    def _prefill_packed(self, texts: Sequence[tuple[int, ...]]) -> tuple[torch.Tensor, list[kv.Pair]]:
        """The logits after each text, ``(texts, vocabulary)``, and keys and values of what follows the prefix."""
        table = PrefillTable.of([text[len(self.prefix) :] for text in texts], self.device)
        logits = _logits_at(self.model, table.last, lambda: self._forward(table, (1, len(table.ids))))
        return logits, self.cache.prefilled()

    def _prefill_padded(self, texts: Sequence[tuple[int, ...]]) -> tuple[torch.Tensor, list[kv.Pair]]:
        """The same without a prefix, by the model's own attention. Padding is on the right, where no token sees it."""
        width, inputs = max(map(len, texts)), kv.argument(self.model, cache := kv.empty())
        ids = torch.tensor([[*text] + [self.pad] * (width - len(text)) for text in texts], device=self.device)
        last = torch.tensor([row * width + len(text) - 1 for row, text in enumerate(texts)], device=self.device)
        return _logits_at(self.model, last, lambda: self.model(input_ids=ids, **inputs).logits), kv.pairs(cache)

    def _forward(self, table: PrefillTable | StepTable, shape: tuple[int, int]) -> torch.Tensor:
        """The logits of a forward pass of a table's tokens."""
        self.cache.use(table)
        ids, places = table.ids.view(shape), table.tokens.view(shape) + (len(self.prefix) - 1)
        with replaced(text_config(self.model), _attn_implementation=ATTENTION):
            inputs = kv.argument(self.model, self.cache)
            found: torch.Tensor = self.model(input_ids=ids, position_ids=places, **inputs).logits
        return found


def _logits_at(model: torch.nn.Module, tokens: torch.Tensor, forward: Callable[[], torch.Tensor]) -> torch.Tensor:
    """The logits of some tokens of a forward pass, ``(n, vocabulary)``; all are computed where the model names no head.

    Args:
        tokens: Their places among those of all rows, one after another, ``(n,)``.
    """
    head = head_of(model)
    if head is None:
        return forward().flatten(0, 1)[tokens]
    with head.register_forward_pre_hook(lambda module, args: (args[0].flatten(0, 1)[tokens][None], *args[1:])):
        return forward()[0]


def last_logits_only(model: torch.nn.Module, n: int) -> contextlib.AbstractContextManager[Any]:
    """Computes logits of the last `n` tokens of each row only; of all tokens where the model names no head."""
    head = head_of(model)
    if head is None:
        return contextlib.nullcontext()
    return head.register_forward_pre_hook(lambda module, args: (args[0][:, args[0].shape[1] - n :], *args[1:]))
