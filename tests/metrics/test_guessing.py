"""The guessing model: golden numbers, expectations under known truth, slow definitions, EM beside the fast maximum."""

import json
from itertools import product
from math import inf, isnan, nan
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from forget_callback.metrics.guessing import (
    Classes,
    by_choice,
    by_joint,
    estimate,
    guess_persistence,
    lost_scores,
    most_likely_classes,
    nothing_forgotten_by_choice,
    nothing_forgotten_by_joint,
)

CASES = json.loads(Path(__file__).parents[1].joinpath("golden.json").read_text())["cases"]
BINARY = [case for case in CASES if "binary" in case["kind"]]
CHOICE = [case for case in CASES if "choice" in case["kind"]]
NAMES = {
    "KK_raw": "kept",
    "KU_raw": "lost",
    "UK_raw": "gained",
    "UU_raw": "never",
    "K_pre_raw": "known_before",
    "K_post_raw": "known_after",
}


def name_of(case):
    return case["id"]


def same(found, expected, tolerance=1e-12):
    np.testing.assert_allclose(found, np.array(expected, float), rtol=0, atol=tolerance)


def arrays(inputs):
    """a, b, k and the two choices (None where there are none)."""
    n = len(inputs.get("pre", inputs.get("pre_label", ())))
    k = np.broadcast_to(np.array(inputs["k"], float), n)
    if "pre" in inputs:
        return np.array(inputs["pre"], float), np.array(inputs["post"], float), k, None
    x, y, right = (np.array(inputs[name]) for name in ("pre_label", "post_label", "answer"))
    return (x == right).astype(float), (y == right).astype(float), k, (x, y)


def check_classes(classes, expected):
    for theirs, ours in NAMES.items():
        same(getattr(classes, ours), expected[theirs])
        if theirs[:-4] in expected:
            same(getattr(classes.clipped, ours), expected[theirs[:-4]])


@pytest.mark.parametrize("case", BINARY, ids=name_of)
def test_golden_classes_from_right_and_wrong(case):
    a, b, k, _ = arrays(case["inputs"])
    expected = case["expected"].get("binary", case["expected"])["joint"]
    found, back = by_joint(a, b, k), by_joint(b, a, k)
    check_classes(found.classes, expected)
    same(lost_scores(a, b, k, None).mean(), expected["KU_raw"])
    if np.isfinite(k).any():
        same([found.lost_bounds.high, back.lost_bounds.high], [expected["KU_upper"], expected["UK_upper"]])
        same(found.lost_bounds.low, expected["KU_raw"])
    else:
        same([found.lost.mean, back.lost.mean], [expected["KU_upper"], expected["UK_upper"]])
        assert all(map(isnan, found.lost_bounds))


@pytest.mark.parametrize("case", BINARY, ids=name_of)
def test_golden_maximum_likelihood(case):
    a, b, k, _ = arrays(case["inputs"])
    expected = case["expected"].get("binary", case["expected"])["joint"]
    found = most_likely_classes(a, b, k)
    for ours, theirs in (("kept", "KK_mle"), ("lost", "KU_mle"), ("gained", "UK_mle"), ("never", "UU_mle")):
        same(getattr(found, ours), expected[theirs], 1e-8)


VARIANTS = {"rho_adjusted": 1.0, "rho_adjusted_k2_rho0": 0.0, "rho_adjusted_k2_half": 0.5}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CHOICE, ids=name_of)
def test_golden_classes_from_choices(case, variant):
    a, b, k, choices = arrays(case["inputs"])
    found = by_choice(a, b, k, *choices, two_option_persistence=VARIANTS[variant])
    expected = case["expected"].get("choice", case["expected"])
    check_classes(found.classes, expected[variant])
    if np.isfinite(k).any() and (k[np.isfinite(k)] > 2).any():
        same(lost_scores(a, b, k, choices).mean(), expected["rho_adjusted"]["KU_raw"])
    if (k == 2).any():
        same(found.lost_bounds, [expected[name]["KU_raw"] for name in ("rho_adjusted_k2_rho0", "rho_adjusted")])


@pytest.mark.parametrize("case", CHOICE, ids=name_of)
def test_golden_persistence_and_tests_of_nothing_forgotten(case):
    a, b, k, choices = arrays(case["inputs"])
    expected = case["expected"].get("choice", case["expected"])
    found = guess_persistence(a, b, k, *choices)
    wanted = {name: nan if value is None else value for name, value in expected["persistence"].items()}
    same([found.n, found.same, found.different], [wanted[name] for name in ("n00", "n00_same", "n00_diff")], 0)
    same([found.rho, found.clipped, found.p_value], [wanted[name] for name in ("rho_raw", "rho", "p_value")])
    if "forgetting_test_choice_midp" in expected:
        tail = nothing_forgotten_by_choice(a, b, k, *choices)
        same([tail.exact, tail.midp], [expected[f"forgetting_test_choice_{name}"] for name in ("exact", "midp")])
        same(nothing_forgotten_by_joint(a, b, k).midp, expected["forgetting_test_joint_midp"])


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
    """A sample with each pair as often as is expected (but for rounding), as arrays."""
    pairs = world(k, theta, rho, invalid)
    count = np.round(MANY * np.array(list(pairs.values()))).astype(int)
    x, y = (np.repeat(side, count) for side in zip(*pairs))
    return (x == 0).astype(float), (y == 0).astype(float), np.full(len(x), float(k)), x, y


