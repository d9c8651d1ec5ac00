"""The right and the chosen option of an item, as far as a log records them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any

import numpy as np

from forget_callback.probes.answers import extract
from forget_callback.probes.plurals import counted
from forget_callback.probes.quoting import quoted
from forget_callback.snapshots.logs.log import LoggedItem, LogOptions, LogRow

_CIRCLED = "①②③④⑤⑥⑦⑧⑨⑩⑪⑫"
# Forms of one letter: hamza, Persian and Urdu forms, and the stroke that shows how ha is joined.
_ONE_FORM = {"أ": "ا", "إ": "ا", "آ": "ا", "ی": "ي", "ک": "ك", "ـ": ""}


def _plain(character: str) -> str:
    """A character without width, circle or case; a circled number stays, for "1" can be the answer to a sum."""
    plain = unicodedata.normalize("NFKC", character)
    if plain.isdecimal() and not character.isdecimal():
        return character
    # Georgian has capitals, with which nobody names options.
    upper = plain if "ა" <= plain <= "ჿ" else plain.upper()
    return _ONE_FORM.get(plain, upper if len(upper) == len(plain) else plain)


# The letters by which options are named, in the order in which exams use them.
ALPHABETS = tuple(
    "".join(map(_plain, letters))
    for letters in (
        ascii_uppercase,
        "ΑΒΓΔΕΖΗΘΙΚΛΜ",
        *("АБВГДЕЖЗИКЛМ", "АБВГДЂЕЖЗИЈК"),  # the second is Serbian
        *("ابجدهوزحطيكل", "ابتثجحخدذرزس", "ابپتثجچحخدذر"),  # by numerical value, in the order of the alphabet, Persian
        "אבגדהוזחטיכל",
        *("कखगघङचछजझञटठ", "अआइईउऊऋएऐओऔ"),  # Devanagari, consonants and vowels
        *("কখগঘঙচছজঝঞটঠ", "ਕਖਗਘਙਚਛਜਝਞਟਠ", "કખગઘઙચછજઝઞટઠ", "அஆஇஈஉஊஎஏஐஒஓஔ", "అఆఇఈఉఊఋఎఏఐఒఓ", "ಅಆಇಈಉಊಋಎಏಐಒಓ"),
        "กขคงจฉชซฌญฎฏ",
        *("აბგდევზთიკლმ", "ԱԲԳԴԵԶԷԸԹԺԻԼ"),
        *("가나다라마바사아자차카타", "ㄱㄴㄷㄹㅁㅂㅅㅇㅈㅊㅋㅌ"),
        *("アイウエオカキクケコサシ", "あいうえおかきくけこさし", "イロハニホヘトチリヌルヲ"),
        "甲乙丙丁戊己庚辛壬癸",
        _CIRCLED,
    )
)


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
            f"{source}: the option that {quoted(metric)} chose does not follow from the log-probabilities; it is "
            "unknown"
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


def of_letters(items: Sequence[LoggedItem], source: str, wanted: LogOptions) -> tuple[LoggedItem, ...]:
    """Open-ended items whose right answer is a letter, as a choice of `wanted.n_choices`; notes if some have none.

    The letters are of the alphabet that names most of the right answers.
    """
    open_ended = [item for item in items if not item.options]
    k = wanted.n_choices
    if k is None or not open_ended:
        return tuple(items)
    letters = {item.id: option_letter(item.expected[0]) for item in open_ended if len(item.expected) == 1}
    alphabets = [alphabet[:k] for alphabet in ALPHABETS if len(alphabet) >= k]
    best = max(alphabets, key=lambda alphabet: sum(letter in alphabet for letter in letters.values()), default="")
    places = {name: best.index(letter) for name, letter in letters.items() if letter and letter in best}
    if len(places) < len(open_ended):
        wanted.note(
            f"{source}: --n-choices {k} applies to {len(places) or 'none'} of the {counted(len(open_ended))} without "
            f"options: the others' right answer is no letter of the first {k} of an alphabet, so they stay open-ended"
        )
    return tuple(
        as_choice(item, tuple(best), places[item.id], item.text or item.prediction or "") if item.id in places else item
        for item in items
    )


def as_choice(item: LoggedItem, options: tuple[str, ...], right: int, text: str) -> LoggedItem:
    """An item answered by generated text as a multiple-choice one: the chosen option is the letter in the text.

    Right and wrong are the log's: where the letter contradicts them, the chosen option is unknown.
    """
    place = _stated(text, options)
    unparsed = place < 0
    if item.correct == 1:
        place = right
    elif place == right or place >= len(options):
        place = -1
    outcome = item.outcome or ("unparsed" if unparsed else None)
    return replace(item, options=options, answer=right, choice=place, outcome=outcome)


def _stated(text: str, options: Sequence[str]) -> int:
    """Place of the letter that a text states, of the alphabet that names these options; -1 if it states none."""
    letters, letter = alphabet_of(options) or ascii_uppercase, option_letter(text)
    if letters[0] == "A":
        return letter_place(
            letter or extract(text, "choice") or extract(unicodedata.normalize("NFKC", text), "choice") or ""
        )
    if not letter or letter not in letters:
        # In a sentence only where none of its words can follow, for one letter is a word in many languages.
        found = re.findall(rf"(?<!\w)[{letters}](?=\s*(?:$|[^\w\s]))", "".join(map(_plain, text)))
        letter = found[-1] if found else ""
    return letters.index(letter) if letter else -1


def alphabet_of(options: Sequence[str]) -> str:
    """The first letters of an alphabet, if the options are these and nothing else; else ""."""
    given = "".join(map(option_letter, options))
    named = len(options) > 1 and len(given) == len(options) and any(own.startswith(given) for own in ALPHABETS)
    return given if named else ""


def option_letter(text: str) -> str:
    """The letter that a text such as "B", "(b)." or a full-width, circled or Greek one is, as `ALPHABETS` has it."""
    text = text.strip()
    if not 0 < len(text) < 9:
        return ""
    found = re.fullmatch(r"[\s(\[\"'«*]*(\w)[\s)\]\"'»*.,:،。、]*", "".join(map(_plain, text)))
    return found[1] if found and (found[1] in _CIRCLED or not found[1].isdigit()) else ""


def letter_place(text: str) -> int:
    """0 for "A" or "(a)", 1 for "B" and so on, -1 for what is no single Latin letter."""
    return ascii_uppercase.find(option_letter(text) or " ")
