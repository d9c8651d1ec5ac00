"""The mean change of graded scores and of bits per byte: against scipy and slow definitions, and in simulations."""

from math import isnan, nan, sqrt

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS

from forget_callback import Snapshot, bootstrap_change, compare
from forget_callback.metrics.bootstrap import bootstrap
from forget_callback.metrics.graded import change_of
from forget_callback.metrics.pairs import Numbers
from forget_callback.metrics.verdict import LEVEL


def snapshot(step, score=None, *, bits=None, cluster=None, correct=None, fingerprint="f"):
    n = len(score if score is not None else bits)
    texts = {} if bits is None else {"bits_per_byte": bits, "kind": ["text"] * n}
    if correct is None:
        known = np.ones(n) if bits is not None else (np.asarray(score, float) >= 0.5).astype(float)
        correct = np.where(np.isnan(np.asarray(score if bits is None else bits, float)), nan, known)
    ids = [f"i{i}" for i in range(n)]
    return Snapshot("p", fingerprint, step, ids=ids, correct=correct, score=score, cluster=cluster, **texts)


def change(before, after, cluster=None, *, bounded=False):
    return change_of(Numbers(np.asarray(before, float), np.asarray(after, float)), cluster, bounded=bounded)


@pytest.mark.parametrize("n", [2, 5, 300])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_and_the_test_are_scipys_paired_t(n, confidence):
    rng = np.random.default_rng(n)
    before = rng.gamma(9, 0.1, n)
    after = before + rng.normal(0.01, 0.05, n)
    found, expected = change(before, after), stats.ttest_rel(after, before)
    assert found.interval(confidence=confidence) == pytest.approx(tuple(expected.confidence_interval(confidence)))
    for above in (0.0, 0.01):
        one_sided = stats.ttest_1samp(after - before, above, alternative="greater").pvalue
        assert found.p_value(above) == pytest.approx(one_sided)
    assert (found.before, found.after, found.change) == pytest.approx(
        (before.mean(), after.mean(), after.mean() - before.mean())
    )


def test_clusters_are_a_regression_with_cluster_robust_errors():
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, 12, 90)
    changes = rng.normal(0, 1, 12)[cluster] + rng.normal(0.3, 1, 90)
    before = rng.normal(size=90)
    fit = OLS(changes, np.ones(90)).fit(cov_type="cluster", cov_kwds={"groups": cluster}, use_t=True)
    # statsmodels' small-sample factor is G/(G - 1) (n - 1)/(n - k), that with k = 1 is ours.
    low, high = fit.conf_int()[0]
    assert change(before, before + changes, cluster).interval() == pytest.approx((low, high))


@pytest.mark.parametrize("bounded", [True, False])
def test_without_items_with_one_and_where_all_are_equal(bounded):
    none = change([nan, nan], [nan, nan], bounded=bounded)
    assert (none.n, none.n_asked) == (0, 0) and isnan(none.change) and isnan(none.p_value(0))
    one = change([0.5, nan, 0.5], [0.2, 0.1, nan], bounded=bounded)
    assert (one.n, one.n_asked) == (1, 3) and one.change == pytest.approx(-0.3)
    assert np.isnan([*none.interval(), *one.interval(), one.p_value(0)]).all()
    same_cluster = change([0.1, 0.2], [0.3, 0.3], np.array([7, 7]), bounded=bounded)
    assert np.isnan(same_cluster.interval()).all()
    equal = change([0.5] * 40, [0.5] * 40, bounded=bounded)
    low, high = equal.interval()
    assert equal.change == 0 and equal.p_value(0) == 1 and low <= 0 <= high
    # Of a number without a bound nothing says that it could have changed; of 40 scores some may change next time.
    assert (high - low > 0.05) == bounded
    assert change([0.25] * 3, [0.75] * 3).p_value(0.1) == 0


def test_a_missing_score_is_left_out_of_both_means():
    t = compare(snapshot(0, [0.9, 0.2, nan, 0.8]), snapshot(1, [0.4, nan, 0.1, 0.8]))
    assert (t.score_before, t.score_after) == pytest.approx((0.85, 0.6))
    assert t.score_change == pytest.approx(-0.25) == -t.score_lost
    assert t.coverage("score_lost") == pytest.approx(0.5), "a gate on it fails closed"
    low, high = t.interval("score_change")
    assert t.interval("score_lost") == (-high, -low)
    assert np.isnan([compare(snapshot(0, [nan] * 3), snapshot(1, [nan] * 3)).score_lost]).all()


def test_transitions_are_at_the_threshold_and_the_change_sees_what_does_not_cross_it():
    rng = np.random.default_rng(1)
    before = rng.uniform(0.7, 1.0, 60)
    t = compare(snapshot(0, before), snapshot(1, before - 0.15))
    assert (t.n10, t.forgetting) == (0, 0)
    assert t.score_change == pytest.approx(-0.15) and t.interval("score_change").high < 0
    assert t.verdict == "lost" and t.told_by_score and t.in_this_prompt
    assert compare(snapshot(0, before), snapshot(1, before)).verdict == "none"
    lost = compare(snapshot(0, before), snapshot(1, np.where(np.arange(60) < 20, 0.1, before)))
    assert lost.n10 == 20 and lost.verdict == "lost" and not lost.told_by_score


