"""Calls as Python spells them, ``get_weather(city="Rome")`` or a list of these; nothing is run."""

from __future__ import annotations

import ast
import warnings
from typing import Any

# Longer than any call, and short enough for the parser whatever stands there.
_LONGEST = 2000


def python_calls(source: str) -> list[tuple[str, dict[str, Any]]]:
    """The calls that a text is, and nothing else: of names, with keyword arguments that are plain values.

    Llama's built-in tools are called as ``name.call(...)``, Gemma prints its calls.

    >>> python_calls('[add(a=1), get_weather(city="Rome")]')
    [('add', {'a': 1}), ('get_weather', {'city': 'Rome'})]
    """
    source = source.strip()
    if len(source) > _LONGEST or not source.endswith((")", ")]")):
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an escape that is none
            body = ast.parse(source).body
        return [_call(node) for statement in body for node in _nodes(statement)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _nodes(statement: ast.stmt) -> list[ast.expr]:
    if not isinstance(statement, ast.Expr):
        raise ValueError("no expression")
    value = statement.value
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "print":
        return value.args
    return value.elts if isinstance(value, ast.List) else [value]


def _call(node: ast.expr) -> tuple[str, dict[str, Any]]:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("no call by keywords")
    name = ast.unparse(node.func).removesuffix(".call").removeprefix("functions.")
    if not name.replace(".", "").isidentifier():
        raise ValueError("no name")
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("an argument without a name")
        value = ast.literal_eval(keyword.value)
        arguments[keyword.arg] = list(value) if isinstance(value, tuple) else value
    return name, arguments
