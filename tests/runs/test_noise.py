"""What `flips` promises: exactly the items that differ, nearest ties first."""

import numpy as np
import pytest

from forget_callback.runs.item_changes import flips
from forget_callback.snapshots.snapshot import Snapshot


def snapshot(correct, margin, ids="abcde"):
    return Snapshot("p", "f", 0, list(ids), np.array(correct, float), margin=np.array(margin))


def test_only_items_that_were_scored_both_times_and_differ_are_listed():
    once = snapshot([1, 1, 0, 0, np.nan], [0.5, 0.01, -0.2, -3, np.nan])
    again = snapshot([1, 0, np.nan, 1, 1][::-1], [0.4, -0.02, -0.2, 0.1, 1][::-1], ids="edcba"[::1])
    table = flips(once, again)
    assert table["id"].tolist() == ["b", "d"]
    assert table["margin"].tolist() == [0.01, -3]
    assert table["margin_again"].tolist() == [-0.02, 0.1]
    assert flips(once, once).empty


def test_snapshots_of_different_probes_have_no_flips():
    other = Snapshot("p", "g", 0, ["a"], np.array([1.0]))
    with pytest.raises(ValueError, match="do not compare"):
        flips(snapshot([1] * 5, [0.1] * 5), other)
