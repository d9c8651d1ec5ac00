"""What `transitions` and `compare` promise: golden numbers, the definitions item by item, hand-worked tables."""

import json
from dataclasses import FrozenInstanceError
from math import inf, isnan, nan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from forget_callback.metrics.transitions import INTERVALS, METRICS, compare, compare_groups, pairs_of, transitions
from forget_callback.snapshots.snapshot import Snapshot

CASES = json.loads(Path(__file__).parents[1].joinpath("golden.json").read_text())["cases"]
COUNTS = {"n": "n", "n11": "n11", "n10": "n10", "n01": "n01", "n00": "n00", "acc_pre": "accuracy_before"}
RATES = {"acc_post": "accuracy_after", "F": "forgetting", "BT": "backward_transfer", "net": "net_change"}
PAPER = {
    "F_chance": "forgetting_chance",
    "BT_chance": "forgetting_chance",
    "F_true": "forgetting_adjusted",
    "BT_true": "backward_transfer_adjusted",
    "F_max": "forgetting_max",
    "BT_max": "backward_transfer_max",
}


def right_and_wrong(inputs):
    if "pre" in inputs:
        return np.array(inputs["pre"]), np.array(inputs["post"])
    return tuple(
        (np.array(inputs[side]) == np.array(inputs["answer"])).astype(int) for side in ("pre_label", "post_label")
    )


def options(inputs):
    return np.array(inputs["k"], float)  # "inf" included


def same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", [c for c in CASES if "binary" in c["kind"]], ids=lambda case: case["id"])
def test_golden_numbers_from_right_and_wrong_alone(case):
    expected = case["expected"].get("binary", case["expected"])
    t = transitions(*right_and_wrong(case["inputs"]), n_choices=options(case["inputs"]))
    for theirs, ours in (COUNTS | RATES).items():
        same(getattr(t, ours), expected["transitions"][theirs])
    for theirs, ours in PAPER.items():
        same(getattr(t, ours), expected["paper"][theirs])
    same(t.forgetting - t.forgetting_chance, expected["paper"]["F_true_raw"])
    same(t.backward_transfer - t.forgetting_chance, expected["paper"]["BT_true_raw"])
    same(t.forgetting_interval, expected["wilson_F"])
    same(t.backward_transfer_interval, expected["wilson_BT"])
    same(t.net_change_interval, expected["net_interval"])
    same(t.p_value, expected["mcnemar_midp"])
    k = np.broadcast_to(options(case["inputs"]), t.n)
    if ((k > 2) & np.isfinite(k)).all() or np.isinf(k).all():
        assert t.knowledge_method == ("exact" if np.isinf(k).all() else "joint")
        same(t.knowledge_lost, expected["joint"]["KU_raw"])
        same(t.knowledge_gained, expected["joint"]["UK_raw"])
        same(t.known_before, expected["joint"]["K_pre_raw"])
        same(t.knowledge_lost_interval, expected["KU_joint_interval"])
        same(t.interval("knowledge_lost", confidence=0.9).low, expected["KU_joint_lcb95"])
    assert isnan(t.guess_persistence) and isnan(t.persistence_p_value)


@pytest.mark.parametrize("case", [c for c in CASES if "choice" in c["kind"]], ids=lambda case: case["id"])
def test_golden_numbers_from_the_chosen_options(case):
    inputs, expected = case["inputs"], case["expected"].get("choice", case["expected"])
    t = transitions(
        *right_and_wrong(inputs),
        n_choices=options(inputs),
        before_choice=inputs["pre_label"],
        after_choice=inputs["post_label"],
        answer=inputs["answer"],
    )
    k = np.broadcast_to(options(inputs), t.n)
    if ((k > 2) & np.isfinite(k)).all():
        assert t.knowledge_method == "choice"
        same(t.knowledge_lost, expected["rho_adjusted"]["KU_raw"])
        same(t.knowledge_gained, expected["rho_adjusted"]["UK_raw"])
        same(t.known_before, expected["rho_adjusted"]["K_pre_raw"])
        same(t.knowledge_lost_interval, expected["KU_interval"])
        same(t.interval("knowledge_gained"), expected["UK_interval"])
        same(t.interval("knowledge_lost", confidence=0.9).low, expected["KU_lcb95"])
    if not (k > 2).any():
        assert t.knowledge_method == "net" and isnan(t.guess_persistence) and isnan(t.persistence_p_value)
        same(t.no_forgetting_p_value, expected["forgetting_test_joint_midp"])
        return
    same(t.guess_persistence, expected["persistence"]["rho_raw"])
    same(t.persistence_p_value, expected["persistence"]["p_value"])
    if "forgetting_test_choice_midp" in expected:
        same(t.no_forgetting_p_value, expected["forgetting_test_choice_midp"])


