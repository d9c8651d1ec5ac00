"""The right and the chosen option of an item, as far as a log records them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any

import numpy as np

from forget_callback.probes.answers import extract
from forget_callback.snapshots.logs.log import LoggedItem, LogOptions, LogRow


@dataclass(frozen=True)
class Pick:
    """The options of an item: indices of the right ones, and the score of each, none if they cannot be trusted."""

    options: tuple[str, ...]
    right: tuple[int, ...]
    scores: tuple[float, ...]

    @property
    def choice(self) -> int:
        """The option with the highest score, the first of equal ones as in numpy and so in the tools; -1 if unknown."""
        return int(np.argmax(self.scores)) if self.scores and len(self.right) < 2 else -1


def settle(
    rows: Sequence[LogRow], metric: str, pick: Callable[[Any, bool], Pick | None], source: str, wanted: LogOptions
) -> list[Pick | None]:
    """The options of all rows, in the first of two interpretations under which none contradicts its right or wrong.

    If both have contradictions, which is noted, the one with most right options known, without scores. Of two options
    the right one follows from right or wrong where the log does not record it.

    Args:
        metric: The one that decides right and wrong.
        pick: Interprets a row's `raw`: one way if given True, the other if False; None for an item without options.
    """
    correct = [row.value(metric) for row in rows]
    found = [[_of_two(pick(row.raw, way), right) for row, right in zip(rows, correct)] for way in (True, False)]
    for picks in found:
        known = [(one, right) for one, right in zip(picks, correct) if one and one.right and not math.isnan(right)]
        agree = (one.scores and (int(np.argmax(one.scores)) in one.right) == (right == 1) for one, right in known)
        if known and all(agree):
            return picks
    best = max(found, key=lambda picks: sum(bool(one and one.right) for one in picks))
    if any(best):
        wanted.note(
            f"{source}: the option that {metric!r} chose does not follow from the log-probabilities; it is unknown"
        )
    return [one and replace(one, scores=()) for one in best]


def _of_two(pick: Pick | None, correct: float) -> Pick | None:
    if pick is None or pick.right or len(pick.scores) != 2 or math.isnan(correct):
        return pick
    return replace(pick, right=(pick.choice if correct == 1 else 1 - pick.choice,))


def with_options(item: LoggedItem, pick: Pick) -> LoggedItem:
    """The item as a multiple-choice one; where several options are right, the first of them is its answer."""
    return replace(
        item,
        expected=tuple(pick.options[i] for i in pick.right),
        options=pick.options,
        answer=pick.right[0],
        choice=pick.choice,
        scores=pick.scores if pick.choice >= 0 else (),
        prediction=pick.options[pick.choice] if pick.choice >= 0 else None,
    )


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
