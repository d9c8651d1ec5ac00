"""From a generated text to an outcome: extract the answer, then match it.

Pure text processing. Every rule returns None where the text holds no answer of its form, so that a model that stopped
answering in the expected format (unparsed) is not confused with one that gives a wrong answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from forget_callback.probes.items import Generation
from forget_callback.probes.letters import letter_in
from forget_callback.probes.markup import comparable, first_line
from forget_callback.probes.numbers import number_in, worth

_THOUGHT = re.compile(r"</(?:think|thinking|reasoning)>|\[/THINK\]")
_THINKING = re.compile(r"\s*(?:<(?:think|thinking|reasoning)>|\[THINK\])")


@dataclass(frozen=True)
class Judgement:
    """What became of one generated text: `outcome`, and the answer found in it, None where there is none."""

    outcome: str
    prediction: str | None

    @classmethod
    def of(cls, right: bool, prediction: str | None, *, finished: bool) -> Judgement:
        """One of the four outcomes.

        Args:
            right: Whether the answer is right.
            prediction: The answer that was found in the text, None if there is none.
            finished: False if generation stopped at the token limit. A text that was cut short and is not right is
                "truncated", never "wrong": the answer may have been still to come.
        """
        if right:
            return cls("correct", prediction)
        if not finished:
            return cls("truncated", prediction)
        return cls("unparsed" if prediction is None else "wrong", prediction)


def after_thinking(text: str) -> str:
    """What follows the last block of thinking; nothing if the text is still within one."""
    ends = list(_THOUGHT.finditer(text))
    if ends:
        return text[ends[-1].end() :]
    return "" if _THINKING.match(text) else text


def extract(text: str, match: str) -> str | None:
    """The answer that `text` gives, in the form that `match` compares; None if it gives none.

    Blocks of thinking are no part of it. "exact" and "prefix" read the first line that is neither empty nor a code
    fence, "number" and "choice" what is boxed or stated as the answer, else the last number (lm-eval's
    flexible-extract) and the letter that the text leads with or comes to, see `numbers.py` and `letters.py`; the others
    read the whole text, which for "math" must hold an expression.

    Raises:
        ImportError: If `match` is "math" and math-verify is not installed.

    >>> extract("He has 3 apples, so he pays $1,200.", "number")
    '1200'
    >>> extract("I am not sure.", "number") is None
    True
    >>> extract("The answer is (B).", "choice")
    'B'
    """
    text = after_thinking(text).strip()
    if first_line(text) is None:
        return None
    if match in ("exact", "prefix"):
        return first_line(text)
    if match == "number":
        return number_in(text)
    if match == "choice":
        return letter_in(text)
    return text if match != "math" or _parse_math(text) else None


def matches(prediction: str, answer: str, match: str) -> bool:
    """Whether an extracted answer is right.

    Numbers are compared by value. Otherwise, except for "regex" and "stated", case, emphasis, quotation marks, the form
    in which accents are stored and a final full stop do not matter.
    """
    if match == "number":
        value = worth(prediction)
        return value is not None and value == worth(answer)
    if match == "choice":
        return prediction == answer.strip(" ()").upper()
    if match == "regex":
        return re.search(answer, prediction) is not None
    if match == "math":
        from math_verify import verify

        return bool(verify(_parse_math(f"${answer}$"), _parse_math(prediction), timeout_seconds=None))
    if match == "stated":
        return _states(prediction, answer)
    if match == "exact" and prediction.strip() == answer.strip():
        return True
    given, wanted = comparable(prediction), comparable(answer)
    if not wanted:  # nothing but marks
        given, wanted = prediction, answer.strip()
    if match == "exact":
        return given == wanted
    # "Paris" is not an answer of "Parisian": both ends must be ends of a word.
    pattern = r"(?<!\w)" + re.escape(wanted) + r"(?!\w)"
    return (re.match if match == "prefix" else re.search)(pattern, given) is not None


def _states(text: str, answer: str) -> bool:
    """Whether a text says `answer` as its answer: alone on a line, marked, or after "is" or "called".

    For words that a text may hold without meaning them, such as the symbol In or the function `all`: case matters, but
    for a capital at the beginning. Gaps are bounded, see `markup.py`.
    """
    words = "|".join(map(re.escape, dict.fromkeys((answer.strip(), answer.strip().capitalize()))))
    said = rf"(?:{words})(?:\(\))?(?!\w)"
    mark = r"[`'\"*“‘(]"
    named = rf"\b(?:is|are|called|named|as):? (?:the |an? )?(?:(?!not )\w{{1,20}} )?{mark}{{0,4}}{said}"
    alone = rf"^[^\w\n]{{0,9}}{said}[^\w\n]{{0,9}}$"
    return re.search(rf"{mark}{said}|{named}|{alone}", text, re.MULTILINE) is not None


def by_text(item: Generation, text: str, *, finished: bool) -> Judgement:
    """The outcome of a generated text by one of the rules here."""
    prediction = extract(text, item.match)
    right = prediction is not None and any(matches(prediction, answer, item.match) for answer in item.answer)
    return Judgement.of(right, prediction, finished=finished)


def _parse_math(text: str) -> list[Any]:
    """Every expression that math-verify finds in the text."""
    try:
        from math_verify import parse
    except ImportError as error:
        raise ImportError("match 'math' needs math-verify: pip install 'forget-callback[math]'") from error
    # Its time-outs use SIGALRM, which only the main thread may set; the texts are short.
    return list(parse(text, parsing_timeout=None))
