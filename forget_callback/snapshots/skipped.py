"""Which items need no further prompt: no answer to it can count as lost or gained, whatever it is.

To be lost is to be right in every prompt before and in none after; its twin, gains and theirs need every prompt to
change as well (`metrics.variants`). So an item that answers its first prompt as before scores 0, and so it does with
the answers that it gave to the others before: those stand in where it was not asked. Knows nothing of models or files.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from forget_callback.snapshots.answers import changed
from forget_callback.snapshots.snapshot import Snapshot


def can_count(before: Snapshot, after: Snapshot) -> NDArray[np.bool_]:
    """Items whose answers to further prompts can change a number, ``(n_items,)``.

    Those whose answer to the first prompt is another one, or is not known; those of several samples, whose shares
    count; and those that ask for a fact that is recalled no more, for it may still be chosen in every prompt.

    Args:
        after: Of the same items in the same order.
    """
    same = (before.correct == after.correct) & (before.choice == after.choice) & (before.samples == 1)
    facts = before.fact.astype(str)
    gone = (before.kind == "recall") & (before.correct == 1) & (after.correct == 0) & (facts != "")
    found: NDArray[np.bool_] = ~same | np.isin(facts, facts[gone])
    return found


def skip(snapshot: Snapshot, asked: Collection[str]) -> Snapshot:
    """The snapshot, saying that of its scored items only these were asked in their further prompts."""
    others = ~np.isin(snapshot.ids.astype(str), list(asked)) & ~np.isnan(snapshot.correct)
    return changed(snapshot, further=tuple(changed(one, skipped=one.asked & others) for one in snapshot.further))


def comparable(before: Snapshot, after: Snapshot) -> bool:
    """Whether `before` skipped no further prompt, and `after` none that can count beside it.

    It may have skipped one that does where it was scored in a run with another baseline.

    Args:
        after: Of the same items in the same order, and the same further variants.
    """
    if any(one.skipped.any() for one in before.further):
        return False
    skipped = [one.skipped for one in after.further if one.skipped.any()]
    return not skipped or not (np.logical_or.reduce(skipped) & can_count(before, after)).any()


def filled(before: Snapshot, after: Snapshot) -> Snapshot:
    """`after` with the answers of `before` in place of those that it skipped; the two are `comparable`."""
    if not any(one.skipped.any() for one in after.further):
        return after
    further = []
    for was, now in zip(before.further, after.further):
        right, choice = (np.where(now.skipped, getattr(was, n), getattr(now, n)) for n in ("correct", "choice"))
        further.append(changed(now, correct=right, choice=choice))
    return changed(after, further=tuple(further))
