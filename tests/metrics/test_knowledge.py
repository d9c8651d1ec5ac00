"""Which items tell what, and the numbers that stand beside it: two options, pools, samples, recall, caps, clusters."""

from dataclasses import replace
from math import inf, isnan, nan

import numpy as np
import pytest
from scipy import stats

from forget_callback.metrics.knowledge import MIN_ITEMS, lost_by_item
from forget_callback.metrics.transitions import compare, pairs_of, transitions
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.snapshot import Snapshot
from tests.metrics.worlds import World, measured


def two_options(rng, n, *, lost=0.0, kept=0.5, prompts=1):
    """PIQA, BoolQ: 60% known, guesses half persistent."""
    known, gone = (u := rng.random(n)) < 0.6, u < lost
    guess, other = rng.integers(0, 2, (2, prompts, n))
    again = np.where(known | (rng.random((prompts, n)) > kept), other, guess)
    return np.where(known, 0, guess), np.where(known & ~gone, 0, again)


@pytest.mark.parametrize("prompts", [1, 2])
def test_two_options_alone_read_the_net_with_its_range(prompts):
    before, after = two_options(np.random.default_rng(prompts), 1000, lost=0.12, prompts=prompts)
    t = measured(before, after, 2)
    assert t.knowledge_method == "net" and t.knowledge_lost == t.knowledge_lost_net == -t.knowledge_gained
    gone = ((before == 0).all(axis=0) & (after == 1).all(axis=0)).mean()
    come = ((after == 0).all(axis=0) & (before == 1).all(axis=0)).mean()
    assert t.knowledge_lost == pytest.approx(2 * (gone - come))
    assert t.knowledge_lost_range_low < 0.12 < t.knowledge_lost_range_high


def test_two_options_against_themselves_lost_nothing():
    before, _ = two_options(np.random.default_rng(0), 400)
    t = measured(before, before, 2)
    assert t.knowledge_lost == t.known_lost == 0.0 and t.knowledge_lost_range_low == 0.0 and t.verdict == "none"


def test_two_options_of_which_a_fifth_was_lost_never_pass():
    rng = np.random.default_rng(1)
    runs = [measured(*two_options(rng, 1000, lost=0.2), 2) for _ in range(40)]
    assert all(t.interval("knowledge_lost").low > 0.05 and t.verdict == "lost" for t in runs)
    unchanged = [measured(*two_options(rng, 1000), 2) for _ in range(200)]
    assert np.mean([t.verdict == "lost" for t in unchanged]) <= 0.05
    assert np.mean([t.knowledge_lost for t in unchanged]) == pytest.approx(0, abs=0.005)


def test_a_pool_reads_knowledge_from_three_options_and_more_and_two_stand_in_the_net():
    rng = np.random.default_rng(2)
    found = []
    for _ in range(100):
        several, two = World("uniform").answers(rng, 300, prompts=1), two_options(rng, 300)
        before, after = (np.concatenate([side[0], other[0]]) for side, other in zip(several, two))
        k = np.repeat([4, 2], 300)
        pool, alone = measured(before, after, k), measured(several[0][0], several[1][0], several[2])
        for name in ("knowledge_lost", "knowledge_gained", "known_before", "knowledge_lost_interval", "known_lost"):
            assert getattr(pool, name) == getattr(alone, name)
        scale = k / (k - 1)
        assert pool.knowledge_lost_net == pytest.approx(np.mean(scale * ((before == 0) * 1.0 - (after == 0))))
        assert (pool.knowledge_n, pool.n) == (300, 600)
        found.append(pool.knowledge_lost)
    assert np.mean(found) == pytest.approx(0, abs=0.006), "nothing was lost"


def test_open_ended_items_do_not_enter_beside_choices():
    before, after, k = World("uniform").answers(np.random.default_rng(3), 200, prompts=1, lost=0.2)
    x, y = (np.concatenate([side[0], np.full(100, -1)]) for side in (before, after))
    right = [np.concatenate([side[0] == 0, np.arange(100) < 50]) for side in (before, after)]
    t = transitions(*right, n_choices=np.concatenate([k, np.full(100, inf)]), before_choice=x, after_choice=y)
    assert t.knowledge_n == 200 and t.knowledge_lost == measured(before, after, k).knowledge_lost
    assert t.knowledge_lost_net == measured(before, after, k).knowledge_lost_net and t.n == 300


