"""Estimates against the formulas and the definitions: MOVER, t over clusters, p-values that meet the intervals."""

from math import isnan, sqrt

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats
from scipy.stats import norm

from forget_callback.metrics.estimates import (
    Estimate,
    Scored,
    Shares,
    Stratum,
    estimate_of,
    shares_of,
    signed_shares,
    spread,
)
from forget_callback.metrics.intervals import wilson

exactly = {"rel": 0, "abs": 1e-12}


def of_two(n, more, plus, less, minus):
    return Shares((Stratum(n, (more, less), (plus, minus)),))


def mover_by_the_formula(p, q, w, scale, n, confidence):
    """STATISTICS.md section 5, word for word: L = s [p - wq - sqrt(...)], U mirrored."""
    z = norm.ppf(0.5 + confidence / 2)

    def limits(share):
        centre, half = share + z**2 / (2 * n), z * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        return (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)

    (l1, u1), (l2, u2) = limits(p), limits(q)
    r = -sqrt(p * q / ((1 - p) * (1 - q)))
    down = (p - l1) ** 2 + w**2 * (u2 - q) ** 2 - 2 * r * w * (p - l1) * (u2 - q)
    up = (u1 - p) ** 2 + w**2 * (q - l2) ** 2 - 2 * r * w * (u1 - p) * (q - l2)
    return scale * (p - w * q - sqrt(down)), scale * (p - w * q + sqrt(up))


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize("n10, n00_different, n, k", [(3, 2, 12, 4), (0, 5, 40, 3), (70, 110, 1000, 5), (9, 0, 10, 10)])
def test_mover_matches_the_formula(n10, n00_different, n, k, confidence):
    p, q, scale = n10 / n, n00_different / n, k / (k - 1)
    expected = mover_by_the_formula(p, q, 1 / (k - 2), scale, n, confidence)
    found = of_two(n, n10, scale, n00_different, -scale / (k - 2)).interval(confidence=confidence)
    assert found == pytest.approx(expected, **exactly)


@pytest.mark.parametrize("n", [1, 10])
@pytest.mark.parametrize("p, q", [(0, 0), (1, 0), (0, 1)])
def test_mover_at_the_edges_holds_its_mean_and_stays_in_range(n, p, q):
    low, high = of_two(n, p * n, 1.0, q * n, -1.0).interval()
    assert -1 <= low <= p - q <= high <= 1 and low < high


def test_no_items_have_neither_mean_nor_interval():
    shares = signed_shares([], positive_weight=1.0, negative_weight=1.0)
    assert shares.n == 0 and isnan(shares.mean) and all(map(isnan, shares.interval()))


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from([-1.0, -0.25, 0.0, 0.0, 0.5, 4 / 3, 2.0]), min_size=1, max_size=30))
def test_signed_shares_keep_the_mean_and_the_second_moment(scores):
    shares, s = signed_shares(scores, positive_weight=7.0, negative_weight=9.0), np.array(scores)
    assert shares.mean == pytest.approx(s.mean(), **exactly)
    ((n, counts, weights),) = shares.strata
    assert np.dot(counts, np.square(weights)) / n == pytest.approx((s**2).mean(), **exactly)
    assert (weights[0] == 7.0) == (not (s > 0).any()) and (weights[1] == -9.0) == (not (s < 0).any())


def mover_by_loops(strata, confidence):
    """A weighted sum of shares, all pairs of terms written out (Zou and Donner 2008)."""
    n = sum(stratum.n for stratum in strata)
    terms = [(i, s.n / n * w, c / s.n, s.n) for i, s in enumerate(strata) for c, w in zip(s.counts, s.weights)]
    ends = []
    for side in (-1, 1):
        reach = []
        for _, a, p, size in terms:
            low, high = wilson(p * size, size, confidence=confidence)
            reach.append(a * (high - p if a * side > 0 else p - low))
        total = sum(r**2 for r in reach)
        for one, (i, _, p, _) in enumerate(terms):
            for two, (j, _, q, _) in enumerate(terms):
                if i == j and one != two:
                    total -= sqrt(p * q / ((1 - p) * (1 - q))) * reach[one] * reach[two]
        ends.append(sum(a * p for _, a, p, _ in terms) + side * sqrt(total))
    return ends


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.975])
def test_strata_and_several_events_are_mover_written_out(confidence):
    strata = (Stratum(40, (5, 3, 2), (1.5, -1.5, -0.75)), Stratum(60, (2, 0, 4), (4 / 3, -2 / 3, -4 / 9)))
    found = Shares(strata).interval(confidence=confidence)
    assert found == pytest.approx(mover_by_loops(strata, confidence), **exactly)


