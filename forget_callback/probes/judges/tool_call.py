"""Matches "tool_call", the answer makes exactly this call, and "no_tool_call", it answers without one."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from forget_callback.probes.checks import require
from forget_callback.probes.judges.calls import Call, Calls, calls_in
from forget_callback.probes.judges.finding import Finding, Form, is_texts, require_doc, require_examples
from forget_callback.probes.judges.json_text import NotJSON, load, plain, same
from forget_callback.probes.quoting import quoted

if TYPE_CHECKING:
    from forget_callback.probes.items import Generation

_FORM: Form = {"ignore": ("a list of names of arguments", is_texts)}


def judge_call(text: str, item: Generation, finished: bool) -> Finding:
    """Whether a text makes the call, or all the calls, that one of the accepted answers is, and no other.

    Names are equal as they are, arguments as JSON values: 80 and 80.0 are the same, "80" is not; texts but for case,
    outer space and how accents are stored. Words around a call do not matter.
    """
    calls = calls_in(text, tool_names(item))
    if not calls.found:
        return Finding.nothing("a call that cannot be read" if calls.broken else "no call")
    if calls.broken:
        return Finding.failed(text, f"{len(calls.found)} read, and another one that cannot be")
    ignored = item.doc.get("ignore", ())
    problems = [_problem(calls, _wanted(answer), ignored) for answer in item.answer]
    return Finding.passed(text) if "" in problems else Finding.failed(text, problems[0], settled=True)


def judge_no_call(text: str, item: Generation, finished: bool) -> Finding:
    """Whether a text says something and calls nothing, nor begins to; what it says is not judged."""
    calls = calls_in(text, tool_names(item))
    if calls.found:
        return Finding.failed(text, f"calls {quoted(calls.found[0].name)}", settled=True)
    return Finding.failed(text, "begins a call", settled=True) if calls.broken else Finding.passed(text)


def require_call(item: Generation) -> None:
    """That each answer is a call as JSON, or a list of these, of tools that are offered.

    Raises:
        ValueError: If not.
    """
    require_doc(item, _FORM)
    offered = {tool["name"]: tool for tool in _tools(item)}
    ignored = item.doc.get("ignore", ())
    for answer in item.answer:
        try:
            wanted = _wanted(answer)
        except NotJSON as error:
            said = 'expected a call as JSON text, {"name": ..., "arguments": {...}}, or a list of these'
            require(False, item, "answer", f"{said}, got {quoted(answer)} ({error})")
        for call in wanted:
            if not offered:
                continue
            require(call.name in offered, item, "answer", f"calls {quoted(call.name)}, which is not in `tools`")
            parameters = offered[call.name].get("parameters") or {}
            known, given = parameters.get("properties") or {}, call.arguments or {}
            unknown = [key for key in given if key not in known]
            require(not unknown, item, "answer", f"{quoted(call.name)} has no parameter {quoted(unknown[:1])}")
            lacking = [key for key in parameters.get("required", ()) if key not in given and key not in ignored]
            require(not lacking, item, "answer", f"{quoted(call.name)} needs {quoted(lacking)}")


def require_no_call(item: Generation) -> None:
    """That the example answers call nothing.

    Raises:
        ValueError: If one does.
    """
    require_doc(item, {})
    require_examples(item, judge_no_call)


def tool_names(item: Generation) -> tuple[str, ...]:
    """The names of the tools that an item offers."""
    return tuple(tool["name"] for tool in _tools(item))


def _tools(item: Generation) -> list[Mapping[str, Any]]:
    """The functions that an item offers, without what `apply_chat_template(tools=...)` may have around each."""
    return [tool["function"] if isinstance(tool.get("function"), Mapping) else tool for tool in item.tools]


def _wanted(answer: str) -> list[Call]:
    """The calls that an accepted answer is.

    Raises:
        NotJSON: If it is none.
    """
    value = load(answer)
    calls = value if isinstance(value, list) else [value]
    for call in calls:
        fits = isinstance(call, dict) and isinstance(call.get("name"), str) and isinstance(call.get("arguments"), dict)
        if not fits or set(call) != {"name", "arguments"}:
            raise NotJSON("not an object with just these two")
    if not calls:
        raise NotJSON("an empty list")
    return [Call(call["name"], call["arguments"]) for call in calls]


def _problem(calls: Calls, wanted: Sequence[Call], ignored: Sequence[str]) -> str:
    """What tells calls from those that are wanted, in any order; "" if nothing."""
    if len(calls.found) != len(wanted):
        return f"{len(calls.found)} calls, not {len(wanted)}"
    left = list(wanted)
    for call in calls.found:
        told = [_difference(call, other, ignored) for other in left]
        if "" not in told:
            return told[0]
        del left[told.index("")]
    return ""


def _difference(call: Call, wanted: Call, ignored: Sequence[str]) -> str:
    """What tells a call from the one that is wanted, "" if nothing."""
    if call.name != wanted.name:
        return f"calls {quoted(call.name)}, not {quoted(wanted.name)}"
    if call.arguments is None:
        return "its arguments are no object"
    given = {key: value for key, value in plain(call.arguments).items() if key not in ignored}
    right = {key: value for key, value in (wanted.arguments or {}).items() if key not in ignored}
    for key in right:
        if key not in given:
            return f"no argument {quoted(key)}"
        if not _same(given[key], right[key], typed=call.typed):
            return f"{quoted(key)} is {quoted(given[key])}, not {quoted(right[key])}"
    extra = [key for key in given if key not in right]
    return f"an argument {quoted(extra[0])} that is not wanted" if extra else ""


def _same(given: Any, wanted: Any, *, typed: bool) -> bool:
    if not typed and isinstance(given, str) and not isinstance(wanted, str):
        try:
            given = load(given)
        except NotJSON:
            given = {"True": True, "False": False, "None": None}.get(given, given)
    return same(_folded(given), _folded(wanted))


def _folded(value: Any) -> Any:
    """A value with its texts in one case, composed and without outer space."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value).casefold().strip()
    if isinstance(value, list):
        return [_folded(one) for one in value]
    return {key: _folded(one) for key, one in value.items()} if isinstance(value, dict) else value
