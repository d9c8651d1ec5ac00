"""From two snapshots of one probe to transitions: who was right before and after, and what guessing explains.

Items are joined by id. Validates what callers bring and counts; the numbers themselves are in `numbers`. Knows nothing
of files or time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forget_callback.metrics.abilities import ability_codes, is_text, rows_by_ability, tells_of_knowledge
from forget_callback.metrics.estimates import Estimate, Scored, estimate_of, shares_of
from forget_callback.metrics.graded import change_of
from forget_callback.metrics.guessing import guess_persistence, nothing_forgotten
from forget_callback.metrics.knowledge import knowledge_of, lost_by_item
from forget_callback.metrics.names import INTERVALS, METRICS
from forget_callback.metrics.numbers import Transitions, clip
from forget_callback.metrics.pairs import Floats, Numbers, Pairs, mean, paired
from forget_callback.metrics.recall import recall_of
from forget_callback.metrics.texts import bits_of, floor_of, sides, texts_in
from forget_callback.probes.abilities import TRAINING
from forget_callback.snapshots.joined import align_both
from forget_callback.snapshots.skipped import filled
from forget_callback.snapshots.snapshot import Snapshot

__all__ = [
    "INTERVALS",
    "METRICS",
    "Transitions",
    "compare",
    "compare_groups",
    "loss_by_item",
    "pairs_of",
    "transitions",
]


def compare(before: Snapshot, after: Snapshot) -> Transitions:
    """Transitions between two snapshots of one probe, joined by item id.

    Raises:
        ValueError: If fingerprints or items differ, or one is no snapshot.
    """
    for name, given in (("before", before), ("after", after)):
        if not isinstance(given, Snapshot):
            raise ValueError(
                f"{name} must be a Snapshot, got {type(given).__name__}; load a file with Snapshot.load(path)"
            )
    return _count(pairs_of(before, after))


def compare_groups(pairs: Pairs, groups: Mapping[str, slice | NDArray[np.int64]]) -> dict[str, Transitions]:
    """Transitions of several groups of items, such as categories; `groups` has each one's items by position."""
    return {name: _count(pairs.take(rows)) for name, rows in groups.items()}


def pairs_of(before: Snapshot, after: Snapshot) -> Pairs:
    """The answers of two snapshots, joined by item id in the order of `before`, validated once for all that reads them.

    Raises:
        ValueError: If fingerprints or items differ, or a choice contradicts whether the item was right.
    """
    before, after = align_both(before, after)
    after = filled(before, after)
    further = list(zip(before.further, after.further))
    n, texts, floor = len(before), texts_in(before), floor_of(before)
    bits = bits_of(before, after) if texts.any() else None
    right = before.correct, after.correct
    if bits is not None:
        was, now = sides(bits, floor)
        right = np.where(texts, was, right[0]), np.where(texts, now, right[1])
    graded = ~np.isnan(before.score) | ~np.isnan(after.score)
    return paired(
        _rows(right[0], [old.correct for old, _ in further]),
        _rows(right[1], [new.correct for _, new in further]),
        np.where(before.ability == "behaviour", np.inf, before.n_choices),  # done or not, options or none
        before_choice=_rows(before.choice, [old.choice for old, _ in further]),
        after_choice=_rows(after.choice, [new.choice for _, new in further]),
        answer=before.answer,
        samples=np.maximum(before.samples, after.samples),
        cluster=before.cluster,
        asked=np.stack([np.ones(n, bool), *(old.asked & new.asked for old, new in further)]),
        weak=np.stack([np.zeros(n, bool), *(old.weak for old, _ in further)]),
        fact=before.fact,
        recall=before.kind == "recall",
        ability=ability_codes(before.ability, texts),
        score=Numbers(before.score, after.score) if graded.any() else None,
        bits=bits,
        floor=floor,
    )


