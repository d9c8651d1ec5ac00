"""Generated text for a probe's generation items, greedy or sampled, one or several samples per item.

The decoding loop of `decoding.py` generates it, or the model's own `generate` where the loop does not work. A few
generated texts are checked at first use: plain forward passes must choose the same tokens. Prompts are padded here,
never by the tokenizer, whose padding side belongs to the training run. Does not know how text is graded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from forget_callback.probes.items import Generation, Recall
from forget_callback.probes.probe import Probe
from forget_callback.scoring.generation.decoding import DecodingLoop, last_logits_only
from forget_callback.scoring.generation.sampling import next_tokens
from forget_callback.scoring.generation.text import GeneratedText, GenerationRequest, StopChecker
from forget_callback.scoring.generation.turns import TurnEnd
from forget_callback.scoring.generation.vllm import VLLM
from forget_callback.scoring.guard import replaced, without_router_loss
from forget_callback.scoring.likelihood.head import FULL, computes_in, rounding
from forget_callback.scoring.models import require_next_tokens, varies_from
from forget_callback.scoring.self_check import first_correct
from forget_callback.scoring.sharding import RankShard

# In the order of preference: each is the fallback of those before it.
BACKENDS = ("vllm", "loop", "generate", "generate unpadded")
# Share of tokens that plain forward passes must choose alike in low precision, where ties are frequent; else all.
_AGREEMENT = 0.95


class TextGenerator:
    """Generates text for items of one probe, snapshot after snapshot.

    Args:
        items: Generation items, or, if the probe does not sample, recall items.
        prompts: Token ids of each item's prompt.
        turn: What ends an answer in a conversation.
        limit: Tokens of the model's context, which an answer to recall must not exceed.
        replicate: Another number draws other samples.

    Attributes:
        backend: One of BACKENDS, chosen at first use, None before; "vllm" only if one is passed.
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
        self.probe, self.turn = probe, turn
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

    def generate(
        self,
        model: Any,
        tokenizer: Any,
        *,
        budget: int,
        shard: RankShard = RankShard(),  # noqa: B008 - it is frozen
        vllm: VLLM | None = None,
        advance: Callable[[int], object] = lambda n: None,
    ) -> list[list[GeneratedText | None]]:
        """The generated texts of each item, a list of its samples; None where the model's logits are NaN.

        Args:
            model: A causal language model in eval mode.
            budget: Tokens of one batch, padding included; the KV cache holds a few times as many.
            shard: This rank's shard of the items; all ranks must call this.
            vllm: The engine of a GRPO trainer, for greedy decoding.
            advance: Called with the number of texts that are finished.

        Raises:
            Exception: What the model raises even with the plainest backend, and out of memory (OOM) with any.
            RuntimeError: If no backend agrees with plain forward passes.
        """
        if not self.requests:
            return []
        checker = StopChecker(model, tokenizer, self.turn)
        run = partial(self._run, model, checker, budget, shard, vllm, advance)
        with without_router_loss(model):
            if self.backend is not None:
                found = run(self.backend)
            else:
                dtype = computes_in(model)
                prompt = min((request.prompt for request in self.requests), key=len)
                require_next_tokens(model, [*prompt, *prompt], dtype)
                backends = [
                    b for b in BACKENDS if b != "vllm" or (vllm is not None and vllm.supports(model, self.probe))
                ]
                self.backend, found = first_correct(
                    BACKENDS[-1:] if self._outgrows(model) else backends,
                    run,
                    lambda found: shard.broadcast(_disagreement(model, self.requests, found, self.probe, dtype)),
                    name="generation backend",
                    dtype=dtype,
                )
        return [found[begin:end] for begin, end in self._ranges]

    def _outgrows(self, model: Any) -> bool:
        """Whether a text reaches where rotary embeddings depend on the length of all rows and cached keys."""
        return max(len(q.prompt) + q.max_new_tokens for q in self.requests) > varies_from(model)

    def _run(
        self,
        model: Any,
        checker: StopChecker,
        budget: int,
        shard: RankShard,
        vllm: VLLM | None,
        advance: Callable[[int], object],
        backend: str,
    ) -> list[GeneratedText | None]:
        # Longest first, so that shards are balanced; samples of one item stay together, because they share its prompt.
        items = sorted(
            self._ranges,
            key=lambda own: (-self.requests[own[0]].max_new_tokens - len(self.requests[own[0]].prompt), own),
        )
        own = [i for begin, end in sorted(shard.select(items)) for i in range(begin, end)]

        def work() -> dict[int, GeneratedText | None]:
            requests = [self.requests[i] for i in own]
            if backend == "loop":
                loop = DecodingLoop(model, checker, requests, self.probe, budget=budget, advance=advance)
                texts = loop.run()
            elif backend == "vllm":
                assert vllm is not None
                calls = -(-len(items) // shard.count)  # it is greedy: one sample an item
                texts = vllm.generate(self.requests, own, checker, calls=calls)
                advance(len(own))
            else:
                pad = backend == "generate"
                how: dict[str, Any] = {"budget": budget, "pad": pad, "use_cache": not self._outgrows(model)}
                texts = _generate(model, checker, requests, self.probe, advance=advance, **how)
            return dict(zip(own, texts))

        found = shard.gather(model, work)
        return [found[i] for i in range(len(self.requests))]


def _disagreement(
    model: Any,
    requests: Sequence[GenerationRequest],
    found: Sequence[GeneratedText | None],
    probe: Probe,
    dtype: torch.dtype,
) -> str | None:
    """How three texts, the shortest to the longest, differ from the choice of plain unpadded forward passes.

    None if they agree.
    """
    device = next(model.parameters()).device
    lengths = [(len(q.prompt) + len(t.tokens), i) for i, (q, t) in enumerate(zip(requests, found)) if t and t.tokens]
    order = [i for _, i in sorted(lengths)]
    chosen = {order[at] for at in (0, len(order) // 2, len(order) - 1)} if order else set()
    needed = 1.0 if dtype in FULL else _AGREEMENT
    right = total = 0
    for i in sorted(chosen):
        text, request = found[i], requests[i]
        assert text is not None
        ids = torch.tensor([[*request.prompt, *text.tokens[:-1]]], device=device)
        with last_logits_only(model, len(text.tokens)):
            logits = model(input_ids=ids, use_cache=False).logits[0, -len(text.tokens) :].float()
        generated = torch.tensor(text.tokens, device=device)
        uniform = torch.tensor(request.draws[: len(generated)], device=device)
        expected = next_tokens(logits, uniform, temperature=probe.temperature, top_p=probe.top_p)
        near_tie = logits.gather(1, generated[:, None]).squeeze(1) >= logits.amax(dim=1) - rounding(logits, dtype)
        right += int(((expected == generated) | (near_tie if probe.temperature == 0 else False)).sum())
        total += len(generated)
    if right < needed * total:
        return f"plain forward passes choose {right} of {total} tokens alike, {needed:.0%} are needed"
    return None


class _StopsReached(StoppingCriteria):
    """A row is finished when its generated text is."""

    def __init__(self, checker: StopChecker, requests: Sequence[GenerationRequest], width: int) -> None:
        self.checker, self.requests, self.width = checker, requests, width

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        done = [
            self.checker.should_stop(request, row[self.width :])
            for request, row in zip(self.requests, input_ids.tolist())
        ]
        return torch.tensor(done, device=input_ids.device)


class _ChosenTokenOnly(LogitsProcessor):
    """Masks every token but the one that `next_tokens` chooses; remembers the rows whose logits became NaN."""

    def __init__(self, requests: Sequence[GenerationRequest], probe: Probe, width: int, device: torch.device) -> None:
        self.requests, self.probe, self.width = requests, probe, width
        self.nan = torch.zeros(len(requests), dtype=torch.bool, device=device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step, uniform = input_ids.shape[1] - self.width, None
        if self.probe.temperature > 0:
            uniform = torch.tensor([float(q.draws[step]) for q in self.requests], device=scores.device)
        token = next_tokens(scores, uniform, temperature=self.probe.temperature, top_p=self.probe.top_p)
        self.nan |= token < 0
        return torch.full_like(scores, -torch.inf).scatter_(1, token.clamp(min=0)[:, None], 0.0)


def _generate(
    model: Any,
    checker: StopChecker,
    requests: Sequence[GenerationRequest],
    probe: Probe,
    *,
    budget: int,
    pad: bool,
    use_cache: bool,
    advance: Callable[[int], object],
) -> list[GeneratedText | None]:
    """Texts by the model's own `generate`, in batches of one token limit, and of one prompt length without padding."""
    result: dict[int, GeneratedText | None] = {}
    order = sorted(range(len(requests)), key=lambda i: (-requests[i].max_new_tokens, -len(requests[i].prompt), i))
    while order:
        limit, longest = requests[order[0]].max_new_tokens, len(requests[order[0]].prompt)
        near = order[: max(budget // (longest + limit), 1)]
        batch = [i for i in near if requests[i].max_new_tokens == limit and (pad or len(requests[i].prompt) == longest)]
        order = order[len(batch) :]
        texts = _generate_batch(model, checker, [requests[i] for i in batch], probe, use_cache=use_cache)
        result.update(zip(batch, texts))
        advance(len(batch))
    return [result[i] for i in range(len(requests))]


def _generate_batch(
    model: Any, checker: StopChecker, requests: Sequence[GenerationRequest], probe: Probe, *, use_cache: bool
) -> list[GeneratedText | None]:
    device = next(model.parameters()).device
    width = max(len(request.prompt) for request in requests)
    padding = [width - len(request.prompt) for request in requests]
    ids = torch.tensor([[checker.pad] * n + list(q.prompt) for n, q in zip(padding, requests)], device=device)
    mask = torch.tensor([[0] * n + [1] * (width - n) for n in padding], device=device)
    config = GenerationConfig(
        max_new_tokens=requests[0].max_new_tokens,
        eos_token_id=checker.eos_ids or None,
        pad_token_id=checker.pad,
        use_cache=use_cache,
    )
    chosen = _ChosenTokenOnly(requests, probe, width, device)
    with _without_own_config(model):
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([chosen]),
            stopping_criteria=StoppingCriteriaList([_StopsReached(checker, requests, width)]),
        )
    rows = zip(requests, output[:, width:].tolist(), chosen.nan.tolist())
    return [None if nan else checker.truncate(request, row) for request, row, nan in rows]  # padding follows the stop


@contextlib.contextmanager
def _without_own_config(model: torch.nn.Module) -> Iterator[None]:
    """Removes the model's own generation config: `generate` takes from it whatever is None in the one it is passed.

    From all modules, because a PEFT model hands its config down to its base model.
    """
    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if "generation_config" in vars(module):
                stack.enter_context(replaced(module, generation_config=GenerationConfig()))
        yield
