"""Repeats: slow definitions, and the truth of simulated models found again."""

from collections import Counter
from math import isnan, nan

import numpy as np
import pytest
from scipy import stats

from forget_callback.metrics.intervals import wilson
from forget_callback.metrics.sampled import agreement, collapse, fit_slip, unshuffled
from forget_callback.metrics.transitions import transitions

THETA = np.array([0.45, 0.15, 0.1, 0.3])


def test_choices_are_brought_back_to_the_items_own_order():
    rng = np.random.default_rng(0)
    n, repeats, k = 50, 3, rng.integers(2, 6, 50)
    order = np.full((n, repeats, 5), -1)
    own, shown = np.empty((n, repeats), int), np.empty((n, repeats), int)
    for i in range(n):
        for r in range(repeats):
            order[i, r, : k[i]] = rng.permutation(k[i])
            own[i, r] = rng.integers(-1, k[i])
            shown[i, r] = -1 if own[i, r] < 0 else list(order[i, r]).index(own[i, r])
    np.testing.assert_array_equal(unshuffled(shown, order), own)


@pytest.mark.parametrize(
    "choice, order, problem",
    [
        ([[3]], [[[0, 1, 2]]], r"item 0, repeat 0: choice 3 is not a place in its order \[0 1 2\]"),
        ([[0, 1]], [[[0, 1], [0, -1]]], "item 0, repeat 1: choice 1 is not a place"),
        ([0], [[0]], r"got \(1,\) and \(1, 1\)"),
        ([[0]], [[[0, 1]], [[1, 0]]], r"got \(1, 1\) and \(2, 1, 2\)"),
    ],
)
def test_a_choice_that_was_not_shown_is_refused(choice, order, problem):
    with pytest.raises(ValueError, match=problem):
        unshuffled(choice, order)


def test_collapse_keeps_what_all_repeats_chose():
    x = np.random.default_rng(0).integers(-1, 2, (60, 3))
    expected = [row[0] if len(set(row)) == 1 else -1 for row in x.tolist()]
    assert collapse(x).tolist() == expected and len(set(expected)) == 3
    assert collapse(x[:, :1]).tolist() == x[:, 0].tolist() and collapse(np.empty((0, 2))).shape == (0,)
    for bad in ([1, 2], np.empty((3, 0))):
        with pytest.raises(ValueError, match=r"choice must be \(n, R\)"):
            collapse(bad)


def simulated(rng, n, k, repeats, persistence):
    """A model scored on `repeats` shuffles before and after; each shuffle has its own guess, which may persist."""
    kind = rng.choice(4, n, p=THETA)
    known_before, known_after = (kind < 2)[:, None], (kind % 2 == 0)[:, None]
    guess = rng.integers(0, k, (n, repeats))
    again = np.where(rng.random((n, repeats)) < persistence, guess, rng.integers(0, k, (n, repeats)))
    return np.where(known_before, 0, guess), np.where(known_after, 0, again)


@pytest.mark.parametrize("persistence", [0.0, 0.8])
def test_two_shuffles_find_the_truth_with_less_noise_than_one(persistence):
    rng, n, k = np.random.default_rng(1), 500, 4
    errors = {1: [], 2: []}
    for _ in range(200):
        x, y = simulated(rng, n, k, 2, persistence)
        for repeats, found in errors.items():
            before, after = collapse(x[:, :repeats]), collapse(y[:, :repeats])
            choices = {"before_choice": before, "after_choice": after, "answer": np.zeros(n, int)}
            found.append(transitions(before == 0, after == 0, n_choices=k, **choices).knowledge_lost - THETA[1])
    once, twice = (np.array(errors[repeats]) for repeats in (1, 2))
    assert abs(twice.mean()) < 3 * twice.std() / np.sqrt(200) + 0.002
    assert np.sqrt((twice**2).mean()) < 0.9 * np.sqrt((once**2).mean())


def sampled(rng, n, repeats, chance, slips):
    """Right samples before and after of items of known classes."""
    kind = rng.choice(4, n, p=THETA)
    known = kind < 2, kind % 2 == 0
    return [rng.binomial(repeats, np.where(k, 1 - s, chance)) for k, s in zip(known, slips)]