def _rows(first: NDArray[Any], further: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """A row per prompt, a vector if there is only the first."""
    return np.stack([first, *further]) if further else first


def transitions(
    before: ArrayLike,
    after: ArrayLike,
    *,
    n_choices: ArrayLike | None = None,
    before_choice: ArrayLike | None = None,
    after_choice: ArrayLike | None = None,
    answer: ArrayLike | None = None,
    samples: ArrayLike | None = None,
    cluster: ArrayLike | None = None,
) -> Transitions:
    """Counts transitions and removes what guessing explains.

    Args:
        before: 1 right, 0 wrong, NaN not scored, ``(n,)``, or ``(W, n)`` with a row for each of W prompt variants, of
            which the first is the first prompt.
        after: The same items in the same order, the same prompts.
        n_choices: Options per item: one number, ``(n,)``, or None if answers are open-ended (infinite in a vector).
        before_choice: Index of the chosen option, -1 if no option could be read, of the shape of `before`.
        after_choice: The same after.
        answer: Index of the right option, ``(n,)``; checked against `before` and `after` where given.
        samples: Sampled answers per item, one number or ``(n,)``; where several, `before` and `after` are the share
            that is right.
        cluster: What items share that are not independent, such as a passage, ``(n,)``; "" or None for nothing.

    Raises:
        ValueError: If shapes differ, a value is not 1, 0 or NaN, there are fewer than 2 options, only one of the two
            choices is given, or a choice contradicts whether the item was right.

    >>> t = transitions([1, 1, 1, 0], [1, 0, 1, 1])
    >>> t.n10, t.n01, t.forgetting, t.net_change
    (1, 1, 0.25, 0.0)
    """
    return _count(
        paired(
            before,
            after,
            n_choices,
            before_choice=before_choice,
            after_choice=after_choice,
            answer=answer,
            samples=samples,
            cluster=cluster,
        )
    )


def _count(pairs: Pairs) -> Transitions:
    """Transitions of validated answers; of several abilities those of each as well."""
    pairs = pairs.without_unasked()
    groups = rows_by_ability(pairs.ability)
    parts = {name: _count(pairs.take(rows)) for name, rows in groups.items()} if len(groups) > 1 else {}
    training, texts = [*groups] == [TRAINING], is_text(pairs)
    knowing = tells_of_knowledge(pairs) if parts else ~texts
    no_texts = pairs.take(~texts) if texts.any() else pairs
    counted = no_texts if parts else pairs
    scored = counted.scored()
    in_all = scored if counted is pairs else pairs.scored()
    before, after, k = scored.before, scored.after, scored.n_choices
    right_before, right_after, n11 = int(before.sum()), int(after.sum()), int(before @ after)
    return Transitions(
        n=len(scored),
        n11=n11,
        n10=right_before - n11,
        n01=right_after - n11,
        n00=len(scored) - right_before - right_after + n11,
        n_unscored=len(counted) - len(scored),
        variants=pairs.n_prompts,
        scored=len(in_all.scored_in_all()) / len(pairs),
        forgetting_chance=_paper_chance(scored),
        forgetting_max=clip(mean(before - (1 - before) / (k - 1))) if len(no_texts) else float("nan"),
        backward_transfer_max=clip(mean(after - (1 - after) / (k - 1))) if len(no_texts) else float("nan"),
        knowledge=knowledge_of(pairs if knowing.all() else pairs.take(knowing)),
        recall=recall_of(counted),
        rates=_clustered_rates(scored),
        persistence=None if scored.choices is None else guess_persistence(scored),
        no_forgetting_p_value=nothing_forgotten(scored),
        ability="" if parts else "text" if training else next(iter(groups)),
        training=training,
        abilities=parts,
        score=None if pairs.score is None else change_of(pairs.score, pairs.cluster, bounded=True),
        bits=change_of(pairs.bits, pairs.cluster, bounded=False) if pairs.bits and texts.any() else None,
        floor=pairs.floor if texts.any() else float("nan"),
    )


def loss_by_item(pairs: Pairs) -> Floats:
    """Each item's part in `knowledge_lost`, or of texts alone in the change of their bits per byte, ``(n_items,)``.

    NaN where an item does not enter, or was not measured both times.
    """
    if pairs.bits is not None and is_text(pairs).all():
        return pairs.bits.after - pairs.bits.before
    found, rows = np.full(len(pairs), np.nan), np.flatnonzero(tells_of_knowledge(pairs))
    found[rows] = lost_by_item(pairs if len(rows) == len(pairs) else pairs.take(rows))
    return found


def _clustered_rates(scored: Pairs) -> dict[str, Estimate] | None:
    """The raw rates with what t over clusters needs; None where items are independent."""
    if scored.cluster is None:
        return None
    lost, gained, one = scored.before * (1 - scored.after), scored.after * (1 - scored.before), np.ones(len(scored))
    events = {"forgetting": [(lost, one)], "backward_transfer": [(gained, one)]}
    events["net_change"] = [(gained, one), (lost, -one)]
    scores = {"forgetting": lost, "backward_transfer": gained, "net_change": gained - lost}
    return {name: estimate_of(Scored(scores[name], shares_of(one, *events[name])), scored.cluster) for name in scores}


def _paper_chance(pairs: Pairs) -> float:
    """The paper's f = (1 - acc_before)(1 - acc_after)/(k - 1), per number of options, weighted by share."""
    if len(pairs) == 0:
        return float("nan")
    wrong_before, wrong_after, k = 1 - pairs.before, 1 - pairs.after, pairs.n_choices
    if (k == k[0]).all():
        return mean(wrong_before) * mean(wrong_after) / float(k[0] - 1)
    options, stratum = np.unique(k, return_inverse=True)
    size = np.bincount(stratum)
    rates = np.bincount(stratum, wrong_before) * np.bincount(stratum, wrong_after) / size**2
    return float((size / len(pairs) * rates / (options - 1)).sum())
