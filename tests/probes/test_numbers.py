"""Numbers: how models write and state them, and lm-eval's own reading of plain texts."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings, strategies as st

from forget_callback.probes.answers import extract, matches
from tests.probes.phrasings import PHRASINGS


def test_the_number_is_read_however_it_is_written():
    read = {text: (extract(text, "number") or "", value) for text, value in PHRASINGS["number"]}
    assert len(read) > 200
    assert {text: found for text, found in read.items() if not (found[0] and matches(*found, "number"))} == {}
    assert not any(matches(found, str(Decimal(value) + 1), "number") for found, value in read.values())


def test_a_text_without_a_number_gives_none():
    read = {text: extract(text, "number") for text in PHRASINGS["no number"]}
    assert {text: found for text, found in read.items() if found is not None} == {}


@pytest.mark.parametrize(
    "prediction, answer, right",
    [
        ("1200", "$1,200.00", True),
        ("1e3", "1,000", True),
        ("3/4", "0.75", True),
        ("6/8", ".75", True),
        ("1/3", "0.33", False),
        ("1/0", "0", False),
        ("12345678901234567890", "12345678901234567891", False),  # equal as floats
        ("1e999999999", "1", False),
        ("0.1", "0.10", True),
    ],
)
def test_numbers_are_compared_by_value(prediction, answer, right):
    assert matches(prediction, answer, "number") is right


words = st.sampled_from(["so", "he", "pays", "for", "apples", "and", "then", "is", "left", "with", "=", "+", "in"])
amounts = st.from_regex(r"-?\$?(?:[1-9][0-9]{0,2}(?:,[0-9]{3}){1,2}|[0-9]{1,6})(?:\.[0-9]{1,2})?", fullmatch=True)
plain = st.lists(st.one_of(words, amounts), min_size=1, max_size=12).map(" ".join)


@settings(deadline=None, derandomize=True, database=None, max_examples=150)
@given(plain, st.sampled_from(["", ".", "\n", " apples."]))
def test_of_a_plain_text_the_number_is_that_of_lm_evals_flexible_extract(text, end):
    extraction = pytest.importorskip("lm_eval.filters.extraction")
    rule = extraction.RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
    ((theirs,),) = rule.apply([[text + end]], [{}])
    ours = extract(text + end, "number")
    if theirs == "[invalid]" or not any(c.isdigit() for c in theirs):
        assert ours is None
    else:
        assert ours is not None and float(ours) == float(theirs.replace("$", "").replace(",", "").removesuffix("."))
