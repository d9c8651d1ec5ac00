"""The right and the chosen option of an item, as far as a log records them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase

import numpy as np

from forget_callback.probes.answers import extract
from forget_callback.snapshots.logs.log import LoggedItem, LogOptions


@dataclass(frozen=True)
class Pick:
    """The options of an item: indices of the right ones, and the score of each, none if they cannot be trusted."""

    right: tuple[int, ...]
    scores: tuple[float, ...]

    @property
    def choice(self) -> int:
        """The option with the highest score, the first of equal ones as in numpy and so in the tools; -1 if unknown."""
        return int(np.argmax(self.scores)) if self.scores and len(self.right) < 2 else -1


def settle(readings: Sequence[Sequence[Pick | None]], correct: Sequence[float]) -> list[Pick | None]:
    """The first interpretation of a log's options under which no item contradicts its right or wrong.

    If every one has contradictions, the one with most right options known, without scores. Of two options the right one
    follows from right or wrong where the log does not record it.

    Args:
        readings: Alternative right options and scores of all items; None for an item without options.
        correct: 1, 0 or NaN.
    """
    found = [[_of_two(pick, right) for pick, right in zip(reading, correct)] for reading in readings]
    for picks in found:
        known = [(pick, right) for pick, right in zip(picks, correct) if pick and pick.right and not math.isnan(right)]
        if known and all((int(np.argmax(pick.scores)) in pick.right) == (right == 1) for pick, right in known):
            return picks
    best = max(found, key=lambda picks: sum(bool(pick and pick.right) for pick in picks))
    return [None if pick is None else Pick(pick.right, ()) for pick in best]


def _of_two(pick: Pick | None, correct: float) -> Pick | None:
    if pick is None or pick.right or len(pick.scores) != 2 or math.isnan(correct):
        return pick
    return Pick((pick.choice if correct == 1 else 1 - pick.choice,), pick.scores)


def of_letters(item: LoggedItem, wanted: LogOptions) -> LoggedItem:
    """An open-ended item as a choice of `wanted.n_choices` letters, if its right answer is one of them."""
    right = letter_place(item.expected[0]) if len(item.expected) == 1 else -1
    if wanted.n_choices is None or item.options or not 0 <= right < wanted.n_choices:
        return item
    return as_choice(item, tuple(ascii_uppercase[: wanted.n_choices]), right, item.text or item.prediction or "")


def as_choice(item: LoggedItem, options: tuple[str, ...], right: int, text: str) -> LoggedItem:
    """An item answered by generated text as a multiple-choice one: the chosen option is the letter in the text.

    Right and wrong are the log's: where the letter contradicts them, the chosen option is unknown.
    """
    letter = extract(text, "choice")
    place = letter_place(letter or "")
    if item.correct == 1:
        place = right
    elif place == right or place >= len(options):
        place = -1
    outcome = item.outcome or ("unparsed" if letter is None else None)
    return replace(item, options=options, answer=right, choice=place, outcome=outcome)


def letter_place(text: str) -> int:
    """0 for "A" or "(a)", 1 for "B" and so on, -1 for what is no single letter."""
    found = re.fullmatch(r"\(?([A-Za-z])\)?\.?", text.strip())
    return ascii_uppercase.index(found[1].upper()) if found else -1
