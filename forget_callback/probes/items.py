"""Items: the questions of a probe, and what counts as right.

An item is validated when it is built, so that nothing downstream needs to check again. Every kind has a `prompt` or, by
name, `messages` (a conversation, see `conversation.py`) with the `tools` that it offers; and by name its `variants`
(further ways to ask the same, also given as texts or mappings), a `cluster` (items of one passage, subject or fact are
no independent draws), a `fact` (which joins the forms in which one fact is asked) and an `ability` (see
`abilities.py`). Knows nothing of models, tokenizers or files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from forget_callback.probes.abilities import Ability
from forget_callback.probes.checks import is_whole, require, require_one_right, require_text, require_texts
from forget_callback.probes.conversation import Message, asks_as, checked_messages, checked_tools
from forget_callback.probes.item_variants import Variant, set_variants
from forget_callback.probes.judges.rules import require_judgeable
from forget_callback.probes.quoting import quoted
from forget_callback.probes.suggest import did_you_mean
from forget_callback.probes.text_items import Text as Text

Match: TypeAlias = Literal[
    "exact",
    "prefix",
    "contains",
    "named",
    "stated",
    "number",
    "math",
    "choice",
    "regex",
    "task",
    "json_schema",
    "tool_call",
    "no_tool_call",
    "constraints",
    "refusal",
    "no_refusal",
    "language",
    "code",
]

# A custom matcher has a dot in its name: a misspelled built-in one is still found, and a run can be read where
# the matcher is not registered.
_OWN_MATCH = re.compile(r"\w+(\.\w+)+")
# A prompt that was not given, as where there are messages; an empty one is the beginning of a text.
_NO_PROMPT: Any = object()
# An answer that was not given has a default only as it comes after a field that may be left out.
_MISSING: Any = None
# What an answer must be, for the matches that read nothing else.
_FORMS = {
    "number": ("a number", r"[-+]?[$€£]?\d[\d,]*(\.\d+)?%?|[-+]?\.\d+"),
    "choice": ("one letter", r"\(?[A-Za-z]\)?"),
}


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
    prompt: str = _NO_PROMPT
    choices: Sequence[str] = ()
    answer: int = _MISSING
    category: str = ""
    contexts: Sequence[str] = ()
    lengths: Sequence[float] = ()
    variants: Sequence[Variant] = field(default=(), kw_only=True)
    cluster: str = field(default="", kw_only=True)
    fact: str = field(default="", kw_only=True)
    messages: Sequence[Message] = field(default=(), kw_only=True, hash=False)
    tools: Sequence[Mapping[str, Any]] = field(default=(), kw_only=True, hash=False)
    ability: str = field(default="", kw_only=True)

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
        set_variants(self)


@dataclass(frozen=True)
class Recall:
    """Right when every token of an answer is the argmax given the prompt: what greedy decoding would produce.

    Attributes:
        answer: A text, or several that are all accepted.
    """

    id: str
    prompt: str = _NO_PROMPT
    answer: str | Sequence[str] = _MISSING
    category: str = ""
    variants: Sequence[Variant] = field(default=(), kw_only=True)
    cluster: str = field(default="", kw_only=True)
    fact: str = field(default="", kw_only=True)
    messages: Sequence[Message] = field(default=(), kw_only=True, hash=False)
    tools: Sequence[Mapping[str, Any]] = field(default=(), kw_only=True, hash=False)
    ability: str = field(default="", kw_only=True)

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
        set_variants(self)


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
    prompt: str = _NO_PROMPT
    answer: str | Sequence[str] = _MISSING
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
    messages: Sequence[Message] = field(default=(), kw_only=True, hash=False)
    tools: Sequence[Mapping[str, Any]] = field(default=(), kw_only=True, hash=False)
    ability: str = field(default="", kw_only=True)

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
        set_variants(self)

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
        An item without variants. In a conversation the prompt of a variant is the last user's message, and stands alone
        where the variant is plain text. `Variant.chat` is no part of it: it is for whoever puts the prompt to a model.

    Raises:
        ValueError: If the item has no such variant.

    >>> item = MultipleChoice("a", "2 + 2 =", (" 3", " 4"), 1, variants=[{"prompt": "Sum:", "order": [1, 0]}])
    >>> in_variant(item, 2)
    MultipleChoice(id='a', prompt='Sum:', choices=(' 4', ' 3'), answer=0, ... ability='')
    """
    last = 1 + len(item.variants)
    if not is_whole(number) or not 1 <= number <= last:
        raise ValueError(f"item {quoted(item.id)}: expected a variant from 1 to {last}, got {quoted(number)}")
    if number == 1:
        return replace(item, variants=())
    variant = item.variants[number - 2]
    changed: dict[str, Any] = {"prompt": variant.prompt, "variants": ()}
    if item.messages and variant.chat is not False:
        changed |= {"prompt": "", "messages": asks_as(item.messages, variant.prompt)}
    elif item.messages:
        changed |= {"messages": (), "tools": ()}
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
    """Checks the fields of every kind, and keeps messages and tools as JSON would hold them."""
    require_text(item, "id", item.id)
    object.__setattr__(item, "messages", checked_messages(item, item.messages))
    object.__setattr__(item, "tools", checked_tools(item, item.tools))
    if item.messages:
        problem = f"goes in place of `prompt`, which is {quoted(item.prompt)}; drop one of them"
        require(item.prompt in (_NO_PROMPT, None, ""), item, "messages", problem)
        object.__setattr__(item, "prompt", "")
    else:
        require(
            item.prompt is not _NO_PROMPT, item, "prompt", "missing; give a prompt, or a conversation as `messages`"
        )
        require_text(item, "prompt", item.prompt, empty=not isinstance(item, Generation))
        require(not item.tools, item, "tools", "goes with `messages`; ask in a user's message there")
    for name in ("category", "cluster", "fact"):
        require_text(item, name, getattr(item, name), empty=True)
    known = get_args(Ability)
    problem = f"expected one of {', '.join(known)}, got {quoted(item.ability)}{did_you_mean(item.ability, known)}"
    require(item.ability in ("", *known), item, "ability", problem)
