"""A short soak: runs of two probes, killed at random and resumed, the gate asked after each. `soak.py` does more."""

import pytest

from tests.integration.soak import soak

pytestmark = pytest.mark.in_turn(1)


def test_no_gate_passes_on_the_record_of_a_run_that_was_killed(tmp_path):
    counts = soak(tmp_path, kills=2)
    assert counts["kills"] == 2 and counts["ended"] >= 1
    assert counts["passes on what is not whole"] == counts["refusals of what is whole"] == 0
