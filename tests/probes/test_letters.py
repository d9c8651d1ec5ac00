"""Letters: how models word them, each phrasing for every letter alike, and what is none."""

from __future__ import annotations

import pytest

from forget_callback.probes.answers import extract
from tests.probes.phrasings import PHRASINGS

_WIDE = {code: chr(code + 0xFEE0) for code in range(ord("A"), ord("J") + 1)}  # full-width capitals


@pytest.mark.parametrize("letter, other", [*zip("ABCDEFGHIJ", "BADCFEHGJI")])
def test_every_letter_is_read_in_every_phrasing(letter, other):
    phrasings = [*PHRASINGS["choice"], *([] if letter == "I" else PHRASINGS["choice but I"])]
    texts = [phrasing.replace("X", letter).replace("Z", other) for phrasing in phrasings]
    assert len(texts) > 600
    read = {text: extract(text, "choice") for text in [*texts, f"Answer: {letter}".translate(_WIDE)]}
    assert {text: found for text, found in read.items() if found != letter} == {}


def test_a_text_that_names_no_single_letter_gives_none():
    read = {text: extract(text, "choice") for text in PHRASINGS["no choice"]}
    assert {text: found for text, found in read.items() if found is not None} == {}


@pytest.mark.parametrize("table", ["word or letter", "texts"])
def test_the_grammar_tells_a_letter_from_a_word_and_an_answer_from_what_leads_to_it(table):
    right = dict(PHRASINGS[table])
    assert {text: extract(text, "choice") for text in right} == right