def test_open_ended_items_alone_are_exact_over_their_prompts():
    before = np.ones((2, 100))
    after = np.stack([np.arange(100) >= 30, np.arange(100) >= 10])
    t = transitions(before, after)
    assert (t.knowledge_method, t.knowledge_lost, t.forgetting) == ("exact", 0.10, 0.30)
    assert t.spurious_forgetting == pytest.approx(0.20) and t.known_before == 1.0
    alone = transitions(before[0], after[1])
    assert t.knowledge_lost_interval == pytest.approx(alone.forgetting_interval)
    assert t.knowledge_lost_range_high == pytest.approx(alone.forgetting_interval.high)


@pytest.mark.parametrize("n", [MIN_ITEMS, 100, 1000])
@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("stored", [True, False])
def test_when_everything_is_overwritten_all_that_was_known_is_lost_and_not_more(n, prompts, stored):
    before, after = np.zeros((prompts, n), int), np.ones((prompts, n), int)
    choices = {"before_choice": before, "after_choice": after} if stored else {}
    t = transitions(before == 0, after == 0, n_choices=4, **choices)
    assert t.knowledge_lost == t.known_before == t.known_lost == 1.0 and t.verdict == "lost"
    assert max(t.knowledge_lost_interval.high, t.knowledge_lost_range_high, t.interval("known_lost").high) <= 1.0
    assert t.knowledge_lost_interval.low < 1.0


def test_lost_is_never_above_known_before_where_that_is_beyond_doubt():
    rng = np.random.default_rng(4)
    for _ in range(100):  # all that was known is overwritten by one wrong option, guesses stay
        before, after, k = World("uniform", kept=1.0).answers(rng, 200, prompts=1)
        known = rng.random(200) < 0.4
        before, after = np.where(known, 0, before), np.where(known, 1, np.where(known, 0, before))
        t = measured(before, after, k)
        assert t.knowledge_lost <= t.known_before and t.known_lost <= 1.0
        assert t.knowledge_lost_interval.high <= t.interval("known_before").high
        assert t.knowledge_lost_range_high <= t.interval("known_before").high


def test_known_lost_is_the_share_of_what_was_known():
    """Open-ended: 40 of 80 known are lost; of 100 items that is 40%, of what was known half."""
    t = transitions(np.arange(100) < 80, np.arange(100) < 40)
    assert (t.knowledge_lost, t.known_before, t.known_lost) == (0.4, 0.8, 0.5)
    low, high = t.interval("known_lost")
    own = stats.binomtest(40, 80).proportion_ci(method="wilson")
    assert low < own.low < 0.5 < own.high < high < 0.75
    assert isnan(transitions([0, 0], [0, 1]).known_lost) and isnan(
        transitions([0, 0], [0, 1]).interval("known_lost").low
    )


def test_known_lost_is_covered_as_often_as_it_says():
    rng, covered = np.random.default_rng(5), []
    for _ in range(400):
        t = World("uniform").measured(rng, 300, prompts=1, lost=0.1)
        low, high = t.interval("known_lost")
        covered.append(low <= 0.25 <= high)
    assert np.mean(covered) >= 0.94


@pytest.mark.parametrize("n, lost, gained, prompts", [(60, 0.1, 0.0, 1), (150, 0.02, 0.1, 2), (600, 0.1, 0.1, 2)])
def test_the_interval_of_known_lost_covers_what_the_estimate_is_in_the_long_run(n, lost, gained, prompts):
    """Of mixed numbers of options and of one or two prompts; the truth of the ratio is that of very many items."""
    rng, world = np.random.default_rng(12), World("uniform", 0.6, (3, 4, 5))
    how = {"lost": lost, "gained": gained, "prompts": prompts}
    many = world.measured(rng, 300_000, **how)
    truth = many.knowledge_lost / many.known_before
    runs = [world.measured(rng, n, **how) for _ in range(300)]
    runs = [t for t in runs if not isnan(t.known_lost)]
    ends = [t.interval("known_lost") for t in runs]
    assert len(runs) > 290 and all(low <= t.known_lost <= high <= 1.0 for t, (low, high) in zip(runs, ends))
    assert np.mean([low <= truth <= high for low, high in ends]) >= 0.93
    assert np.mean([low <= truth for low, _ in ends]) >= 0.955  # what a rule and a gate go by, 97.5% of one side


