"""Generated text for a probe's generation items, greedy or sampled, one or several samples per item.

The decoding loop of `decoding.py` generates it, or the model's own `generate` where the loop does not work. A few
generated texts are checked at first use: plain forward passes must choose the same tokens. Prompts are padded here,
never by the tokenizer, whose padding side belongs to the training run. Does not know how text is graded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch

from forget_callback.probes.items import Generation, Recall
from forget_callback.probes.probe import Probe
from forget_callback.scoring.generation.decoding import DecodingLoop, last_logits_only
from forget_callback.scoring.generation.model_generate import generate_by_model
from forget_callback.scoring.generation.sampling import next_tokens
from forget_callback.scoring.generation.text import GeneratedText, GenerationRequest, StopChecker
from forget_callback.scoring.generation.turns import TurnEnd
from forget_callback.scoring.generation.vllm import VLLM
from forget_callback.scoring.guard import without_router_loss
from forget_callback.scoring.likelihood.head import FULL, computes_in, rounding
from forget_callback.scoring.memory import Attempt, Progress, attempted, within_memory
from forget_callback.scoring.models import is_sparse, require_next_tokens, varies_from
from forget_callback.scoring.prefixes import halves, prefix_groups
from forget_callback.scoring.progress import PROMPTS, TEXTS
from forget_callback.scoring.self_check import Stage, first_correct
from forget_callback.scoring.sharding import RankShard

# In the order of preference: each is the fallback of those before it.
BACKENDS = ("vllm", "loop", "generate", "generate unpadded", "forward passes")
# Share of tokens that plain forward passes must choose alike in low precision, where ties are frequent; else all.
_AGREEMENT = 0.95
# Difference in a token's logit that another order of additions makes in full precision.
_LOGITS = 1e-3
# Tokens of a text that is generated to check a backend, before it generates all.
_FEW_TOKENS = 8


class TextGenerator:
    """Generates text for items of one probe, snapshot after snapshot.

    Args:
        items: Generation items, or, if the probe does not sample, recall items.
        prompts: Token ids of each item's prompt.
        turn: What ends an answer in a conversation.
        limit: Tokens of the model's context, which an answer to recall must not exceed.
        replicate: Another number draws other samples, and generates in other batches.

    Attributes:
        backend: One of BACKENDS, chosen at first use, None before; "vllm" only if one is passed.
        budget: Tokens of a batch that fitted the memory, known after first use.
    """

    def __init__(
        self,
        probe: Probe,
        items: Sequence[Generation | Recall],
        prompts: Sequence[Sequence[int]],
        *,
        turn: TurnEnd = TurnEnd(),  # noqa: B008 - it is frozen
        limit: int = 2**62,
        replicate: int = 0,
    ) -> None:
        self.probe, self.turn, self.replicate = probe, turn, replicate
        self.requests: list[GenerationRequest] = []
        drawn = []
        for item, prompt in zip(items, prompts):
            if isinstance(item, Recall):
                own = [GenerationRequest.of_recall(item, prompt, probe, room=limit - len(prompt))]
            else:
                how = {"replicate": replicate}
                samples = range(item.samples if probe.temperature > 0 else 1)
                own = [GenerationRequest.of(item, prompt, probe, turn, sample=n, **how) for n in samples]
            self.requests += own
            drawn.append(len(own))
        self._ranges = list(pairwise(accumulate(drawn, initial=0)))  # of the requests of each item
        self.backend: str | None = None
        self.budget = 0
        self._asked = 0  # the budget that was asked for
        self._too_large: frozenset[int] | None = None  # items at first use, since then not tried again

    def generate(
        self,
        model: Any,
        tokenizer: Any,
        *,
        budget: int,
        shard: RankShard = RankShard(),  # noqa: B008 - it is frozen
        vllm: VLLM | None = None,
        advance: Callable[[int], object] = lambda n: None,
        count: Callable[[str, float], object] = lambda kind, n: None,
    ) -> list[list[GeneratedText | None]]:
        """The generated texts of each item, a list of its samples; None where the model's logits are NaN.

        The list of an item that is too large for memory is empty: at first use for good, later for this time.

        Args:
            model: A causal language model in eval mode.
            budget: Tokens of one batch, padding included; the KV cache holds a few times as many.
            shard: This rank's shard of the items; all ranks must call this.
            vllm: The engine of a GRPO trainer, for greedy decoding.
            advance: Called with the number of texts that are finished.
            count: As of `DecodingLoop`; with 0 where generation begins.

        Raises:
            Exception: What the model raises even with the plainest backend.
            torch.OutOfMemoryError: If not even the shortest item fits into memory.
            RuntimeError: If no backend agrees with plain forward passes.
        """
        if self._asked != budget:
            self._asked = self.budget = budget
        if not self.requests:
            return []
        checker = StopChecker(model, tokenizer, self.turn)
        run = partial(self._run, model, checker, shard, vllm, (advance, count))
        with without_router_loss(model):
            if self.backend is None and self._outgrows(model):
                self.backend = BACKENDS[-1]  # the definition itself: one pass of the whole text gives other numbers
            if self.backend is not None:
                found = run(self.backend)
            else:
                dtype = computes_in(model)
                prompt = self.requests[0].prompt[:8]
                require_next_tokens(model, [*prompt, *prompt], dtype)
                few = self._few()
                alone = partial(few._run, model, checker, RankShard(), vllm, (lambda n: None, lambda kind, n: None))
                stages: list[Stage[str]] = [
                    (lambda backend: shard.collect(model, partial(alone, backend))[0], few._check(model, shard, dtype)),
                    (run, self._check(model, shard, dtype)),
                ]
                whole = few._n_tokens() == self._n_tokens()
                backends = self._backends(model, vllm, dtype)
                backend, found = first_correct(backends, *stages[whole:], name="generation backend", dtype=dtype)
                self.backend = backend
        if self._too_large is None:
            self._too_large = frozenset(range(len(self._ranges))).difference(found)
        return [found.get(i, []) for i in range(len(self._ranges))]

    def _few(self) -> TextGenerator:
        """A generator of the first tokens after the shortest, the median and the longest prompt.

        And after an end of the longest as long as the median: some models are wrong only where rows share a batch.
        """
        order = sorted(self.requests, key=lambda request: len(request.prompt))
        at = sorted({0, len(order) // 2, len(order) - 1})
        few = copy(self)
        few.requests = [replace(order[i], max_new_tokens=min(order[i].max_new_tokens, _FEW_TOKENS)) for i in at]
        if len(order) > len(at):
            median, longest = few.requests[1:]
            few.requests.append(replace(median, prompt=longest.prompt[-len(median.prompt) :]))
        few._ranges = [(n, n + 1) for n in range(len(few.requests))]
        return few

    def _n_tokens(self) -> int:
        return sum(request.max_new_tokens for request in self.requests)

    def _check(
        self, model: Any, shard: RankShard, dtype: torch.dtype
    ) -> Callable[[dict[int, list[GeneratedText | None]]], str | None]:
        def differs(found: dict[int, list[GeneratedText | None]]) -> str | None:
            check = partial(_disagreement, model, self.requests, self._texts(found), self.probe, dtype)
            return shard.collect(model, check)[0]

        return differs

    def _outgrows(self, model: Any) -> bool:
        """Whether a text reaches where rotary embeddings depend on the length of other rows, and of cached keys."""
        return max(len(q.prompt) + q.max_new_tokens for q in self.requests) > varies_from(model)

    def _backends(self, model: Any, vllm: VLLM | None, dtype: torch.dtype) -> Sequence[str]:
        """The backends that architecture and precision do not rule out."""
        # In low precision ties alone may make `generate` differ; forward passes of the whole text cost far more.
        backends = BACKENDS[3 if is_sparse(model) else 0 : None if dtype in FULL else -1]
        return [b for b in backends if b != "vllm" or (vllm is not None and vllm.supports(model, self.probe))]

    def _run(
        self,
        model: Any,
        checker: StopChecker,
        shard: RankShard,
        vllm: VLLM | None,
        told: tuple[Callable[[int], object], Callable[[str, float], object]],
        backend: str,
    ) -> dict[int, list[GeneratedText | None]]:
        def attempts(items: Sequence[int], budget: int, anew: bool) -> list[Attempt[list[GeneratedText | None]]]:
            own = self._share(items, shard, backend)
            calls = -(-len(items) // shard.count)
            work = partial(self._generate, model, checker, vllm, told, backend, own, budget, calls)
            return shard.collect(model, lambda: self._by_item(own, attempted(work)))

        wanted = [n for n in range(len(self._ranges)) if n not in (self._too_large or ())]
        found, self.budget = within_memory(attempts, wanted, self.budget, item=lambda n: n, size=self._size)
        return found

    def _share(self, items: Sequence[int], shard: RankShard, backend: str) -> list[int]:
        """This rank's items, by their tokens; samples of one item stay together, as they share its prompt."""
        if shard.in_lockstep or backend == "vllm":  # forward passes and calls of one rank are those of all
            return sorted(shard.select(sorted(items, key=lambda n: (-self._size(n), n))))
        prompts = [self.requests[self._ranges[n][0]].prompt for n in items]
        cost, shared = {}, {}
        for depth, members in prefix_groups([prompt[:-1] for prompt in prompts]):
            for at in members:
                own = self.requests[slice(*self._ranges[items[at]])]
                cost[items[at]] = len(prompts[at]) - depth + sum(request.max_new_tokens for request in own)
                shared[items[at]] = {prompts[at][:depth]: depth} if depth else {}
        return shard.select(items, cost.__getitem__, shared.__getitem__)

    def _texts(self, found: dict[int, list[GeneratedText | None]]) -> list[GeneratedText | None]:
        """The text of each request, None where its item was too large for memory."""
        return [text for n, (begin, end) in enumerate(self._ranges) for text in found.get(n, [None] * (end - begin))]

    def _size(self, item: int) -> int:
        request = self.requests[self._ranges[item][0]]
        return request.max_new_tokens + len(request.prompt)

    def _generate(
        self,
        model: Any,
        checker: StopChecker,
        vllm: VLLM | None,
        told: tuple[Callable[[int], object], Callable[[str, float], object]],
        backend: str,
        items: Sequence[int],
        budget: int,
        calls: int,
        progress: Progress[GeneratedText | None],
    ) -> None:
        """Generates the texts of some items; `progress` has them by their places among these items' requests.

        Args:
            calls: Items that each rank submits to vLLM, which is greedy: one sample an item.
        """
        own = [i for n in items for i in range(*self._ranges[n])]
        requests = [self.requests[i] for i in own]
        advance, count = told
        count(PROMPTS, 0)
        how: dict[str, Any] = {"budget": budget, "advance": advance, "count": count, "progress": progress}
        how["replicate"] = self.replicate
        if backend in ("loop", "forward passes"):
            loop = DecodingLoop(model, checker, requests, self.probe, **how)
            loop.run() if backend == "loop" else loop.run_plainly()
        elif backend == "vllm":
            assert vllm is not None
            parts = halves([request.prompt for request in requests], self.replicate)
            order = [at for part in parts for at in part]
            texts = vllm.generate(self.requests, [own[at] for at in order], checker, calls=calls)
            progress.found.update(zip(order, texts))
            advance(len(own))
            count(TEXTS, sum(request.max_new_tokens for request in requests))
            count(PROMPTS, sum(len(request.prompt) for request in requests))
        else:
            generate_by_model(model, checker, requests, self.probe, pad=backend == "generate", **how)

    def _by_item(
        self, items: Sequence[int], attempt: Attempt[GeneratedText | None]
    ) -> Attempt[list[GeneratedText | None]]:
        """An attempt on the requests of some items as one on the items, each with all its samples."""
        found, failed, at = {}, [], 0
        for n in items:
            places = range(at, at := at + self._ranges[n][1] - self._ranges[n][0])
            if all(place in attempt.found for place in places):
                found[n] = [attempt.found[place] for place in places]
            if any(place in attempt.failed for place in places):
                failed.append(n)
        return Attempt(found, tuple(failed), attempt.reason)


