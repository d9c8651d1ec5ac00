"""What the numbers promise when the truth is known: simulated models that know, lose, gain and guess. Seeded.

With 1,000 runs a cell, a mean is known to about 0.05 points and a coverage to 0.7 points (one standard error).
"""

from math import nan

import numpy as np
import pytest

from forget_callback.metrics.transitions import transitions
from forget_callback.runs.rows import Row
from forget_callback.runs.series import OVER_TIME
from forget_callback.runs.stop_rules import StopRule
from forget_callback.runs.stopping import decide

N = 1000
LOST = 0.15
SHARES = np.array([0.45, LOST, 0.05, 0.35])  # known both times, lost, gained, never known
PERSISTENCE = (0.0, 0.5, 0.9, 1.0)


def answers(rng, k, persistence, runs):
    """Chosen options of `runs` models before and after, ``(runs, N)``; 0 is right, items never known are guessed."""
    kind = rng.choice(4, (runs, N), p=SHARES)
    guess, other = rng.integers(0, k, (2, runs, N))
    again = np.where((kind == 3) & (rng.random((runs, N)) < persistence), guess, other)
    return np.where(kind < 2, 0, guess), np.where(kind % 2 == 0, 0, again)


def measured(x, y, k):
    """Transitions of each run."""
    right = np.zeros(N, int)
    return [
        transitions(b == 0, a == 0, n_choices=k, before_choice=b, after_choice=a, answer=right) for b, a in zip(x, y)
    ]


RUNS = 1000
pytestmark = pytest.mark.in_turn(2)


@pytest.fixture(scope="module")
def cells():
    """Per k and persistence, every run's knowledge_lost, its interval, and the paper's number, ``(RUNS, 4)``."""
    found = {}
    for k in (3, 4, 5, 10):
        for persistence in PERSISTENCE:
            rng = np.random.default_rng([k, int(100 * persistence)])
            runs = measured(*answers(rng, k, persistence, RUNS), k)
            rows = [(t.knowledge_lost, *t.knowledge_lost_interval, t.forgetting_adjusted) for t in runs]
            found[k, persistence] = np.array(rows)
    return found


def test_knowledge_lost_is_the_truth_whatever_the_guesses_do(cells):
    off = {cell: runs[:, 0].mean() - LOST for cell, runs in cells.items()}
    assert max(map(abs, off.values())) < 0.005, off
    papers = [runs[:, 3].mean() - LOST for runs in cells.values()]
    assert min(papers) < -0.06  # where guesses persist, for comparison


def test_its_interval_covers_the_truth_as_often_as_it_says(cells):
    covered = {cell: ((runs[:, 1] <= LOST) & (runs[:, 2] >= LOST)).mean() for cell, runs in cells.items()}
    assert min(covered.values()) >= 0.93 and max(covered.values()) <= 0.97, covered


EVALUATIONS = 50
THRESHOLD = 0.05


def a_run(rng, lost, k=4):
    """Rows of one run: `lost` of the items are gone from the start, 9 of 10 guesses stay from look to look."""
    kind = rng.choice(4, N, p=[0.6 - lost, lost, 0.05, 0.35])
    guess = rng.integers(0, k, N)
    before, rows = np.where(kind < 2, 0, guess), []
    for step in range(EVALUATIONS + 1):
        now = before if step == 0 else np.where(kind % 2 == 0, 0, guess)
        (t,) = measured([before], [now], k)
        rows.append(Row(step, nan, nan, "p", "", t, dict.fromkeys(OVER_TIME, nan)))
        guess = np.where(rng.random(N) < 0.9, guess, rng.integers(0, k, N))
    return rows


def stops(rule, rows):
    """Whether a rule fires anywhere in a run; it looks no further back than its patience."""
    return any(decide(rule, [rows[0], *rows[max(i - rule.patience + 1, 1) : i + 1]]).fired for i in range(1, len(rows)))


def test_stop_rules_seldom_stop_a_run_that_is_fine_and_the_raw_point_rule_mostly_does():
    rng, raw = np.random.default_rng(0), StopRule("forgetting", THRESHOLD, confidence=None, patience=1)
    fine = [a_run(rng, THRESHOLD / 2) for _ in range(150)]
    assert np.mean([stops(StopRule("knowledge_lost", THRESHOLD), rows) for rows in fine]) < 0.01
    assert np.mean([stops(raw, rows) for rows in fine]) > 0.80


def test_stop_rules_stop_a_run_that_lost_twice_the_threshold():
    rng = np.random.default_rng(1)
    assert all(stops(StopRule("knowledge_lost", THRESHOLD), a_run(rng, 2 * THRESHOLD)) for _ in range(10))
