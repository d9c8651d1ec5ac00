"""Letters: how models word them, each phrasing for every letter alike, and what is none."""

from __future__ import annotations

import pytest

from forget_callback.probes.answers import extract
from tests.probes.phrasings import PHRASINGS

_WIDE = {code: chr(code + 0xFEE0) for code in range(ord("A"), ord("J") + 1)}


@pytest.mark.parametrize("phrasing", [*PHRASINGS["choice"], *PHRASINGS["choice but I"], "X (wide)"])
def test_every_letter_is_read_in_every_phrasing(phrasing):
    letters = "ABCDEFGHJ" if phrasing in PHRASINGS["choice but I"] else "ABCDEFGHIJ"
    read = {}
    for letter, other in zip("ABCDEFGHIJ", "BADCFEHGJI"):
        text = phrasing.removesuffix(" (wide)").replace("X", letter).replace("Z", other)
        read[letter] = extract(text.translate(_WIDE) if phrasing.endswith("(wide)") else text, "choice")
    assert {letter: read[letter] for letter in letters} == {letter: letter for letter in letters}


@pytest.mark.parametrize("text", PHRASINGS["no choice"])
def test_a_text_that_names_no_single_letter_gives_none(text):
    assert extract(text, "choice") is None


@pytest.mark.parametrize("text, letter", [*PHRASINGS["word or letter"], *PHRASINGS["texts"]])
def test_the_grammar_tells_a_letter_from_a_word_and_an_answer_from_what_leads_to_it(text, letter):
    assert extract(text, "choice") == letter
