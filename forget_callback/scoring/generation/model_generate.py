"""Text by the model's own `generate`: the fallback where the decoding loop does not work on an architecture.

Each step takes the token that `next_tokens` chooses of the model's logits, so that greedy and sampled texts are those
of the other backends. Nothing of the model's own generation config counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from forget_callback.probes.probe import Probe
from forget_callback.scoring.generation.sampling import next_tokens
from forget_callback.scoring.generation.text import GeneratedText, GenerationRequest, StopChecker
from forget_callback.scoring.guard import replaced
from forget_callback.scoring.memory import Progress
from forget_callback.scoring.prefixes import halves
from forget_callback.scoring.progress import PROMPTS, SPARED, TEXTS


def generate_by_model(
    model: Any,
    checker: StopChecker,
    requests: Sequence[GenerationRequest],
    probe: Probe,
    *,
    budget: int,
    pad: bool,
    advance: Callable[[int], object],
    count: Callable[[str, float], object],
    progress: Progress[GeneratedText | None],
    replicate: int = 0,
) -> None:
    """Texts by the model's own `generate`, in batches of one token limit.

    Args:
        budget: Tokens of one batch, padding included.
        pad: Whether prompts of several lengths share a batch, padded on the left.
        advance: Called with the number of texts that are finished.
        count: As of `DecodingLoop`.
        progress: Gets the texts by their places among `requests`; None where the model's logits are NaN.
        replicate: Another number gives other batches.
    """
    for batch in _batches(requests, budget, pad, replicate):
        limit = requests[batch[0]].max_new_tokens
        progress.running = batch
        stops = _StopsReached(checker, [requests[i] for i in batch], count)
        progress.found.update(zip(batch, _generate_batch(model, stops, probe)))
        advance(len(batch))
        spared = len(batch) * limit - stops.counted
        count(SPARED, spared)
        count(TEXTS, spared)


def _batches(requests: Sequence[GenerationRequest], budget: int, pad: bool, replicate: int) -> Iterator[list[int]]:
    for part in halves([request.prompt for request in requests], replicate):
        order = sorted(part, key=lambda i: (-requests[i].max_new_tokens, -len(requests[i].prompt), i))
        while order:
            limit, longest = requests[order[0]].max_new_tokens, len(requests[order[0]].prompt)
            near = [i for i in order[: max(budget // (longest + limit), 1)] if requests[i].max_new_tokens == limit]
            batch = [i for i in near if pad or len(requests[i].prompt) == longest]
            order = order[len(batch) :]
            yield batch


class _StopsReached(StoppingCriteria):
    """A row is finished when its generated text is; counts the tokens of those that are not."""

    def __init__(
        self, checker: StopChecker, requests: Sequence[GenerationRequest], count: Callable[[str, float], object]
    ) -> None:
        self.checker, self.requests, self.count = checker, requests, count
        self.width = max(len(request.prompt) for request in requests)
        self.counted = 0
        self._open = len(requests)  # rows, before the last step

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        if not self.counted:
            self.count(PROMPTS, sum(len(request.prompt) for request in self.requests))
        self.counted += self._open
        self.count(TEXTS, self._open)
        done = [
            self.checker.should_stop(request, row[self.width :])
            for request, row in zip(self.requests, input_ids.tolist())
        ]
        self._open = done.count(False)
        return torch.tensor(done, device=input_ids.device)


class _ChosenTokenOnly(LogitsProcessor):
    """Masks every token but the one that `next_tokens` chooses; keeps its logit, and which rows became NaN."""

    def __init__(self, requests: Sequence[GenerationRequest], probe: Probe, width: int, device: torch.device) -> None:
        self.requests, self.probe, self.width = requests, probe, width
        self.nan = torch.zeros(len(requests), dtype=torch.bool, device=device)
        self.logits: list[torch.Tensor] = []  # of the chosen tokens, step by step, ``(rows,)``

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step, uniform = input_ids.shape[1] - self.width, None
        if self.probe.temperature > 0:
            uniform = torch.tensor([float(q.draws[step]) for q in self.requests], device=scores.device)
        token = next_tokens(scores, uniform, temperature=self.probe.temperature, top_p=self.probe.top_p)
        self.nan |= token < 0
        at = token.clamp(min=0)[:, None]
        self.logits.append(scores.gather(1, at).squeeze(1))
        return torch.full_like(scores, -torch.inf).scatter_(1, at, 0.0)


def _generate_batch(model: Any, stops: _StopsReached, probe: Probe) -> list[GeneratedText | None]:
    device = next(model.parameters()).device
    checker, requests, width = stops.checker, stops.requests, stops.width
    padding = [width - len(request.prompt) for request in requests]
    ids = torch.tensor([[checker.pad] * n + list(q.prompt) for n, q in zip(padding, requests)], device=device)
    mask = torch.tensor([[0] * n + [1] * (width - n) for n in padding], device=device)
    config = GenerationConfig(
        max_new_tokens=requests[0].max_new_tokens,
        eos_token_id=checker.eos_ids or None,
        pad_token_id=checker.pad,
        use_cache=True,
    )
    chosen = _ChosenTokenOnly(requests, probe, width, device)
    with _without_own_config(model):
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([chosen]),
            stopping_criteria=StoppingCriteriaList([stops]),
        )
    result: list[GeneratedText | None] = []
    logits = torch.stack(chosen.logits, dim=1).tolist()
    for request, row, own, nan in zip(requests, output[:, width:].tolist(), logits, chosen.nan.tolist()):
        text = checker.truncate(request, row)  # padding follows the stop
        result.append(None if nan else replace(text, logits=tuple(own[: len(text.tokens)])))
    return result


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
