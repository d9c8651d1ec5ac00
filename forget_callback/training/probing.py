"""Scores the probes of a run together, and each apart where that fails, so that one that fails costs no other.

All ranks score, and all get the results: what fails on one fails on all, so that none waits for another.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from forget_callback.probes.probe import Probe
from forget_callback.scoring.distributed import rank
from forget_callback.scoring.engine import Ask, Scorer
from forget_callback.scoring.judge import Judge
from forget_callback.scoring.likelihood.rendering import bind
from forget_callback.scoring.outcomes import PartAnswers, snapshot_of
from forget_callback.scoring.parts import first_part, further_parts
from forget_callback.scoring.progress import Pace, Progress
from forget_callback.snapshots.reference import Reference
from forget_callback.snapshots.snapshot import Snapshot
from forget_callback.training.unmeasured import reason


@dataclass(frozen=True)
class Scored:
    """Probes that were scored, and of the others why they were not.

    Attributes:
        snapshots: Of the former, in the order of the probes.
        failed: Of the latter, by name.
    """

    snapshots: tuple[Snapshot, ...]
    failed: Mapping[str, str]


class ProbeScorer:
    """The `Scorer` of a run, which may be made anew: for fewer probes or items, or for the same ones once more.

    Args:
        tokenizer: The model's.
        probes: With their chat templates.
        judge: In place of the items' own `match`.
        batch_tokens: Tokens of one forward pass.
        vllm: The `vllm_generation` of a GRPO trainer.
        bars: Whether progress may be a bar.

    Attributes:
        references: By probe, what the baseline expected in documents.
    """

    def __init__(
        self,
        tokenizer: Any,
        probes: Sequence[Probe],
        judge: Judge | None,
        *,
        batch_tokens: int | None,
        vllm: Any,
        bars: bool = True,
    ) -> None:
        self._judge, self._bars = judge, bars
        self.references: dict[str, Reference] = {}
        self._make = partial(
            Scorer, tokenizer, shared=True, vllm=vllm, pace=Pace(repeated=True), references=self.references
        )
        self._scorer = self._make(probes, scorer=self._judge_of(probes), batch_tokens=batch_tokens)
        self._whole = self._scorer  # of all items

    @property
    def probes(self) -> tuple[Probe, ...]:
        """As they are scored."""
        return self._scorer.probes

    @property
    def batch_tokens(self) -> int | None:
        """The batch size, possibly reduced on OOM."""
        return self._scorer.batch_tokens

    @property
    def seconds(self) -> Mapping[str, float]:
        """What the last scoring took together, see `Scorer`; of the "first" prompts and of "further" ones."""
        return self._scorer.seconds

    @property
    def _progress(self) -> Progress:
        return rank() == 0 and (self._bars or "lines")

    def _other(self, probes: Sequence[Probe], **more: Any) -> Scorer:
        """Another Scorer with the same batch size."""
        more = {"only": self._scorer.only, "batch_tokens": self.batch_tokens, **more}
        more["encodings"] = self._scorer.encodings
        return self._make(probes, scorer=self._judge_of(probes), **more)

    def _judge_of(self, probes: Sequence[Probe]) -> Judge | None:
        """The judge, where these probes have something to judge."""
        return self._judge if any(probe.scorer for probe in probes) else None

    def keep(self, names: Collection[str]) -> None:
        """Scores these probes alone from here on."""
        self._whole = self._scorer = self._other([probe for probe in self.probes if probe.name in names])

    def keep_items(self, only: Mapping[str, Collection[str]]) -> None:
        """Scores these items alone from here on, by probe; what is done once is not done again."""
        self._whole.batch_tokens = self.batch_tokens
        self._scorer = self._whole.narrowed(only) if only else self._whole

    def score(self, model: Any, *, variants: bool, keep: bool = False, ask: Ask | None = None) -> list[Snapshot]:
        """A snapshot of each probe; with `keep` later ones are compared with it on documents. See `Scorer.score`.

        Raises:
            Exception: If one fails.
        """
        return self._scorer.score(model, variants=variants, progress=self._progress, keep=keep, ask=ask)

    def score_again(self, model: Any, names: Collection[str]) -> list[Snapshot]:
        """These probes once more, in other batches and with other samples, in their first prompts."""
        return self._scorer.again(names).score(model, variants=False, progress=self._progress)

    def score_apart(self, model: Any, *, variants: bool, keep: bool = False, ask: Ask | None = None) -> Scored:
        """Snapshots of all probes that can be scored. Of several each one alone, if they fail together.

        Raises:
            Exception: If none can be scored.
        """
        try:
            return Scored(tuple(self.score(model, variants=variants, keep=keep, ask=ask)), {})
        except Exception as error:
            if len(self.probes) == 1:
                raise
            why = reason(error)  # not the error: its traceback keeps the tensors of the failed forward pass alive
        apart, failed = [], {}
        for probe in self.probes:
            # In batches of its own: near a tie, an answer may flip by that alone.
            try:
                apart += self._other([probe]).score(model, variants=variants, keep=keep, ask=ask)
            except Exception as error:
                failed[probe.name] = reason(error)
        if not apart:
            raise RuntimeError("; ".join(f"probe {name!r}: {why}" for name, why in failed.items()) or why)
        return Scored(tuple(apart), failed)

    def unscored(self, name: str, why: str, *, variants: bool) -> Snapshot:
        """A snapshot of a probe in which no item is scored."""
        probe = next(probe for probe in self.probes if probe.name == name)
        further = further_parts(probe, partial(bind, tokenizer=self._scorer.tokenizer)) if variants else []
        metadata = {"not_scored": {why: len(probe)}}
        return snapshot_of(probe, PartAnswers(first_part(probe)), [PartAnswers(part) for part in further], metadata)
