"""What a rule makes of a text, and what it asks of the item that it judges: `doc`, and example answers that pass it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from forget_callback.probes.checks import require
from forget_callback.probes.quoting import quoted
from forget_callback.probes.suggest import did_you_mean

if TYPE_CHECKING:
    from forget_callback.probes.items import Generation


@dataclass(frozen=True)
class Finding:
    """What a rule found in a text.

    Attributes:
        right: Whether the text passes.
        prediction: What was judged, as people read it; None where the text holds nothing to judge ("unparsed").
        why: Why it is not right, in a few words that hold no line break; "" where it is.
        settled: Whether nothing that could follow would make it right, so that a text that was cut is wrong as well.
        ran_out: Whether it was run and was gone before its tests were through, as code is that comes to its limits.
    """

    right: bool
    prediction: str | None
    why: str = ""
    settled: bool = False
    ran_out: bool = False

    @classmethod
    def passed(cls, prediction: str) -> Finding:
        """Right."""
        return cls(True, prediction)

    @classmethod
    def failed(cls, prediction: str, why: str, *, settled: bool = False, ran_out: bool = False) -> Finding:
        """Not right, for a reason."""
        return cls(False, prediction, why, settled, ran_out)

    @classmethod
    def nothing(cls, why: str) -> Finding:
        """Nothing to judge, for a reason."""
        return cls(False, None, why)


@dataclass(frozen=True)
class Rule:
    """A judge.

    Attributes:
        judge: From the text of an answer, without blocks of thinking and outer space and not empty, the item, and
            whether the text ended before the token limit, to what was found.
        require: Raises ValueError where an item cannot be judged: its `doc` is not what the rule reads, or an example
            answer does not pass.
        apart: Whether a text can make the rule run away, so that it needs a process of its own with a deadline.
        marks: Whether it reads special tokens too.
    """

    judge: Callable[[str, Generation, bool], Finding]
    require: Callable[[Generation], None]
    apart: bool = False
    marks: bool = False


# Of each key of `doc` what it must be, in words, and whether a value is.
Form: TypeAlias = Mapping[str, tuple[str, Callable[[Any], bool]]]


def require_doc(item: Generation, form: Form, needed: tuple[str, ...] = ()) -> None:
    """That `doc` holds what a rule reads, and nothing else: a misspelled key would change the rule silently."""
    require(isinstance(item.doc, Mapping), item, "doc", f"expected an object, got {quoted(item.doc)}")
    of = f"match {quoted(item.match)} reads"
    for key, value in item.doc.items():
        known = f"{', '.join(form) or 'nothing'}{did_you_mean(str(key), list(form)) or '; drop it'}"
        require(key in form, item, "doc", f"unknown key {quoted(key)}; {of} {known}")
        require(_is_json(value), item, f"doc.{key}", f"expected what JSON can hold, got {quoted(value)}")
        expected, fits = form[key]
        require(fits(value), item, f"doc.{key}", f"expected {expected}, got {quoted(value)}")
    for key in needed:
        require(key in item.doc, item, f"doc.{key}", f"missing; {of} {', '.join(form)}")


def require_examples(item: Generation, judge: Callable[[str, Generation, bool], Finding]) -> None:
    """That each example answer passes the item's own rule; one that cannot would count as forgotten for ever."""
    for answer in item.answer:
        found = judge(answer.strip(), item, True)
        problem = f"its own rule fails it ({found.why}): {quoted(answer)}; mend the answer or `doc`"
        require(found.right, item, "answer", problem)


def _is_json(value: object) -> bool:
    try:
        return bool(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return False


def is_texts(value: object) -> bool:
    """Whether a value is a list of texts, none of them empty, and at least one."""
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(one, str) and one for one in value)
