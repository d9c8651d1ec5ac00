"""What fields of items must be; errors name the item, the field, what came and what to do.

Knows the items' fields by name only, not their kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forget_callback.probes.quoting import quoted


def require(condition: bool, item: Any, field: str, problem: str) -> None:
    """Raises the error of a field unless the condition holds."""
    if not condition:
        raise ValueError(f"item {quoted(getattr(item, 'id', None))}, field {field!r}: {problem}")


def require_text(item: Any, field: str, value: object, *, empty: bool = False) -> None:
    """A text that a file can hold, and not an empty one unless `empty` is."""
    remedy = "; convert it with str()" if isinstance(value, (int, float)) else ""
    require(isinstance(value, str), item, field, f"expected text, got {type(value).__name__} {quoted(value)}{remedy}")
    require(empty or bool(str(value).strip()), item, field, f"must not be empty, got {quoted(value)}")
    try:
        str(value).encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can spell and no file can hold
        require(False, item, field, f"not valid text: {error}")


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, and not True or False."""
    return isinstance(value, int) and not isinstance(value, bool)


def require_texts(item: Any, field: str, value: object) -> None:
    """A list of texts, none of them empty."""
    fits = isinstance(value, (list, tuple)) and all(isinstance(text, str) and text for text in value)
    require(fits, item, field, f"expected a list of texts that are not empty, got {quoted(value)}")


def require_one_right(item: Any, field: str, choices: Sequence[str], contexts: Sequence[str], answer: int) -> None:
    """No option is the right one again; equal wrong ones do occur in benchmarks, and do no harm."""
    texts = [(c.strip(), t.strip()) for c, t in zip(contexts or [""] * len(choices), choices)]
    for i, option in enumerate(texts):
        problem = f"choice {i} equals the answer, choice {answer}: {quoted(choices[answer])}; remove one"
        require(i == answer or option != texts[answer], item, field, problem)
