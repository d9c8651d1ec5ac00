"""Generated answers, greedy or sampled, with the model's own `generate`.

Prompts are padded on the left by hand: the tokenizer's padding side belongs to the training run. The model's own
generation config is taken away meanwhile, so nothing in it bends the distribution.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from forget_callback.probes import Generation, Probe
from forget_callback.scoring.plan import batches


@dataclass(frozen=True)
class Text:
    """What a model wrote: `finished` is False where the token limit cut it."""

    text: str
    finished: bool


class _LineWritten(StoppingCriteria):
    """A row is done when it has written a line: "exact" and "prefix" read no further."""

    def __init__(self, tokenizer: Any, width: int) -> None:
        self.tokenizer, self.width = tokenizer, width

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        done = [
            "\n" in self.tokenizer.decode(row[-1:])
            and has_line(self.tokenizer.decode(row[self.width :], skip_special_tokens=True))
            for row in input_ids
        ]
        return torch.tensor(done, device=input_ids.device)


class _Broken(LogitsProcessor):
    """Remembers the rows for which the model gave NaN, and goes on with a distribution that can be sampled from."""

    def __init__(self, n_rows: int, device: torch.device) -> None:
        self.rows = torch.zeros(n_rows, dtype=torch.bool, device=device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        nan = scores.isnan().any(dim=-1)
        self.rows |= nan
        return scores.masked_fill(nan[:, None], 0.0)


def has_line(text: str) -> bool:
    """Whether a whole line of text that is not empty has been written."""
    return "\n" in text.lstrip()


def generate(
    model: Any,
    tokenizer: Any,
    probe: Probe,
    items: Sequence[Generation],
    prompts: Sequence[Sequence[int]],
    *,
    batch_tokens: int,
    variant: int = 0,
    advance: Callable[[int], object] = lambda n: None,
) -> list[Text | None]:
    """Generates an answer to each prompt, in the order given; None where the model gave NaN.

    Args:
        model: A causal language model in eval mode, under `no_trace`: sampling draws from torch's generator.
        prompts: Token ids of each item's prompt.
        batch_tokens: Tokens of prompts and answers in one batch, at most.
        variant: Another number, other batches and other samples.
        advance: Called with the number of rows that are done.
    """
    device = next(model.parameters()).device
    stops = _stop_ids(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else next(iter(stops), 0)
    result: dict[int, Text | None] = {}
    # Rows of a batch share the token limit and the way they end.
    groups: dict[tuple[int, bool], list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault((item.max_new_tokens, item.match in ("exact", "prefix")), []).append(index)
    for (limit, by_line), members in groups.items():
        for batch in batches([len(prompts[i]) + limit for i in members], batch_tokens, variant=variant):
            chosen = [members[i] for i in batch]
            asked = [prompts[i] for i in chosen]
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.random.manual_seed(probe.seed + variant)
                rows = _generate_batch(model, tokenizer, probe, asked, limit, by_line, stops, pad)
            for index, row in zip(chosen, rows):
                result[index] = None if row is None else _text(row, tokenizer, stops, by_line)
            advance(len(batch))
    return [result[index] for index in range(len(items))]


def _generate_batch(
    model: Any,
    tokenizer: Any,
    probe: Probe,
    prompts: Sequence[Sequence[int]],
    limit: int,
    by_line: bool,
    stops: list[int],
    pad: int,
) -> list[list[int] | None]:
    """New token ids of each prompt of a batch, None where the model gave NaN."""
    device = next(model.parameters()).device
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    sampling: dict[str, Any] = {}
    if probe.temperature > 0:  # top_k is 50 by default: without it the temperature would not be the whole story
        sampling = {"do_sample": True, "temperature": probe.temperature, "top_p": probe.top_p, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=limit, eos_token_id=stops or None, pad_token_id=pad, use_cache=True, **sampling
    )
    criteria = StoppingCriteriaList([_LineWritten(tokenizer, width)] if by_line else [])
    broken = _Broken(len(prompts), device)
    with _without_own_config(model):
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([broken]),
            stopping_criteria=criteria,
        )
    return [None if bad else row for row, bad in zip(output[:, width:].tolist(), broken.rows.tolist())]


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


def _text(row: list[int], tokenizer: Any, stops: list[int], by_line: bool) -> Text:
    """The text up to the first stop; what follows it in a batch is padding."""
    end = next((i for i, token in enumerate(row) if token in stops), None)
    text = tokenizer.decode(row[:end], skip_special_tokens=True)
    return Text(text, end is not None or (by_line and has_line(text)))


def _stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end an answer: the model's and the tokenizer's end of sequence."""
    config = getattr(model, "generation_config", None)
    own = getattr(config, "eos_token_id", None)
    ids = {*(own if isinstance(own, (list, tuple)) else [own]), tokenizer.eos_token_id} - {None}
    return sorted(ids)
