"""Match "json_schema": the answer's JSON fits a schema, and holds the values that are known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from forget_callback.probes.checks import require
from forget_callback.probes.judges.finding import Finding, Form, require_doc, require_examples
from forget_callback.probes.judges.json_text import NotJSON, fenced, load, plain, same, values
from forget_callback.probes.quoting import printable, quoted, shortened

if TYPE_CHECKING:
    from forget_callback.probes.items import Generation

_UNCHECKED = "cannot be checked against the schema"
_FORM: Form = {
    "schema": ("a JSON Schema", lambda value: isinstance(value, (Mapping, bool))),
    "equals": ("an object of keys and their values", lambda value: isinstance(value, Mapping) and bool(value)),
}


def judge(text: str, item: Generation, finished: bool) -> Finding:
    """Whether the text's JSON validates.

    The whole text counts where it is JSON, else what stands in its code fences, else the objects and lists in it;
    words around it do not matter. Several that differ are none: no reader would know which one is meant. Lists do not
    count beside objects where the schema is of an object, nor objects beside lists where it is of a list.

    Raises:
        ImportError: If jsonschema is not installed.
    """
    schema = plain(item.doc["schema"])
    try:
        found = _of_the_sort(_candidates(text), schema)
    except NotJSON as error:
        return Finding.nothing(str(error))
    value, own = found[0]
    if any(not same(value, other) for other, _ in found[1:]):
        return Finding.failed(own, f"{len(found)} JSON texts that differ")
    if problem := _problem(json.dumps(schema), value):
        return Finding.failed(own, problem)
    for key, wanted in plain(item.doc.get("equals", {})).items():
        if not isinstance(value, dict) or key not in value:
            return Finding.failed(own, f"no key {quoted(key)}")
        if not same(value[key], wanted):
            return Finding.failed(own, f"{quoted(key)} is {quoted(value[key])}, not {quoted(wanted)}")
    return Finding.passed(own)


def require_judgeable(item: Generation) -> None:
    """That the schema is one, refers to nothing outside it, and the example answers fit it.

    Where jsonschema is not installed, as where a run is only read, they are not tried.

    Raises:
        ValueError: If not.
    """
    require_doc(item, _FORM, ("schema",))
    schema = json.dumps(plain(item.doc["schema"]))
    try:
        _validator(schema)
    except ImportError:
        return
    except Exception as error:  # whatever a library raises that takes what it is given for a schema
        lacks = type(error).__module__.startswith("referencing")
        said = "refers to what is not in it" if lacks else "is no JSON Schema"
        require(False, item, "doc.schema", f"{said}: {_said(error)}")
    for answer in item.answer:
        problem = ""
        with suppress(NotJSON):  # as its own rule says below
            problem = _problem(schema, _of_the_sort(_candidates(answer.strip()), json.loads(schema))[0][0])
        require(not problem.startswith(_UNCHECKED), item, "doc.schema", f"{problem}, here {quoted(answer)}")
    require_examples(item, judge)


def _candidates(text: str) -> list[tuple[Any, str]]:
    """The values that may be the answer, with their texts; at least one.

    Raises:
        NotJSON: If there is none.
    """
    try:
        return [(load(text), text)]
    except NotJSON as error:
        inside: list[tuple[Any, str]] = []
        for body in fenced(text):
            try:
                inside.append((load(body), body.strip()))
            except NotJSON:
                continue
        found = inside or values(text)
        if not found:
            raise error if text[:1] in "{[" else NotJSON("no JSON in it") from None
        return found


def _of_the_sort(found: list[tuple[Any, str]], schema: Any) -> list[tuple[Any, str]]:
    """Those that are what the schema is of, object or list; all if none is."""
    of = schema.get("type") if isinstance(schema, dict) else None
    sort = {"object": dict, "array": list}.get(of) if isinstance(of, str) else None
    return [one for one in found if sort is not None and isinstance(one[0], sort)] or found


def _problem(schema: str, value: Any) -> str:
    """What stands against a value most, "" if it fits.

    A value that the validator fails on, such as a number beyond what a float holds, does not fit either.
    """
    validator = _validator(schema)
    from jsonschema.exceptions import best_match

    try:
        error = best_match(validator.iter_errors(value))
        return "" if error is None else _short(f"{error.json_path}: {error.message}")
    except MemoryError:
        raise
    except Exception as failure:  # whatever a library raises on what a collapsed model writes
        return f"{_UNCHECKED} ({_said(failure)})"


@lru_cache(256)
def _validator(schema: str) -> Any:
    """The validator of a schema; nothing is fetched for it from anywhere.

    Raises:
        ImportError: If jsonschema is not installed.
        Exception: Of jsonschema or referencing, if it is no schema or refers to what is not in it.
    """
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.validators import validator_for
        from referencing import Registry
        from referencing.jsonschema import DRAFT202012, specification_with
    except ImportError as error:
        raise ImportError("match 'json_schema' needs jsonschema: pip install 'jsonschema>=4.18'") from error
    read = json.loads(schema)
    kind = validator_for(read, default=Draft202012Validator)
    kind.check_schema(read)
    registry: Any = Registry()
    root = specification_with(kind.META_SCHEMA["$schema"], default=DRAFT202012).create_resource(read)
    left = [(root, registry.resolver_with_root(root))]
    while left:
        part, resolver = left.pop()
        for key in ("$ref", "$dynamicRef"):
            if isinstance(part.contents, dict) and key in part.contents:
                kind.check_schema(resolver.lookup(part.contents[key]).contents)
        left += [(inner, resolver.in_subresource(inner)) for inner in part.subresources()]
    return kind(read, registry=registry)


def _said(error: Exception) -> str:
    """An exception as people read it: jsonschema's message alone, which says all, else with its type."""
    message = getattr(error, "message", None)
    return _short(message if isinstance(message, str) else f"{type(error).__name__}: {error}")


def _short(message: str) -> str:
    return shortened(printable(message), 160)
