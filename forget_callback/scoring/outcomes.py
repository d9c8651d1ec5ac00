"""From likelihoods and generated texts to a snapshot: which items are right, and what each model chose or wrote.

Knows nothing of models: what was measured here and what a server returned become snapshots alike.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from forget_callback.probes.answers import Judgement
from forget_callback.probes.items import Generation, MultipleChoice, Recall, place_of
from forget_callback.probes.judging import judge
from forget_callback.probes.probe import Probe
from forget_callback.scoring.generation.text import GeneratedText
from forget_callback.scoring.likelihood.forward import Likelihood
from forget_callback.scoring.likelihood.tokens import Continuation
from forget_callback.scoring.prefixes import common_length
from forget_callback.snapshots.snapshot import Snapshot, complete

logger = logging.getLogger(__name__)


class SnapshotBuilder:
    """The columns of a snapshot while they are filled; a row that is not filled stays unscored."""

    def __init__(self, n: int) -> None:
        self.outcome: list[str | None] = [None] * n
        self.choice = np.full(n, -1)
        self.margin = np.full(n, np.nan)
        self.prediction: list[str | None] = [None] * n
        self.text: list[str | None] = [None] * n
        self.scores: list[Any] = [()] * n

    def snapshot(self, probe: Probe, metadata: dict[str, Any]) -> Snapshot:
        """The snapshot, at step 0."""
        correct = [np.nan if outcome is None else float(outcome == "correct") for outcome in self.outcome]
        snapshot = Snapshot(
            probe=probe.name,
            fingerprint=probe.fingerprint,
            step=0,
            ids=np.array(probe.ids, object),
            correct=np.array(correct),
            outcome=np.array(self.outcome, object),
            choice=self.choice,
            margin=self.margin,
            prediction=np.array(self.prediction, object),
            text=np.array(self.text, object),
            scores=self.scores,
            metadata=metadata,
        )
        return complete(snapshot, probe)


def judge_texts(
    builder: SnapshotBuilder,
    probe: Probe,
    items: Sequence[int],
    texts: Sequence[GeneratedText | None],
    judged: Mapping[int, Judgement] | None = None,
) -> None:
    """Fills the rows of generation items.

    Args:
        builder: The columns to fill.
        probe: The probe of the items.
        items: Indices of the items, ``(n,)``.
        texts: The generated texts, None where the model gave NaN, ``(n,)``.
        judged: What a scorer made of the texts, by the index of the item; one that it left out stays unscored.

    Raises:
        ValueError: If the probe is one that a scorer judges, and none did.
    """
    if probe.scorer and judged is None:
        raise ValueError(f"probe {probe.name!r} is judged by {probe.scorer!r}, which is not available here")
    for index, text in zip(items, texts):
        item = probe.items[index]
        if text is not None and isinstance(item, Generation):
            builder.text[index] = text.text
            finished = text.finish != "length"
            verdict = judge(item, text.text, finished=finished) if judged is None else judged.get(index)
            if verdict is None:
                continue
            builder.outcome[index], builder.prediction[index] = verdict.outcome, verdict.prediction
            if item.options and verdict.prediction is not None and judged is None:
                place = place_of(verdict.prediction)
                builder.choice[index] = place if place < item.options else -1


def judge_likelihoods(
    builder: SnapshotBuilder, probe: Probe, scored: Sequence[tuple[Continuation, Likelihood]], tokenizer: Any
) -> None:
    """Fills the rows of choice and recall items."""
    for index, group in groupby(scored, key=lambda pair: pair[0].item):
        options = list(group)
        if any(np.isnan(likelihood.logprob) for _, likelihood in options):
            continue
        item = probe.items[index]
        if isinstance(item, Recall):
            row, found = options[0]
            assert found.argmax is not None
            target, argmax = list(row.tokens[row.n_context :]), found.argmax.tolist()
            builder.outcome[index] = "correct" if argmax == target else "wrong"
            builder.margin[index] = found.margin
            # After the first wrong token the argmax is conditioned on the answer, not on what the model would generate.
            alike = common_length(argmax, target)
            builder.prediction[index] = tokenizer.decode(argmax[: alike + 1], skip_special_tokens=True)
        elif isinstance(item, MultipleChoice):
            sums = np.array([likelihood.logprob for _, likelihood in options])
            scores = sums / _lengths(item, probe, [row for row, _ in options])
            choice = int(scores.argmax())
            builder.outcome[index] = "correct" if choice == item.answer else "wrong"
            builder.choice[index], builder.scores[index] = choice, scores
            builder.margin[index] = scores[item.answer] - np.delete(scores, item.answer).max()
            builder.prediction[index] = item.choices[choice]


def warn_unscored(probe: Probe, ids: Sequence[str], why: str) -> None:
    """Warns about items that are not scored, if there are any."""
    if ids:
        shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
        are = "items are" if len(ids) > 1 else "items is"
        logger.warning("probe %r: %d of %d %s not scored: %s (%s)", probe.name, len(ids), len(probe), are, shown, why)


def _lengths(item: MultipleChoice, probe: Probe, rows: list[Continuation]) -> Any:
    """Divisor of each option's summed log-probability. Bytes do not count the leading space, as in lm-eval."""
    if probe.normalization == "length":
        own = [len(choice.lstrip().encode()) for choice in item.choices]
        return np.array(item.lengths or own, float)
    if probe.normalization == "token":
        return np.array([len(row.tokens) - row.n_context for row in rows], float)
    return 1.0