@pytest.mark.parametrize(
    "n, fall, verdict", [(29, 0.3, "unclear"), (30, 0.3, "lost"), (1000, 0.008, "moved"), (200, 0.03, "lost")]
)
@pytest.mark.parametrize("level", [0.4, 0.9])  # below and above the threshold
def test_the_verdict_of_scores_that_cross_no_threshold(n, fall, verdict, level):
    rng = np.random.default_rng(6)
    before = level + rng.uniform(0, 0.05, n)
    fell = before - fall * (1 + 0.1 * rng.normal(size=n))
    t = compare(snapshot(0, before), snapshot(1, np.where(level > 0.5, np.maximum(fell, 0.5), fell)))
    assert t.n10 == 0 and t.verdict == verdict and t.told_by_score == (verdict != "unclear")
    assert (t.loss_p_value < LEVEL) == (verdict == "lost")
    up = compare(snapshot(0, fell), snapshot(1, before))
    assert up.verdict in ("none", "unclear") and up.told_by_score is False and not up.loss_p_value < 0.5


@pytest.mark.parametrize("kind", ["normal", "few", "skewed", "threshold"])
@pytest.mark.parametrize("n", [30, 200])
def test_scores_that_only_waver_are_seldom_claimed_to_be_lost(kind, n):
    rng, runs, claims = np.random.default_rng(7), 400, 0
    for _ in range(runs):
        level = rng.uniform(0.45, 0.55, n) if kind == "threshold" else rng.uniform(0.3, 0.7, n)
        noise = rng.normal(0, 0.1, (2, n))
        if kind == "few":
            noise *= rng.random((2, n)) < 0.05
        if kind == "skewed":
            noise = -rng.exponential(0.1, (2, n)) * (rng.random((2, n)) < 0.2)
        claims += compare(*(snapshot(step, np.clip(level + noise[step], 0, 1)) for step in (0, 1))).verdict == "lost"
    assert claims / runs <= 0.025 + 2 * sqrt(0.025 * 0.975 / runs)


@pytest.mark.parametrize("bad", [-0.1, 1.5])
def test_a_score_outside_of_0_to_1_is_an_error(bad):
    with pytest.raises(ValueError, match=r"score must lie in \[0, 1\]"):
        snapshot(0, [0.5, bad])


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_the_interval_of_scores_covers_where_few_items_change_and_where_many_do(share):
    rng, n, covered, by_t = np.random.default_rng(2), 100, 0, 0
    truth = -share * 0.5
    for _ in range(500):
        before = rng.uniform(0.6, 1.0, n)
        after = before - (rng.random(n) < share) * rng.uniform(0.4, 0.6, n)
        found = change(before, after, bounded=True)
        low, high = found.interval()
        covered += low <= truth <= high
        plain = change(before, after).interval()
        by_t += plain.low <= truth <= plain.high
    assert covered / 500 >= 0.93 and covered >= by_t
    assert (by_t / 500 < 0.9) == (share == 0.02), "what the events are there for"


@pytest.mark.parametrize("clustered", [False, True])
def test_the_bootstrap_is_scipys(clustered):
    rng = np.random.default_rng(3)
    changes, cluster = rng.exponential(0.05, 80) - 0.02, None
    ours = bootstrap(changes, n_draws=20_000)
    how = {"n_resamples": 20_000, "method": "BCa", "random_state": rng}  # scipy before 1.15 has no "rng"
    theirs = stats.bootstrap((changes,), np.mean, **how).confidence_interval
    if clustered:  # each item twice, so half as much is known
        cluster = np.repeat(np.arange(80), 2)
        ours = bootstrap(np.repeat(changes, 2), cluster, n_draws=20_000)
    assert ours == pytest.approx(tuple(theirs), abs=4e-4)


def test_the_bootstrap_of_two_snapshots_agrees_with_t_and_follows_what_is_skewed():
    rng = np.random.default_rng(4)
    bits = rng.gamma(9, 0.1, 200)
    worse = bits + rng.normal(0.01, 0.03, 200)
    before, after = snapshot(0, bits=bits), snapshot(1, bits=worse)
    by_t = compare(before, after).interval("bits_per_byte_change")
    assert bootstrap_change(before, after, "bits_per_byte") == pytest.approx(by_t, abs=5e-4)
    few = snapshot(1, bits=bits + (rng.random(200) < 0.05) * 0.5)
    t, drawn = compare(before, few), bootstrap_change(before, few, "bits_per_byte")
    low, high = t.interval("bits_per_byte_change")
    assert drawn.high - t.bits_per_byte_change > t.bits_per_byte_change - drawn.low, "skewed as the changes are"
    assert drawn.low > low and drawn.high > high
    assert np.isnan(bootstrap_change(before, after, "score")).all()
    same = bootstrap_change(before, snapshot(1, bits=bits), "bits_per_byte")
    assert same == (0, 0)
    with pytest.raises(ValueError, match="column must be 'bits_per_byte' or 'score', got 'kl'"):
        bootstrap_change(before, after, "kl")


def test_clusters_widen_the_interval_of_a_snapshot():
    rng = np.random.default_rng(5)
    cluster = [f"book-{i // 20}" for i in range(200)]
    shift = np.repeat(rng.normal(0, 0.05, 10), 20)
    bits = rng.gamma(9, 0.1, 200)
    sides = [snapshot(0, bits=bits, cluster=cluster), snapshot(1, bits=bits + shift, cluster=cluster)]
    low, high = compare(*sides).interval("bits_per_byte_change")
    means = shift.reshape(10, 20).mean(axis=1)
    half = stats.t.ppf(0.975, 9) * means.std(ddof=1) / sqrt(10)
    assert (low, high) == pytest.approx((means.mean() - half, means.mean() + half))
    drawn = bootstrap_change(*sides, "bits_per_byte")
    assert 0.6 < (drawn.high - drawn.low) / (high - low) < 1.1
