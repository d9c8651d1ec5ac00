"""The number that a text gives as its answer, and what it is worth.

The last number of a plain text, as lm-eval's flexible-extract reads it, unless one is boxed or stated as the answer or
as an atomic number. Thousands may be set apart as in 1,080, 1{,}080, 1'080 or by a thin space, and decimals by a comma
where it is none between thousands; 3/4, 1e3 and 2 x 10^3 are one number each. A currency or a percent sign is left out.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal, InvalidOperation

from forget_callback.probes.markup import ANSWER, STATES, before_next_question, boxes, unmarked

_SIGN = r"(?:(?<![\w)\]])[-+])?"
_CURRENCY = r"(?:(?:US)?[$€£¥₹₽₩] ?)?"
# Every alternative that may fail after many digits begins only where a number does, so that a text is read once.
_PLAIN = (
    r"(?:(?<![\d,.])\d{1,3}(?:,\d{3})+(?!,?\d)(?:\.\d+)?"
    r"|(?<![\d,.(])\d{1,2}(?:,\d{2})+,\d{3}(?!,?\d)(?:\.\d+)?"  # 1,00,000
    r"|(?<![\d.,])\d{1,3}(?:\.\d{3})+,\d+(?!,?\d)"  # 1.080,50
    r"|(?<![\d.])\d{1,3}(?:\.\d{3}){2,}(?!\.?\d)"  # 1.080.000
    r"|(?<![\d,.(])\d+,\d{1,2}(?!,?\d)"  # 3,14
    r"|\d+(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?!\w))?"
    r"|(?<![\d.])\.\d+)"
)
_PART = r"(?:(?<![\d.,])\d{1,9} (?=\d{1,9}/))?(?<![\d/.,])\d{1,9}/\d{1,9}(?![\d/]|[.,]\d)"
_NUMBER = re.compile(rf"{_SIGN}{_CURRENCY}{_SIGN}(?:{_PART}|{_PLAIN})")
_AHEAD = rf"(?={_SIGN}{_CURRENCY}{_SIGN}\.?\d)"
_GLUED = re.compile(r"(?<=[A-Za-z_^])\d")  # x1, CO2, m^2
_APART = re.compile(r"(?<=\d)(?:\{,\}|\\[,;:! ]|[\xa0\u2007\u2009\u202f'’_])(?=\d{3}(?!\d))")
_FRACTION = re.compile(r"(\d?)\\[dtc]?frac ?(?:\{ ?(-?\d{1,20}) ?\} ?\{ ?(\d{1,20}) ?\}|(\d) ?(\d))")
_VULGAR = re.compile(r"(\d?) ?([¼-¾⅐-⅞])")
_POWER = re.compile(
    r"(?:(?<![\w.])(\d{1,20}(?:\.\d{1,20})?) ?(?:[×*x]|\\times|\\cdot) ?|(?<![\w.]))10 ?\^ ?\{?(-?\d{1,3})(?!\d)\}?"
)
_MINUS = re.compile(r"−|(?<![\w)\]])[–](?=[$€£]?\.?\d)")
_ABOUT = (
    r"(?:[ \n:]{0,3}(?:approximately|about|roughly|around|exactly|equal to|therefore|thus|a total of|≈|~|[a-z] ?=|"
    r"USD|EUR|ungefähr|environ|unos)){0,3}[ \n:]{0,3}"
)
# A sentence that states an atomic number goes on to masses.
_STATED = re.compile(
    rf"(?:{ANSWER}{STATES}{_ABOUT}|\batomic number(?: of)?{_ABOUT}|\batomic number{STATES}{_ABOUT}|####)\(?{_AHEAD}",
    re.IGNORECASE,
)
_SUM = re.compile(r"(?: [A-Za-z]{1,20}){0,3} ?(?:[-+*×÷/^]|\\times|\\cdot|x(?= ?\d)) ?[($€]?\d")
_RESULT = re.compile(rf"[=≈] ?{_AHEAD}")
# 12 300 is one number where it is boxed or stated.
_SPACED = re.compile(rf"{_SIGN}{_CURRENCY}\d{{1,3}}(?: \d{{3}})+(?! ?\d)(?:\.\d+|,\d{{1,2}}(?!\d))?")
_ALONE = re.compile(
    rf"(?:[A-Za-z]\w{{0,9}} ?[=≈] ?)?({_NUMBER.pattern}) ?"
    r"(?:%|[A-Za-z°]{1,20}(?: [A-Za-z]{1,20}){0,3})?(?:\^\d)?\.?"
)


def number_in(text: str) -> str | None:
    r"""The number that `text` gives as its answer, written as 1080, -2.5, 1e3 or 3/4; None if it gives none.

    >>> number_in("He has 3 apples, so he pays $1{,}200.")
    '1200'
    >>> number_in("The answer is 42. Checked on 2 May 2020.")
    '42'
    """
    text = _written(text)
    own = before_next_question(text)
    if boxes(own) or _stated(_words(own)):
        text = own
    found = boxes(text)
    boxed = unmarked(found[-1]).replace(" / ", "/") if found else ""
    alone = re.compile(f"({_SPACED.pattern})").fullmatch(boxed) or _ALONE.fullmatch(boxed)
    words = _words(text)
    number = alone[1] if alone else _stated(words) or _last(boxed) or _last(words)
    return _digits(number) if number else None


def worth(number: str) -> Decimal | None:
    """The value of a number as `number_in` writes it or as an item's answer holds it; None if it has none, as 1/0.

    >>> worth("$1,200.00") == worth("1.2e3")
    True
    """
    over, _, under = re.sub(r"[$€£,%\s]", "", number.replace("−", "-")).partition("/")
    try:
        return Decimal(over) / Decimal(under) if under else Decimal(over)
    except (InvalidOperation, ZeroDivisionError):
        return None


def _written(text: str) -> str:
    """A text with its numbers in plain characters."""
    text = _APART.sub(",", _MINUS.sub("-", text)).replace("\\%", "%")
    text = _VULGAR.sub(lambda part: f"{part[1]}{part[1] and ' '}{unicodedata.normalize('NFKC', part[2])}", text)
    text = text.replace("\u2044", "/")
    text = _FRACTION.sub(lambda part: f"{part[1]}{part[1] and ' '}{part[2] or part[4]}/{part[3] or part[5]}", text)
    return _POWER.sub(lambda power: f"{power[1] or 1}e{power[2]}", text)


def _words(text: str) -> str:
    return unmarked(re.sub("#### ", "\nanswer: ", text))  # as GSM8K's solutions state it


def _stated(text: str) -> str | None:
    """The number that is last stated as the answer: of a sum its result, of one without a result none."""
    found = None
    for place in _STATED.finditer(text):
        number = _SPACED.match(text, place.end()) or _NUMBER.match(text, place.end())
        if number and _SUM.match(text, number.end()):
            ends = [at for end in ("\n", ". ") if (at := text.find(end, number.end(), number.end() + 200)) >= 0]
            results = list(_RESULT.finditer(text, number.end(), min([*ends, number.end() + 200])))
            number = _NUMBER.match(text, results[-1].end()) if results else None
        found = number[0] if number else found
    return found


def _last(text: str) -> str | None:
    """The last number: one that is part of a name, unit or formula only where there is no other."""
    numbers = list(_NUMBER.finditer(text))
    apart = [number for number in numbers if not _GLUED.match(text, number.start())]
    return (apart or numbers)[-1][0] if numbers else None


def _digits(number: str) -> str:
    """A number as Python writes it, a fraction with its slash."""
    number = re.sub(r"[^\d.,eE/+ -]", "", number).strip()
    if "/" in number:
        whole, _, part = number.rpartition(" ")
        over, under = map(int, part.split("/"))
        sign = "-" if whole.startswith("-") else ""
        return f"{sign}{abs(int(whole)) * under + over}/{under}" if whole else part
    if re.search(r",\d{1,2}$|\.\d{3},\d+$", number) or number.count(".") > 1:
        number = number.translate({ord("."): None, ord(","): "."})
    return number.replace(",", "").replace(" ", "")
