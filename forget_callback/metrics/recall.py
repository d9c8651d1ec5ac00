"""Recall beside choice: of the facts no longer recalled, how many are still chosen.

Recall says how a model answers more than what it knows, so where a probe asks a fact in both forms, knowledge is read
from the choices and recall is access. Joined by the number of the fact; knows nothing of snapshots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forget_callback.metrics import variants
from forget_callback.metrics.estimates import Estimate, Scored, estimate_of, shares_of
from forget_callback.metrics.pairs import Flags, Pairs


@dataclass(frozen=True)
class Recall:
    """Both by the items' first prompt before and after.

    Attributes:
        lost: Of the recall items those recalled before and not after.
        still_chosen: Of these, those whose fact is chosen right in every prompt after; of facts also asked as a choice.
        n_asked: Recall items, scored or not.
    """

    lost: Estimate
    still_chosen: Estimate
    n_asked: int


def recall_of(pairs: Pairs) -> Recall | None:
    """None where no item is recalled."""
    if pairs.recall is None or not pairs.recall.any():
        return None
    recalled = pairs.take(pairs.recall).scored()
    gone = (recalled.before == 1) & (recalled.after == 0)
    lost, n_asked = recalled.take(gone), int(pairs.recall.sum())
    if pairs.fact is None or lost.fact is None:
        return Recall(_share(gone, recalled), _share(np.empty(0, bool), lost.take(slice(0, 0))), n_asked)
    closed = pairs.take(pairs.closed & (pairs.fact >= 0)).scored().scored_in_all()
    right = variants.right_in_all(closed.swapped().in_all_prompts) == 1
    fact = pairs.fact[:0] if closed.fact is None else closed.fact
    joined = np.isin(lost.fact, fact)
    chosen = ~np.isin(lost.fact[joined], fact[~right])
    return Recall(_share(gone, recalled), _share(chosen, lost.take(joined)), n_asked)


def _share(shown: Flags, items: Pairs) -> Estimate:
    one = np.ones(len(items))
    return estimate_of(Scored(shown.astype(float), shares_of(one, (shown, one))), items.cluster)
