"""The estimator over prompt variants: golden numbers, its definition item by item, what enters it and what does not."""

import json
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest

from forget_callback.metrics.knowledge import lost_by_item
from forget_callback.metrics.pairs import paired
from forget_callback.metrics.transitions import compare, pairs_of, transitions
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.snapshot import Snapshot
from tests.metrics.test_estimates import mover_by_loops
from tests.metrics.worlds import World, measured

CASES = json.loads(Path(__file__).parents[1].joinpath("golden_variants.json").read_text())["cases"]


def of_case(case):
    before, after, answer = (np.array(case[name]) for name in ("before", "after", "answer"))
    k = np.array(case["k"], float)
    return {
        "before": before == answer,
        "after": after == answer,
        "n_choices": k,
        "before_choice": before,
        "after_choice": after,
        "answer": answer,
    }


@pytest.mark.parametrize("number", range(len(CASES)))
def test_golden_numbers(number):
    case = CASES[number]
    t = transitions(**of_case(case))
    found = (t.knowledge_lost, t.knowledge_gained, t.known_before)
    np.testing.assert_allclose(found, [case[name] for name in ("lost", "gained", "known_before")], rtol=0, atol=1e-9)
    assert t.knowledge_method == "choice" and t.variants == len(case["before"]) and t.scored == 1.0
    assert t.knowledge_n == len(case["k"])


def slow_lost(before, after, k, asked):
    """STATISTICS section 14, one item at a time; option 0 is right, -1 cannot be parsed. Gives also the events."""
    scores, events = [], []
    for i in range(before.shape[1]):
        x, y = ([int(side[v, i]) for v in range(len(side)) if asked[v, i]] for side in (before, after))
        score, event = 0.0, ""
        if all(c == 0 for c in x) and all(c != 0 for c in y):
            score, event = 1.0, "right"
        if len(set(x)) == 1 and x[0] > 0 and x[0] not in y and not all(c == 0 for c in y):
            unanimous = len(set(y)) == 1 and y[0] >= 0
            score, event = -1 / (k[i] - 2 if unanimous else k[i] - 1), "unanimous" if unanimous else "divided"
        scores.append(score * k[i] / (k[i] - 1))
        events.append(event)
    return np.array(scores), np.array(events)


def some(rng, n, prompts, sizes, unparsed=0.1):
    """Answers with everything in them, and prompts that not every item has."""
    before, after, k = World("uniform", k=sizes).answers(rng, n, prompts=prompts, lost=0.15, gained=0.1)
    before, after = (np.where(rng.random(side.shape) < unparsed, -1, side) for side in (before, after))
    asked = rng.random((prompts, n)) < 0.7
    asked[0] = True
    return before, after, k, asked


def pairs_from(before, after, k, asked):
    right = [np.where(asked, side == 0, nan) for side in (before, after)]
    choices = {"before_choice": before, "after_choice": after}
    return paired(*right, k, **choices, answer=np.zeros(len(k), int), asked=asked)


