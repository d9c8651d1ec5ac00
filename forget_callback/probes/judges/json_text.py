"""JSON as models write it: which text in an answer is JSON, and its values.

Strict, as a program that reads the answer would be: no trailing comma, comment, single quote, NaN or Infinity, and no
key twice in one object. Pure text processing, in a time that grows with the text's length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from forget_callback.probes.quoting import quoted

_BRACKET = re.compile(r"[\[\]{}]")
# A failure costs the decoder time that grows with the place, so what cannot be JSON is not tried.
_OPENER = re.compile(r"[\[{]")
_BEGINS = re.compile(r"\{\s{0,99}[\"}]|\[\s{0,99}[\]\[{\"\d\-tfn]")
_CLOSES = re.compile(r"\s{0,99}[\]}]")  # one bracket too many
_FENCE = re.compile(r"\s*(`{3,}|~{3,})(.*)")


class NotJSON(ValueError):
    """A text is no JSON, for a reason that people can read."""


def load(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        NotJSON: If it is none, or says a key twice: which value counts depends on the reader.
    """
    try:
        return _DECODER.decode(text.strip())
    except NotJSON:
        raise
    except json.JSONDecodeError as error:
        said = f"{error.msg[:1].lower()}{error.msg[1:]}".removesuffix(" at")
        raise NotJSON(f"no JSON: {said} at character {error.pos + 1}") from None
    except (ValueError, RecursionError):
        raise NotJSON("a number that is too long, or nested too deep") from None


def values(text: str) -> list[tuple[Any, str]]:
    """Every outermost JSON object and list in a text, with its own text.

    What stands within brackets that are no JSON is none either: a part of a broken answer is not the answer.

    >>> values('[sic] Sure: {"a": [1]}, not {"b": [2],}.')
    [({'a': [1]}, '{"a": [1]}')]
    """
    return [(value, text[start:end]) for value, start, end in places(text)]


def places(text: str) -> Iterator[tuple[Any, int, int]]:
    """The `values` of a text, and from where to where each stands."""
    at = 0
    while opened := _OPENER.search(text, at):
        start = opened.start()
        read = value_at(text, start)
        if read is None:
            at = _end_of_brackets(text, start)
        else:
            at = read[1]
            if not _CLOSES.match(text, at):
                yield read[0], start, at


def value_at(text: str, start: int) -> tuple[Any, int] | None:
    """The JSON object or list that begins at a place, and where it ends; None if none does."""
    if not _BEGINS.match(text, start):
        return None
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None


def fenced(text: str) -> list[str]:
    """What stands in each code fence that is closed, line by line."""
    found: list[str] = []
    mark, body = "", list[str]()
    for line in text.splitlines():
        fence = _FENCE.fullmatch(line)
        if fence and not mark:
            mark, body = fence[1], []
        elif fence and fence[1].startswith(mark) and not fence[2].strip():
            found.append("\n".join(body))
            mark = ""
        elif mark:
            body.append(line)
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: 80 and 80.0 are, true and 1 are not.

    >>> same({"a": [80, None]}, {"a": [80.0, None]}), same([1], [True])
    (True, False)
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def plain(value: Any) -> Any:
    """A value as JSON holds it: lists for tuples, an object for any mapping that `dict` takes."""
    return json.loads(json.dumps(value))


def _end_of_brackets(text: str, start: int) -> int:
    """Where the bracket that opens at `start` is closed again, the text's end if it never is."""
    depth = 0
    for bracket in _BRACKET.finditer(text, start):
        depth += 1 if bracket[0] in "[{" else -1
        if depth <= 0:
            return bracket.end()
    return len(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise NotJSON(f"key {quoted(next(key for key in found if keys.count(key) > 1))} twice in one object")
    return found


def _constant(name: str) -> Any:
    raise NotJSON(f"{name} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
