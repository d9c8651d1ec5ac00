"""From likelihoods and generated texts to a snapshot: which items are right, and what each model chose or wrote.

Knows nothing of models: what was measured here and what a server returned become snapshots alike.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from forget_callback.probes.answers import Judgement
from forget_callback.probes.apart import Patience, Verdicts
from forget_callback.probes.items import Generation, MultipleChoice, Recall, Text, accepted, place_of
from forget_callback.probes.judging import judge_all
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import printable, quoted
from forget_callback.scoring.distributed import on_main, rank
from forget_callback.scoring.documents import judge_text
from forget_callback.scoring.generation.text import GeneratedText, recalls
from forget_callback.scoring.judge import Judge
from forget_callback.scoring.likelihood.forward import Likelihood
from forget_callback.scoring.likelihood.tokens import Continuation, spoken
from forget_callback.scoring.parts import Part, variant_fingerprint
from forget_callback.scoring.prefixes import common_length
from forget_callback.snapshots.answers import ANSWERS, FURTHER, GRADED, Answers
from forget_callback.snapshots.joined import complete
from forget_callback.snapshots.reference import Window
from forget_callback.snapshots.snapshot import Snapshot

logger = logging.getLogger(__name__)

_UNJUDGED = "its answer could not be judged"


class PartAnswers:
    """The answers to the items of a part while they are filled; a row that is not filled stays unscored.

    Attributes:
        dropped: Why an item could not be scored, by index.
        overdue: Texts that were over a deadline of judging, by the ids of their items.
        kept: What a later model of these documents is compared with, by the ids of their items.
    """

    def __init__(self, part: Part) -> None:
        n = len(part.probe)
        self.part, self.probe = part, part.probe
        self.correct = np.full(n, np.nan)
        self.outcome = np.full(n, None, object)
        self.choice = np.full(n, -1)
        self.margin = np.full(n, np.nan)
        self.prediction = np.full(n, None, object)
        self.text = np.full(n, None, object)
        self.scores: list[Any] = [()] * n
        self.score = np.full(n, np.nan)
        self.bits_per_byte = np.full(n, np.nan)
        self.kl = np.full(n, np.nan)
        self.kl_error = np.full(n, np.nan)
        self.top1 = np.full(n, np.nan)
        self.dropped: dict[int, str] = {}
        self.overdue: dict[str, float] = {}
        self.kept: dict[str, list[Window]] = {}

    def judge(self, index: int, outcome: str) -> None:
        """Fills the outcome of an item that was answered once."""
        self.outcome[index], self.correct[index] = outcome, float(outcome == "correct")

    @property
    def unscored(self) -> list[int]:
        """Indices of the items without an outcome."""
        return [i for i, outcome in enumerate(self.outcome) if outcome is None]


def snapshot_of(probe: Probe, first: PartAnswers, further: Sequence[PartAnswers], metadata: dict[str, Any]) -> Snapshot:
    """The snapshot at step 0, of the answers to the first prompts and to the further variants that were asked.

    Warns once about answers that took too long to judge; how many is in its metadata, and in `not_scored` how many
    items were dropped, by reason.
    """
    overdue = [late for answers in (first, *further) for late in answers.overdue.items()]
    if overdue:
        if rank() == 0:
            _warn_overdue(probe, overdue)
        metadata = {**metadata, "overdue": len(overdue)}
    counts = Counter(
        (f"variant {answers.part.number}: " if answers.part.number > 1 else "") + why
        for answers in (first, *further)
        for why in answers.dropped.values()
    )
    if counts:
        metadata = {**metadata, "not_scored": dict(counts)}
    several = []
    for _, group in groupby(further, key=lambda answers: answers.part.number):
        several.append(_answers(probe, list(group)))
    return first_snapshot(first, metadata=metadata, further=several)


def first_snapshot(first: PartAnswers, **more: Any) -> Snapshot:
    """The snapshot at step 0, of the answers to the first prompts, and what else it has."""
    snapshot = Snapshot(
        probe=first.probe.name,
        fingerprint=first.probe.fingerprint,
        step=0,
        ids=np.array(first.probe.ids, object),
        scores=first.scores,
        samples=first.probe.samples,
        **{name: getattr(first, name) for name in (*ANSWERS, *GRADED)},
        **more,
    )
    return complete(snapshot, first.probe)


def _answers(probe: Probe, parts: list[PartAnswers]) -> Answers:
    """The answers to one further variant, at the places of its items and with the options in their own order."""
    columns: dict[str, Any] = {
        name: np.full(len(probe), default, dtype) for name, (dtype, default) in FURTHER.items() if name != "asked"
    }
    asked = np.zeros(len(probe), bool)
    for answers in parts:
        part = answers.part
        own = {name: getattr(answers, name) for name in ANSWERS} | {"weak": part.weak}
        own["choice"] = [
            order[choice] if order and choice >= 0 else choice for order, choice in zip(part.orders, answers.choice)
        ]
        asked[part.places] = True
        for name, values in own.items():
            columns[name][part.places] = values
    return Answers(variant_fingerprint(probe, [answers.part for answers in parts]), asked=asked, **columns)


def judge_texts(
    answers: PartAnswers,
    items: Sequence[int],
    texts: Sequence[Sequence[GeneratedText | None]],
    judge: Judge | None = None,
    *,
    patience: Patience | None = None,
    shared: bool = False,
) -> None:
    """Fills the rows of generation items.

    Of several samples `correct` is the share that is right, of those that were judged; the outcome is "correct" if that
    is more than half, else the most frequent of the others; text, prediction and choice are of the first sample with
    that outcome. `score` is the mean of what a scorer gave.

    Args:
        answers: The columns to fill.
        items: Indices of the items, ``(n,)``.
        texts: The generated texts of each item, a list of its samples; None where the model gave NaN.
        judge: The scorer; each item's own `match` if there is none.
        patience: What texts that take long to judge may still cost.
        shared: Whether all ranks have these texts: they are judged on the main process only, whatever that costs.

    Raises:
        ValueError: If the probe is one that a scorer judges, and there is none; or the rule fails on every text.
    """
    probe = answers.probe
    if probe.scorer and judge is None:
        raise ValueError(f"probe {probe.name!r} is judged by {probe.scorer!r}, which is not available here")
    written = [(i, text) for i, samples in zip(items, texts) for text in samples if text is not None]
    if not written:
        return
    if judge is not None:
        work: Callable[[], Verdicts] = partial(_by_scorer, judge, probe, written)
    else:
        work = partial(_by_own_matches, answers.part, written, patience)
    found = on_main(work) if shared else work()
    names = [probe.ids[i] for i, _ in written]
    answers.overdue = {names[j]: seconds for j, seconds in found.overdue.items()}
    by_item: dict[int, list[tuple[GeneratedText, Judgement | None]]] = {}
    for (i, text), verdict in zip(written, found.judgements, strict=True):
        by_item.setdefault(i, []).append((text, verdict))
    for i, samples in by_item.items():
        outcomes = [verdict.outcome for _, verdict in samples if verdict is not None]
        answers.text[i] = samples[0][0].text
        if not outcomes:
            answers.dropped[i] = _UNJUDGED if judge is None else f"the scorer {quoted(judge.name)} gave no number"
            continue
        answers.correct[i] = outcomes.count("correct") / len(outcomes)
        graded = [verdict.score for _, verdict in samples if verdict is not None and verdict.score is not None]
        answers.score[i] = np.mean(graded) if graded else np.nan
        wrong = Counter(outcome for outcome in outcomes if outcome != "correct")
        answers.outcome[i] = "correct" if answers.correct[i] > 0.5 else wrong.most_common(1)[0][0]
        text, shown = next((t, v) for t, v in samples if v is not None and v.outcome == answers.outcome[i])
        answers.text[i], answers.prediction[i] = text.text, shown.prediction
        item = probe.items[i]
        if isinstance(item, Generation) and item.options and shown.prediction is not None and judge is None:
            place = place_of(shown.prediction)
            answers.choice[i] = place if place < item.options else -1


def _by_scorer(judge: Judge, probe: Probe, texts: Sequence[tuple[int, GeneratedText]]) -> Verdicts:
    return Verdicts(judge.judgements(probe, texts))


def _by_own_matches(part: Part, texts: Sequence[tuple[int, GeneratedText]], patience: Patience | None) -> Verdicts:
    """What each item's own `match` makes of its texts; warns about those that it fails on."""
    asked = []
    for i, text in texts:
        item = part.probe.items[i]
        assert isinstance(item, Generation)
        asked.append((item, text.text, text.finish != "length"))
    found = judge_all(asked, patience, run_code=part.probe.run_code)
    if len(found.failed) == len(texts):  # not the texts' fault
        raise ValueError(found.unjudged[0])
    judged = {i for (i, _), judgement in zip(texts, found.judgements) if judgement is not None}
    lost = {texts[j][0]: why for j, why in found.unjudged.items() if texts[j][0] not in judged}
    if lost:
        _warn(part, [part.probe.ids[i] for i in lost], next(iter(lost.values())))
    return found


