"""Other people's text, as it is printed and quoted."""

import unicodedata

import pytest
from hypothesis import given, strategies as st

from forget_callback.probes.quoting import printable, quoted


@given(st.text())
def test_nothing_printed_can_steer_a_terminal(text):
    joiners = "\u200c\u200d"
    assert not [c for c in printable(text) if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") and c not in joiners]
    assert not set(printable(text)) & set("\n\r\x1b\u202e")


@pytest.mark.parametrize("text", ["Köln, 東京", "فارسی می‌خواهم", "👩‍🔬", "plain 'quotes' \\ and | pipes"])
def test_what_has_a_picture_stays(text):
    assert printable(text) == text


@pytest.mark.parametrize("size", [1, 77, 78, 79, 200_000])
def test_a_quoted_value_is_short_and_says_how_long_it_was(size):
    shown = quoted("x" * size)
    assert len(shown) < 120
    assert shown == repr("x" * size) if size + 2 <= 80 else str(size + 2) in shown


def test_other_values_are_quoted_too():
    assert quoted(None) == "None"
    assert len(quoted(list(range(10_000)))) < 120
