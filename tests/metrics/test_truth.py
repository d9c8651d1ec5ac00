"""The bench of truth, small: what `tests/benchmarks/truth.py` holds the numbers to is met, and can be missed."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def run(*words):
    return subprocess.run([sys.executable, BENCHMARKS / "truth.py", *words], capture_output=True, text=True)


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import simulated_worlds
    import truth

    return truth, simulated_worlds


@pytest.mark.parametrize("words", [["--quick", "--jobs", "1"], ["--recorded"]])
def test_every_bar_is_met(words):
    done = run(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "| --- " in done.stdout


def test_claims_of_nothing_and_a_range_beside_the_truth_miss_a_bar(bench):
    truth, worlds = bench
    found = truth.measure(worlds.Cell("uniform", n=60), 5)
    claimed = replace(found, claims=np.ones_like(found.claims))
    beside = replace(found, covers=np.zeros_like(found.covers))
    assert [len(truth.missed([one], 5)) for one in (claimed, beside)] == [1, 1]


def test_a_simulated_truth_is_what_was_drawn(bench):
    _, worlds = bench
    cell = worlds.Cell("form", worlds.Change(0.1, 0.15), n=20_000)
    draw = worlds.simulate(cell, np.random.default_rng(0))
    right = [(side == draw.answer).all(axis=0) for side in (draw.before, draw.after)]
    assert draw.lost.mean() == pytest.approx(0.1, abs=0.01) and draw.gained.mean() == pytest.approx(0.15, abs=0.01)
    assert right[0][draw.lost].all() and right[1][draw.gained].all()
    # A lost item is guessed: right in both frames by one guess for both (.3 of the items) or by two.
    assert right[1][draw.lost].mean() == pytest.approx(0.3 / 4 + 0.7 / 16, abs=0.02)
