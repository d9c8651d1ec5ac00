"""The A/A noise floor: what flips when one model is asked the same twice, in other batches or with other samples.

Nothing was learned in between, so whatever differs is arithmetic or dice: the least that a later change must exceed.
"""

from __future__ import annotations

import pandas as pd

from forget_callback.snapshot import Snapshot, align


def flips(once: Snapshot, again: Snapshot) -> pd.DataFrame:
    """Items that are right in one of two snapshots of the same model and wrong in the other, nearest ties first.

    Returns:
        A row an item: id, category, correct and correct_again (1 or 0), margin and margin_again (nats).

    Raises:
        ValueError: If the snapshots are of different probes.
    """
    again = align(once, again)
    flipped = (once.correct != again.correct) & (once.correct + again.correct == 1)
    columns = {
        "id": once.ids,
        "category": once.category,
        "correct": once.correct,
        "correct_again": again.correct,
        "margin": once.margin,
        "margin_again": again.margin,
    }
    table = pd.DataFrame({name: column[flipped] for name, column in columns.items()})
    return table.sort_values("margin", key=abs, ignore_index=True)
