"""The verdict: what is claimed where nothing was lost, where something was, and what comes first of what fits."""

import numpy as np
import pytest

from forget_callback.metrics.transitions import transitions
from forget_callback.metrics.verdict import LEVEL
from tests.metrics.worlds import World, measured

OPTIONS = [(3,), (4,), (3, 4, 5)]
KEPT = (0.9, 0.6, 0.3)


def claimed(runs):
    return np.mean([t.verdict == "lost" for t in runs])


@pytest.mark.parametrize("kind", ["uniform", "dirichlet", "distractor"])
def test_nothing_lost_is_seldom_claimed_to_be(kind):
    rng = np.random.default_rng(len(kind))
    runs = [World(kind, kept, k).measured(rng, 1000) for k in OPTIONS for kept in KEPT for _ in range(40)]
    assert claimed(runs) <= 0.05
    assert abs(np.mean([t.knowledge_lost for t in runs])) < (0.012 if kind == "distractor" else 0.003)
    covered = [t.knowledge_lost_range_low <= 0 <= t.knowledge_lost_range_high for t in runs]
    assert np.mean(covered) >= 0.95


@pytest.mark.parametrize("kind", ["half known", "two left"])
def test_half_known_items_bias_two_prompts_at_most_half_as_much_as_one(kind):
    rng = np.random.default_rng(3)
    for kept in KEPT:
        runs = [World(kind, kept).measured(rng, 1000) for _ in range(60)]
        one = np.mean([t.first_prompt_lost.mean for t in runs])
        assert np.mean([t.knowledge_lost for t in runs]) < one / 2
        assert np.mean([t.knowledge_lost_range_low <= 0 for t in runs]) >= 0.93


@pytest.mark.parametrize("gained", [0.0, 0.15])
@pytest.mark.parametrize("k", OPTIONS)
def test_a_tenth_lost_is_found_whether_the_average_falls_or_not(k, gained):
    rng = np.random.default_rng(4)
    runs = [World("uniform", kept, k).measured(rng, 1000, lost=0.1, gained=gained) for kept in KEPT for _ in range(15)]
    assert claimed(runs) >= 0.9 and not any(t.in_this_prompt for t in runs)
    assert np.mean([t.knowledge_lost_range_low <= 0.1 <= t.knowledge_lost_range_high for t in runs]) >= 0.95
    assert 0.06 < np.mean([t.knowledge_lost for t in runs]) < 0.105
    if gained:
        assert np.mean([t.net_change for t in runs]) > 0.02, "the average rises"


@pytest.mark.parametrize("n", [30, 100, 300, 1000])
def test_the_interval_covers_the_estimators_own_mean(n):
    rng, world = np.random.default_rng(n), World("uniform", 0.6, (3, 4, 5))
    truth = world.measured(rng, 400_000, lost=0.1).knowledge_lost
    ends = [world.measured(rng, n, lost=0.1).knowledge_lost_interval for _ in range(300)]
    assert np.mean([low <= truth <= high for low, high in ends]) >= 0.93


def table(n11, n10, n01, n00, **how):
    counts = (n11, n10, n01, n00)
    return transitions(np.repeat([1, 1, 0, 0], counts), np.repeat([1, 0, 1, 0], counts), **how)


def test_a_significant_fall_of_accuracy_is_never_nothing():
    """OpenBookQA, 300 items: 22 -> 18% (p = .016) below chance, where wrong options move more than right ones."""
    rng = np.random.default_rng(5)
    n10, n01, n11 = 19, 7, 47
    before = np.repeat([0, 0, 1, 1], (n11, n10, n01, 300 - n11 - n10 - n01))
    after = np.repeat([0, 1, 0, 1], (n11, n10, n01, 300 - n11 - n10 - n01))
    after[-150:] = 1 + rng.integers(0, 3, 150)
    t = measured(before, after, 4)
    assert t.knowledge_lost < 0 and t.p_value == pytest.approx(0.0186, abs=0.003)
    assert t.verdict == "lost" and t.in_this_prompt
    other = measured(np.stack([before, before]), np.stack([after, before]), 4)
    assert other.verdict == "moved" and not other.in_this_prompt, "the second prompt does not show it"


@pytest.mark.parametrize(
    "counts, verdict",
    [
        ((29, 0, 0, 0), "unclear"),
        ((10, 19, 0, 0), "unclear"),  # however much fell
        ((30, 0, 0, 0), "none"),
        ((900, 60, 30, 10), "lost"),  # of one prompt: accuracy fell
        ((900, 40, 40, 20), "moved"),
        ((900, 26, 24, 50), "none"),
        ((900, 26, 25, 49), "moved"),  # more than 5% changed sides
        ((0, 0, 0, 100), "unclear"),  # nothing was known
    ],
)
def test_the_first_that_fits(counts, verdict):
    t = table(*counts)
    assert t.verdict == verdict and t.in_this_prompt
    assert (t.loss_p_value < LEVEL) == (verdict == "lost")


def test_one_prompt_claims_no_more_than_its_accuracy():
    """Same weights, the prompt reworded: as much lost as gained, and the estimate well above 0."""
    before, after, k = World("two left", 0.6).answers(np.random.default_rng(6), 1000, prompts=1)
    t = measured(before, after, k)
    assert t.knowledge_lost_interval.low > 0 and t.verdict == "moved"


def test_the_p_value_of_two_prompts_is_the_smaller_one_of_two_claims_doubled():
    before, after, k = World("uniform").answers(np.random.default_rng(7), 400, lost=0.05)
    t = measured(before, after, k)
    bounds = [t.interval(name, confidence=0.975).low for name in ("knowledge_lost", "knowledge_lost_net")]
    assert (t.verdict == "lost") == (max(bounds) > 0)
    at = 1 - t.loss_p_value
    ends = [t.interval(name, confidence=at).low for name in ("knowledge_lost", "knowledge_lost_net")]
    assert max(ends) == pytest.approx(0, abs=1e-5)


def test_holm_over_categories_claims_seldom_where_nothing_was_lost():
    from forget_callback.metrics.intervals import holm

    rng, claims = np.random.default_rng(8), []
    for _ in range(60):
        runs = [World("uniform").measured(rng, 60) for _ in range(14)]
        claims.append((holm([t.loss_p_value for t in runs]) < LEVEL).any())
    assert np.mean(claims) <= 0.05
