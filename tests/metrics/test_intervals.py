"""Intervals and tests against golden numbers, statsmodels and the definitions."""

import json
from math import comb, isnan, nan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import binom
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from forget_callback.metrics.intervals import holm, mcnemar_midp, upper_tail, wilson

GOLDEN = {
    case["id"]: case for case in json.loads(Path(__file__).parents[1].joinpath("golden.json").read_text())["cases"]
}
exactly = {"rel": 0, "abs": 1e-12}


@pytest.mark.parametrize("column, confidence", [("conf95", 0.95), ("conf90", 0.90)])
def test_wilson_matches_the_golden_table(column, confidence):
    case = GOLDEN["E_wilson"]
    found = [wilson(x, n, confidence=confidence) for x, n in case["inputs"]["x_n"]]
    np.testing.assert_allclose(found, case["expected"][column], rtol=0, atol=1e-12)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("x, n", [(0, 1), (1, 1), (0, 7), (3, 7), (7, 7), (250, 1000), (2.5, 6.25)])
def test_wilson_matches_statsmodels(x, n, confidence):
    expected = proportion_confint(x, n, alpha=1 - confidence, method="wilson")
    assert wilson(x, n, confidence=confidence) == pytest.approx(expected, **exactly)


def test_wilson_ends_are_exact_and_no_items_have_no_interval():
    assert wilson(0, 3).low == 0.0 and wilson(3, 3).high == 1.0
    assert all(map(isnan, wilson(0, 0)))
    assert wilson(2, 8, confidence=0.0) == pytest.approx((0.25, 0.25), **exactly)


def test_mcnemar_matches_the_golden_table():
    case = GOLDEN["E_mcnemar"]
    found = [mcnemar_midp(*pair) for pair in case["inputs"]["n10_n01"]]
    np.testing.assert_allclose(found, case["expected"]["midp"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("n10, n01", [(1, 0), (0, 5), (4, 9), (30, 12), (2, 3)])
def test_mcnemar_is_the_exact_test_less_half_the_chance_of_the_observed_table(n10, n01):
    exact = mcnemar([[0, n10], [n01, 0]], exact=True).pvalue
    observed = comb(n10 + n01, n10) / 2 ** (n10 + n01)
    assert mcnemar_midp(n10, n01) == pytest.approx(exact - observed, **exactly)


def test_mcnemar_without_a_difference_is_one():
    assert mcnemar_midp(0, 0) == 1.0
    assert mcnemar_midp(6, 6) == pytest.approx(1.0, **exactly)


@pytest.mark.parametrize("p", [0.25, 1 / 3, 0.5])
@pytest.mark.parametrize("successes, n", [(0, 1), (1, 1), (0, 12), (5, 12), (12, 12), (300, 1000)])
def test_an_upper_tail_of_one_chance_is_binomial(successes, n, p):
    found = upper_tail(successes, [p] * n)
    assert found.exact == pytest.approx(binom.sf(successes - 1, n, p), **exactly)
    assert found.exact - found.midp == pytest.approx(binom.pmf(successes, n, p) / 2, **exactly)


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 1.0]), max_size=40), st.integers(0, 41))
def test_an_upper_tail_of_several_chances_is_the_sum_over_trials(chances, successes):
    pmf = np.ones(1)
    for p in chances:
        pmf = np.convolve(pmf, [1 - p, p])
    pmf = np.append(pmf, np.zeros(2 + successes))
    found = upper_tail(successes, chances)
    assert found.exact == pytest.approx(pmf[successes:].sum(), **exactly)
    assert found.midp == pytest.approx(pmf[successes:].sum() - pmf[successes] / 2, **exactly)


def test_a_long_upper_tail_of_several_chances_stays_exact_far_out():
    few, many = upper_tail(700, np.repeat([0.2, 0.5], [1000, 1000])), upper_tail(350, [0.35] * 1000)
    assert few.exact == pytest.approx(
        float(binom.pmf(np.arange(1001), 1000, 0.2) @ binom.sf(699 - np.arange(1001), 1000, 0.5)), rel=1e-9
    )
    assert many.midp < many.exact < upper_tail(349, [0.35] * 1000).exact
    assert upper_tail(0, []) == (1.0, 0.5)


@pytest.mark.parametrize("p", [[0.04, 0.01, 0.03, 0.2], [0.5], [0.01, 0.01, 0.01], [0.9, 0.6]])
def test_holm_is_that_of_statsmodels(p):
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], **exactly)


def test_holm_leaves_out_what_was_not_tested():
    found = holm([nan, 0.02, 0.01])
    assert isnan(found[0]) and found[1:] == pytest.approx([0.02, 0.02], **exactly)
    assert len(holm([])) == 0
