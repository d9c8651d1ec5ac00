"""The guessing model: golden numbers, expectations under known truth, slow definitions."""

import json
from dataclasses import replace
from itertools import product
from math import inf, isnan, nan
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from forget_callback.metrics.guessing import (
    by_choice,
    by_joint,
    guess_persistence,
    nothing_forgotten_by_choice,
    nothing_forgotten_by_joint,
)
from forget_callback.metrics.pairs import Pairs

CASES = json.loads(Path(__file__).parents[1].joinpath("golden.json").read_text())["cases"]
BINARY = [case for case in CASES if "binary" in case["kind"]]
CHOICE = [case for case in CASES if "choice" in case["kind"]]


def name_of(case):
    return case["id"]


def same(found, expected, tolerance=1e-12):
    np.testing.assert_allclose(found, np.array(expected, float), rtol=0, atol=tolerance)


def pairs_of(inputs):
    """The items, with the two choices where a case has them."""
    n = len(inputs.get("pre", inputs.get("pre_label", ())))
    k = np.broadcast_to(np.array(inputs["k"], float), n)
    if "pre" in inputs:
        return Pairs(np.array(inputs["pre"], float), np.array(inputs["post"], float), k, None)
    x, y, right = (np.array(inputs[name]) for name in ("pre_label", "post_label", "answer"))
    return Pairs((x == right).astype(float), (y == right).astype(float), k, (x, y))


def check(method, pairs, expected):
    """Lost, gained and known of a method, before and after exchanged as well."""
    found, back = method(pairs), method(pairs.swapped())
    same([found.lost.mean, back.gained.mean], [expected["KU_raw"]] * 2)
    same([found.gained.mean, back.lost.mean], [expected["UK_raw"]] * 2)
    same([found.known_before.mean, back.known_before.mean], [expected["K_pre_raw"], expected["K_post_raw"]])
    for scored in (*found, *back):
        same(scored.scores.mean(), scored.mean)


@pytest.mark.parametrize("case", BINARY, ids=name_of)
def test_golden_numbers_from_right_and_wrong(case):
    pairs = replace(pairs_of(case["inputs"]), choices=None)
    expected = case["expected"].get("binary", case["expected"])["joint"]
    check(by_joint, pairs, expected)


@pytest.mark.parametrize("case", CHOICE, ids=name_of)
def test_golden_numbers_from_choices(case):
    pairs, expected = pairs_of(case["inputs"]), case["expected"].get("choice", case["expected"])
    check(by_choice, pairs, expected["rho_adjusted"])


@pytest.mark.parametrize("case", CHOICE, ids=name_of)
def test_golden_persistence_and_tests_of_nothing_forgotten(case):
    pairs, expected = pairs_of(case["inputs"]), case["expected"].get("choice", case["expected"])
    found = guess_persistence(pairs)
    wanted = {name: nan if value is None else value for name, value in expected["persistence"].items()}
    same([found.n, found.rho, found.p_value], [wanted[name] for name in ("n00", "rho_raw", "p_value")])
    if "forgetting_test_choice_midp" in expected:
        tail = nothing_forgotten_by_choice(pairs)
        same([tail.exact, tail.midp], [expected[f"forgetting_test_choice_{name}"] for name in ("exact", "midp")])
        same(nothing_forgotten_by_joint(pairs).midp, expected["forgetting_test_joint_midp"])


def world(k, theta, rho, invalid=(0.0, 0.0)):
    """Every answer pair of one item with option 0 right, with its chance: the guessing model written out."""
    options = range(int(k))
    pairs = {}
    for x, y in product(options, options):
        guess = (1 / k) * (rho * (x == y) + (1 - rho) / k)
        chances = [(x == 0) * (y == 0), (x == 0) / k, (y == 0) / k, guess]
        for hidden_x, hidden_y in product((False, True), repeat=2):
            total = 0.0
            for share, chance, unknown in zip(theta, chances, [(0, 0), (0, 1), (1, 0), (1, 1)]):
                hide_x, hide_y = (p if is_unknown else 0.0 for p, is_unknown in zip(invalid, unknown))
                total += share * chance * abs(1 - hidden_x - hide_x) * abs(1 - hidden_y - hide_y)
            key = (-1 if hidden_x else x, -1 if hidden_y else y)
            pairs[key] = pairs.get(key, 0.0) + total
    return pairs


THETA = (0.45, 0.15, 0.1, 0.3)
MANY = 150_000


def expected_sample(k, theta, rho, invalid=(0.0, 0.0)):
    """A sample with each pair as often as is expected (but for rounding)."""
    pairs = world(k, theta, rho, invalid)
    count = np.round(MANY * np.array(list(pairs.values()))).astype(int)
    x, y = (np.repeat(side, count) for side in zip(*pairs))
    return Pairs((x == 0).astype(float), (y == 0).astype(float), np.full(len(x), float(k)), (x, y))


