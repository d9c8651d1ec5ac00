"""The items that a comparison lost, with their texts, those that were lost most surely first.

Made only where they are asked for: prompts and answers are what a pull request or a log should not show by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forget_callback.metrics.texts import texts_in
from forget_callback.probes.conversation import asked
from forget_callback.probes.items import Item, MultipleChoice
from forget_callback.probes.probe import Probe
from forget_callback.runs.item_changes import expected
from forget_callback.runs.series import Floats, answered_both, in_bits
from forget_callback.runs.sides import Side, texts_of
from forget_callback.snapshots.joined import align_both
from forget_callback.snapshots.snapshot import Snapshot


@dataclass(frozen=True)
class LostItem:
    """An item whose first prompt was answered right before and wrong after.

    Attributes:
        prompt: None where it is not known, of a snapshot file that stands alone; `expected` likewise.
        expected: The right answer.
        answer_before: As the model gave it, None if unknown; `answer_after` likewise.
        right_before: Share of its prompts and samples that were right; `right_after` likewise.
        margin_before: How far the right answer was ahead, in nats, NaN if unknown.
    """

    probe: str
    category: str
    id: str
    prompt: str | None
    expected: str | None
    answer_before: str | None
    answer_after: str | None
    right_before: float
    right_after: float
    margin_before: float


def lost_items(before: Side, after: Side) -> list[LostItem]:
    """The items of all probes that were lost, in the order of how surely.

    Those that went from right to wrong in all of their prompts come before those whose form was lost in some; of them
    first those that were right by the largest margin, which luck explains least.

    Raises:
        ValueError: If the texts of a run are damaged.
    """
    found: list[LostItem] = []
    probes = {**texts_of(after), **texts_of(before)}
    for name, snapshot in before.snapshots.items():
        found += _lost(*align_both(snapshot, after.snapshots[name]), probes.get(name))
    return sorted(found, key=lambda one: (one.right_after - one.right_before, -np.nan_to_num(one.margin_before)))


def _lost(first: Snapshot, last: Snapshot, probe: Probe | None) -> list[LostItem]:
    items = {} if probe is None else {item.id: item for item in probe.items}
    right = answered_both(first, last)
    texts = texts_in(first)
    shares = [np.where(texts, own, _share_right(side)) for own, side in zip(right, (first, last))]
    said = in_bits(first), in_bits(last)
    gone = np.flatnonzero((right[0] == 1) & (right[1] == 0))
    rise = np.nan_to_num(last.bits_per_byte - first.bits_per_byte)
    lost = []
    for i in gone[np.argsort(-rise[gone], kind="stable")].tolist():
        item = items.get(str(first.ids[i]))
        lost.append(
            LostItem(
                first.probe,
                str(first.category[i]),
                str(first.ids[i]),
                None if item is None else asked(item),
                None if item is None else expected(item),
                str(said[0][i]) if texts[i] else _answer(first, i, item),
                str(said[1][i]) if texts[i] else _answer(last, i, item),
                float(shares[0][i]),
                float(shares[1][i]),
                float(first.margin[i]),
            )
        )
    return lost


def _share_right(snapshot: Snapshot) -> Floats:
    """Share of the prompts and samples of each item that were right, ``(n_items,)``."""
    prompts = np.stack([snapshot.correct, *(answers.correct for answers in snapshot.further)])
    scored = ~np.isnan(prompts)
    share: Floats = np.nansum(prompts, axis=0) / np.maximum(scored.sum(axis=0), 1)
    return share


def _answer(snapshot: Snapshot, i: int, item: Item | None) -> str | None:
    """What the model answered; of a log that has only the chosen option, that option."""
    if snapshot.prediction[i] is not None:
        return str(snapshot.prediction[i])
    choice = int(snapshot.choice[i])
    if isinstance(item, MultipleChoice) and 0 <= choice < len(item.choices):
        return item.choices[choice]
    return None
