"""Generated answers, greedy or sampled, several to an item.

The loop of `decoding.py` writes them, or the model's own `generate` where the loop does not serve. A few answers show
that at first use: plain forwards must choose the same tokens. Prompts are padded by hand: the tokenizer's padding
side belongs to the training run.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from forget_callback.probes.items import Generation
from forget_callback.probes.probe import Probe
from forget_callback.scoring.generation.decoding import DecodingLoop, last_logits_only
from forget_callback.scoring.generation.sampling import next_tokens
from forget_callback.scoring.generation.text import GeneratedText, GenerationRequest, StopChecker
from forget_callback.scoring.generation.vllm import VLLM
from forget_callback.scoring.guard import without_router_loss
from forget_callback.scoring.likelihood.head import FULL, computes_in, rounding
from forget_callback.scoring.memory import is_out_of_memory
from forget_callback.scoring.sharding import RankShard

logger = logging.getLogger(__name__)

BACKENDS = ("vllm", "loop", "generate", "generate unpadded")
# Share of tokens that plain forwards must choose alike in low precision, where ties are many; else all must be.
_ALIKE = 0.95


class TextGenerator:
    """The generation items of a probe, answered again and again.

    Args:
        items: With the prompt's token ids each.
        repeats: Answers to each item.
        variant: Another number, other samples.

    Attributes:
        backend: One of BACKENDS, chosen at first use; "vllm" only where there is one.
        rejected: Levels that were tried before it, with the reason why they do not serve.
        loop: The last run of the loop.
    """

    def __init__(
        self,
        probe: Probe,
        items: Sequence[Generation],
        prompts: Sequence[Sequence[int]],
        *,
        repeats: int = 1,
        variant: int = 0,
    ) -> None:
        self.probe, self.repeats = probe, repeats
        self.requests = [
            GenerationRequest.of(item, prompt, probe, repeat=repeat, variant=variant)
            for item, prompt in zip(items, prompts)
            for repeat in range(repeats)
        ]
        self.backend: str | None = None
        self.rejected: dict[str, str] = {}
        self.loop = DecodingLoop([], probe)

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
        """The answers to each item, ``(items, repeats)``; None where the model gave NaN.

        Args:
            model: A causal language model in eval mode.
            budget: Tokens of one forward; the cache holds a few times as many.
            shard: The processes that share the items; all of them call this.
            vllm: That of a GRPO trainer, for greedy answers.
            advance: Called with the number of answers that are done.
        """
        if not self.requests:
            return []
        checker = StopChecker(model, tokenizer)
        with without_router_loss(model):
            if self.backend is None:
                found = self._first(model, checker, budget, shard, vllm, advance)
            else:
                found = self._run(self.backend, model, checker, budget, shard, vllm, advance)
        return [found[i : i + self.repeats] for i in range(0, len(found), self.repeats)]

    def _first(
        self,
        model: Any,
        checker: StopChecker,
        budget: int,
        shard: RankShard,
        vllm: VLLM | None,
        advance: Callable[[int], object],
    ) -> list[GeneratedText | None]:
        dtype = computes_in(model)
        for backend in BACKENDS:
            if backend == "vllm" and (vllm is None or not vllm.supports(model, self.probe)):
                continue
            try:
                found = self._run(backend, model, checker, budget, shard, vllm, advance)
            except Exception as error:  # any model's code may run here, and the next backend may suit it
                if is_out_of_memory(error) or backend == BACKENDS[-1]:
                    raise
                problem: str | None = f"{type(error).__name__}: {error}"
            else:
                problem = shard.broadcast(_unexplained(model, self.requests, found, self.probe, dtype))
                rounded = dtype not in FULL and backend == BACKENDS[-1]
                if problem is not None and rounded:
                    logger.warning("%s, even in the plainest way: in low precision answers flip by rounding", problem)
                if problem is None or rounded:
                    self.backend = backend
                    return found
            self.rejected[backend] = str(problem)
            logger.info("answers cannot be written by %s: %s", backend, problem)
        raise RuntimeError(f"the model writes what its own forward would not: {self.rejected}")

    def _run(
        self,
        backend: str,
        model: Any,
        checker: StopChecker,
        budget: int,
        shard: RankShard,
        vllm: VLLM | None,
        advance: Callable[[int], object],
    ) -> list[GeneratedText | None]:
        # Long ones are dealt first, and the answers to one item together: they share its prompt.
        firsts = sorted(
            range(0, len(self.requests), self.repeats),
            key=lambda i: (-self.requests[i].max_new_tokens - len(self.requests[i].prompt), i),
        )
        own = [i + repeat for i in sorted(shard.select(firsts)) for repeat in range(self.repeats)]

        def work() -> dict[int, GeneratedText | None]:
            requests = [self.requests[i] for i in own]
            if backend == "loop":
                self.loop = DecodingLoop(requests, self.probe)
                texts = self.loop.run(model, checker, budget=budget, advance=advance)
            elif backend == "vllm":
                assert vllm is not None
                most = -(-len(firsts) // shard.count) * self.repeats
                texts = vllm.generate(self.requests, own, checker, calls=most)
                advance(len(own))
            else:
                pad = backend == "generate"
                texts = _generate(model, checker, requests, self.probe, budget=budget, pad=pad, advance=advance)
            return dict(zip(own, texts))

        found = shard.gather(model, work)
        return [found[i] for i in range(len(self.requests))]


def _unexplained(
    model: Any,
    requests: Sequence[GenerationRequest],
    found: Sequence[GeneratedText | None],
    probe: Probe,
    dtype: torch.dtype,
) -> str | None:
    """What is wrong with the answers, None if plain unpadded forwards would have chosen the same tokens."""
    device = next(model.parameters()).device
    written = [(len(q.prompt) + len(t.tokens), i) for i, (q, t) in enumerate(zip(requests, found)) if t and t.tokens]
    order = [i for _, i in sorted(written)]
    chosen = {order[at] for at in (0, len(order) // 2, len(order) - 1)} if order else set()
    needed = 1.0 if dtype in FULL else _ALIKE
    right = total = 0
    for i in sorted(chosen):
        text, request = found[i], requests[i]
        assert text is not None
        ids = torch.tensor([[*request.prompt, *text.tokens[:-1]]], device=device)
        with last_logits_only(model, len(text.tokens)):
            logits = model(input_ids=ids, use_cache=False).logits[0, -len(text.tokens) :].float()
        said = torch.tensor(text.tokens, device=device)
        at = None if request.draws is None else torch.tensor(request.draws[: len(said)], device=device)
        again = next_tokens(logits, at, temperature=probe.temperature, top_p=probe.top_p)
        near = logits.gather(1, said[:, None]).squeeze(1) >= logits.amax(dim=1) - rounding(logits, dtype)
        right += int(((again == said) | (near if probe.temperature == 0 else False)).sum())
        total += len(said)
    if right < needed * total:
        return f"plain forwards choose {right} of {total} tokens alike, {needed:.0%} are needed"
    return None


class _LineWritten(StoppingCriteria):
    """A row is done when its text is."""

    def __init__(self, checker: StopChecker, requests: Sequence[GenerationRequest], width: int) -> None:
        self.checker, self.requests, self.width = checker, requests, width

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        done = [
            self.checker.should_stop(request, row[self.width :])
            for request, row in zip(self.requests, input_ids.tolist())
        ]
        return torch.tensor(done, device=input_ids.device)


class _Choice(LogitsProcessor):
    """Leaves one token to each row, the one that the loop would choose; remembers the rows that became NaN."""

    def __init__(self, requests: Sequence[GenerationRequest], probe: Probe, width: int, device: torch.device) -> None:
        self.requests, self.probe, self.width = requests, probe, width
        self.broken = torch.zeros(len(requests), dtype=torch.bool, device=device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step, at = input_ids.shape[1] - self.width, None
        if self.probe.temperature > 0:
            at = torch.tensor([request.draw(step) for request in self.requests], device=scores.device)
        token = next_tokens(scores, at, temperature=self.probe.temperature, top_p=self.probe.top_p)
        self.broken |= token < 0
        token = token.clamp(min=0)
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)


def _generate(
    model: Any,
    checker: StopChecker,
    requests: Sequence[GenerationRequest],
    probe: Probe,
    *,
    budget: int,
    pad: bool,
    advance: Callable[[int], object],
) -> list[GeneratedText | None]:
    """Answers by the model's own `generate`, in batches of one token limit, and of one length if nothing is padded."""
    result: dict[int, GeneratedText | None] = {}
    order = sorted(range(len(requests)), key=lambda i: (-requests[i].max_new_tokens, -len(requests[i].prompt), i))
    while order:
        limit, widest = requests[order[0]].max_new_tokens, len(requests[order[0]].prompt)
        near = order[: max(budget // (widest + limit), 1)]
        alike = [i for i in near if requests[i].max_new_tokens == limit and (pad or len(requests[i].prompt) == widest)]
        order = order[len(alike) :]
        for i, text in zip(alike, _generate_batch(model, checker, [requests[i] for i in alike], probe)):
            result[i] = text
        advance(len(alike))
    return [result[i] for i in range(len(requests))]


def _generate_batch(
    model: Any, checker: StopChecker, requests: Sequence[GenerationRequest], probe: Probe
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
        use_cache=True,
    )
    choice = _Choice(requests, probe, width, device)
    with _without_own_config(model):
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([choice]),
            stopping_criteria=StoppingCriteriaList([_LineWritten(checker, requests, width)]),
        )
    texts: list[GeneratedText | None] = []
    for request, row, bad in zip(requests, output[:, width:].tolist(), choice.broken.tolist()):
        texts.append(None if bad else checker.truncate(request, row))  # padding comes after the end
    return texts


@contextlib.contextmanager
def _without_own_config(model: torch.nn.Module) -> Iterator[None]:
    """Takes the model's own generation config away: `generate` reads from it whatever is None in the one it is given.

    All modules, because a PEFT model hands its config down to the model that it wraps.
    """
    own = [
        (module, vars(module)["generation_config"]) for module in model.modules() if "generation_config" in vars(module)
    ]
    try:
        for module, _ in own:
            module.generation_config = GenerationConfig()
        yield
    finally:
        for module, config in own:
            module.generation_config = config