def _disagreement(
    model: Any,
    requests: Sequence[GenerationRequest],
    found: Sequence[GeneratedText | None],
    probe: Probe,
    dtype: torch.dtype,
) -> str | None:
    """How three texts, the shortest to the longest, differ from the choice of plain unpadded forward passes.

    None if they agree, as far as memory reaches. In full precision the logits must agree as well: of wrong positions or
    a wrong mask, a confident model may still choose the same tokens.
    """
    device = next(model.parameters()).device
    lengths = [(len(q.prompt) + len(t.tokens), i) for i, (q, t) in enumerate(zip(requests, found)) if t and t.tokens]
    order = [i for _, i in sorted(lengths)]
    chosen = {order[at] for at in (0, len(order) // 2, len(order) - 1)} if order else set()
    needed = 1.0 if dtype in FULL else _AGREEMENT
    away = 0.0

    def compare(progress: Progress[tuple[int, int]]) -> None:
        nonlocal away
        for i in sorted(chosen, key=order.index):
            progress.running = [i]
            text, request = found[i], requests[i]
            assert text is not None
            ids = torch.tensor([[*request.prompt, *text.tokens[:-1]]], device=device)
            with last_logits_only(model, len(text.tokens)):
                logits = model(input_ids=ids, use_cache=False).logits[0, -len(text.tokens) :].float()
            generated = torch.tensor(text.tokens, device=device)
            uniform = torch.tensor(request.draws[: len(generated)], device=device)
            expected = next_tokens(logits, uniform, temperature=probe.temperature, top_p=probe.top_p)
            own = logits.gather(1, generated[:, None]).squeeze(1)
            near_tie = own >= logits.amax(dim=1) - rounding(logits, dtype)
            same = (expected == generated) | (near_tie if probe.temperature == 0 else False)
            progress.found[i] = int(same.sum()), len(generated)
            if text.logits and dtype in FULL:
                away = max(away, float((own - torch.tensor(text.logits, device=device)).abs().max()))

    compared = list(attempted(compare).found.values())
    right, total = (sum(pair[at] for pair in compared) for at in (0, 1))
    if away > _LOGITS:
        return f"a token's logit differs by {away:.2g} from a plain forward pass"
    if right < needed * total:
        return f"plain forward passes choose {right} of {total} tokens alike, {needed:.0%} are needed"
    return None