def test_a_share_of_what_was_known_is_not_defined_where_that_may_be_nothing():
    """A guesser: the ratio of two noises was anything from -40 to 1, and a gate passed or failed by luck."""
    rng, defined = np.random.default_rng(11), 0
    for _ in range(200):
        choices = rng.integers(0, 4, (2, 300))
        t = measured(choices[0], choices[1], 4)
        (few, many), (low, high) = t.interval("known_before"), t.interval("known_lost")
        assert isnan(t.known_lost) == isnan(low) == (not 0 < few < many < 2 * t.known_before)
        assert isnan(t.known_lost) or low <= t.known_lost <= high
        defined += not isnan(t.known_lost)
    assert defined <= 10


# Sampled answers.


def shares(rng, n, *, samples=4, drop=0.0):
    """Shares of right samples of items of every difficulty, before and after."""
    p = rng.beta(0.7, 0.7, n)
    return rng.binomial(samples, p, n) / samples, rng.binomial(samples, p * (1 - drop), n) / samples


def test_sampled_answers_are_a_paired_t_test():
    before, after = shares(np.random.default_rng(6), 200, drop=0.2)
    t = transitions(before, after, samples=4)
    ends = stats.ttest_rel(before, after).confidence_interval(0.95)
    assert t.knowledge_method == "net" and t.knowledge_lost == t.knowledge_lost_net
    assert t.knowledge_lost == pytest.approx((before - after).mean())
    assert t.knowledge_lost_interval == pytest.approx(ends) and t.interval("knowledge_lost_net") == pytest.approx(ends)
    assert t.n10 == ((before > 0.5) & (after <= 0.5)).sum() and t.known_before == pytest.approx(before.mean())
    options = transitions(before, after, samples=4, n_choices=4)
    assert options.knowledge_lost == pytest.approx(4 / 3 * (before - after).mean())


def test_an_unchanged_sampled_model_lost_nothing():
    """20 looks at one model: a rule that asks for more than 5%, and the verdict."""
    rng, stopped, verdicts = np.random.default_rng(7), 0, []
    for _ in range(30):
        p = rng.beta(0.7, 0.7, 300)
        base, *looks = rng.binomial(4, p, (21, 300)) / 4
        found = [transitions(base, look, samples=4) for look in looks]
        above = np.array([t.interval("knowledge_lost_net", confidence=0.9).low > 0.05 for t in found])
        stopped += (above[1:] & above[:-1]).any()
        verdicts += [t.verdict == "lost" for t in found]
    assert stopped == 0 and np.mean(verdicts) <= 0.05


def test_two_sampled_prompts_count_what_all_show():
    before = np.full((2, 60), 1.0)
    after = np.stack([np.full(60, 0.0), np.full(60, 0.5)])
    after[1, :20] = 0.25
    t = transitions(before, after, samples=4)
    assert t.knowledge_lost == pytest.approx(np.mean(1 - after[1])) and t.spurious_forgetting > 0.3


# Recall beside choice.


def facts(rng, n=100):
    """Each fact is recalled and chosen in two prompts; all recall is lost, a fifth of the choices."""
    kind = np.repeat(np.array(["recall", "choice"], object), n)
    fact = np.tile(np.array([f"f{i}" for i in range(n)], object), 2)
    recalled = np.arange(n) < 60
    chosen = np.arange(n) >= 12
    columns = {"kind": kind, "fact": fact, "n_choices": np.repeat([inf, 4], n), "answer": np.repeat([-1, 0], n)}
    sides = []
    for step, (recall, first, second) in enumerate(
        ((recalled, chosen | True, chosen | True), (recalled & False, chosen | True, chosen))
    ):
        asked = np.repeat([False, True], n)
        own, other = (np.concatenate([recall, one]).astype(float) for one in (first, second))
        choice = [np.where(asked, 1 - side, -1).astype(int) for side in (own, other)]
        further = (
            Answers("v2", correct=np.where(asked, other, nan), choice=choice[1], asked=asked, weak=~asked & False),
        )
        given = {"correct": own, "choice": choice[0], "further": further, **columns}
        sides.append(Snapshot("p", "f", step, ids=[f"{a}{b}" for a, b in zip(kind, fact)], **given))
    return sides


def test_recall_is_access_and_knowledge_is_read_from_the_choices():
    """60 of 100 facts are no longer recalled; 48 of these are still chosen in both prompts."""
    t = compare(*facts(np.random.default_rng(8)))
    assert (t.recall_lost, t.recall_still_chosen) == (0.6, 0.8)
    assert t.knowledge_n == 100 and t.knowledge_lost == 0.0 and t.knowledge_method == "choice"
    low, high = t.interval("recall_still_chosen")
    assert (low, high) == pytest.approx(tuple(stats.binomtest(48, 60).proportion_ci(method="wilson")), abs=1e-12)
    assert np.isnan(lost_by_item(pairs_of(*facts(None)))[:100]).all()


