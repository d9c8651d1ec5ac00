"""Prompts that share their batches: token ids, batches and scoring paths are determined once and kept.

The first prompts of all probes are one group and their further variants another, so that the first ones are forwarded
in the same batches whether or not the others are asked. Knows nothing of snapshots.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch

from forget_callback.probes.apart import Patience
from forget_callback.probes.items import Generation, Item, Recall, Text
from forget_callback.probes.judging import not_run
from forget_callback.scoring.generation.generate import TextGenerator
from forget_callback.scoring.generation.text import GeneratedText
from forget_callback.scoring.generation.turns import TurnEnd, end_of_turn
from forget_callback.scoring.generation.vllm import VLLM
from forget_callback.scoring.judge import Judge
from forget_callback.scoring.likelihood.divergence import Reading
from forget_callback.scoring.likelihood.fallbacks import LikelihoodScorer
from forget_callback.scoring.likelihood.forward import Likelihood
from forget_callback.scoring.likelihood.tokens import Continuation, EncodedItems, Encodings
from forget_callback.scoring.memory import TOO_LARGE, is_out_of_memory
from forget_callback.scoring.outcomes import PartAnswers, judge_decoded, judge_likelihoods, judge_texts, warn_dropped
from forget_callback.scoring.parts import Part
from forget_callback.scoring.progress import ANSWERS, PROMPTS, ROWS, TEXTS
from forget_callback.scoring.sharding import RankShard
from forget_callback.snapshots.reference import KEPT, Reference, TopTokens, digest_of_tokens

logger = logging.getLogger(__name__)

Texts: TypeAlias = Sequence[Sequence[GeneratedText | None]]


@dataclass(frozen=True)
class _Prepared:
    """A part with its token ids.

    Attributes:
        rows: Its continuations, with their indices among those of all parts.
        written: Indices of the generation items.
        generator: Generates text for these.
        recalled: Indices of the recall items whose answer is not the continuation of their prompt's tokens.
        decoder: Decodes these greedily.
        dropped: Why items that were to be scored cannot be, by index.
    """

    part: Part
    rows: list[tuple[int, Continuation]]
    written: list[int]
    generator: TextGenerator
    recalled: list[int]
    decoder: TextGenerator
    dropped: dict[int, str]

    @property
    def work(self) -> Counter[str]:
        """What there is to do, in the units of `progress`."""
        requests = [*self.generator.requests, *self.decoder.requests]
        return Counter(
            {
                ROWS: sum(len(row.tokens) for _, row in self.rows),
                PROMPTS: sum(len(request.prompt) for request in requests),
                TEXTS: sum(request.max_new_tokens for request in requests),
                ANSWERS: len(requests),
            }
        )


class PromptGroup:
    """Parts of probes whose choices, recall and documents share their forward passes.

    Args:
        encodings: Of the model's tokenizer.
        limit: Tokens of the model's context.
        vocabulary: Tokens that the model has an embedding of: another one is an error, which ends a CUDA process.
        only: By probe name, the ids of the items to score; a probe that is not named is scored whole.
        known: A group of these parts, or more: the ways to score that agreed on the model are taken from it.
        judge: Judges the generated texts in place of each item's `match`.
        shared: Whether all ranks score; texts are judged on the main process only.

    Attributes:
        work: What there is to do, by probe, in the units of `progress`.
        path: The scoring path of choices, recall and documents, None before the first use.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        encodings: Encodings,
        *,
        limit: int,
        vocabulary: int,
        only: Mapping[str, Collection[str]],
        replicate: int = 0,
        judge: Judge | None = None,
        shared: bool = False,
        known: PromptGroup | None = None,
    ) -> None:
        self.tokenizer, self.judge, self.shared = encodings.tokenizer, judge, shared
        self._made_with: dict[str, Any] = {"encodings": encodings, "limit": limit, "vocabulary": vocabulary}
        self._made_with |= {"replicate": replicate, "judge": judge, "shared": shared}
        self._reported: set[tuple[str, str]] = set()
        # Of the scorer and the generators, in order: what each was first asked for, and which memory cannot hold.
        self._budgets: dict[int, int] = {}
        self._given_up: set[int] = set()
        self._known = False  # whether there has been a snapshot
        self._prepared: list[_Prepared] = []
        rows: list[Continuation] = []
        items: list[int] = []  # of each row: items of all parts, numbered through
        for place, part in enumerate(parts):
            chosen = only.get(part.probe.name)
            wanted = [i for i, name in enumerate(part.probe.ids) if chosen is None or name in chosen]
            encoded, limits = encodings.of(part.probe, limit=limit), (limit, vocabulary)
            self._prepared.append(_prepare(part, encoded, self.tokenizer, wanted, limits, len(rows), replicate))
            rows += [row for _, row in self._prepared[-1].rows]
            items += [place + len(parts) * row.item for _, row in self._prepared[-1].rows]
        self._scorer = LikelihoodScorer(rows, items, replicate=replicate)
        self._generators = [generator for one in self._prepared for generator in (one.generator, one.decoder)]
        self.work: dict[str, Counter[str]] = defaultdict(Counter)
        for one in self._prepared:
            self.work[one.part.probe.name] += one.work
        if known is not None:
            self._take_over(known)

    def narrowed(self, only: Mapping[str, Collection[str]]) -> PromptGroup:
        """A group of these parts that scores some of the items that this one does, without what is done once."""
        other = PromptGroup([one.part for one in self._prepared], only=only, known=self, **self._made_with)
        other._budgets = dict(self._budgets)
        return other

    def again(self, names: Collection[str], only: Mapping[str, Collection[str]], replicate: int) -> PromptGroup:
        """A group of these probes' parts, in other batches and with other samples, without what is done once."""
        parts = [one.part for one in self._prepared if one.part.probe.name in names]
        return PromptGroup(parts, only=only, known=self, **self._made_with | {"replicate": replicate})

    def _take_over(self, known: PromptGroup) -> None:
        """What another group found out about the model."""
        self._reported, self._known = known._reported, known._known
        self._scorer.path, self._scorer.dtype = known._scorer.path, known._scorer.dtype
        before = {id(one.part): one for one in known._prepared}
        for own in self._prepared:
            other = before[id(own.part)]
            own.generator.backend, own.decoder.backend = other.generator.backend, other.decoder.backend

    def score(
        self,
        model: Any,
        budget: int,
        *,
        shard: RankShard,
        vllm: VLLM | None,
        advance: Callable[[str, float], object],
        patience: Patience,
        required: bool = True,
        keep: bool = False,
        references: Mapping[str, Reference] | None = None,
    ) -> tuple[list[PartAnswers], int]:
        """The answers to each part, in order, and the budget in tokens that fitted the memory.

        Args:
            model: A causal language model in eval mode; a scorer may run another one, and draw random numbers, so this
                belongs into `no_side_effects`.
            budget: Tokens of one batch, padding included.
            advance: Called with a kind of work and the units of it that are finished, see `progress`.
            patience: What judging may still cost.
            required: Whether it is an error that nothing fits into memory.
            keep: Whether later models are to be compared with this one on documents.
            references: By probe, what earlier models that are compared with this one expected in documents.

        Raises:
            torch.OutOfMemoryError: If nothing does.
        """
        how: dict[str, Any] = {"shard": shard, "advance": partial(advance, ROWS)}
        how["reading"] = self._reading(keep, references or {})
        work: list[Callable[..., list[Any]]] = [partial(self._scorer.score, model, **how)]
        for one in self._generators:
            told: dict[str, Any] = {"advance": partial(advance, ANSWERS), "count": advance}
            work.append(partial(one.generate, model, self.tokenizer, vllm=vllm, shard=shard, **told))
        results: list[Any] = []
        reason, fitted = "", budget
        workers: list[LikelihoodScorer | TextGenerator] = [self._scorer, *self._generators]
        for n, (worker, run) in enumerate(zip(workers, work)):
            # What memory allowed one at first use is where the next began, and what each is asked for from then on.
            asked = self._budgets.setdefault(n, fitted)
            found, why = ([], "") if n in self._given_up else _unless_out_of_memory(partial(run, budget=asked))
            results.append(found)
            reason, fitted = why or reason, min(fitted, worker.budget or fitted)
            if why and not self._known:
                self._given_up.add(n)
        if required and reason and not any(results):
            raise torch.OutOfMemoryError(reason)
        self._known = True
        found, *texts = results
        pairs = zip(texts[::2], texts[1::2])
        return [self._answers(one, found, *own, patience) for one, own in zip(self._prepared, pairs)], fitted

    def _reading(self, keep: bool, references: Mapping[str, Reference]) -> Reading:
        """What is read of the documents beside their log-probabilities."""
        documents: set[int] = set()
        against: dict[int, TopTokens] = {}
        for one in self._prepared:
            probe = one.part.probe
            own = [(i, row) for i, row in one.rows if isinstance(probe.items[row.item], Text)]
            documents |= {i for i, _ in own}
            reference = references.get(probe.name)
            if keep or reference is None:
                continue
            windows = {(name, w.read): w.top for name, ws in reference.documents.items() for w in ws}
            found = {
                i: windows.get((probe.ids[row.item], digest_of_tokens(row.tokens, row.n_context))) for i, row in own
            }
            against |= {i: top for i, top in found.items() if top is not None}
            self._warn_otherwise(
                one.part, {row.item for i, row in own if found[i] is None}, {row.item for _, row in own}
            )
        return Reading(KEPT if keep else 0, frozenset(documents), against)

    def _warn_otherwise(self, part: Part, lacking: Collection[int], documents: Collection[int]) -> None:
        """Says once which documents have nothing to be compared with."""
        why = "no kl"
        if lacking and (part.name, why) not in self._reported:
            self._reported.add((part.name, why))
            logger.warning(
                "%s: %d of %d documents have no KL: they are tokenized otherwise than at the baseline, or were not "
                "scored there",
                part.name,
                len(lacking),
                len(documents),
            )

    def ways(self, number: int) -> dict[str, str]:
        """How the part at an index was scored: its scoring path and generation backend, where it has such items."""
        one = self._prepared[number]
        return {
            **({"likelihood": str(self._scorer.path)} if one.rows else {}),
            **({"generation": str(one.generator.backend)} if one.written else {}),
        }

    def _answers(
        self, one: _Prepared, found: Sequence[Likelihood | None], texts: Texts, decoded: Texts, patience: Patience
    ) -> PartAnswers:
        answers = PartAnswers(one.part)
        scored = [(row, found[i] if found else None) for i, row in one.rows]
        texts, decoded = texts or [[]] * len(one.written), decoded or [[]] * len(one.recalled)
        too_large = {row.item for row, likelihood in scored if likelihood is None}
        own = [(row, known) for row, known in scored if known is not None and row.item not in too_large]
        judge_likelihoods(answers, own, self.tokenizer)
        judge_texts(answers, one.written, texts, self.judge, patience=patience, shared=self.shared)
        judge_decoded(answers, one.recalled, decoded)
        broken = {row.item for row, likelihood in own if np.isnan(likelihood.logprob)}
        generated = (*zip(one.written, texts), *zip(one.recalled, decoded))
        broken |= {i for i, samples in generated if None in samples}
        too_large |= {i for i, samples in generated if not samples}
        answers.dropped |= one.dropped
        answers.dropped |= dict.fromkeys(sorted(broken), "its logits are NaN") | dict.fromkeys(
            sorted(too_large), TOO_LARGE
        )
        warn_dropped(answers, self._reported)
        return answers


