"""What a strict rule promises: false stops add up to its error rate over the whole run, and losses are found."""

import numpy as np
import pytest
from scipy.stats import norm

from forget_callback.runs.strict import strict_confidence

N, LOOKS, THRESHOLD = 150, 12, 0.20


def lost(rng, truth, *, flicker=0.03):
    """Open-ended items: some are lost for good before the first look, and any may fail at a single look."""
    gone = rng.random(N) < (truth - flicker) / (1 - flicker)
    return (gone | (rng.random((LOOKS, N)) < flicker)).astype(float)


def stopped(scores, confidences, patience):
    """Whether the bounds of `patience` looks in a row were above the threshold, at the confidence of the last one."""
    error = scores.std(axis=1) / N**0.5
    for look in range(patience - 1, LOOKS):
        last = slice(look - patience + 1, look + 1)
        if (scores.mean(axis=1)[last] - norm.ppf(confidences[look]) * error[last] > THRESHOLD).all():
            return True
    return False


@pytest.mark.parametrize("patience", [1, 2])
def test_false_stops_of_a_whole_run_and_what_is_found(patience):
    """100 runs at the threshold from the first look on, and as many at one and a half times it."""
    rng, share = np.random.default_rng(3), {}
    for truth in (THRESHOLD, 1.5 * THRESHOLD):
        runs = [lost(rng, truth) for _ in range(100)]
        for name, confidences in {
            "strict": lambda scores: [
                strict_confidence(scores[:n], planned=LOOKS, alpha=0.05, patience=patience) for n in range(1, LOOKS + 1)
            ],
            "Bonferroni": lambda scores: [1 - 0.05 / LOOKS] * LOOKS,
        }.items():
            share[truth, name] = np.mean([stopped(scores, confidences(scores), patience) for scores in runs])
    assert 0.01 <= share[THRESHOLD, "strict"] <= 0.11, "12 of 100 or more come once in 230 times at 5%"
    assert share[1.5 * THRESHOLD, "strict"] >= share[1.5 * THRESHOLD, "Bonferroni"] + 0.05
    assert share[1.5 * THRESHOLD, "strict"] >= 0.7


def test_one_planned_look_has_the_rules_own_confidence():
    scores = np.random.default_rng(0).normal(size=(1, 100))
    assert strict_confidence(scores, planned=1, alpha=0.05) == pytest.approx(0.95, abs=0.012)
    assert strict_confidence(scores, planned=1, alpha=0.20) == pytest.approx(0.80, abs=0.025)


def test_looks_that_say_the_same_count_once_and_independent_ones_each():
    rng = np.random.default_rng(0)
    same = np.repeat(rng.normal(size=(1, 500)), 10, axis=0)
    assert strict_confidence(same, planned=10, alpha=0.05) == pytest.approx(0.95, abs=0.012)
    others = rng.normal(size=(10, 5000))
    # Of those not stopped before, the last look stops its own share of the error rate: 1 - .9^2 of it.
    expected = 1 - 0.05 * (1 - 0.9**2) / (1 - 0.05 * 0.9**2)
    assert strict_confidence(others, planned=10, alpha=0.05) == pytest.approx(expected, abs=0.004)


def test_patience_lowers_the_limit():
    scores = lost(np.random.default_rng(0), 0.2, flicker=0.1)[:4]
    one, two, three = (strict_confidence(scores, planned=LOOKS, alpha=0.05, patience=n) for n in (1, 2, 3))
    assert one > two >= three >= 0.95


def test_it_is_the_same_each_time_and_draws_from_no_global_seed():
    scores, before = lost(np.random.default_rng(0), 0.1), np.random.get_state()[1].tolist()
    found = [strict_confidence(scores, planned=LOOKS, alpha=0.05) for _ in range(2)]
    assert found[0] == found[1] and np.random.get_state()[1].tolist() == before


def test_clusters_count_as_one_item():
    """Ten copies of each item in a cluster say what one says; items without a cluster are their own."""
    scores = lost(np.random.default_rng(1), 0.1)[:, :60]
    copies, names = np.repeat(scores, 10, axis=1), np.repeat([f"passage {i}" for i in range(60)], 10)
    given = {"planned": LOOKS, "alpha": 0.05}
    alone = strict_confidence(scores, **given)
    assert strict_confidence(copies, clusters=names, **given) == pytest.approx(alone, abs=1e-9)
    assert strict_confidence(scores, clusters=[""] * 60, **given) == pytest.approx(alone, abs=1e-9)
    half = np.where(np.arange(60) < 30, "one passage", "")
    assert strict_confidence(scores, clusters=half, **given) != pytest.approx(alone, abs=1e-9)


@pytest.mark.parametrize("scores", [np.zeros((5, 20)), np.full((5, 20), np.nan), np.ones((1, 1))])
def test_looks_at_which_nothing_differs_spend_nothing(scores):
    assert strict_confidence(scores, planned=10, alpha=0.05) == pytest.approx(0.95)
    later = np.vstack([scores, np.arange(scores.size % 97 + scores.shape[1])[: scores.shape[1]][None]])
    assert 0.95 - 1e-9 <= strict_confidence(later, planned=10, alpha=0.05) < 1


def test_items_that_a_look_did_not_score_are_left_out_of_it():
    scores = lost(np.random.default_rng(2), 0.1)
    holes = np.hstack([scores, np.full((LOOKS, 7), np.nan)])
    given = {"planned": LOOKS, "alpha": 0.05}
    assert strict_confidence(holes, **given) == pytest.approx(strict_confidence(scores, **given), abs=1e-9)


def test_more_looks_than_planned_have_nothing_left_to_spend():
    scores = lost(np.random.default_rng(0), 0.1)
    assert strict_confidence(scores, planned=4, alpha=0.05) > 0.999


@pytest.mark.parametrize("scores", [[], [[]][0], [0.0, 1.0], [[[0.0]]]])
def test_scores_are_a_table(scores):
    with pytest.raises(ValueError, match=r"scores must be \(n_looks, n_items\) with one look or more"):
        strict_confidence(scores, planned=4, alpha=0.05)


def test_clusters_are_one_per_item():
    with pytest.raises(ValueError, match="clusters must be one per item"):
        strict_confidence(np.zeros((2, 3)), planned=4, alpha=0.05, clusters=["a"])