def test_recall_without_choices_of_its_facts_has_no_share_still_chosen():
    only = [s.select(np.arange(100)) for s in facts(None)]
    t = compare(*only)
    assert t.recall_lost == 0.6 and isnan(t.recall_still_chosen) and isnan(t.interval("recall_still_chosen").low)
    assert t.knowledge_method == "exact" and t.knowledge_lost == 0.6
    choices = compare(*(s.select(np.arange(100, 200)) for s in facts(None)))
    assert isnan(choices.recall_lost) and isnan(choices.recall_still_chosen)


# Clusters.


def clustered(rng, clusters, size, icc=0.1, lost=0.1):
    """Items right before; clusters differ in how much of them is lost, with this intraclass correlation."""
    p = rng.beta(lost * (1 / icc - 1), (1 - lost) * (1 / icc - 1), clusters)
    cluster = np.repeat(np.arange(clusters), size)
    return rng.random(clusters * size) < p[cluster], np.array([f"c{c}" for c in cluster])


@pytest.mark.parametrize("size", [25, 100])
def test_intervals_of_clustered_items_cover_as_often_as_they_say(size):
    rng, covered, plain, runs = np.random.default_rng(size), 0, 0, 400
    for _ in range(runs):
        gone, cluster = clustered(rng, 57, size)
        t = transitions(np.ones(len(gone)), ~gone, cluster=cluster)
        ends = [t.forgetting_interval, t.knowledge_lost_interval, tuple(-e for e in reversed(t.net_change_interval))]
        hits = [low <= 0.1 <= high for low, high in ends]
        assert len(set(hits)) == 1, "all three are the same share"
        covered += hits[0]
        low, high = transitions(np.ones(len(gone)), ~gone).forgetting_interval
        plain += low <= 0.1 <= high
    assert 0.92 <= covered / runs <= 0.97 and plain / runs < 0.92


def test_the_test_of_accuracy_of_clustered_items_keeps_its_level():
    """Clusters move up or down together; on average nothing changes.

    Two of 20 items move in a cluster, so the variance is E[m^2]/E[m] = 2.9 times that of independent items, and
    McNemar's test at 5% is one at 2 P(Z > 1.96/1.7) = 25%.
    """
    rng, p_values, mcnemar = np.random.default_rng(9), [], []
    for _ in range(400):
        cluster = np.repeat(np.arange(40), 20)
        up = rng.random(40) < 0.5
        moved = rng.random(800) < 0.1
        before = np.where(moved, ~up[cluster], True)
        after = np.where(moved, up[cluster], True)
        p_values.append(transitions(before, after, cluster=cluster).p_value)
        mcnemar.append(transitions(before, after).p_value)
    assert 0.03 <= np.mean(np.array(p_values) < 0.05) <= 0.075 and np.mean(np.array(mcnemar) < 0.05) > 0.15


def test_clusters_of_one_item_and_empty_names_change_nothing():
    before, after, k = World("uniform").answers(np.random.default_rng(10), 100, lost=0.2)
    plain = measured(before, after, k).as_dict()
    for cluster in (np.arange(100), [""] * 100, [None] * 100):
        assert measured(before, after, k, cluster=cluster).as_dict() == pytest.approx(plain, nan_ok=True)
    nothing = measured(before, before, k, cluster=np.repeat(np.arange(10), 10))
    assert nothing.forgetting_interval == measured(before, before, k).forgetting_interval
    assert nothing.knowledge_lost_interval == measured(before, before, k).knowledge_lost_interval


def test_a_cluster_per_item_is_asked_for():
    with pytest.raises(ValueError, match=r"cluster must have one value per item, shape \(2,\), got \(3,\)"):
        transitions([1, 0], [1, 0], cluster=["a", "b", "c"])


def test_only_the_prompts_of_items_that_enter_make_an_estimate_of_several():
    """Recall is asked in two prompts, the choices in one: theirs is the estimate of one prompt."""
    sides = facts(None)
    several = []
    for side in sides:
        recall = np.isinf(side.n_choices)
        further = Answers("v2", correct=np.where(recall, side.correct, nan), asked=recall)
        several.append(replace(side, further=(further,)))
    t, scores = compare(*several), lost_by_item(pairs_of(*several))
    assert t.knowledge_lost == np.nanmean(scores) == compare(*(s.without_variants() for s in sides)).knowledge_lost
    assert t.in_this_prompt and isnan(t.spurious_forgetting)