@pytest.mark.parametrize(
    "k, rho, invalid", [(3, 0.0, (0, 0)), (4, 0.9, (0, 0)), (5, 0.5, (0.3, 0.2)), (3, 1.0, (0, 0.4))]
)
def test_in_expectation_the_choice_method_is_the_truth(k, rho, invalid):
    pairs = expected_sample(k, THETA, rho, invalid)
    found, back = by_choice(pairs), by_choice(pairs.swapped())
    same([found.lost.mean, found.gained.mean], THETA[1:3], 1e-4)
    same([found.known_before.mean, back.known_before.mean], [THETA[0] + THETA[1], THETA[0] + THETA[2]], 1e-4)
    same(guess_persistence(pairs).rho, rho, 1e-4)


@pytest.mark.parametrize("k, rho", [(2, 0.3), (4, 0.0), (4, 0.9)])
def test_the_joint_methods_bias_is_what_its_docstring_says(k, rho):
    found = by_joint(expected_sample(k, THETA, rho))
    same(found.lost.mean - THETA[1], -THETA[3] * rho / (k - 1), 1e-4)


def test_persistence_of_mixed_options_is_the_truth_in_expectation():
    samples = [expected_sample(k, THETA, 0.4) for k in (3, 4, 6)]
    parts = [np.concatenate([getattr(s, name) for s in samples]) for name in ("before", "after", "n_choices")]
    choices = tuple(np.concatenate(side) for side in zip(*(s.choices for s in samples)))
    same(guess_persistence(Pairs(*parts, choices)).rho, 0.4, 1e-4)


def slow_tail(successes, chances):
    """P(X >= successes) and its mid-p, one trial at a time."""
    pmf = np.ones(1)
    for p in chances:
        pmf = np.convolve(pmf, [1 - p, p])
    return pmf[successes:].sum(), pmf[successes:].sum() - pmf[successes] / 2


@pytest.mark.parametrize("seed", range(5))
def test_the_test_of_nothing_forgotten_is_its_definition(seed):
    rng = np.random.default_rng(seed)
    k = rng.choice([2.0, 3.0, 5.0, inf], 60)
    x, y = (np.floor(rng.random(60) * (np.where(np.isfinite(k), k, 2) + 1)).astype(int) - 1 for _ in range(2))
    a, b = (x == 0).astype(float), (y == 0).astype(float)
    lost, chances = 0, []
    for i in range(60):
        if 2 < k[i] < inf and x[i] >= 0 and y[i] != 0 and x[i] != y[i]:
            lost += x[i] == 0
            chances.append(1 / (k[i] - 1) if y[i] >= 0 else 1 / k[i])
    pairs = Pairs(a, b, k, (x, y))
    same(nothing_forgotten_by_choice(pairs), slow_tail(lost, chances))
    wrong = np.isfinite(k) & (b == 0)
    same(nothing_forgotten_by_joint(pairs), slow_tail(int(a[wrong].sum()), 1 / k[wrong]))


def test_where_nothing_is_forgotten_the_tests_keep_their_level():
    rng, n, theta = np.random.default_rng(0), 300, (0.5, 0.0, 0.1, 0.4)
    for rho, invalid in [(0.0, (0.0, 0.0)), (0.8, (0.2, 0.3))]:
        pairs = world(4, theta, rho, invalid)
        keys, chance = np.array(list(pairs)), np.array(list(pairs.values()))
        p_values = []
        for _ in range(1000):
            x, y = np.repeat(keys, rng.multinomial(n, chance), axis=0).T
            a, b = (x == 0).astype(float), (y == 0).astype(float)
            p_values.append(nothing_forgotten_by_choice(Pairs(a, b, np.full(n, 4.0), (x, y))).midp)
        # Mid-p is uniform on average: 5% of 1,000, give or take three standard errors.
        assert 0.03 < np.mean(np.array(p_values) < 0.05) < 0.07


def test_no_items_have_no_knowledge():
    none, whole = np.empty(0), np.empty(0, int)
    pairs = Pairs(none, none, none, (whole, whole))
    for found in (by_joint(pairs), by_choice(pairs)):
        assert all(isnan(scored.mean) for scored in found)
    found = guess_persistence(pairs)
    assert (found.n, found.p_value) == (0, 1.0) and isnan(found.rho)
    assert nothing_forgotten_by_joint(pairs) == (1.0, 0.5)


def test_guesses_of_one_persistence_pass_the_test_of_independence_as_often_as_it_says():
    """Of 400 items wrong both times with 4 options and rho = 0, same ~ Bin(400, 1/3)."""
    rng = np.random.default_rng(1)
    x, y = rng.integers(1, 4, (2, 400))
    found = guess_persistence(Pairs(np.zeros(400), np.zeros(400), np.full(400, 4.0), (x, y)))
    assert found.p_value == pytest.approx(stats.binom.sf((x == y).sum() - 1, 400, 1 / 3), rel=1e-9)
    assert found.n == 400