def slow_choice(answer, x, y, k, *, c_sum=0.0, invalid=0):
    """STATISTICS.md section 2, one item at a time: what one direction of change amounts to; -1 is no answer."""
    for i, right in enumerate(answer):
        if y[i] != right:
            invalid += y[i] < 0
            c_sum += (y[i] >= 0) * k[i] / (k[i] - 1)
    g = c_sum / (c_sum + invalid) if invalid else 1.0
    scores = []
    for i, right in enumerate(answer):
        score = float(x[i] == right and y[i] != right)
        if x[i] != right and y[i] != right and x[i] >= 0:
            if y[i] < 0:
                score -= 1 / (k[i] - 1)
            elif x[i] != y[i]:
                score -= 1 / (k[i] - 2)
        scores.append(score / (1 - g / k[i]))
    return np.mean(scores)


@pytest.mark.parametrize("unparsed", [0.0, 0.3])
@pytest.mark.parametrize("sizes", [[4], [3, 5, 2], [4, 2, inf]])
def test_choice_method_matches_the_definition(sizes, unparsed):
    rng = np.random.default_rng(len(sizes))
    n = 400
    k = rng.choice(sizes, n)
    closed = np.isfinite(k)
    top = np.where(closed, k, 2)
    answer = np.floor(rng.random(n) * top)
    answer[~closed] = 1
    x, y = (np.where(rng.random(n) < 0.4, answer, np.floor(rng.random(n) * top)) for _ in range(2))
    x[closed & (rng.random(n) < unparsed)] = -1
    y[closed & (rng.random(n) < unparsed)] = -1
    a, b = x == answer, y == answer
    choice = {"before_choice": np.where(closed, x, -1), "after_choice": np.where(closed, y, -1)}
    t = transitions(a, b, n_choices=k, answer=np.where(closed, answer, -1), **choice)
    enter = closed & (k > 2)
    assert t.knowledge_method == "choice" and t.knowledge_n == enter.sum()
    same(t.knowledge_lost, slow_choice(answer[enter], x[enter], y[enter], k[enter]))
    same(t.knowledge_gained, slow_choice(answer[enter], y[enter], x[enter], k[enter]))


def slow_paper_chance(a, b, k):
    """arXiv 2510.17776: expected by guessing, one number of options at a time."""
    total = 0.0
    for options in set(k):
        rows = [i for i in range(len(k)) if k[i] == options]
        wrong_before = sum(a[i] == 0 for i in rows) / len(rows)
        wrong_after = sum(b[i] == 0 for i in rows) / len(rows)
        total += len(rows) / len(k) * wrong_before * wrong_after / (options - 1)
    return total


results = st.sampled_from([0.0, 1.0, nan])
tables = st.lists(st.tuples(results, results, st.sampled_from([2.0, 3.0, 4.0, inf])), min_size=1, max_size=40)
quick = settings(deadline=None, derandomize=True, database=None)


@quick
@given(tables)
def test_counts_are_those_of_a_loop_and_add_up(rows):
    a, b, k = map(list, zip(*rows))
    t = transitions(a, b, n_choices=k)
    scored = [(x, y) for x, y, _ in rows if not isnan(x) and not isnan(y)]
    assert (t.n11, t.n10, t.n01, t.n00) == tuple(scored.count(c) for c in [(1, 1), (1, 0), (0, 1), (0, 0)])
    assert t.n11 + t.n10 + t.n01 + t.n00 == t.n and t.n + t.n_unscored == len(rows)
    if scored:
        kept = [row for row in rows if not isnan(row[0]) and not isnan(row[1])]
        same(t.forgetting_chance, slow_paper_chance(*zip(*kept)))
        same(t.net_change, t.accuracy_after - t.accuracy_before)


