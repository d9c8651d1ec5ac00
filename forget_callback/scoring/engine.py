"""`score_probe`: a model, a tokenizer and a probe in, a snapshot out.

The one place where the three kinds of items come together. The model, the tokenizer and all random generators are left
as they were (see `guard.py`). Knows nothing of training.
Generated texts are judged by each item's own `match`, or by a scorer of the user's (see `judge.py`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from forget_callback.probes.answers import Judgement
from forget_callback.probes.items import Generation
from forget_callback.probes.load import OneProbe, Probes, as_probes
from forget_callback.probes.probe import Probe
from forget_callback.scoring.distributed import on_main, together
from forget_callback.scoring.generation.generate import TextGenerator
from forget_callback.scoring.generation.text import GeneratedText
from forget_callback.scoring.generation.vllm import VLLM
from forget_callback.scoring.guard import no_side_effects
from forget_callback.scoring.judge import Judge, judged_by
from forget_callback.scoring.likelihood.fallbacks import LikelihoodScorer
from forget_callback.scoring.likelihood.tokens import Continuation, bind, context_of, continuations, encode
from forget_callback.scoring.memory import halve_on_oom
from forget_callback.scoring.outcomes import SnapshotBuilder, judge_likelihoods, judge_texts, warn_unscored
from forget_callback.scoring.sharding import RankShard
from forget_callback.snapshots.snapshot import Snapshot

# Tokens of one batch: enough to keep the device busy, few enough to fit beside a training step.
_BATCH_TOKENS = {"cpu": 2048}
_BATCH_TOKENS_ELSEWHERE = 8192


def score_probe(
    model: Any,
    tokenizer: Any,
    probe: OneProbe,
    *,
    batch_tokens: int | None = None,
    progress: bool = False,
    variant: int = 0,
    scorer: Judge | Callable[..., Any] | None = None,
) -> Snapshot:
    """Scores a model on every item of a probe. To score again, or several probes, make a `Scorer` once.

    Args:
        model: A causal language model of transformers, in any mode, on any device; it is left as it was.
        tokenizer: Its tokenizer, or a processor that holds one.
        probe: One probe, in any form that `ForgetCallback` takes. A chat probe takes the tokenizer's template, which
            becomes part of its fingerprint.
        batch_tokens: Tokens of one batch, padding included; 2,048 on a CPU and 8,192 elsewhere by default.
            Halved on out of memory (OOM).
        variant: Another number scores the same items in other batches, and samples with another seed: what differs is
            noise.
        progress: Show a progress bar on a terminal if scoring takes longer than two seconds.
        scorer: Judges generated texts in place of each item's `match`: a function in the call form of a TRL reward
            function, or a `Judge`, which explains it.

    Returns:
        A snapshot at step 0. Items longer than the model's context, and items whose logits are NaN, are not scored.
        `metadata` has the scoring path (`likelihood`) and the generation backend (`generation`).

    Raises:
        ValueError: If `batch_tokens` is below 1, an answer has no token of its own, a chat template or a matcher is
            missing, or the scorer does not return what it should.
        RuntimeError: If the scorer fails.
    """
    probes = as_probes(probe)
    if len(probes) != 1:
        raise ValueError(f"probe must be one probe, got {len(probes)}; make a Scorer for several")
    whole = Scorer(tokenizer, probes, batch_tokens=batch_tokens, variant=variant, scorer=scorer)
    return whole.score(model, progress=progress)[0]


def score_repeats(
    model: Any,
    tokenizer: Any,
    probe: Probe,
    repeats: int,
    *,
    batch_tokens: int | None = None,
    progress: bool = False,
    scorer: Judge | Callable[..., Any] | None = None,
) -> list[Snapshot]:
    """Generates several answers to every generation item, each from other samples; prompts are forwarded once.

    Args:
        repeats: Samples per item. Choices and recall do not vary: they are equal in all snapshots.

    Returns:
        A snapshot for each repeat; the first is that of `score_probe`.

    Raises:
        ValueError: If `repeats` or `batch_tokens` is below 1, or as `score_probe` does.
    """
    whole = Scorer(tokenizer, [probe], batch_tokens=batch_tokens, repeats=repeats, scorer=scorer)
    return [snapshots[0] for snapshots in whole.score_repeats(model, progress=progress)]


class Scorer:
    """Scores the states of one model on the same probes, snapshot after snapshot.

    Token ids, batches and the scoring path are determined once and kept, so every snapshot forwards the same batches: a
    flip is never a batching artefact. Choices and recall of all probes share their forward passes.

    Args:
        tokenizer: The model's tokenizer, or a processor that holds one.
        probes: With different names, in any form that `ForgetCallback` takes.
        repeats: Samples per generation item.
        batch_tokens: As in `score_probe`.
        variant: As in `score_probe`.
        scorer: As in `score_probe`.
        only: By probe name, the ids of the items to score; a probe that is not named is scored whole.
        shared: Under torch.distributed, split the items over the ranks; each rank gets all results. All ranks must call
            then, and a failure on one raises on all. A `scorer` runs on the main process only.
        vllm: The `vllm_generation` of a GRPO trainer, which then generates greedy answers.

    Attributes:
        probes: As they are scored, with the chat template and the scorer in their fingerprints.

    Raises:
        ValueError: If a number is below 1, or a chat template, a matcher or the scorer of a probe is missing.
    """

    def __init__(
        self,
        tokenizer: Any,
        probes: Probes,
        *,
        batch_tokens: int | None = None,
        repeats: int = 1,
        variant: int = 0,
        only: Mapping[str, Collection[str]] | None = None,
        shared: bool = False,
        vllm: Any = None,
        scorer: Judge | Callable[..., Any] | None = None,
    ) -> None:
        for name, value in (("batch_tokens", batch_tokens), ("repeats", repeats)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        if isinstance(tokenizer, str):
            raise ValueError(f"tokenizer must be a loaded tokenizer, got {tokenizer!r}; load_tokenizer(...) loads one")
        self.tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        self.judge = Judge.of(scorer)
        self.probes = tuple(bind(probe, self.tokenizer) for probe in judged_by(self.judge, as_probes(probes)))
        self.batch_tokens = batch_tokens
        self.repeats, self.variant = repeats, variant
        self.only = dict(only or {})
        self.shared, self.vllm = shared, vllm
        self._prepared: list[_Prepared] | None = None
        self._nan_reported: set[str] = set()
        self._scorer = LikelihoodScorer([])

    def score(self, model: Any, *, progress: bool = False) -> list[Snapshot]:
        """A snapshot of each probe at step 0; with several repeats, that of the first."""
        return self.score_repeats(model, progress=progress)[0]

    def score_repeats(self, model: Any, *, progress: bool = False) -> list[list[Snapshot]]:
        """For each repeat, a snapshot of each probe. Its share of the time that this took is in its metadata."""
        if isinstance(model, str):
            raise ValueError(f"model must be a loaded model of transformers, got {model!r}; load_model(...) loads one")
        begun = time.perf_counter()
        found = together(lambda: self._score(model, progress)) if self.shared else self._score(model, progress)
        per_item = (time.perf_counter() - begun) / sum(len(one) for snapshots in found for one in snapshots)
        return [[one.with_metadata(seconds=round(per_item * len(one), 6)) for one in snapshots] for snapshots in found]

    def _score(self, model: Any, progress: bool) -> list[list[Snapshot]]:
        shard = RankShard.of(model) if self.shared else RankShard()
        vllm = None if self.vllm is None else VLLM(self.vllm)
        with no_side_effects(model, self.tokenizer):
            budget = self.batch_tokens or _BATCH_TOKENS.get(model.device.type, _BATCH_TOKENS_ELSEWHERE)
            if self._prepared is None:
                self._prepare(model)
            assert self._prepared is not None
            total = len(self._scorer.rows) + sum(len(one.generator.requests) for one in self._prepared)
            with _bar(self.probes, total, progress, shard.count) as advance:
                found, budget = halve_on_oom(
                    lambda n: self._scorer.score(model, budget=n, shard=shard, advance=advance), budget
                )
                generated = []
                for one in self._prepared:
                    generate = partial(
                        one.generator.generate, model, self.tokenizer, shard=shard, vllm=vllm, advance=advance
                    )
                    several, budget = halve_on_oom(lambda n: generate(budget=n), budget)  # noqa: B023 - called at once
                    generated.append([[texts[repeat] for texts in several] for repeat in range(self.repeats)])
            # Within the guard: a scorer may run a model and draw random numbers.
            judged = [[self._judged(one, texts) for texts in own] for one, own in zip(self._prepared, generated)]
            self.batch_tokens = budget
        result: list[list[Snapshot]] = [[] for _ in range(self.repeats)]
        for one, texts, outcomes in zip(self._prepared, generated, judged):
            own = [(row, found[i]) for i, row in one.rows]
            metadata = {
                "batch_tokens": budget,
                "dtype": str(model.dtype).removeprefix("torch."),
                "processes": shard.count,
                **({"likelihood": str(self._scorer.path)} if own else {}),
                **({"generation": one.generator.backend} if one.kept else {}),
            }
            broken = {row.item for row, likelihood in own if np.isnan(likelihood.logprob)}
            broken |= {i for answers in texts for i, text in zip(one.kept, answers) if text is None}
            self._report_nan(one.probe, broken)
            for snapshots, answers, outcome in zip(result, texts, outcomes):
                builder = SnapshotBuilder(len(one.probe))
                judge_likelihoods(builder, one.probe, own, self.tokenizer)
                judge_texts(builder, one.probe, one.kept, answers, outcome)
                snapshots.append(builder.snapshot(one.probe, metadata))
        return result

    def _judged(self, one: _Prepared, texts: Sequence[GeneratedText | None]) -> dict[int, Judgement] | None:
        """What the scorer makes of the texts to the generation items of a probe, None where there is no scorer."""
        if self.judge is None:
            return None
        known = {index: text for index, text in zip(one.kept, texts) if text is not None}
        work = partial(self.judge.judgements, one.probe, known)
        return on_main(work) if self.shared else work()  # once, whatever it costs: all ranks have all texts

    def _report_nan(self, probe: Probe, broken: set[int]) -> None:
        """Warns once about items whose logits are NaN."""
        if broken and probe.name not in self._nan_reported:
            self._nan_reported.add(probe.name)
            warn_unscored(probe, [probe.ids[i] for i in sorted(broken)], "their logits are NaN")

    def _prepare(self, model: Any) -> None:
        """Computes whatever depends on the tokenizer and the context length."""
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**62
        rows: list[Continuation] = []
        prepared = []
        for probe in self.probes:
            own = continuations(probe, self.tokenizer)
            generated = [i for i, item in enumerate(probe.items) if isinstance(item, Generation)]
            prompts = {
                i: encode(context_of(probe.items[i], probe, self.tokenizer), self.tokenizer, special=not probe.chat)
                for i in generated
            }
            too_long = {row.item for row in own if len(row.tokens) > limit}
            too_long |= {i for i in generated if len(prompts[i]) + probe.items[i].max_new_tokens > limit}  # type: ignore[union-attr]
            why = f"longer than the model's context of {limit} tokens"
            warn_unscored(probe, [probe.ids[i] for i in sorted(too_long)], why)
            only = self.only.get(probe.name)
            left_out = too_long | {i for i, name in enumerate(probe.ids) if only is not None and name not in only}
            kept = [i for i in generated if i not in left_out]
            own = [row for row in own if row.item not in left_out]
            items: list[Any] = [probe.items[i] for i in kept]
            answers = TextGenerator(
                probe, items, [prompts[i] for i in kept], repeats=self.repeats, variant=self.variant
            )
            prepared.append(_Prepared(probe, list(enumerate(own, len(rows))), kept, answers))
            rows += own
        self._scorer = LikelihoodScorer(rows, variant=self.variant)
        self._prepared = prepared


@dataclass(frozen=True)
class _Prepared:
    """A probe with its token ids.

    Attributes:
        rows: Its continuations, with their indices among those of all probes.
        kept: Indices of the generation items that fit the context.
        generator: Generates text for these.
    """

    probe: Probe
    rows: list[tuple[int, Continuation]]
    kept: list[int]
    generator: TextGenerator


@contextlib.contextmanager
def _bar(probes: Sequence[Probe], total: int, progress: bool, shards: int) -> Iterator[Callable[[int], object]]:
    """A progress bar over all shards; never past its end, even if a batch was retried after OOM."""
    name = ", ".join(probe.name for probe in probes)
    # disable=None: shown on a terminal only, so that a log file gets no bar.
    bar = tqdm(total=total, desc=f"probe {name}", delay=2, leave=False, disable=None if progress else True)
    with bar:
        yield lambda n: bar.update(min(n * shards, total - bar.n))