def _warn_overdue(probe: Probe, overdue: Sequence[tuple[str, float]]) -> None:
    ids = list(dict.fromkeys(name for name, _ in overdue))
    logger.warning(
        "probe %r: %d %s took longer than %g seconds, or too much memory, to judge, and count as unparsed: %s",
        probe.name,
        len(overdue),
        "answers" if len(overdue) > 1 else "answer",
        min(seconds for _, seconds in overdue),
        _shown(ids),
    )


def judge_likelihoods(answers: PartAnswers, scored: Sequence[tuple[Continuation, Likelihood]], tokenizer: Any) -> None:
    """Fills the rows of choice, recall and text items."""
    for index, group in groupby(scored, key=lambda pair: pair[0].item):
        options = list(group)
        if any(np.isnan(likelihood.logprob) for _, likelihood in options):
            continue
        item = answers.probe.items[index]
        if isinstance(item, Text):
            judge_text(answers, index, options)
        elif isinstance(item, Recall):
            judge_recall(answers, index, [_greedy(row, found, tokenizer) for row, found in options])
        elif isinstance(item, MultipleChoice):
            sums = np.array([likelihood.logprob for _, likelihood in options])
            scores = sums / _lengths(item, answers.probe, [row for row, _ in options])
            choice = int(scores.argmax())
            answers.judge(index, "correct" if choice == item.answer else "wrong")
            answers.choice[index], answers.scores[index] = choice, scores
            answers.margin[index] = scores[item.answer] - np.delete(scores, item.answer).max()
            answers.prediction[index] = item.choices[choice]


