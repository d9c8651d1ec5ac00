"""What is there beyond help alone: Newcombe's own example, simulated models whose truth is known, and the edges."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from forget_callback.metrics.elicited import elicited, kept


def flags(right, n):
    return np.arange(n) < right


def test_the_difference_has_newcombes_interval():
    """Newcombe (1998), method 10, example (a): 56/70 - 48/80 is 0.2 [0.0524, 0.3339]."""
    found = elicited(flags(56, 70), flags(48, 80), np.zeros(70))
    assert (found.n, found.control_n, found.there) == (70, 80, pytest.approx(0.2))
    assert (found.there_low, found.there_high) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))
    wilson = binomtest(56, 70).proportion_ci(method="wilson")
    assert (found.right_low, found.right_high) == (pytest.approx(wilson.low), pytest.approx(wilson.high))


def test_the_greater_of_control_and_chance_is_what_help_alone_explains():
    low = elicited(flags(60, 100), flags(0, 100), np.full(100, 0.25))
    assert low.chance == 0.25 and low.there == pytest.approx(0.35)
    wilson = binomtest(60, 100).proportion_ci(method="wilson")
    assert low.there_low == pytest.approx(wilson.low - 0.25), "chance is no estimate"
    high = elicited(flags(60, 100), flags(50, 100), np.full(100, 0.25))
    assert high.there == pytest.approx(0.1) and high.there_low < 0


def test_without_a_control_only_guesses_are_known():
    of_options = elicited(flags(60, 100), [], np.full(100, 0.25))
    assert of_options.there == pytest.approx(0.35) and math.isnan(of_options.control)
    open_ended = elicited(flags(60, 100), [], np.r_[np.full(99, 0.25), 0.0])
    assert math.isnan(open_ended.there) and math.isnan(open_ended.there_low)
    nothing = elicited([], [], [])
    assert nothing.n == 0 and math.isnan(nothing.right) and math.isnan(nothing.there)


def test_what_was_not_scored_does_not_count():
    right = np.r_[flags(6, 10).astype(float), np.full(5, np.nan)]
    assert elicited(right, right, np.zeros(15)).n == 10
    both = kept(np.r_[right, 1.0], np.r_[flags(3, 10).astype(float), np.ones(5), np.nan])
    assert both.n == 10 and both.before == 0.6 and both.now == 0.3 and both.still == 0.5
    assert kept([np.nan], [1.0]).n == 0


@pytest.mark.parametrize(("there", "by_help"), [(0.0, 0.1), (0.0, 0.5), (0.3, 0.2), (0.8, 0.05)])
def test_in_simulations_no_more_is_claimed_than_there_is(there, by_help):
    """A share of the lost items is there; help brings back any other item with the same chance, known or not."""
    rng, claimed, runs = np.random.default_rng(0), 0, 400
    for _ in range(runs):
        known = rng.random(80) < there
        lost = known | (rng.random(80) < by_help)
        found = elicited(lost, rng.random(80) < by_help, np.zeros(80))
        claimed += found.there_low > known.mean()
        assert found.there <= found.right
    assert claimed / runs <= 0.04, "one-sided 97.5%"


def test_items_of_a_cluster_are_no_independent_draws():
    lost, control, groups = np.repeat(flags(8, 10), 10), np.repeat(flags(3, 10), 10), np.repeat(np.arange(10), 10)
    alone = elicited(lost, control, np.zeros(100))
    together = elicited(lost, control, np.zeros(100), cluster=groups, control_cluster=groups)
    assert together.there == alone.there
    assert together.there_low < alone.there_low - 0.05 and together.right_high <= 1.0


def test_the_same_items_before_and_after_are_paired():
    before, now = flags(90, 100).astype(float), flags(60, 100).astype(float)
    found = kept(before, now)
    assert found.change == pytest.approx(-0.3) and -0.4 < found.change_low < -0.3 < found.change_high < -0.2
    assert found.still == pytest.approx(2 / 3)
    same = kept(before, before)
    assert same.change == 0 and same.still == 1 and -0.1 < same.change_low < 0 < same.change_high < 0.1