@pytest.mark.parametrize("sizes", [(4,), (3, 4, 6)])
@pytest.mark.parametrize("prompts", [2, 3])
def test_items_with_fewer_prompts_enter_by_those_that_they_have(sizes, prompts):
    before, after, k, asked = some(np.random.default_rng(prompts), 400, prompts, sizes)
    pairs = pairs_from(before, after, k, asked)
    np.testing.assert_allclose(lost_by_item(pairs), slow_lost(before, after, k, asked)[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(lost_by_item(pairs.swapped()), slow_lost(after, before, k, asked)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("sizes", [(4,), (3, 4, 6)])
def test_the_interval_is_mover_over_the_three_shares_by_options(sizes):
    before, after, k = World("uniform", k=sizes).answers(np.random.default_rng(3), 500, lost=0.15)
    t = measured(before, after, k)
    _, events = slow_lost(before, after, k, np.ones(before.shape, bool))
    strata = []
    for options in sizes:
        own, scale = k == options, options / (options - 1)
        counts = [(events[own] == name).sum() for name in ("right", "unanimous", "divided")]
        weights = (scale, -scale / (options - 2), -scale / (options - 1))
        strata.append(StratumLike(own.sum(), counts, weights))
    assert t.knowledge_lost_interval == pytest.approx(mover_by_loops(strata, 0.95), abs=1e-12)


class StratumLike:
    def __init__(self, n, counts, weights):
        self.n, self.counts, self.weights = int(n), [int(c) for c in counts], weights


def test_net_and_range_of_two_prompts():
    before, after, k = World("uniform").answers(np.random.default_rng(4), 600, lost=0.15, gained=0.05)
    t = measured(before, after, k)
    gone = ((before == 0).all(axis=0) & (after != 0).all(axis=0)).sum()
    come = ((after == 0).all(axis=0) & (before != 0).all(axis=0)).sum()
    assert t.knowledge_lost_net == pytest.approx((gone - come) / 600 * 4 / 3)
    assert t.knowledge_lost_range_low == pytest.approx(max(t.interval("knowledge_lost_net").low, 0))
    high = transitions(np.arange(600) < gone, np.zeros(600)).forgetting_interval.high * (4 / 3) ** 2
    assert t.knowledge_lost_range_high == pytest.approx(min(high, t.interval("known_before").high))


def test_spurious_forgetting_is_what_the_first_prompt_alone_says_beyond_all():
    """Of 100 items known in both prompts, 10 are lost in both and 20 more in the first one only."""
    before, after = np.zeros((2, 100), int), np.zeros((2, 100), int)
    after[:, :10] = 1
    after[0, 10:30] = 2
    t = measured(before, after, np.full(100, 4))
    assert t.knowledge_lost == pytest.approx(0.10 * 4 / 3) and t.spurious_forgetting == pytest.approx(0.20 * 4 / 3)
    assert t.first_prompt_lost.mean == pytest.approx(0.30 * 4 / 3) and t.forgetting == 0.30
    low, high = t.interval("spurious_forgetting")
    assert 0.1 < low < t.spurious_forgetting < high < 0.4
    alone = measured(before[:1], after[:1], np.full(100, 4))
    assert isnan(alone.spurious_forgetting) and alone.variants == 1 and alone.in_this_prompt
    assert alone.first_prompt_lost.interval() == t.first_prompt_lost.interval()


def test_raw_numbers_are_those_of_the_first_prompt():
    before, after, k = World("uniform").answers(np.random.default_rng(5), 300, lost=0.1)
    both, first = measured(before, after, k), measured(before[0], after[0], k)
    for name in ("n", "n10", "accuracy_after", "forgetting_adjusted", "p_value", "guess_persistence", "net_change"):
        assert getattr(both, name) == getattr(first, name)
    assert measured(before[:1], after[:1], k).as_dict() == pytest.approx(first.as_dict(), nan_ok=True)


def test_items_unscored_in_a_variant_are_left_out_of_knowledge_and_counted():
    before, after, k = World("uniform").answers(np.random.default_rng(6), 200, lost=0.2)
    right = (before == 0).astype(float), (after == 0).astype(float)
    right[1][1, :50] = nan
    given = {"n_choices": k, "before_choice": before, "after_choice": after, "answer": np.zeros(200, int)}
    t = transitions(*right, **given)
    assert (t.n, t.n_unscored, t.knowledge_n, t.scored) == (200, 0, 150, 0.75)
    rest = measured(before[:, 50:], after[:, 50:], k[50:])
    for name in ("knowledge_lost", "knowledge_gained", "known_before", "knowledge_lost_net", "spurious_forgetting"):
        assert getattr(t, name) == getattr(rest, name)
    assert t.forgetting == measured(before, after, k).forgetting


def snapshot(step, choice, k, asked, *, weak=False, **columns):
    n = len(k)
    right = np.where(asked, choice == 0, nan)
    further = tuple(
        Answers(f"v{v}", correct=right[v], choice=choice[v], asked=asked[v], weak=np.full(n, weak))
        for v in range(1, len(choice))
    )
    given = {"choice": choice[0], "n_choices": k, "answer": np.zeros(n, int), "further": further, **columns}
    return Snapshot("p", "f", step, ids=[f"i{i}" for i in range(n)], correct=right[0], **given)


def test_two_snapshots_are_compared_over_the_prompts_that_both_have():
    before, after, k, asked = some(np.random.default_rng(7), 300, 3, (3, 4))
    three, two = snapshot(0, before, k, asked), snapshot(1, after[:2], k, asked[:2])
    t = compare(three, two)
    expected, _ = slow_lost(before[:2], after[:2], k, asked[:2])
    assert t.variants == 2 and t.knowledge_lost == pytest.approx(expected.mean(), abs=1e-12)
    np.testing.assert_allclose(lost_by_item(pairs_of(three, two)), expected, rtol=0, atol=1e-12)
    assert compare(three, two.without_variants()).variants == 1


@pytest.mark.parametrize("weak, share, one", [(False, 1.0, False), (True, 1.0, True), (False, 0.8, True)])
def test_claims_are_of_one_prompt_unless_most_items_have_a_second_of_other_structure(weak, share, one):
    n = 100
    choice, asked = np.zeros((2, n), int), np.stack([np.ones(n, bool), np.arange(n) < share * n])
    path = [snapshot(step, choice, np.full(n, 4), asked, weak=weak) for step in (0, 1)]
    assert compare(*path).in_this_prompt is one


def test_a_category_whose_items_have_one_prompt_is_that_of_one_prompt():
    before, after, k, asked = some(np.random.default_rng(8), 200, 2, (4,))
    asked[1, 100:] = False
    path = [snapshot(step, side, k, asked) for step, side in enumerate((before, after))]
    part = np.arange(100, 200)
    alone = measured(before[0, part], after[0, part], k[part])
    assert compare(*(s.select(part) for s in path)).as_dict() == pytest.approx(alone.as_dict(), nan_ok=True)


def test_without_stored_options_two_prompts_tell_the_net():
    before, after, _ = World("uniform").answers(np.random.default_rng(9), 300, lost=0.2)
    t = transitions(before == 0, after == 0, n_choices=4)
    assert t.knowledge_method == "net" and t.knowledge_lost == t.knowledge_lost_net > 0.05
    assert t.known_before == pytest.approx((t.accuracy_before - 0.25) / 0.75)


def test_a_variant_that_contradicts_its_choice_is_named():
    right, choice = np.ones((2, 3)), np.zeros((2, 3), int)
    choice[1, 2] = 1
    with pytest.raises(ValueError, match=r"item 2, variant 2: after_choice 1 and answer 0 contradict after 1\.0"):
        transitions(right, right, n_choices=4, before_choice=right - 1, after_choice=choice, answer=[0, 0, 0])