@dataclass(frozen=True)
class Recalled:
    """How far a model goes along with one accepted answer.

    Attributes:
        right: Whether every token of it is the argmax.
        margin: Smallest margin of a token of it over the best other token, in nats.
        alike: Tokens before the first that is not the argmax.
        text: What greedy decoding gives, up to and with that one.
    """

    right: bool
    margin: float
    alike: int
    text: str


def judge_recall(answers: PartAnswers, index: int, found: Sequence[Recalled]) -> None:
    """Fills the row of a recall item, which is right if greedy decoding gives any of the accepted answers."""
    best = max(found, key=lambda one: (one.right, one.alike))
    answers.judge(index, "correct" if best.right else "wrong")
    answers.margin[index] = max(one.margin for one in found if one.right == best.right)
    answers.prediction[index] = best.text


def judge_decoded(answers: PartAnswers, items: Sequence[int], texts: Sequence[Sequence[GeneratedText | None]]) -> None:
    """Fills the rows of recall items whose text was decoded: right if it begins with an accepted answer.

    Args:
        items: Indices of the items, ``(n,)``.
        texts: The text of each item, alone in a list; None where the model gave NaN.
    """
    for i, samples in zip(items, texts):
        item = answers.probe.items[i]
        assert isinstance(item, Recall)
        for text in samples:
            if text is not None:
                right = recalls(text.text, [spoken(answer, answers.probe) for answer in accepted(item)])
                answers.judge(i, "correct" if right else "wrong")
                answers.prediction[i] = text.text


def _greedy(row: Continuation, found: Likelihood, tokenizer: Any) -> Recalled:
    assert found.argmax is not None
    target, argmax = list(row.tokens[row.n_context :]), found.argmax.tolist()
    # After the first wrong token the argmax is conditioned on the answer, not on what the model would generate.
    alike = common_length(argmax, target)
    text = tokenizer.decode(argmax[: alike + 1], skip_special_tokens=True)
    return Recalled(argmax == target, found.margin, alike, text)


def warn_dropped(answers: PartAnswers, said: set[tuple[str, str]] | None = None) -> None:
    """Warns about the items that could not be scored, a line for each reason.

    Args:
        said: Part and reason of what was said before, which is not said again; those of this call are added.
    """
    part, said = answers.part, set() if said is None else said
    for why in dict.fromkeys(answers.dropped.values()):
        if (part.name, why) not in said and why != _UNJUDGED:  # that was said with the matcher's own words
            said.add((part.name, why))
            _warn(part, [part.probe.ids[i] for i, own in sorted(answers.dropped.items()) if own == why], why)


def _warn(part: Part, ids: Sequence[str], why: str) -> None:
    are = "items are" if len(ids) > 1 else "items is"
    n = len(part.probe)
    logger.warning("%s: %d of %d %s not scored: %s (%s)", part.name, len(ids), n, are, _shown(ids), why)


def _shown(ids: Sequence[str]) -> str:
    return ", ".join(printable(name) for name in ids[:5]) + (", ..." if len(ids) > 5 else "")


def _lengths(item: MultipleChoice, probe: Probe, rows: list[Continuation]) -> Any:
    """Divisor of each option's summed log-probability. Bytes do not count the leading space, as in lm-eval."""
    if probe.normalization == "length":
        own = [len(choice.lstrip().encode()) for choice in item.choices]
        return np.array(item.lengths or own, float)
    if probe.normalization == "token":
        return np.array([len(row.tokens) - row.n_context for row in rows], float)
    return 1.0