@pytest.mark.parametrize("k, repeats", [(4, 4), (None, 4), (5, 8), (None, 2)])
def test_slip_em_finds_the_truth(k, repeats):
    rng = np.random.default_rng(2)
    slips = (0.05, 0.2)
    found = []
    for _ in range(20):
        x, y = sampled(rng, 1000, repeats, 1 / k if k else 0.0, slips)
        fit = fit_slip(x, y, repeats=repeats, n_choices=k)
        assert fit.converged and fit.n == 1000
        classes = fit.classes
        assert classes.kept + classes.lost + classes.gained + classes.never == pytest.approx(1.0)
        found.append([classes.kept, classes.lost, classes.gained, classes.never, fit.slip_before, fit.slip_after])
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(20)
    assert (np.abs(mean - [*THETA, *slips]) < 4 * error + 0.003).all()


def test_slip_em_climbs_to_a_maximum_of_the_likelihood():
    x, y = sampled(np.random.default_rng(3), 400, 4, 0.25, (0.1, 0.1))
    fit = fit_slip(x, y, repeats=4, n_choices=4)

    def log_likelihood(theta, slips):
        before, after = ([stats.binom.pmf(v, 4, p) for p in (1 - s, 0.25)] for v, s in zip((x, y), slips))
        return np.log(sum(t * before[i // 2] * after[i % 2] for i, t in enumerate(theta))).mean()

    c = fit.classes
    theta, slips = np.array([c.kept, c.lost, c.gained, c.never]), np.array([fit.slip_before, fit.slip_after])
    assert fit.log_likelihood == pytest.approx(log_likelihood(theta, slips), abs=1e-9)
    rng = np.random.default_rng(4)
    for _ in range(50):
        near = np.abs(theta + rng.normal(scale=0.01, size=4))
        assert log_likelihood(near / near.sum(), slips + rng.normal(scale=0.01, size=2)) < fit.log_likelihood + 1e-9


def test_slip_em_at_the_edges():
    all_right = fit_slip([4, 4], [4, 4], repeats=4, n_choices=4)
    assert all_right.classes.kept == pytest.approx(1.0, abs=1e-2) and all_right.slip_after == pytest.approx(
        0.0, abs=1e-6
    )
    none_right = fit_slip([0, 0], [0, 0], repeats=4)
    assert none_right.classes.never == pytest.approx(1.0, abs=1e-2)
    forgotten = fit_slip([2] * 9, [0] * 9, repeats=2)
    assert forgotten.classes.lost == pytest.approx(1.0, abs=1e-2) and forgotten.slip_before == pytest.approx(0.0)


@pytest.mark.parametrize(
    "before, after, options, problem",
    [
        ([1], [1], {"repeats": 1}, "repeats must be 2 or more, got 1: one sample cannot tell"),
        ([3], [1], {"repeats": 2}, r"before must hold whole numbers from 0 to repeats \(2\), got 3"),
        ([1], [0.5], {"repeats": 2}, "after must hold whole numbers"),
        ([1], [nan], {"repeats": 2}, "after must hold whole numbers"),
        ([1, 1], [1], {"repeats": 2}, "vectors of one length"),
        ([], [], {"repeats": 2}, "vectors of one length of at least 1"),
        ([1], [1], {"repeats": 2, "n_choices": 1}, "n_choices must be 2 or more"),
    ],
)
def test_slip_em_names_bad_arguments(before, after, options, problem):
    with pytest.raises(ValueError, match=problem):
        fit_slip(before, after, **options)


def test_agreement_counts_what_all_seeds_share():
    rng = np.random.default_rng(5)
    a, b = (rng.choice([1.0, 0.0, nan], (300, 2), p=[0.55, 0.4, 0.05]) for _ in range(2))
    count = Counter()
    for before, after in zip(a.tolist(), b.tolist()):
        if not any(map(isnan, before + after)):
            count["n"] += 1
            count["lost"] += before == [1, 1] and after == [0, 0]
            count["gained"] += before == [0, 0] and after == [1, 1]
    found = agreement(a, b)
    assert found.n == count["n"] and found.forgetting == count["lost"] / found.n
    assert found.backward_transfer == count["gained"] / found.n
    assert found.forgetting_interval == wilson(count["lost"], found.n)
    assert found.backward_transfer_interval == wilson(count["gained"], found.n)


def test_agreement_of_one_seed_is_plain_forgetting_and_of_none_scored_is_nan():
    a, b = np.array([1, 1, 0, 0]), np.array([0, 1, 1, 0])
    assert agreement(a[:, None], b[:, None]).forgetting == transitions(a, b).forgetting
    assert isnan(agreement([[nan]], [[1]]).forgetting)
    for before, after, problem in [
        ([1], [1], "n_seeds"),
        ([[1]], [[2]], "after must hold 1, 0 or NaN"),
        ([[1, 1]], [[1]], r"got \(1, 2\)"),
    ]:
        with pytest.raises(ValueError, match=problem):
            agreement(before, after)