@quick
@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_items_does_not_matter(rows, random):
    a, b, k = zip(*rows)
    mixed = random.sample(rows, len(rows))
    c, d, m = zip(*mixed)
    one, other = transitions(a, b, n_choices=k).as_dict(), transitions(c, d, n_choices=m).as_dict()
    for name in ("knowledge_method", "verdict"):
        assert one.pop(name) == other.pop(name)
    np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=0, atol=1e-12)


@quick
@given(tables)
def test_swapping_before_and_after_swaps_lost_and_gained(rows):
    a, b, k = zip(*rows)
    there, back = transitions(a, b, n_choices=k), transitions(b, a, n_choices=k)
    for name, mirror in [
        ("forgetting", "backward_transfer"),
        ("forgetting_adjusted", "backward_transfer_adjusted"),
        ("forgetting_max", "backward_transfer_max"),
        ("knowledge_lost", "knowledge_gained"),
        ("accuracy_before", "accuracy_after"),
        ("forgetting_interval", "backward_transfer_interval"),
        ("p_value", "p_value"),
    ]:
        same(getattr(there, name), getattr(back, mirror))
    same(there.knowledge_lost_interval, back.interval("knowledge_gained"))
    same(there.net_change, -back.net_change)
    same(there.net_change_interval, [-end for end in reversed(back.net_change_interval)])


@quick
@given(tables)
def test_every_interval_holds_its_estimate(rows):
    a, b, k = zip(*rows)
    t = transitions(a, b, n_choices=k)
    for name in INTERVALS:
        (low, high), value = t.interval(name), getattr(t, name)
        assert (isnan(low) and isnan(high)) or low - 1e-12 <= value <= high + 1e-12
        assert not isnan(low) or isnan(value)


def test_a_table_by_hand():
    """Four options, ten items: 4 kept, 2 lost, 1 gained, 2 wrong with another option, 1 wrong with the same."""
    t = transitions(
        [1, 1, 1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 1, 0, 0, 0],
        n_choices=4,
        before_choice=[0, 0, 0, 0, 0, 0, 1, 1, 1, 1],
        after_choice=[0, 0, 0, 0, 1, 2, 0, 2, 3, 1],
        answer=[0] * 10,
    )
    assert (t.n, t.n11, t.n10, t.n01, t.n00, t.n_unscored) == (10, 4, 2, 1, 3, 0)
    assert t.forgetting == 0.2 and t.backward_transfer == 0.1 and t.net_change == -0.1
    assert t.forgetting_chance == pytest.approx(0.4 * 0.5 / 3)
    assert t.forgetting_max == pytest.approx((4 * 0.6 - 1) / 3)
    assert t.backward_transfer_max == pytest.approx((4 * 0.5 - 1) / 3)
    assert t.knowledge_lost == pytest.approx((0.2 - 0.2 / 2) * 4 / 3)
    assert t.knowledge_gained == pytest.approx((0.1 - 0.2 / 2) * 4 / 3)
    assert t.p_value == pytest.approx(2 * (1 / 8 + 3 / 8) - 3 / 8)


def test_lost_knowledge_may_be_negative_and_the_papers_numbers_may_not():
    t = transitions([0, 0, 0, 0], [0, 0, 0, 0], n_choices=4)
    assert t.knowledge_lost < 0 and t.forgetting_adjusted == 0.0 and t.forgetting_max == 0.0


def test_numbers_that_do_not_exist_are_nan():
    open_ended = transitions([1, 0, 1], [0, 0, 1])
    assert all(map(isnan, (open_ended.spurious_forgetting, open_ended.recall_lost, open_ended.no_forgetting_p_value)))
    nothing_wrong = transitions([1], [1], n_choices=4, before_choice=[0], after_choice=[0])
    assert isnan(nothing_wrong.persistence_p_value) and isnan(nothing_wrong.guess_persistence)
    assert nothing_wrong.no_forgetting_p_value == 0.5  # no trial: half of the chance of what was seen


