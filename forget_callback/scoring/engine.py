"""`score_probe`: a model, a tokenizer and a probe in, a snapshot out.

The one place where the three kinds of items come together. The model, the tokenizer and all random generators are left
as they were (see `guard.py`). Knows nothing of training.
Generated texts are judged by each item's own `match`, or by a scorer of the user's (see `judge.py`).
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from forget_callback.probes.apart import Patience
from forget_callback.probes.exits import exits_as_errors
from forget_callback.probes.load import OneProbe, Probes, as_probes
from forget_callback.probes.quoting import quoted
from forget_callback.probes.training_data import require_made
from forget_callback.scoring.distributed import together
from forget_callback.scoring.generation.vllm import VLLM
from forget_callback.scoring.group import PromptGroup
from forget_callback.scoring.guard import no_side_effects
from forget_callback.scoring.judge import Judge, judged_by
from forget_callback.scoring.likelihood.rendering import bind
from forget_callback.scoring.likelihood.tokens import Encodings
from forget_callback.scoring.models import context_length, require_causal, vocabulary_size
from forget_callback.scoring.once import once
from forget_callback.scoring.outcomes import PartAnswers, first_snapshot, snapshot_of
from forget_callback.scoring.parts import Part, first_part, further_parts
from forget_callback.scoring.progress import Pace, Progress, progress_of, what_is_scored
from forget_callback.scoring.sharding import RankShard
from forget_callback.snapshots.reference import Reference, digest_of_snapshot
from forget_callback.snapshots.skipped import skip
from forget_callback.snapshots.snapshot import Snapshot

# Given the snapshots of the first prompts, the ids of the items to ask further, by probe.
Ask: TypeAlias = Callable[[list[Snapshot]], Mapping[str, Collection[str]]]
# Tokens of one batch: enough to keep the device busy, few enough to fit beside a training step.
_BATCH_TOKENS = {"cpu": 2048}
_BATCH_TOKENS_ELSEWHERE = 8192


def score_probe(
    model: Any,
    tokenizer: Any,
    probe: OneProbe,
    *,
    batch_tokens: int | None = None,
    progress: Progress = False,
    replicate: int = 0,
    scorer: Judge | Callable[..., Any] | None = None,
) -> Snapshot:
    """Scores a model on every item of a probe, in all prompts that the items have.

    To score again, or several probes, make a `Scorer` once.

    Args:
        model: A causal language model of transformers, in any mode, on any device; it is left as it was.
        tokenizer: Its tokenizer, or a processor that holds one.
        probe: One probe, in any form that `ForgetCallback` takes. A chat probe takes the tokenizer's template, which
            becomes part of its fingerprint.
        batch_tokens: Tokens of one batch, padding included; 2,048 on a CPU and 8,192 elsewhere by default.
            Halved on out of memory (OOM).
        replicate: Another number scores the same items in other batches, and samples with another seed: what differs
            is noise.
        progress: Show a progress bar on a terminal if scoring takes longer than two seconds; elsewhere, or with
            "lines", say in a line how long it takes, if that is 20 seconds or more.
        scorer: Judges generated texts in place of each item's `match`: a function in the call form of a TRL reward
            function, or a `Judge`, which explains it.

    Returns:
        A snapshot at step 0, with the answers to the further prompts in `further`. Items longer than the model's
        context, and items whose logits are NaN, are not scored. `metadata` has the scoring path (`likelihood`) and the
        generation backend (`generation`).

    Raises:
        ValueError: If the model is no causal language model, `batch_tokens` is below 1, an answer has no token of its
            own, a chat template or a matcher is missing, or the scorer does not return what it should.
        RuntimeError: If the scorer fails.
    """
    probes = as_probes(probe)
    if len(probes) != 1:
        raise ValueError(f"probe must be one probe, got {len(probes)}; make a Scorer for several")
    whole = Scorer(tokenizer, probes, batch_tokens=batch_tokens, replicate=replicate, scorer=scorer)
    return whole.score(model, progress=progress)[0]


class Scorer:
    """Scores the states of one model on the same probes, snapshot after snapshot.

    Token ids, batches and the scoring path are determined once and kept, so every snapshot forwards the same batches: a
    flip is never a batching artefact. Choices and recall of all probes share their forward passes. First prompts are
    batched by themselves: their answers are the same whether or not the further ones are asked.

    Args:
        tokenizer: The model's tokenizer, or a processor that holds one.
        probes: With different names, in any form that `ForgetCallback` takes.
        batch_tokens: As in `score_probe`.
        replicate: As in `score_probe`.
        scorer: As in `score_probe`.
        only: By probe name, the ids of the items to score; a probe that is not named is scored whole.
        shared: Under torch.distributed, split the items over the ranks; each rank gets all results. All ranks must call
            then, and a failure on one raises on all. A `scorer` runs on the main process only.
        vllm: The `vllm_generation` of a GRPO trainer, which then generates greedy answers.
        pace: How long work took before, where another Scorer scored the same model.
        references: By probe, what the baseline expected in documents, with which each model is compared; a dictionary
            is kept as it is, and may be shared.
        encodings: Of another Scorer with the same tokenizer: what it encoded is not encoded again.

    Attributes:
        probes: As they are scored, with the chat template and the scorer in their fingerprints.
        references: As given, and of each model that was scored with `keep`.
        encodings: Token ids of the probes, for further scorers.
        seconds: What the last scoring of the first prompts and of the further ones took, without what is done once.

    Raises:
        ValueError: If a number is below 1, or a chat template, a matcher or the scorer of a probe is missing.
    """

    def __init__(
        self,
        tokenizer: Any,
        probes: Probes,
        *,
        batch_tokens: int | None = None,
        replicate: int = 0,
        only: Mapping[str, Collection[str]] | None = None,
        shared: bool = False,
        vllm: Any = None,
        scorer: Judge | Callable[..., Any] | None = None,
        pace: Pace | None = None,
        references: dict[str, Reference] | None = None,
        encodings: Encodings | None = None,
    ) -> None:
        if batch_tokens is not None and batch_tokens < 1:
            raise ValueError(f"batch_tokens must be 1 or more, got {batch_tokens}")
        if isinstance(tokenizer, str):
            raise ValueError(
                f"tokenizer must be a loaded tokenizer, got {quoted(tokenizer)}; load_tokenizer(...) loads one"
            )
        self.tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        self.judge = Judge.of(scorer)
        given = map(require_made, judged_by(self.judge, as_probes(probes)))
        self.probes = tuple(bind(probe, self.tokenizer) for probe in given)
        self.batch_tokens, self.replicate = batch_tokens, replicate
        self.only = dict(only or {})
        self.shared, self.vllm = shared, vllm
        self.pace = Pace() if pace is None else pace
        self.references = {} if references is None else references
        self.encodings = Encodings(self.tokenizer) if encodings is None else encodings
        self.seconds: dict[str, float] = {}
        # Made when first used: of the first prompts, and of the further variants.
        self._groups: list[PromptGroup] = []
        self._asked = self.only  # the items of the second one

    def narrowed(self, only: Mapping[str, Collection[str]]) -> Scorer:
        """A Scorer of some of the items that this one scores: token ids and scoring paths are kept, batches are not.

        Args:
            only: By probe name, the ids of the items.
        """
        other = copy(self)
        other.only, other._groups = dict(only), [group.narrowed(only) for group in self._groups]
        other._asked = other.only
        return other

    def again(self, names: Collection[str]) -> Scorer:
        """A Scorer of some of the same probes in other batches and with other samples, which repeats no check.

        Args:
            names: Of the probes.
        """
        other = copy(self)
        other.probes = tuple(probe for probe in self.probes if probe.name in names)
        other.replicate = self.replicate + 1
        other._groups = [group.again(names, self.only, other.replicate) for group in self._groups[:1]]
        other._asked = other.only
        return other

    def score(
        self,
        model: Any,
        *,
        variants: bool = True,
        progress: Progress = False,
        keep: bool = False,
        ask: Ask | None = None,
    ) -> list[Snapshot]:
        """A snapshot of each probe at step 0. Its share of the time that this took is in its metadata.

        Args:
            variants: Whether to ask the further prompts as well; without, the snapshots have the first ones alone.
            progress: As in `score_probe`.
            keep: This is the baseline: keep what it expects in documents in `references`, and compare it with nothing.
            ask: Which items to ask their further prompts, all by default; called on each rank.
        """
        if isinstance(model, str):
            raise ValueError(
                f"model must be a loaded model of transformers, got {quoted(model)}; load_model(...) loads one"
            )
        require_causal(model)
        if not (hasattr(model, "config") and hasattr(model, "device")):
            got = type(model).__name__
            raise ValueError(f"model must be a loaded model of transformers, got {got}; pass the one that it wraps")
        begun = time.perf_counter()
        work = partial(self._score, model, variants, progress, keep, ask)
        found = together(work) if self.shared else work()
        per_prompt = (time.perf_counter() - begun) / sum(one.n_asked for one in found)
        return [one.with_metadata(seconds=round(per_prompt * one.n_asked, 6)) for one in found]

    def _score(self, model: Any, variants: bool, progress: Progress, keep: bool, ask: Ask | None) -> list[Snapshot]:
        shard = RankShard.of(model) if self.shared else RankShard()
        vllm = None if self.vllm is None else VLLM(self.vllm)
        further: list[PartAnswers] = []
        with exits_as_errors(), no_side_effects(model, self.tokenizer):
            with once():
                groups = self._prepared(model, variants)
            budget = self.batch_tokens or _BATCH_TOKENS.get(model.device.type, _BATCH_TOKENS_ELSEWHERE)
            patience = Patience()  # of the whole snapshot
            with self._progress(groups, progress, variants) as advance:
                how: dict[str, Any] = {"shard": shard, "vllm": vllm, "patience": patience}
                how["advance"] = lambda kind, units: advance(kind, units * shard.count)
                self.seconds = {}
                with self._timed("first"):
                    first, budget = groups[0].score(model, budget, keep=keep, references=self.references, **how)
                if variants:
                    with self._timed("further"):
                        further, _ = self._further(ask, first).score(model, budget, required=False, **how)
            self.batch_tokens = budget
        result = []
        for i, (probe, answers) in enumerate(zip(self.probes, first)):
            metadata = {
                "batch_tokens": budget,
                "dtype": str(model.dtype).removeprefix("torch."),
                "processes": shard.count,
                **groups[0].ways(i),
            }
            own = [one for one in further if one.part.probe.name == probe.name]
            if not keep and probe.name in self.references and not np.isnan(answers.kl).all():
                metadata["kl_baseline"] = self.references[probe.name].baseline
            found = snapshot_of(probe, answers, own, metadata)
            result.append(skip(found, self._asked[probe.name]) if variants and ask is not None else found)
            if answers.kept:
                key = (probe.name, probe.fingerprint, digest_of_snapshot(result[-1]))
                self.references[probe.name] = Reference(*key, answers.kept)
        return result

    @contextlib.contextmanager
    def _timed(self, prompts: str) -> Iterator[None]:
        begun = time.perf_counter()
        with once(repeated=True) as work:
            yield
        self.seconds[prompts] = time.perf_counter() - begun - work.seconds

    def _progress(
        self, groups: Sequence[PromptGroup], wanted: Progress, variants: bool
    ) -> contextlib.AbstractContextManager[Callable[[str, float], object]]:
        counts = [len(self.only.get(probe.name, probe.items)) for probe in self.probes]
        what = f"scoring {what_is_scored(self.probes, counts, variants=variants)}"
        if self.replicate:
            what += " once more, to see what flips by itself"
        probes = {probe.name: sum((group.work[probe.name] for group in groups), Counter()) for probe in self.probes}
        return progress_of(what, sum(probes.values(), Counter()), wanted, probes=probes, pace=self.pace)

    def _prepared(self, model: Any, variants: bool) -> list[PromptGroup]:
        """The groups of prompts to ask; each is made once."""
        if not self._groups:
            self._groups.append(self._group([first_part(probe) for probe in self.probes], model))
        if variants and len(self._groups) == 1:
            with_template = partial(bind, tokenizer=self.tokenizer)
            further = [part for probe in self.probes for part in further_parts(probe, with_template)]
            self._groups.append(self._group(further, model))
        return self._groups[: 2 if variants else 1]

    def _further(self, ask: Ask | None, first: Sequence[PartAnswers]) -> PromptGroup:
        """The group of the further prompts, of the items that are to be asked now."""
        chosen = self.only
        if ask is not None:
            wanted = ask([first_snapshot(answers) for answers in first])
            chosen = {p.name: set(wanted[p.name]).intersection(self.only.get(p.name, p.ids)) for p in self.probes}
        if chosen != self._asked:
            self._groups[1], self._asked = self._groups[1].narrowed(chosen), chosen
        return self._groups[1]

    def _group(self, parts: Sequence[Part], model: Any) -> PromptGroup:
        more: dict[str, Any] = {"replicate": self.replicate, "judge": self.judge, "shared": self.shared}
        more |= {"limit": context_length(model), "vocabulary": vocabulary_size(model)}
        return PromptGroup(parts, self.encodings, only=self.only, **more)
