"""Prompts that share their batches: token ids, batches and scoring paths are determined once and kept.

The first prompts of all probes are one group and their further variants another, so that the first ones are forwarded
in the same batches whether or not the others are asked. Knows nothing of snapshots.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from forget_callback.probes.apart import Patience
from forget_callback.probes.items import Generation
from forget_callback.scoring.generation.generate import TextGenerator
from forget_callback.scoring.generation.text import GeneratedText
from forget_callback.scoring.generation.turns import TurnEnd, end_of_turn
from forget_callback.scoring.generation.vllm import VLLM
from forget_callback.scoring.judge import Judge
from forget_callback.scoring.likelihood.fallbacks import LikelihoodScorer
from forget_callback.scoring.likelihood.forward import Likelihood
from forget_callback.scoring.likelihood.tokens import Continuation, context_of, continuations, encode
from forget_callback.scoring.memory import halve_on_oom
from forget_callback.scoring.outcomes import PartAnswers, judge_likelihoods, judge_texts, warn_unscored
from forget_callback.scoring.parts import Part
from forget_callback.scoring.sharding import RankShard


@dataclass(frozen=True)
class _Prepared:
    """A part with its token ids.

    Attributes:
        rows: Its continuations, with their indices among those of all parts.
        kept: Indices of the generation items that fit the context.
        generator: Generates text for these.
    """

    part: Part
    rows: list[tuple[int, Continuation]]
    kept: list[int]
    generator: TextGenerator


class PromptGroup:
    """Parts of probes whose choices and recall share their forward passes.

    Args:
        limit: Tokens of the model's context.
        only: By probe name, the ids of the items to score; a probe that is not named is scored whole.
        judge: Judges the generated texts in place of each item's `match`.
        shared: Whether all ranks score; texts are judged on the main process only.

    Attributes:
        size: Continuations and texts to score, for a progress bar.
        path: The scoring path of choices and recall, None before the first use.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        tokenizer: Any,
        *,
        limit: int,
        only: Mapping[str, Collection[str]],
        replicate: int = 0,
        judge: Judge | None = None,
        shared: bool = False,
    ) -> None:
        self.tokenizer, self.judge, self.shared = tokenizer, judge, shared
        self._nan_reported: set[str] = set()
        self._prepared: list[_Prepared] = []
        rows: list[Continuation] = []
        for part in parts:
            chosen = only.get(part.probe.name)
            wanted = [i for i, name in enumerate(part.probe.ids) if chosen is None or name in chosen]
            self._prepared.append(_prepare(part, tokenizer, wanted, limit, len(rows), replicate))
            rows += [row for _, row in self._prepared[-1].rows]
        self._scorer = LikelihoodScorer(rows, replicate=replicate)
        self.size = len(rows) + sum(len(one.generator.requests) for one in self._prepared)

    def score(
        self, model: Any, budget: int, *, shard: RankShard, vllm: VLLM | None, advance: Callable[[int], object]
    ) -> tuple[list[PartAnswers], int]:
        """The answers to each part, in order, and the budget in tokens that fitted the memory.

        Args:
            model: A causal language model in eval mode; a scorer may run another one, and draw random numbers, so this
                belongs into `no_side_effects`.
            budget: Tokens of one batch, padding included.
            advance: Called with the number of continuations and texts that are finished.
        """
        found, budget = halve_on_oom(
            lambda n: self._scorer.score(model, budget=n, shard=shard, advance=advance), budget
        )
        texts = []
        for one in self._prepared:
            generate = partial(one.generator.generate, model, self.tokenizer, shard=shard, vllm=vllm, advance=advance)
            own, budget = halve_on_oom(lambda n: generate(budget=n), budget)  # noqa: B023 - called at once
            texts.append(own)
        patience = Patience()
        return [self._answers(one, found, own, patience) for one, own in zip(self._prepared, texts)], budget

    def ways(self, number: int) -> dict[str, str]:
        """How the part at an index was scored: its scoring path and generation backend, where it has such items."""
        one = self._prepared[number]
        return {
            **({"likelihood": str(self._scorer.path)} if one.rows else {}),
            **({"generation": str(one.generator.backend)} if one.kept else {}),
        }

    def _answers(
        self,
        one: _Prepared,
        found: Sequence[Likelihood],
        texts: Sequence[Sequence[GeneratedText | None]],
        patience: Patience,
    ) -> PartAnswers:
        answers = PartAnswers(one.part)
        own = [(row, found[i]) for i, row in one.rows]
        judge_likelihoods(answers, own, self.tokenizer)
        judge_texts(answers, one.kept, texts, self.judge, patience=patience, shared=self.shared)
        broken = {row.item for row, likelihood in own if np.isnan(likelihood.logprob)}
        broken |= {i for i, samples in zip(one.kept, texts) if None in samples}
        if broken and one.part.name not in self._nan_reported:
            self._nan_reported.add(one.part.name)
            warn_unscored(one.part, [one.part.probe.ids[i] for i in sorted(broken)], "their logits are NaN")
        return answers


def _prepare(part: Part, tokenizer: Any, wanted: Sequence[int], limit: int, first: int, replicate: int) -> _Prepared:
    """Computes whatever depends on the tokenizer and the context length.

    Args:
        wanted: Indices of the items to score.
        first: Index of the part's first continuation among those of all parts.
    """
    probe = part.probe
    rows = continuations(probe, tokenizer)
    written: dict[int, Generation] = {i: item for i, item in enumerate(probe.items) if isinstance(item, Generation)}
    prompts = {
        i: encode(context_of(item, probe, tokenizer), tokenizer, special=not probe.chat) for i, item in written.items()
    }
    too_long = {row.item for row in rows if len(row.tokens) > limit}
    too_long |= {i for i, item in written.items() if len(prompts[i]) + item.max_new_tokens > limit}
    why = f"longer than the model's context of {limit} tokens"
    warn_unscored(part, [probe.ids[i] for i in sorted(too_long)], why)
    scored = set(wanted) - too_long
    kept = [i for i in written if i in scored]
    own = list(enumerate((row for row in rows if row.item in scored), first))
    turn = end_of_turn(probe, tokenizer) if kept else TurnEnd()
    chosen = [written[i] for i in kept], [prompts[i] for i in kept]
    generator = TextGenerator(probe, *chosen, turn=turn, replicate=replicate)
    return _Prepared(part, own, kept, generator)
