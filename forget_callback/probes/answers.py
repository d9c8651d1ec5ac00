"""From a generated text to an outcome: extract the answer, then match it.

Pure text processing. Every rule returns None where the text holds no answer of its form, so that a model that stopped
answering in the expected format (unparsed) is not confused with one that gives a wrong answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from forget_callback.probes.items import Generation
from forget_callback.probes.judges.rules import RULES, find
from forget_callback.probes.letters import letter_in
from forget_callback.probes.markup import comparable, first_line
from forget_callback.probes.numbers import number_in, worth

_THOUGHT = re.compile(r"</(?:think|thinking|reasoning)>|\[/THINK\]")
_THINKING = re.compile(r"\s*(?:<(?:think|thinking|reasoning)>|\[THINK\])")
_MARK = r"[`'\"*“‘(]"
# What denies the answer that follows it at once, and the answer that it follows.
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|never|no longer|neither|nor|cannot be|rather than|instead of|as opposed to|other than|unlike|"
    r"former(?:ly)?|previously|used to be)|n['’]t)(?: (?:be|called|named|known as|in|the|an?|simply|actually|really))"
    rf"{{0,3}}:? ?{_MARK}{{0,4}}\Z",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(r"\W{0,4}(?:is|was|are)(?: not|n['’]t) (?:the|right|correct)\b", re.IGNORECASE)
_WAS = re.compile(rf"\bwas (?:called )?{_MARK}{{0,4}}\Z", re.IGNORECASE)
_NO_MORE = re.compile(r"\W{0,4} until [^.\n]{0,60}\b(?:today|now|nowadays|currently)\b", re.IGNORECASE)
# What may follow a short answer that could be a word of the sentence: "is In and", but not "is In the".
_GOES_ON = (
    r"(?:and|or|but|not|for|which|that|because|since|as|in|with|from|after|when|while|until|on|by|if|also|used|"
    r"functions?|methods?|keywords?|modules?|built|objects?)\b"
)


@dataclass(frozen=True)
class Judgement:
    """What became of one generated text.

    Attributes:
        outcome: "correct", "wrong", "truncated" or "unparsed".
        prediction: The answer found in it, None where there is none.
        why: Why it is not right, in a few words, where its rule says so.
        score: The number in [0, 1] that a scorer gave it, None where it was judged by a rule.
        ran_out: Whether its code was gone before its tests were through, as code is that comes to its limits.
    """

    outcome: str
    prediction: str | None
    why: str = ""
    score: float | None = None
    ran_out: bool = False

    @classmethod
    def of(cls, right: bool, prediction: str | None, *, finished: bool, why: str = "") -> Judgement:
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
            return cls("truncated", prediction, why)
        return cls("unparsed" if prediction is None else "wrong", prediction, why)


def after_thinking(text: str) -> str:
    """What follows the last block of thinking; nothing if the text is still within one."""
    ends = list(_THOUGHT.finditer(text))
    if ends:
        return text[ends[-1].end() :]
    return "" if _THINKING.match(text) else text


def ends_thinking(text: str) -> bool:
    """Whether a block of thinking ends in a text."""
    return _THOUGHT.search(text) is not None


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

    Numbers are compared by value. "named" is "contains" but for answers that are denied, as in "Lyon, not Paris".
    Otherwise, except for "regex" and "stated", case, emphasis, quotation marks, the form
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
    found = re.compile(r"(?<!\w)" + re.escape(wanted) + r"(?!\w)")
    if match == "named":
        return any(not _is_denied(given, *mention.span()) for mention in found.finditer(given))
    return (found.match if match == "prefix" else found.search)(given) is not None


def _states(text: str, answer: str) -> bool:
    """Whether a text says `answer` as its answer: alone on a line, marked, or after "is" or "called", and undenied.

    For words that a text may hold without meaning them, such as the symbol In or the function `all`: case matters, but
    for a capital at the beginning. Gaps are bounded, see `markup.py`.
    """
    words = "|".join(map(re.escape, dict.fromkeys((answer.strip(), answer.strip().capitalize()))))
    whole = rf"(?:{words})(?:\(\))?(?!\w)"
    ends = r"(?!['’-][A-Za-z])" + (rf"(?! (?!{_GOES_ON})\w)" if len(answer.strip()) <= 3 else "")
    said = rf"({whole}{ends})"
    leads = r"\b(?:is|are|called|named|as|(?:would|must|should) be|(?:[Ii]t|[Tt]hat|[Tt]his)['’]s)"
    named = rf"{leads}:? (?:the |an? )?(?:\w{{1,20}} )?{_MARK}{{0,4}}{said}"
    alone = rf"^[^\w\n]{{0,9}}({whole})[^\w\n]{{0,9}}$"
    stated = re.compile(rf"`({whole})|{_MARK}{said}|{named}|{alone}", re.MULTILINE)
    return any(not _is_denied(text, *found.span(found.lastindex or 0)) for found in stated.finditer(text))


def _is_denied(text: str, start: int, end: int) -> bool:
    """Whether the words before or after an answer deny it: "not Paris", "Paris is not the", "was Paris until"."""
    before, after = text[max(0, start - 60) : start], text[end : end + 100]
    if _DENIED_BEFORE.search(before) or _DENIED_AFTER.match(after):
        return True
    return _WAS.search(before) is not None and _NO_MORE.match(after) is not None


def by_text(item: Generation, text: str, *, finished: bool) -> Judgement:
    """The outcome of a generated text by one of the rules here, or by one of the judges."""
    if item.match in RULES:
        found = find(after_thinking(text), item, finished=finished)
        finished = finished or found.settled
        return replace(
            Judgement.of(found.right, found.prediction, finished=finished, why=found.why), ran_out=found.ran_out
        )
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
