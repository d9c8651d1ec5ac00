"""When not to trust the numbers: problems of a probe or its answers, and what to do about them.

A pure function of a baseline and a later snapshot. The caller logs each advice once per run, by its key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from forget_callback.metrics.collapse import OneAnswer, one_answer, one_answer_to
from forget_callback.metrics.intervals import mcnemar_midp, upper_tail
from forget_callback.metrics.knowledge import MIN_ITEMS, MOST
from forget_callback.metrics.transitions import Transitions, compare
from forget_callback.probes.abilities import TRAINING
from forget_callback.probes.plurals import counted, have
from forget_callback.snapshots.joined import align
from forget_callback.snapshots.snapshot import Snapshot

FEW_ITEMS = 200
# With fewer samples of an answer, what sampling alone changes is taken for a loss.
MIN_SAMPLES = 4
LITTLE_KNOWN = 0.15
# Each test runs at every snapshot of every probe, so a healthy run must pass it hundreds of times.
SIGNIFICANT = 0.001


@dataclass(frozen=True)
class Advice:
    """One problem of one probe.

    Attributes:
        key: Stable identifier, such as "few_items".
        probe: Name of the probe.
        text: The problem with its numbers, and what to do.
    """

    key: str
    probe: str
    text: str

    def __str__(self) -> str:
        return f"probe {self.probe!r}: {self.text}"


def advice(
    before: Snapshot,
    after: Snapshot,
    *,
    changed: Transitions | None = None,
    sampled: bool = False,
) -> tuple[Advice, ...]:
    """All advice about one probe.

    Args:
        before: The baseline.
        after: A later snapshot, or the baseline itself.
        changed: Transitions between the two, where the caller has them.
        sampled: Whether answers are sampled, so that the same model answers differently twice.

    Raises:
        ValueError: If the two are of different probes or items.

    >>> [a.key for a in advice(*[Snapshot("p", "f", t, ["x"], [1.0]) for t in (0, 1)])]
    ['few_items', 'one_prompt']
    """
    after = align(before, after)
    changed = compare(before, after) if changed is None else changed
    one = tuple(_one_answer(before, after))
    measured = not any(key == "one_answer" for key, _ in one)  # else why so little is known is said already
    found = (
        *one,
        *_probe_design(before, sampled),
        *(_baseline_knowledge(before, changed) if measured else ()),
        *_answers(before, after, changed),
        *_scoring_setup(before, after),
    )
    return tuple(Advice(key, before.probe, text) for key, text in found)


def _scoring_setup(before: Snapshot, after: Snapshot) -> Iterator[tuple[str, str]]:
    names = ("batch_tokens", "processes", "dtype", "likelihood", "generation")
    old, new = before.metadata, after.metadata
    both = [name for name in names if name in old and name in new]
    other = [f"{name} {old[name]} -> {new[name]}" for name in both if old[name] != new[name]]
    if other:
        yield (
            "scoring_setup_changed",
            f"the baseline and the snapshot of step {after.step} were scored with different setups "
            f"({', '.join(other)}): items near a tie may flip from that alone; keep the world size, the dtype and "
            "batch_tokens= unchanged",
        )


def few_items(n: int) -> str:
    """What so many items cannot show, "" where they are enough."""
    few = f"{n} {'items are' if n > 1 else 'item is'} fewer than"
    if n < MIN_ITEMS:
        return f'{few} {MIN_ITEMS}: nothing can be claimed, the verdict is "unclear"; add items'
    if n < FEW_ITEMS:
        return f"{few} {FEW_ITEMS}: intervals are wide; add items, or use thresholds of 0.10 or more"
    return ""


def _probe_design(before: Snapshot, sampled: bool) -> Iterator[tuple[str, str]]:
    n, two = len(before), int((before.n_choices == 2).sum())
    # A document says more than one right or wrong answer, and nothing is claimed of the training data.
    documents, training = (before.kind == "text").all(), (before.ability == TRAINING).all()
    if (few := few_items(n)) and not training and (n < MIN_ITEMS or not documents):
        yield "few_items", few
    if two:
        yield (
            "two_choices",
            f"{two} of {counted(n)} {have(two)} two options; there, guesses that move cannot be told from lost "
            "knowledge; "
            + (
                'knowledge_lost is lost less gained ("net"), to be read with knowledge_lost_range_low and _high'
                if not (np.isfinite(before.n_choices) & (before.n_choices > 2)).any()
                else "they count in knowledge_lost_net, not in knowledge_lost"
            )
            + "; add a third option",
        )
    one = _one_prompt(before)
    if one:
        yield (
            "one_prompt",
            f"{one}, so what is lost cannot be told from what is no longer said in this form, and a loss is claimed in "
            "this prompt only; give the items `variants`, further prompts of other structure",
        )
    p_value = _unbalanced(before)
    if p_value < SIGNIFICANT:
        yield (
            "key_unbalanced",
            f"the right option is not equally often at each position (chi-square test, p = {p_value:.1g}), so a "
            "position bias of the model counts as knowledge or forgetting; shuffle the options of every item",
        )
    drawn = before.samples[np.isinf(before.n_choices) & (before.kind != "recall")]
    if sampled and (drawn < MIN_SAMPLES).any():
        yield (
            "few_samples",
            f"answers are sampled, {int(drawn.min())} an item, and the same model would answer differently a second "
            f"time, so a loss of knowledge cannot be claimed; draw {MIN_SAMPLES} or more (samples={MIN_SAMPLES}), or "
            "set temperature=0",
        )


def _baseline_knowledge(before: Snapshot, changed: Transitions) -> Iterator[tuple[str, str]]:
    known = changed.known_before
    if known < LITTLE_KNOWN:
        said = f"the model knew about {max(known, 0):.0%} of the items at the baseline, less than {LITTLE_KNOWN:.0%}: "
        in_one = compare(before.without_variants(), before.without_variants()).known_before
        if in_one >= 2 * LITTLE_KNOWN:
            said += (
                f"it is right in their first prompts (about {in_one:.0%} known) and not in the further ones, so no "
                "loss can be seen; give the items variants that suit them, or ask the first alone with ?variants=off"
            )
        else:
            said += (
                "there is little to forget, and most right answers are guessed, so knowledge_lost may miss a real loss "
                "and hardly ever reports a false one; use easier items, or a probe that the model knows"
            )
        yield "little_known", said
    where = _below_chance(before)
    if where:
        yield (
            "below_chance",
            f"accuracy at the baseline is below chance {where}, so wrong options attract the model more than "
            "guessing would; knowledge_lost is then too low; use distractors that are as familiar as the answers",
        )


def _answers(before: Snapshot, after: Snapshot, changed: Transitions) -> Iterator[tuple[str, str]]:
    scored = ~np.isnan(before.correct) & ~np.isnan(after.correct)
    several = scored & np.isfinite(before.n_choices) & (before.n_choices > 2)
    unknown = several & (((before.correct == 1) & (before.choice < 0)) | ((after.correct == 1) & (after.choice < 0)))
    if unknown.any():
        yield (
            "no_choices",
            f"the chosen option is not stored for {int(unknown.sum())} of {counted(len(before))}, so knowledge_lost "
            + (
                "assumes that guesses never repeat, and is too low where they do"
                if changed.variants == 1
                else "is lost less gained"
            )
            + "; store `choice`, or score the items again",
        )
    high = changed.interval("knowledge_lost").high
    if high < 0 and after.step != before.step:
        joint = changed.knowledge_method == "joint"
        yield (
            "below_zero",
            f"knowledge_lost is below 0 with its whole 95% interval ({high:.3f} at most, step {after.step}): "
            + (
                "guesses repeat, which cannot be corrected without the chosen options of items with three or more"
                if joint
                else "if that stays so, wrong options are not guessed evenly; use options that are equally familiar "
                "and shuffled"
            ),
        )
    u, v = (s.outcome[scored] == "unparsed" for s in (before, after))
    if mcnemar_midp(int((u & ~v).sum()), int((~u & v).sum())) < SIGNIFICANT:
        yield (
            "format_changed",
            f"unparsed answers went from {u.mean():.1%} at the baseline to {v.mean():.1%} at step {after.step}: that "
            "is a change of format, not of knowledge; compare `format_loss` with `forgetting`, and the stored texts",
        )


def _one_answer(before: Snapshot, after: Snapshot) -> Iterator[tuple[str, str]]:
    asked = [("", one_answer(before))]
    asked += [(f" in variant {i}", one_answer_to(answers, before)) for i, answers in enumerate(before.further, 2)]
    where, one = next((pair for pair in asked if pair[1] is not None), ("", None))
    if one is not None:
        yield (
            "one_answer",
            f"{one}{where}, which is right for {one.right} of them: these items measure what the model prefers to say "
            f"and not what it knows, so neither a loss nor a gain of knowledge can be seen; {_remedy(one)}",
        )
    now = one_answer(after, before)
    if now is not None:
        yield (
            "answers_collapsed",
            f"{now} at step {after.step}, and {now.before} were at the baseline: the model gives one answer to "
            "everything, so what counts as lost is in part how to answer; read the answers, then train with a lower "
            "learning rate, for fewer steps, or on data with answers of other kinds among them",
        )


def _remedy(one: OneAnswer) -> str:
    if one.lettered and one.kind != "recall":
        return (
            "give the options as text, choices such as ' bank' and ' mall' after a prompt that does not list them, in "
            "place of letters"
        )
    if one.kind == "choice":
        return "ask for what differs from item to item, with options as text in shuffled order"
    if one.kind == "recall":
        return (
            "the answer must be the very first words after the prompt: end prompts where it begins, or ask as multiple "
            "choice; of a chat model as generation, with chat=true and match 'contains'"
        )
    return "read a few answers; ask for a short answer in words, with more max_new_tokens, or as multiple choice"


def _one_prompt(snapshot: Snapshot) -> str:
    """How most items lack a second prompt of other structure; "" if they have one.

    Of those that knowledge is read from: recall is access and needs none, nor does, where there are choices, any other
    open-ended item. Other words would ask for another behaviour, and a document has none.
    """
    choice = np.isfinite(snapshot.n_choices)
    read = choice if choice.any() else snapshot.kind != "recall"
    read &= (snapshot.ability.astype(str) != "behaviour") & (snapshot.kind != "text")
    if not read.any():
        return ""
    if not snapshot.further:
        return "items have one prompt"
    asked = np.stack([answers.asked for answers in snapshot.further])[:, read]
    strong = asked & ~np.stack([answers.weak for answers in snapshot.further])[:, read]
    if strong.any(axis=0).mean() >= MOST:
        return ""
    weak = int((asked.any(axis=0) & ~strong.any(axis=0)).sum())
    alone = int((~asked.any(axis=0)).sum())
    found = [f"{counted(alone)} {have(alone)} one prompt"]
    found += [f"{weak} a second that is only words around the first"] * (weak > 0)
    return " and ".join(found)


def _unbalanced(snapshot: Snapshot) -> float:
    """Chi-square test that every position is right equally often, each number of options a stratum; 1 if untestable."""
    statistic, freedom = 0.0, 0
    for k in np.unique(snapshot.n_choices[np.isfinite(snapshot.n_choices) & (snapshot.answer >= 0)]):
        answer = snapshot.answer[(snapshot.n_choices == k) & (snapshot.answer >= 0)]
        count = np.bincount(answer, minlength=int(k))
        if count.mean() >= 5:  # below that the test is not to be trusted
            statistic += float(((count - count.mean()) ** 2).sum() / count.mean())
            freedom += len(count) - 1
    return float(special.chdtrc(freedom, statistic)) if freedom else 1.0


def _below_chance(snapshot: Snapshot) -> str:
    """Where accuracy is significantly below 1/k: on the whole probe or in categories (Bonferroni); "" if nowhere."""
    valid = np.isfinite(snapshot.n_choices) & ~np.isnan(snapshot.correct) & (snapshot.outcome != "unparsed")
    category = snapshot.category.astype(str)
    names = sorted(set(category[valid].tolist()) - {""})
    groups: list[tuple[str, NDArray[np.bool_]]] = [("", valid)] + [(name, valid & (category == name)) for name in names]
    for name, rows in groups:
        right, chance = snapshot.correct[rows], 1 / snapshot.n_choices[rows]
        if upper_tail(int((right == 0).sum()), 1 - chance).exact < SIGNIFICANT / len(groups):
            where = f"in category {name!r}" if name else "over all items with options"
            return f"{where} ({right.mean():.3f} of {counted(len(right))}, chance {chance.mean():.3f})"
    return ""