def test_open_ended_items_need_no_correction():
    t = transitions([1, 1, 0, 1], [0, 1, 0, 0])
    assert t.knowledge_method == "exact" and t.knowledge_lost == t.forgetting == 0.5 and t.forgetting_chance == 0.0
    assert t.knowledge_lost_interval == pytest.approx(t.forgetting_interval, abs=1e-12)


@pytest.mark.parametrize(
    "k, choices, method",
    [
        (None, None, "exact"),
        (4, None, "joint"),
        (4, ([0, 1], [0, 2]), "choice"),
        (2, ([0, 1], [0, 1]), "net"),
        (2, None, "net"),
        ([2, inf], None, "net"),
        ([2, 4], ([0, 1], [0, 2]), "choice"),
        ([4, inf], ([0, -1], [0, -1]), "choice"),
        ([4, inf], None, "joint"),
        (4, ([-1, 1], [0, 2]), "joint"),  # right, but no option stored
        (4, ([0, -1], [0, -1]), "choice"),  # wrong because nothing could be read
    ],
)
def test_the_method_says_what_was_known(k, choices, method):
    x, y = choices or (None, None)
    assert transitions([1, 0], [1, 0], n_choices=k, before_choice=x, after_choice=y).knowledge_method == method


@pytest.mark.parametrize("before, after", [([nan], [nan]), ([nan, 1], [0, nan])])
@pytest.mark.parametrize("k", [None, 2, 4])
def test_nothing_scored_is_nan_and_not_zero(before, after, k):
    t = transitions(before, after, n_choices=k)
    counts = {"n", "n11", "n10", "n01", "n00", "n_unscored", "knowledge_method", "knowledge_n", "variants", "scored"}
    assert t.scored == 0.0 and t.verdict == "unclear" and t.knowledge_n == 0
    counts |= {"verdict"}
    assert t.n == t.n10 == 0 and t.n_unscored == len(before)
    assert all(isnan(value) for name, value in t.as_dict().items() if name not in counts)


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("n", [1, 5])
def test_all_equal_is_no_change(value, n):
    t = transitions([value] * n, [value] * n, n_choices=4, before_choice=[value] * n, after_choice=[value] * n)
    assert t.n10 == t.n01 == 0 and t.forgetting == t.net_change == t.knowledge_lost == 0.0 and t.p_value == 1.0


def test_a_tie_of_lost_and_gained_is_no_net_change():
    t = transitions([1, 0, 1, 0], [0, 1, 0, 1])
    low, high = t.net_change_interval
    assert t.net_change == 0.0 and t.p_value == pytest.approx(1.0) and low == pytest.approx(-high)


@pytest.mark.parametrize(
    "before, after, options, problem",
    [
        ([1, 0], [1], {}, r"one length of at least 1, got \(2,\) and \(1,\)"),
        ([], [], {}, r"got \(0,\) and \(0,\)"),
        ([[[1]]], [[[1]]], {}, r"got \(1, 1, 1\)"),
        ([0.5], [1], {}, "before must hold 1, 0 or NaN .*got 0.5"),
        ([1], [2], {}, r"after must hold 1, 0 or NaN .*got 2.0"),
        *[([1], [1], {"n_choices": k}, "n_choices must be 2 or more") for k in (0, 1, -4, 3.5, nan, [1])],
        ([1, 0, 1], [1, 0, 1], {"n_choices": [4, 4]}, r"n_choices must be one number, or one for each of the 3 items"),
        ([1, 0], [1, 0], {"samples": [4, 0]}, "samples must be 1 or more, got 0"),
        *[
            (
                [1, 0],
                [1, 0],
                {"n_choices": 4, "before_choice": [0, bad], "after_choice": [0, 1]},
                "before_choice must hold",
            )
            for bad in (4, -2, 0.5, nan)
        ],
        ([1], [1], {"before_choice": [0]}, "go together"),
        ([1], [1], {"after_choice": [0]}, "go together"),
        ([1, 0], [1, 0], {"before_choice": [0], "after_choice": [0]}, r"shape of before \(2,\), got \(1,\)"),
        (
            [1, 1],
            [1, 0],
            {"n_choices": 4, "before_choice": [0, 0], "after_choice": [0, 0], "answer": [0, 0]},
            "item 1: after_choice 0 and answer 0 contradict after 0.0",
        ),
        (
            [1, 1],
            [1, 0],
            {"n_choices": 4, "before_choice": [2, 0], "after_choice": [0, 1], "answer": [0, 0]},
            "item 0: before_choice 2 and answer 0 contradict before 1.0",
        ),
    ],
)
def test_bad_arguments_are_named(before, after, options, problem):
    with pytest.raises(ValueError, match=problem):
        transitions(before, after, **options)