@pytest.mark.parametrize(
    "k, rho, invalid", [(3, 0.0, (0, 0)), (4, 0.9, (0, 0)), (5, 0.5, (0.3, 0.2)), (3, 1.0, (0, 0.4))]
)
def test_in_expectation_the_choice_method_is_the_truth(k, rho, invalid):
    a, b, k, x, y = expected_sample(k, THETA, rho, invalid)
    found = estimate(a, b, k, (x, y)).classes
    same([found.lost, found.gained], THETA[1:3], 1e-4)
    same([found.known_before, found.known_after], [THETA[0] + THETA[1], THETA[0] + THETA[2]], 1e-4)
    same(guess_persistence(a, b, k, x, y).rho, rho, 1e-4)


@pytest.mark.parametrize("k, rho", [(2, 0.3), (4, 0.0), (4, 0.9)])
def test_the_joint_methods_bias_is_what_its_docstring_says(k, rho):
    a, b, k, x, y = expected_sample(k, THETA, rho)
    found = by_joint(a, b, k)
    same(found.lost.mean - THETA[1], -THETA[3] * rho / (k[0] - 1), 1e-4)
    assert found.lost_bounds.low <= THETA[1] + 1e-4 and THETA[1] - 1e-4 <= found.lost_bounds.high
    if k[0] == 2:
        same(by_choice(a, b, k, x, y, two_option_persistence=rho).lost.mean, THETA[1], 1e-4)


def test_persistence_of_mixed_options_is_the_truth_in_expectation():
    samples = [expected_sample(k, THETA, 0.4) for k in (3, 4, 6)]
    same(guess_persistence(*(np.concatenate(part) for part in zip(*samples))).rho, 0.4, 1e-4)


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
    same(nothing_forgotten_by_choice(a, b, k, x, y), slow_tail(lost, chances))
    wrong = np.isfinite(k) & (b == 0)
    same(nothing_forgotten_by_joint(a, b, k), slow_tail(int(a[wrong].sum()), 1 / k[wrong]))


def test_where_nothing_is_forgotten_the_tests_keep_their_level():
    rng, n, theta = np.random.default_rng(0), 300, (0.5, 0.0, 0.1, 0.4)
    for rho, invalid in [(0.0, (0.0, 0.0)), (0.8, (0.2, 0.3))]:
        pairs = world(4, theta, rho, invalid)
        keys, chance = np.array(list(pairs)), np.array(list(pairs.values()))
        p_values = []
        for _ in range(1000):
            x, y = np.repeat(keys, rng.multinomial(n, chance), axis=0).T
            a, b = (x == 0).astype(float), (y == 0).astype(float)
            p_values.append(nothing_forgotten_by_choice(a, b, np.full(n, 4.0), x, y).midp)
        # Mid-p is uniform on average: 5% of 1,000, give or take three standard errors.
        assert 0.03 < np.mean(np.array(p_values) < 0.05) < 0.07


def test_no_items_have_no_knowledge():
    none, whole = np.empty(0), np.empty(0, int)
    for found in (by_joint(none, none, none).classes, most_likely_classes(none, none, none)):
        assert all(isnan(getattr(found, name)) for name in NAMES.values())
    found = guess_persistence(none, none, none, whole, whole)
    assert (found.n, found.p_value) == (0, 1.0) and isnan(found.rho) and isnan(found.clipped)
    assert nothing_forgotten_by_joint(none, none, none) == (1.0, 0.5)


def test_clipping_is_for_display():
    assert Classes(-0.1, 1.2, 0.3, 0.0, 1.0, nan).clipped.lost == 1.0
    assert Classes(-0.1, 1.2, 0.3, 0.0, 1.0, 0.5).clipped.kept == 0.0


def slow_em(a, b, k, rounds=3000):
    """The textbook's EM for items of one k, and the mean log-likelihood of any shares."""
    p, q = (np.where(v == 1, 1 / k, 1 - 1 / k) for v in (a, b))
    parts = np.stack([a * b, a * q, p * b, p * q], axis=1)
    theta = np.full(4, 0.25)
    for _ in range(rounds):
        weight = parts * theta
        theta = (weight / weight.sum(axis=1, keepdims=True)).mean(axis=0)
    return theta, lambda shares: np.log(parts @ np.array(shares)).mean()


@pytest.mark.parametrize("k", [2, 4, 10])
@pytest.mark.parametrize("seed", range(4))
def test_the_maximum_is_that_of_em(k, seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 200))
    a, b = (rng.random((2, n)) < rng.random((2, 1))).astype(float)
    found = most_likely_classes(a, b, np.full(n, float(k)))
    shares = [found.kept, found.lost, found.gained, found.never]
    expected, log_likelihood = slow_em(a, b, k)
    same(sum(shares), 1.0)
    same(shares, expected, 2e-3)  # EM is slow where a share goes to 0
    assert min(shares) >= 0 and log_likelihood(shares) >= log_likelihood(expected) - 1e-12


def test_where_the_raw_estimate_is_a_distribution_it_is_the_maximum():
    a, b, k, *_ = expected_sample(4, THETA, 0.0)
    raw, found = by_joint(a, b, k).classes, most_likely_classes(a, b, k)
    for name in NAMES.values():
        same(getattr(found, name), getattr(raw, name), 1e-9)
    assert min(found.kept, found.lost, found.gained, found.never) > 0


def test_guesses_of_one_persistence_pass_the_test_of_independence_as_often_as_it_says():
    """Of 400 items wrong both times with 4 options and rho = 0, same ~ Bin(400, 1/3)."""
    rng = np.random.default_rng(1)
    x, y = rng.integers(1, 4, (2, 400))
    zeros, k = np.zeros(400), np.full(400, 4.0)
    found = guess_persistence(zeros, zeros, k, x, y)
    assert found.p_value == pytest.approx(stats.binom.sf(found.same - 1, 400, 1 / 3), rel=1e-9)
    assert found.same + found.different == found.n == 400
