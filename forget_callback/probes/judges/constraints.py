"""Match "constraints": instructions on the form of an answer, each of which a rule can check.

`doc` is ``{"constraints": [{"kind": "max_words", "n": 20}, {"kind": "excludes", "text": "very"}]}``; all must hold. The
field of a kind is in `_KINDS`: `n` a number, `text` and `texts` words, `c` a letter, `code` a language.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forget_callback.probes.checks import is_whole, require
from forget_callback.probes.judges import texts
from forget_callback.probes.judges.finding import Finding, is_texts, require_doc, require_examples
from forget_callback.probes.judges.json_text import NotJSON, fenced, load
from forget_callback.probes.judges.languages import is_in, language_code
from forget_callback.probes.markup import comparable
from forget_callback.probes.quoting import quoted
from forget_callback.probes.suggest import did_you_mean

if TYPE_CHECKING:
    from forget_callback.probes.items import Generation

_QUOTES = {'"': '"', "“": "”", "„": "“”", "«": "»", "»": "«", "「": "」", "『": "』", "”": "”"}


class Unclear(Exception):
    """A text that a rule can say nothing about, such as the language of "Paris"."""


@dataclass(frozen=True)
class _Kind:
    """A kind of constraint.

    Attributes:
        field: What it holds beside `kind`, "" for nothing.
        problem: From a text and the field's value to what is wrong, "" where the constraint holds.
        settled: Whether no further text could mend it: then an answer that was cut is wrong all the same.
        whole: Whether only the whole text shows that it holds: then an answer that was cut does not.
    """

    field: str
    problem: Callable[[str, Any], str]
    settled: bool = False
    whole: bool = False


def judge(text: str, item: Generation, finished: bool) -> Finding:
    """Whether a text keeps all constraints of the item; a text without a letter or digit keeps none of them.

    >>> from forget_callback.probes.items import Generation
    >>> asked = {"constraints": [{"kind": "max_words", "n": 3}, {"kind": "lowercase"}]}
    >>> item = Generation("a", "Whose play is Hamlet?", "shakespeare's", "constraints", doc=asked)
    >>> judge("William Shakespeare wrote Hamlet.", item, True).why
    '4 words, at most 3 asked; capital letters'
    """
    broken, settled, unclear = [], False, []
    for constraint in item.doc["constraints"]:
        kind = _KINDS[constraint["kind"]]
        try:
            problem = kind.problem(text, constraint.get(kind.field))
        except Unclear as error:
            unclear.append(str(error))
            continue
        if problem:
            broken.append(problem)
            settled |= kind.settled
        elif kind.whole and not finished:
            broken.append("cut before its end")
    if broken:
        return Finding.failed(text, "; ".join(broken), settled=settled)
    return Finding.nothing("; ".join(unclear)) if unclear else Finding.passed(text)


def require_judgeable(item: Generation) -> None:
    """That each constraint is of a known kind and holds what the kind reads, and that the example answers keep all."""
    expected = "a list of objects with a `kind`"
    require_doc(item, {"constraints": (expected, lambda given: isinstance(given, (list, tuple)))}, ("constraints",))
    constraints = item.doc["constraints"]
    require(bool(constraints), item, "doc.constraints", "must not be an empty list: every text would be right")
    for i, constraint in enumerate(constraints):
        field = f"doc.constraints[{i}]"
        require(isinstance(constraint, Mapping), item, field, f"expected an object, got {quoted(constraint)}")
        name = constraint.get("kind")
        if not isinstance(name, str) or name not in _KINDS:
            known = f"expected kind to be one of {', '.join(_KINDS)}, got {quoted(name)}{did_you_mean(name, _KINDS)}"
            require(False, item, field, known)
        kind = _KINDS[str(name)]
        given = [key for key in constraint if key != "kind"]
        wanted = [kind.field] if kind.field else []
        problem = f"kind {quoted(name)} reads {kind.field or 'nothing else'}, got {', '.join(given) or 'nothing'}"
        require(given == wanted, item, field, problem)
        if kind.field:
            _require_value(item, f"{field}.{kind.field}", kind.field, constraint[kind.field])
    require_examples(item, judge)


def _require_value(item: Generation, place: str, field: str, value: object) -> None:
    if field == "code":
        try:
            language_code(value)
        except ValueError as error:
            require(False, item, place, str(error))
    forms: Mapping[str, tuple[str, bool]] = {
        "n": ("a whole number of 1 or more", is_whole(value) and int(str(value)) >= 1),
        "text": ("a text that is not empty", isinstance(value, str) and bool(value.strip())),
        "texts": ("a list of texts that are not empty", is_texts(value)),
        "c": ("one letter", isinstance(value, str) and len(value) == 1 and value.isalpha()),
    }
    words, fits = forms.get(field, ("", True))
    require(fits, item, place, f"expected {words}, got {quoted(value)}")


def _at_most(count: Callable[[str], int], what: str) -> Callable[[str, int], str]:
    return lambda text, n: "" if (found := count(text)) <= n else f"{found} {what}, at most {n} asked"


def _at_least(count: Callable[[str], int], what: str) -> Callable[[str, int], str]:
    return lambda text, n: "" if (found := count(text)) >= n else f"{found} {what}, at least {n} asked"


def _exactly(count: Callable[[str], int], what: str) -> Callable[[str, int], str]:
    return lambda text, n: "" if (found := count(text)) == n else f"{found} {what}, {n} asked"


def _unless(holds: bool, problem: str) -> str:
    return "" if holds else problem


def _numbered(text: str, n: int) -> str:
    found = texts.numbers(text)
    return _unless(found == list(range(1, n + 1)), f"numbered {found or 'nowhere'}, 1 to {n} asked")


def _closed(text: str) -> str:
    """A text as it is compared, without a final mark, "Yes!"; marks alone are what they are."""
    plain = comparable(text)
    return comparable(plain.rstrip("!?！？")) or plain


def _one_of(text: str, accepted: list[str]) -> str:
    same = text.strip() in accepted or _closed(text) in map(_closed, accepted)
    return _unless(same, f"none of {', '.join(map(quoted, accepted[:5]))}")


def _in_case(wrong: tuple[str, ...], problem: str) -> Callable[[str, Any], str]:
    def check(text: str, _: Any) -> str:
        kinds = {unicodedata.category(letter) for letter in text}
        if not kinds & {"Lu", "Ll", "Lt"}:
            return "no letters"
        return _unless(not kinds & set(wrong), problem)

    return check


def _no_letter(text: str, letter: str) -> str:
    plain = unicodedata.normalize("NFD", text.casefold())
    if not any(map(str.isalpha, plain)):
        return "no letters"
    return _unless(letter.casefold() not in plain, f"the letter {letter}")


def _json(text: str, _: Any) -> str:
    """The whole text is JSON, or all of it is one code fence that holds JSON."""
    whole = text.strip()
    inside = fenced(whole)
    if inside and whole.startswith(("```", "~~~")) and len(inside) == 1 and whole.endswith(("```", "~~~")):
        whole = inside[0]
    try:
        value = load(whole)
    except NotJSON as error:
        return str(error)
    return _unless(isinstance(value, (dict, list)), "no JSON object or list")


def _quoted(text: str, _: Any) -> str:
    """All of the text, but for a final stop, stands in one pair of double quotation marks."""
    whole = text.strip().strip("*_ ").rstrip(".")
    inner = whole[1:-1]
    around = len(whole) > 2 and whole[-1] in _QUOTES.get(whole[0], "")
    return _unless(around and whole[0] not in inner and whole[-1] not in inner, "not within quotation marks")


def _language(text: str, code: str) -> str:
    verdict = is_in(text, language_code(code))
    if verdict is None:
        raise Unclear("the language cannot be told")
    return _unless(verdict, f"not in {code}")


def _count_words(text: str) -> int:
    return len(texts.words(text))


def _count_sentences(text: str) -> int:
    return len(texts.sentences(text))


_KINDS: dict[str, _Kind] = {
    "max_words": _Kind("n", _at_most(_count_words, "words"), settled=True, whole=True),
    "min_words": _Kind("n", _at_least(_count_words, "words")),
    "max_sentences": _Kind("n", _at_most(_count_sentences, "sentences"), settled=True, whole=True),
    "sentences": _Kind("n", _exactly(_count_sentences, "sentences"), whole=True),
    "contains": _Kind("text", lambda text, one: _unless(texts.has(text, one), f"no {quoted(one)}")),
    "excludes": _Kind(
        "text", lambda text, one: _unless(not texts.has(text, one), f"{quoted(one)}"), settled=True, whole=True
    ),
    "starts_with": _Kind(
        "text", lambda text, one: _unless(texts.starts(text, one), f"does not start with {quoted(one)}"), settled=True
    ),
    "ends_with": _Kind(
        "text", lambda text, one: _unless(texts.ends(text, one), f"does not end with {quoted(one)}"), whole=True
    ),
    "lowercase": _Kind("", _in_case(("Lu", "Lt"), "capital letters"), settled=True, whole=True),
    "uppercase": _Kind("", _in_case(("Ll", "Lt"), "small letters"), settled=True, whole=True),
    "no_commas": _Kind("", lambda text, _: _unless(not set(text) & set(",，、،"), "a comma"), settled=True, whole=True),
    "bullets": _Kind("n", _exactly(texts.bullets, "bullets"), whole=True),
    "numbered": _Kind("n", _numbered, whole=True),
    "paragraphs": _Kind("n", _exactly(lambda text: len(texts.paragraphs(text)), "paragraphs"), whole=True),
    "lines": _Kind("n", _exactly(lambda text: len(texts.lines(text)), "lines"), whole=True),
    "one_of": _Kind("texts", _one_of),
    "no_letter": _Kind("c", _no_letter, settled=True, whole=True),
    "json": _Kind("", _json, whole=True),
    "quoted": _Kind("", _quoted, whole=True),
    "language": _Kind("code", _language),
}