def test_a_metric_without_interval_says_which_have_one():
    with pytest.raises(ValueError, match=r"metric 'n10' has no interval; forgetting, .* have one"):
        transitions([1], [0]).interval("n10")


def test_as_dict_holds_every_number_and_the_ends_of_every_interval():
    t = transitions([1, 1, 0], [0, 1, 1], n_choices=3)
    row = t.as_dict()
    assert set(row) == {*METRICS, *(f"{m}_{end}" for m in INTERVALS for end in ("low", "high"))} | {
        "knowledge_method",
        "verdict",
    }
    np.testing.assert_array_equal([row[name] for name in METRICS], [getattr(t, name) for name in METRICS])
    assert (row["net_change_low"], row["net_change_high"]) == t.net_change_interval
    with pytest.raises(FrozenInstanceError):
        t.n = 4


def test_compare_joins_by_id_and_passes_the_options_on():
    before = Snapshot(
        "p",
        "f",
        0,
        ids=list("abcd"),
        correct=[1, 0, 0, nan],
        choice=[0, 2, 1, 0],
        n_choices=[4] * 4,
        answer=[0, 1, 2, 0],
    )
    after = Snapshot(
        "p", "f", 9, ids=list("dcba"), correct=[1, 0, 1, 0], choice=[0, 3, 1, 3], n_choices=[4] * 4, answer=[0, 2, 1, 0]
    )
    t = compare(before, after)
    assert (t.n, t.n11, t.n10, t.n01, t.n00, t.n_unscored) == (3, 0, 1, 1, 1, 1)
    assert t.knowledge_method == "choice" and t.knowledge_lost == pytest.approx((1 / 3 - 1 / 3 / 2) * 4 / 3)


def test_groups_are_compared_as_if_each_were_alone():
    rng, n = np.random.default_rng(0), 200
    k, answer = np.where(np.arange(n) % 3 == 0, inf, 4.0), np.zeros(n, int)
    snapshots = []
    for step in (0, 1):
        choice = rng.integers(-1, 4, n)
        correct = np.where(np.isfinite(k), choice == 0, rng.integers(0, 2, n)).astype(float)
        correct[rng.random(n) < 0.1] = nan
        columns = {"choice": np.where(np.isfinite(k), choice, -1), "n_choices": k, "answer": answer}
        snapshots.append(Snapshot("p", "f", step, ids=list(range(n)), correct=correct, **columns))
    before, after = snapshots
    groups = {"some": np.flatnonzero(rng.random(n) < 0.3), "closed": np.flatnonzero(np.isfinite(k)), "": slice(None)}
    found = compare_groups(pairs_of(before, after.select(rng.permutation(n))), groups)
    assert [t.knowledge_method for t in found.values()] == ["choice"] * 3
    for name, rows in groups.items():
        index = np.arange(n)[rows]
        alone, together = compare(before.select(index), after.select(index)).as_dict(), found[name].as_dict()
        np.testing.assert_equal(alone, together)


def test_a_path_is_no_snapshot():
    with pytest.raises(
        ValueError, match=r"before must be a Snapshot, got str; load a file with Snapshot\.load\(path\)"
    ):
        compare("a.parquet", "b.parquet")


def test_snapshots_of_different_probes_do_not_compare():
    before, after = (Snapshot("p", fingerprint, 0, ids=["a"], correct=[1]) for fingerprint in ("f1", "f2"))
    with pytest.raises(ValueError, match=r"different probes do not compare.*f1.*f2"):
        compare(before, after)
