"""Items: the questions of a probe, and what counts as right.

An item is validated when it is built, so that nothing downstream needs to check again. Knows nothing of models,
tokenizers or files: `parse_item` takes a mapping and says which field is wrong, the loaders add the file and the line.
Custom kinds (`register_item`) become one of the three kinds here, so nothing downstream ever meets them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeAlias, get_args

Match: TypeAlias = Literal["exact", "prefix", "contains", "number", "math", "choice", "regex", "task"]

# A custom matcher has a dot in its name: a misspelled built-in one is still found, and a run can be read where
# the matcher is not registered.
_OWN_MATCH = re.compile(r"\w+(\.\w+)+")
# What an answer must be, for the matches that read nothing else.
_FORMS = {
    "number": ("a number", r"[-+]?[$€£]?\d[\d,]*(\.\d+)?%?|[-+]?\.\d+"),
    "choice": ("one letter", r"\(?[A-Za-z]\)?"),
}


def _require(condition: bool, item: Any, field: str, problem: str) -> None:
    if not condition:
        raise ValueError(f"item {getattr(item, 'id', None)!r}, field {field!r}: {problem}")


def _require_text(item: Any, field: str, value: object, *, empty: bool = False) -> None:
    remedy = "; convert it with str()" if isinstance(value, (int, float)) else ""
    _require(isinstance(value, str), item, field, f"expected text, got {type(value).__name__} {value!r}{remedy}")
    _require(empty or bool(str(value).strip()), item, field, f"must not be empty, got {value!r}")
    try:
        str(value).encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can spell and no file can hold
        _require(False, item, field, f"not valid text: {error}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class MultipleChoice:
    """Right when the right choice has the highest log-probability given the prompt.

    Attributes:
        choices: At least two texts, each with its own leading space where the language needs one; none may equal the
            right one.
        answer: Index of the right choice.
        contexts: Where options differ before what is scored, as in WinoGrande: the text between the prompt and each
            choice, which is not scored.
        lengths: What each choice is divided by where the probe normalizes by "length"; its bytes if not given.
    """

    id: str
    prompt: str
    choices: Sequence[str]
    answer: int
    category: str = ""
    contexts: Sequence[str] = ()
    lengths: Sequence[float] = ()

    kind: ClassVar[str] = "multiple_choice"

    def __post_init__(self) -> None:
        _require_text(self, "id", self.id)
        _require_text(self, "prompt", self.prompt, empty=True)
        _require_text(self, "category", self.category, empty=True)
        is_list = isinstance(self.choices, (list, tuple))
        _require(is_list, self, "choices", f"expected a list of texts, got {self.choices!r}")
        _require(len(self.choices) >= 2, self, "choices", f"expected two or more, got {len(self.choices)}")
        for choice in self.choices:
            _require_text(self, "choices", choice)
        _require(_is_whole(self.answer), self, "answer", f"expected the index of the right choice, got {self.answer!r}")
        last = len(self.choices) - 1
        _require(0 <= self.answer <= last, self, "answer", f"expected an index from 0 to {last}, got {self.answer}")
        for name in ("contexts", "lengths"):
            given = getattr(self, name)
            fits = isinstance(given, (list, tuple)) and len(given) in (0, len(self.choices))
            _require(fits, self, name, f"expected one for each of the {len(self.choices)} choices, got {given!r}")
            object.__setattr__(self, name, tuple(given))
        for context in self.contexts:
            _require_text(self, "contexts", context, empty=True)
        for length in self.lengths:
            positive = isinstance(length, (int, float)) and 0 < length < float("inf")
            _require(positive, self, "lengths", f"expected positive numbers, got {length!r}")
        texts = [(c.strip(), t.strip()) for c, t in zip(self.contexts or [""] * len(self.choices), self.choices)]
        right = self.choices[self.answer]
        for i, option in enumerate(texts):  # equal wrong ones do occur in benchmarks, and do no harm
            problem = f"choice {i} equals the answer, choice {self.answer}: {right!r}; remove one"
            _require(i == self.answer or option != texts[self.answer], self, "choices", problem)
        object.__setattr__(self, "choices", tuple(self.choices))


@dataclass(frozen=True)
class Recall:
    """Right when every token of the answer is the argmax given the prompt: what greedy decoding would produce."""

    id: str
    prompt: str
    answer: str
    category: str = ""

    kind: ClassVar[str] = "recall"

    def __post_init__(self) -> None:
        _require_text(self, "id", self.id)
        _require_text(self, "prompt", self.prompt, empty=True)
        _require_text(self, "category", self.category, empty=True)
        _require_text(self, "answer", self.answer)


@dataclass(frozen=True)
class Generation:
    """Right when the answer extracted from the generated text matches one of `answer` (see `answers.py`).

    Attributes:
        match: How the answer is read and compared; "exact" and "prefix" read one line, "task" is the benchmark's own
            rule, and a name with a dot is a custom matcher, see `register_matcher`.
        max_new_tokens: Tokens after which the answer is cut.
        stop: Texts that end the answer and are no part of it, beside the model's own end of sequence.
        options: With match "choice", how many lettered options the prompt lists: what guessing explains is then
            removed. 0 if unknown.
        task: With match "task", the benchmark whose own rule decides, such as "lm-eval:ifeval".
        doc: What that rule, a matcher or a scorer reads of the item, as JSON can hold it.
    """

    id: str
    prompt: str
    answer: str | Sequence[str]
    match: str = "exact"
    category: str = ""
    max_new_tokens: int = 64
    stop: Sequence[str] = ()
    options: int = 0
    task: str = ""
    doc: Mapping[str, Any] = field(default_factory=dict, hash=False)

    kind: ClassVar[str] = "generation"

    def __post_init__(self) -> None:
        _require_text(self, "id", self.id)
        _require_text(self, "prompt", self.prompt)
        _require_text(self, "category", self.category, empty=True)
        is_text = isinstance(self.answer, (str, list, tuple))
        remedy = "; convert it with str()" if isinstance(self.answer, (int, float)) else ""
        _require(is_text, self, "answer", f"expected text or a list of texts, got {self.answer!r}{remedy}")
        answers = (self.answer,) if isinstance(self.answer, str) else tuple(self.answer)
        _require(bool(answers), self, "answer", "must not be an empty list")
        known = get_args(Match)
        expected = f"expected one of {', '.join(known)}, or a registered name with a dot such as mylab.close"
        _require(self.match in known or is_own_match(self.match), self, "match", f"{expected}, got {self.match!r}")
        for answer in answers:
            _require_text(self, "answer", answer)
            self._require_matchable(answer)
        ok = _is_whole(self.max_new_tokens) and self.max_new_tokens >= 1
        _require(ok, self, "max_new_tokens", f"expected a whole number of 1 or more, got {self.max_new_tokens!r}")
        object.__setattr__(self, "answer", answers)
        is_list = isinstance(self.stop, (list, tuple)) and all(isinstance(s, str) and s for s in self.stop)
        _require(is_list, self, "stop", f"expected a list of texts that are not empty, got {self.stop!r}")
        object.__setattr__(self, "stop", tuple(self.stop))
        _require((self.match == "task") == bool(self.task), self, "task", f"goes with match 'task', got {self.task!r}")
        self._require_options()

    def _require_options(self) -> None:
        ok = self.options == 0 or (_is_whole(self.options) and self.match == "choice" and 2 <= self.options <= 26)
        _require(ok, self, "options", f"goes with match 'choice' and is from 2 to 26, got {self.options!r}")
        if self.options:
            right = {place_of(answer) for answer in self.answer}
            ok = len(right) == 1 and max(right) < self.options
            _require(ok, self, "answer", f"expected one letter of the first {self.options}, got {self.answer!r}")

    def _require_matchable(self, answer: str) -> None:
        """An answer that its own rule can never match would count as forgotten for ever."""
        if self.match == "regex":
            try:
                re.compile(answer)
            except re.error as error:
                _require(False, self, "answer", f"not a regular expression: {answer!r} ({error})")
        elif self.match in ("exact", "prefix"):
            one = len(answer.strip().splitlines()) == 1
            _require(one, self, "answer", f"match {self.match!r} reads one line, got {answer!r}; use 'contains'")
        elif self.match in _FORMS:
            form, pattern = _FORMS[self.match]
            fits = re.fullmatch(pattern, answer.strip()) is not None
            _require(fits, self, "answer", f"match {self.match!r} needs {form}, got {answer!r}")


Item: TypeAlias = MultipleChoice | Recall | Generation

_KINDS: dict[str, type[Item]] = {cls.kind: cls for cls in (MultipleChoice, Recall, Generation)}
_OWN_KINDS: dict[str, Callable[[Mapping[str, Any]], Item]] = {}


def register_item(kind: str, make: Callable[[Mapping[str, Any]], Item]) -> None:
    """Adds a kind of item for JSON Lines files, tables and lists of dicts: what `make` makes of a record is scored.

    A probe, and so a run on disk, holds the item that was made: it can be read where the kind is not registered.

    Args:
        kind: What a record's `kind` says; registered again it is replaced.
        make: From the record, with all of its fields, to a `MultipleChoice`, `Recall` or `Generation`.

    Raises:
        ValueError: If the kind is a built-in one, or `make` cannot be called.
    """
    if not isinstance(kind, str) or not kind or kind in _KINDS:
        raise ValueError(f"kind must be a name other than {', '.join(_KINDS)}, got {kind!r}")
    if not callable(make):
        raise ValueError(f"make must be a function from a record to an item, got {make!r}")
    _OWN_KINDS[kind] = make


def parse_item(record: object) -> Item:
    """One item from a mapping such as a line of JSON or a row of a table; without `kind`, `choices` decides.

    A whole number as `id` stands for its text, and so does a number as `answer` where `match` is "number".

    Raises:
        ValueError: Naming the item and the field that is missing, unknown or wrong.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"expected an object with the fields of an item, got {type(record).__name__}")
    name = record.get("id")
    kind = record.get("kind", "multiple_choice" if "choices" in record else "generation")
    if isinstance(kind, str) and kind in _OWN_KINDS:
        try:
            item: Any = _OWN_KINDS[kind](record)
        except Exception as error:  # other people's code
            raise ValueError(f"item {name!r}, kind {kind!r}: {type(error).__name__}: {error}") from error
        if not isinstance(item, get_args(Item)):
            raise ValueError(
                f"item {name!r}, kind {kind!r}: its function must return a MultipleChoice, Recall or Generation, got "
                f"{item!r}"
            )
        return item  # type: ignore[no-any-return]
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(
            f"item {name!r}, field 'kind': expected one of {', '.join([*_KINDS, *_OWN_KINDS])}, got {kind!r}; a kind "
            "of your own needs register_item in this process first"
        )
    cls = _KINDS[kind]
    known = [f.name for f in fields(cls)]
    given = {key: value for key, value in record.items() if key != "kind"}
    for key in given:
        if key not in known:
            remedy = "drop it, or put it in `doc`" if "doc" in known else "drop it"
            raise ValueError(
                f"item {name!r}, field {key!r}: unknown for {kind}; known are {', '.join(known)}; {remedy}"
            )
    for key in ("id", "prompt", "choices", "answer"):
        if key in known and key not in given:
            raise ValueError(f"item {name!r}, field {key!r}: missing for {kind}")
    if _is_whole(name):
        given["id"] = str(name)
    answer = given["answer"]
    if given.get("match") == "number" and (_is_whole(answer) or isinstance(answer, float)):
        given["answer"] = str(answer).removesuffix(".0")
    return cls(**given)


def item_record(item: Item) -> dict[str, Any]:
    """The mapping that `parse_item` reads back into an equal item; optional fields that hold nothing are left out."""
    optional = {f.name for f in fields(item) if f.default is not MISSING or f.default_factory is not MISSING}
    return {"kind": item.kind} | {k: value for k, value in asdict(item).items() if value or k not in optional}


def is_own_match(match: object) -> bool:
    """Whether `match` is the name of a custom matcher."""
    return isinstance(match, str) and _OWN_MATCH.fullmatch(match) is not None


def place_of(letter: str) -> int:
    """Which option a letter names, from 0, as in "B" or "(b)"."""
    return ord(letter.strip(" ()").upper()) - ord("A")


def n_options(item: Item) -> int:
    """Options of an item, 0 where its answer is open-ended."""
    if isinstance(item, MultipleChoice):
        return len(item.choices)
    return item.options if isinstance(item, Generation) else 0


def right_option(item: Item) -> int:
    """Index of the right option, -1 where the answer is open-ended."""
    if isinstance(item, MultipleChoice):
        return item.answer
    return place_of(item.answer[0]) if isinstance(item, Generation) and item.options else -1