def _unless_out_of_memory(work: Callable[[], list[Any]]) -> tuple[list[Any], str]:
    """The result of some work, or nothing and the reason where memory holds none of it."""
    try:
        return work(), ""
    except Exception as error:  # torch raises several types for OOM
        if not is_out_of_memory(error):
            raise
        return [], (str(error) or type(error).__name__).splitlines()[0]


def _prepare(
    part: Part,
    encoded: EncodedItems,
    tokenizer: Any,
    wanted: Sequence[int],
    limits: tuple[int, int],
    first: int,
    replicate: int,
) -> _Prepared:
    """Computes whatever depends on the tokenizer and the context length.

    Args:
        encoded: All items of the part.
        wanted: Indices of the items to score.
        limits: Tokens of the model's context, and of its vocabulary.
        first: Index of the part's first continuation among those of all parts.
    """
    limit, vocabulary = limits
    probe = part.probe
    needed = {i: len(prompt) + _least(probe.items[i]) for i, prompt in encoded.prompts.items()}
    for row in encoded.rows:
        windowed = isinstance(probe.items[row.item], Text)
        needed[row.item] = max(needed.get(row.item, 0), 0 if windowed else len(row.tokens))
    too_long = dict.fromkeys(
        (i for i, n in needed.items() if n > limit), f"longer than the model's context of {limit} tokens"
    )
    texts = [*encoded.prompts.items(), *((row.item, row.tokens) for row in encoded.rows)]
    unknown = dict.fromkeys(
        (i for i, tokens in texts if max(tokens, default=0) >= vocabulary),
        f"a token that is not among the model's {vocabulary}",
    )
    problems = encoded.dropped | too_long | unknown | not_run(probe)
    dropped = {i: why for i, why in sorted(problems.items()) if i in set(wanted)}
    scored = set(wanted).difference(dropped)
    own = list(enumerate((row for row in encoded.rows if row.item in scored), first))

    def asked(items: Sequence[int]) -> tuple[list[Any], list[tuple[int, ...]]]:
        return [probe.items[i] for i in items], [encoded.prompts[i] for i in items]

    written, recalled = (
        [i for i in encoded.prompts if i in scored and isinstance(probe.items[i], kind)]
        for kind in (Generation, Recall)
    )
    how: dict[str, Any] = {
        "turn": end_of_turn(probe, tokenizer) if written else TurnEnd(),
        "limit": limit,
        "replicate": replicate,
    }
    generator = TextGenerator(probe, *asked(written), **how)
    decoder = TextGenerator(replace(probe, temperature=0), *asked(recalled), **how)
    return _Prepared(part, own, written, generator, recalled, decoder, dropped)


def _least(item: Item) -> int:
    """Tokens that an answer needs at least."""
    return item.max_new_tokens if isinstance(item, Generation) else 1
