"""Specs of probes as text, for another process to load: with another working directory, or another limit."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import parse_qsl, urlencode


def specs_of(probes: Any) -> tuple[str, ...]:
    """The specs and paths among probes in any form that `as_probes` takes; objects and tables have none.

    Nothing is loaded.

    >>> specs_of("builtin:facts"), specs_of(["builtin:facts", {"id": "a", "prompt": "2 + 2 =", "answer": "4"}])
    (('builtin:facts',), ('builtin:facts',))
    """
    given = probes if isinstance(probes, list | tuple) else [probes]
    return tuple(os.fspath(one) for one in given if isinstance(one, str | os.PathLike))


def limited(spec: str, limit: int | None) -> str:
    """A spec with at most so many items.

    >>> limited("builtin:facts", 20), limited("a.jsonl?chat=true&limit=5", 20), limited("a.jsonl?limit=50", 20)
    ('builtin:facts?limit=20', 'a.jsonl?chat=true&limit=5', 'a.jsonl?limit=20')
    """
    path, _, query = spec.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    given = options.get("limit", "")
    if limit is None or (given.isdecimal() and int(given) < limit):
        return spec
    return f"{path}?{urlencode({**options, 'limit': limit})}"


def absolute(spec: str) -> str:
    """A spec with the paths in it made absolute."""
    path, mark, query = spec.partition("?")
    scheme, colon, file = path.partition(":")
    if not colon:
        path = os.path.abspath(path)
    elif scheme == "corpus":
        path = f"corpus:{os.path.abspath(file)}"
    options = dict(parse_qsl(query, keep_blank_values=True))
    if "include_path" in options:
        query = urlencode({**options, "include_path": os.path.abspath(options["include_path"])})
    return f"{path}{mark}{query}"