def test_events_are_counted_by_strata():
    k = np.array([3, 4, 3, 4, 4])
    shares = shares_of(k, ([1, 0, 0, 1, 1], 6 / k), ([0, 1, 1, 0, 0], -12 / k))
    assert shares.strata == (Stratum(2, (1, 1), (2.0, -4.0)), Stratum(3, (2, 1), (1.5, -3.0)))
    assert shares.mean == pytest.approx((2 - 4 + 3 - 3) / 5)
    assert shares_of([], ([], [])).n == 0 and isnan(shares_of([], ([], [])).mean)


ESTIMATES = {
    "above": Estimate(of_two(200, 20, 4 / 3, 9, -2 / 3)),
    "below": Estimate(of_two(200, 3, 4 / 3, 30, -2 / 3)),
    "no event": Estimate(of_two(50, 0, 4 / 3, 0, -2 / 3)),
    "strata": Estimate(Shares((Stratum(40, (5, 3), (1.5, -1.5)), Stratum(60, (2, 4), (4 / 3, -2 / 3))))),
    "clusters": estimate_of(
        Scored(
            s := np.repeat([1.0, 0, 0, 1, -0.5, 0, 0, 0], 5), signed_shares(s, positive_weight=1, negative_weight=1)
        ),
        np.repeat(np.arange(8), 5),
    ),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_the_p_value_is_the_level_at_which_the_lower_end_meets_0(name):
    estimate = ESTIMATES[name]
    p = estimate.p_value()
    if estimate.mean > 0:
        assert estimate.interval(confidence=1 - 2 * p).low == pytest.approx(0, abs=1e-5)
    else:
        assert p >= 0.5 and estimate.interval(confidence=2 * p - 1).high == pytest.approx(0, abs=1e-5)


def test_an_overwhelming_estimate_has_no_chance_left():
    assert Estimate(of_two(100_000, 90_000, 1.0, 0, -0.5)).p_value() < 1e-300
    assert isnan(Estimate(Shares(())).p_value()) and isnan(Estimate(Shares(())).mean)


def test_spread_over_items_is_that_of_the_paired_t_test():
    scores = np.random.default_rng(0).normal(0.1, 1, 60)
    found, expected = spread(scores), stats.ttest_1samp(scores, 0.0, alternative="greater")
    assert found.p_value(scores.mean()) == pytest.approx(expected.pvalue, **exactly)
    shares = signed_shares(scores, positive_weight=1, negative_weight=1)
    ends = estimate_of(Scored(scores, shares), None, sampled=True).interval()
    assert ends == pytest.approx(stats.ttest_1samp(scores, 0.0).confidence_interval(0.95), **exactly)


def test_spread_over_clusters_of_one_size_is_t_over_their_means():
    rng = np.random.default_rng(1)
    cluster = rng.permutation(np.repeat(np.arange(12), 5))
    scores = rng.normal(0, 1, 12)[cluster] + rng.normal(0, 1, 60)
    means = [scores[cluster == c].mean() for c in range(12)]
    found = spread(scores, cluster)
    assert (found.error, found.freedom) == (pytest.approx(stats.sem(means), **exactly), 11)


def test_nothing_that_varies_leaves_mover():
    scores, one = np.zeros(20), np.ones(20)
    shares = shares_of(one, (scores, one))
    clustered = estimate_of(Scored(scores, shares), np.repeat([0, 1], 10))
    assert clustered.spread is None and clustered.interval() == shares.interval()
    assert spread([1.0]) is None and spread([0.0, 1.0, 2.0], [7, 7, 7]) is None
    assert estimate_of(Scored(np.arange(20.0), shares), np.arange(20)).spread is None, "each item its own cluster"


def test_clusters_never_make_an_interval_narrower():
    """One item of each pair lost: less variable between clusters than between items."""
    scores, one = np.tile([1.0, 0.0], 50), np.ones(100)
    shares = shares_of(one, (scores, one))
    rng = np.random.default_rng(2)
    scores = rng.permutation(scores)
    for cluster in (np.repeat(np.arange(50), 2), np.repeat(np.arange(4), 25)):
        low, high = estimate_of(Scored(scores, shares), cluster).interval()
        plain = shares.interval()
        assert low <= plain.low and high >= plain.high
