"""Items: the questions of a probe, and what counts as right.

An item is validated when it is built, so that nothing downstream needs to check again. Every kind has, by name, its
`variants` (further ways to ask the same, also given as texts or mappings), a `cluster` (items of one passage, subject
or fact are no independent draws) and a `fact` (which joins the forms in which one fact is asked). Knows nothing of
models, tokenizers or files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from forget_callback.probes.checks import is_whole, require, require_one_right, require_text, require_texts
from forget_callback.probes.judges.rules import require_judgeable
from forget_callback.probes.quoting import quoted
from forget_callback.probes.suggest import did_you_mean
from forget_callback.probes.text_items import Text as Text

Match: TypeAlias = Literal[
    "exact", "prefix", "contains", "named", "stated", "number", "math", "choice", "regex", "task", "json_schema"
]

# A custom matcher has a dot in its name: a misspelled built-in one is still found, and a run can be read where
# the matcher is not registered.
_OWN_MATCH = re.compile(r"\w+(\.\w+)+")
# What an answer must be, for the matches that read nothing else.
_FORMS = {
    "number": ("a number", r"[-+]?[$€£]?\d[\d,]*(\.\d+)?%?|[-+]?\.\d+"),
    "choice": ("one letter", r"\(?[A-Za-z]\)?"),
}


@dataclass(frozen=True)
class Variant:
    """A further way to ask an item: the same question and right answer in another prompt.

    Attributes:
        choices: Of multiple choice, where they are other texts than the item's; in the variant's own order.
        order: Option j here is option ``order[j]`` of the item; the item's own order if not given.
        chat: Whether this prompt goes through the chat template; None does as the probe does.
        weak: The same frame with words around it, which shares the damage of the frame.
        stop: Of generation, further texts that end the answer in this prompt.
    """

    prompt: str
    choices: Sequence[str] = ()
    order: Sequence[int] = ()
    chat: bool | None = None
    weak: bool = False
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("choices", "order", "stop"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))


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
    variants: Sequence[Variant] = field(default=(), kw_only=True)
    cluster: str = field(default="", kw_only=True)
    fact: str = field(default="", kw_only=True)

    kind: ClassVar[str] = "multiple_choice"

    def __post_init__(self) -> None:
        _require_common(self)
        is_list = isinstance(self.choices, (list, tuple))
        require(is_list, self, "choices", f"expected a list of texts, got {quoted(self.choices)}")
        require(len(self.choices) >= 2, self, "choices", f"expected two or more, got {len(self.choices)}")
        for choice in self.choices:
            require_text(self, "choices", choice)
        last = len(self.choices) - 1
        if not is_whole(self.answer):
            same = [i for i, choice in enumerate(self.choices) if choice.strip() == str(self.answer).strip()]
            meant = f"; did you mean {same[0]}?" if len(same) == 1 else ""
            said = f"expected the index of the right choice, got {quoted(self.answer)}; the first choice is 0{meant}"
            require(False, self, "answer", said)
        require(0 <= self.answer <= last, self, "answer", f"expected an index from 0 to {last}, got {self.answer}")
        for name in ("contexts", "lengths"):
            given = getattr(self, name)
            fits = isinstance(given, (list, tuple)) and len(given) in (0, len(self.choices))
            require(fits, self, name, f"expected one for each of the {len(self.choices)} choices, got {quoted(given)}")
            object.__setattr__(self, name, tuple(given))
        for context in self.contexts:
            require_text(self, "contexts", context, empty=True)
        for length in self.lengths:
            positive = isinstance(length, (int, float)) and 0 < length < float("inf")
            require(positive, self, "lengths", f"expected positive numbers, got {quoted(length)}")
        require_one_right(self, "choices", self.choices, self.contexts, self.answer)
        object.__setattr__(self, "choices", tuple(self.choices))
        _set_variants(self)


@dataclass(frozen=True)
class Recall:
    """Right when every token of an answer is the argmax given the prompt: what greedy decoding would produce.

    Attributes:
        answer: A text, or several that are all accepted.
    """

    id: str
    prompt: str
    answer: str | Sequence[str]
    category: str = ""
    variants: Sequence[Variant] = field(default=(), kw_only=True)
    cluster: str = field(default="", kw_only=True)
    fact: str = field(default="", kw_only=True)

    kind: ClassVar[str] = "recall"

    def __post_init__(self) -> None:
        _require_common(self)
        if isinstance(self.answer, (list, tuple)):
            require(bool(self.answer), self, "answer", "must not be an empty list")
            for answer in self.answer:
                require_text(self, "answer", answer)
            object.__setattr__(self, "answer", tuple(self.answer) if len(self.answer) > 1 else self.answer[0])
        else:
            require_text(self, "answer", self.answer)
        _set_variants(self)


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
        samples: Answers that are drawn where the probe samples; what is right is then a share.
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
    samples: int = field(default=1, kw_only=True)
    variants: Sequence[Variant] = field(default=(), kw_only=True)
    cluster: str = field(default="", kw_only=True)
    fact: str = field(default="", kw_only=True)

    kind: ClassVar[str] = "generation"

    def __post_init__(self) -> None:
        _require_common(self)
        is_text = isinstance(self.answer, (str, list, tuple))
        remedy = "; convert it with str()" if isinstance(self.answer, (int, float)) else ""
        require(is_text, self, "answer", f"expected text or a list of texts, got {quoted(self.answer)}{remedy}")
        answers = (self.answer,) if isinstance(self.answer, str) else tuple(self.answer)
        require(bool(answers), self, "answer", "must not be an empty list")
        known = get_args(Match)
        expected = f"expected one of {', '.join(known)}, or a registered name with a dot such as mylab.close"
        problem = f"{expected}, got {quoted(self.match)}{did_you_mean(self.match, known)}"
        require(self.match in known or is_own_match(self.match), self, "match", problem)
        for answer in answers:
            require_text(self, "answer", answer)
            self._require_matchable(answer)
        for name in ("max_new_tokens", "samples"):
            given = getattr(self, name)
            ok = is_whole(given) and given >= 1
            require(ok, self, name, f"expected a whole number of 1 or more, got {quoted(given)}")
        object.__setattr__(self, "answer", answers)
        require_texts(self, "stop", self.stop)
        object.__setattr__(self, "stop", tuple(self.stop))
        require(
            (self.match == "task") == bool(self.task), self, "task", f"goes with match 'task', got {quoted(self.task)}"
        )
        self._require_options()
        require_judgeable(self)
        _set_variants(self)

    def _require_options(self) -> None:
        ok = self.options == 0 or (is_whole(self.options) and self.match == "choice" and 2 <= self.options <= 26)
        require(ok, self, "options", f"goes with match 'choice' and is from 2 to 26, got {quoted(self.options)}")
        if self.options:
            right = {place_of(answer) for answer in self.answer}
            ok = len(right) == 1 and max(right) < self.options
            require(ok, self, "answer", f"expected one letter of the first {self.options}, got {quoted(self.answer)}")

    def _require_matchable(self, answer: str) -> None:
        """An answer that its own rule can never match would count as forgotten for ever."""
        if self.match == "regex":
            try:
                re.compile(answer)
            except (re.error, OverflowError, RecursionError) as error:  # a count too large, nested too deep
                require(False, self, "answer", f"not a regular expression: {quoted(answer)} ({error})")
        elif self.match in ("exact", "prefix"):
            one = len(answer.strip().splitlines()) == 1
            require(
                one, self, "answer", f"match {quoted(self.match)} reads one line, got {quoted(answer)}; use 'contains'"
            )
        elif self.match in _FORMS:
            form, pattern = _FORMS[self.match]
            fits = re.fullmatch(pattern, answer.strip()) is not None
            require(fits, self, "answer", f"match {quoted(self.match)} needs {form}, got {quoted(answer)}")


Item: TypeAlias = MultipleChoice | Recall | Generation | Text


def in_variant(item: Item, number: int) -> Item:
    """An item as one of its prompts asks it, with the options in the order of that prompt.

    Args:
        number: 1 for the item's own prompt, 2 for its first variant, and so on.

    Returns:
        An item without variants. `Variant.chat` is no part of it: it is for whoever puts the prompt to a model.

    Raises:
        ValueError: If the item has no such variant.

    >>> item = MultipleChoice("a", "2 + 2 =", (" 3", " 4"), 1, variants=[{"prompt": "Sum:", "order": [1, 0]}])
    >>> in_variant(item, 2)
    MultipleChoice(id='a', prompt='Sum:', choices=(' 4', ' 3'), answer=0, ... fact='')
    """
    last = 1 + len(item.variants)
    if not is_whole(number) or not 1 <= number <= last:
        raise ValueError(f"item {quoted(item.id)}: expected a variant from 1 to {last}, got {quoted(number)}")
    if number == 1:
        return replace(item, variants=())
    variant = item.variants[number - 2]
    changed: dict[str, Any] = {"prompt": variant.prompt, "variants": ()}
    if isinstance(item, MultipleChoice):
        order = variant.order or range(len(item.choices))
        choices = variant.choices or [item.choices[i] for i in order]
        known = dict(zip(item.choices, item.lengths))
        changed |= {
            "choices": choices,
            "answer": order.index(item.answer),
            "contexts": [item.contexts[i] for i in order] if item.contexts else (),
            "lengths": [known[text] for text in choices] if known.keys() >= set(choices) else (),
        }
    elif isinstance(item, Generation):
        changed["stop"] = (*item.stop, *variant.stop)
        if variant.order:  # a letter
            changed["answer"] = chr(ord("A") + variant.order.index(right_option(item)))
    return replace(item, **changed)


def accepted(item: Recall | Generation | Text) -> tuple[str, ...]:
    """The answers that count as right, as texts; a document has none."""
    return (item.answer,) if isinstance(item.answer, str) else tuple(item.answer)


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


def _require_common(item: Item) -> None:
    require_text(item, "id", item.id)
    require_text(item, "prompt", item.prompt, empty=not isinstance(item, Generation))
    for name in ("category", "cluster", "fact"):
        require_text(item, name, getattr(item, name), empty=True)


def _set_variants(item: Item) -> None:
    """Checks the variants of an item whose other fields are right, and keeps them as `Variant`."""
    is_list = isinstance(item.variants, (list, tuple))
    require(
        is_list, item, "variants", f"expected a list of prompts or of objects with one, got {quoted(item.variants)}"
    )
    variants = tuple(_variant(item, f"variants[{i}]", given) for i, given in enumerate(item.variants))
    # Another order of the same options after the same prompt is no other question: each is scored by itself.
    same = getattr(item, "choices", ())
    seen: dict[tuple[str, bool | None, frozenset[str]], str] = {(item.prompt, None, frozenset(same)): "the item itself"}
    for i, variant in enumerate(variants):
        key = (variant.prompt, variant.chat, frozenset(variant.choices or same))
        problem = f"asks as {seen.get(key)} does, {quoted(variant.prompt)}; give it another prompt or chat, or drop it"
        require(seen.setdefault(key, f"variants[{i}]") == f"variants[{i}]", item, f"variants[{i}]", problem)
    object.__setattr__(item, "variants", variants)


def _variant(item: Item, name: str, given: object) -> Variant:
    """One variant of an item, whatever form it is given in."""
    if isinstance(given, Mapping):
        known = [f.name for f in fields(Variant)]
        unknown = next((key for key in given if key not in known), None)
        remedy = did_you_mean(unknown, known) or "; drop it"
        problem = f"unknown; known are {', '.join(known)}{remedy}"
        require(unknown is None, item, f"{name}.{unknown}", problem)
        require("prompt" in given, item, f"{name}.prompt", "missing")
        given = Variant(**{key: value for key, value in given.items() if value is not None or key == "prompt"})
    variant = Variant(given) if isinstance(given, str) else given
    expected = f"expected a prompt or an object with one, got {type(variant).__name__} {quoted(variant)}"
    require(isinstance(variant, Variant), item, name, expected)
    assert isinstance(variant, Variant)
    require_text(item, f"{name}.prompt", variant.prompt, empty=not isinstance(item, Generation))
    require(
        variant.chat in (None, True, False), item, f"{name}.chat", f"expected true or false, got {quoted(variant.chat)}"
    )
    require(isinstance(variant.weak, bool), item, f"{name}.weak", f"expected true or false, got {quoted(variant.weak)}")
    require_texts(item, f"{name}.choices", variant.choices)
    require_texts(item, f"{name}.stop", variant.stop)
    for field_name, kind in (("choices", MultipleChoice), ("stop", Generation)):
        fits = isinstance(item, kind) or not getattr(variant, field_name)
        require(fits, item, f"{name}.{field_name}", f"goes with {kind.kind}, this is {item.kind}; drop it")
    n = n_options(item)
    require(n > 0 or not variant.order, item, f"{name}.order", "goes with options, and the item has none; drop it")
    is_order = isinstance(variant.order, tuple) and all(map(is_whole, variant.order))
    problem = f"expected the numbers 0 to {n - 1}, each once, got {quoted(variant.order)}"
    require(is_order and sorted(variant.order) in ([], list(range(n))), item, f"{name}.order", problem)
    if isinstance(item, MultipleChoice):
        problem = f"expected {n} as the item has, got {len(variant.choices)}; give one for each, or none to keep them"
        require(len(variant.choices) in (0, n), item, f"{name}.choices", problem)
        for choice in variant.choices:
            require_text(item, f"{name}.choices", choice)
        order = variant.order or tuple(range(n))
        contexts = [item.contexts[i] for i in order] if item.contexts else ()
        choices = variant.choices or [item.choices[i] for i in order]
        require_one_right(item, f"{name}.choices", choices, contexts, order.index(item.answer))
    return variant
