"""Tool calls as models write them, in the forms of the chat templates that transformers renders.

A form with marks (`<tool_call>`, `[TOOL_CALLS]`, `<|python_tag|>`, `<function=`, `to=functions.`) is read wherever it
stands; without marks JSON with a name and arguments is, a name with JSON after it, and a Python call that is all
there is. Pure text processing, in a time that grows with the text's length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from forget_callback.probes.judges.json_text import NotJSON, fenced, load, places, value_at, values
from forget_callback.probes.judges.python_calls import python_calls

# Where the assistant's turn has ended: what a model writes after it is no part of its answer.
_TURN_END = re.compile(
    r"<\|(?:eom_id|eot_id|im_end|im_start|start_header_id|call|tool_response)\|>|</?tool_response>|\[/TOOL_CALLS\]|</s>"
)
_WORD = r"(?:minimax:)?(?:tool[_▁]?calls?|function[_▁]?calls?)(?:_section)?"
_MARK = re.compile(
    rf"(?P<opens><[|｜]?{_WORD}(?:[_▁](?:start|begin))?[|｜]?>|\[TOOL_CALLS\]|<\|python_tag\|>|<\|START_ACTION\|>)"
    rf"|<(?:/[|｜]?|[|｜]/){_WORD}[|｜]?>|<[|｜]{_WORD}[_▁]end[|｜]>|<\|END_ACTION\|>"
)
_NAME = r"[A-Za-z_][\w.-]{0,63}"
# What stands between a name and the JSON of its arguments, in the forms that put it there.
_BETWEEN = r"(?:\[CALL_ID\]\w{1,40}|\[ARGS\]|<\|tool_call_argument_begin\|>|<｜tool▁sep｜>|\s|```(?:json)?)*"
_NAMED = re.compile(rf"\s*(?:function<｜tool▁sep｜>)?(?:functions\.)?({_NAME})(?::\d{{1,4}})?{_BETWEEN}(?=\{{)")
_GEMMA = re.compile(rf"\s*call:({_NAME})(?=\{{)")
_KEY = re.compile(r"([{,]\s{0,9})([\w.-]{1,64})\s{0,9}:")
_HARMONY = re.compile(rf"\bto=functions\.({_NAME})[^{{]{{0,80}}(?=\{{)")
# A thought, then an action and what it is given: ReAct's and Qwen-Agent's words for it.
_ACTION = re.compile(
    rf"^[ \t]*(?:Action|✿FUNCTION✿): *({_NAME})[ \t]*\n\s{{0,9}}(?:Action Input|✿ARGS✿): *(?=\{{)", re.MULTILINE
)
_OTHER_MARKS = (
    r"</?(?:function|parameter|invoke|arg_key|arg_value|escape)\b",
    r"to=functions\.",
    r"\[(?:ARGS|CALL_ID)\]",
)
# Marks of DeepSeek and Gemma, as those that mean the same here.
_ALIKE = {
    "｜DSML｜": "",
    "<start_function_call>": "<tool_call>",
    "<end_function_call>": "</tool_call>",
    "<tool_call|>": "</tool_call>",
    '<|"|>': "<escape>",
    "<start_function_response>": "<tool_response>",
}
# What within a text of JSON is none of these marks, and how that text says it otherwise.
_ANY_MARK = re.compile("|".join((_MARK.pattern, _TURN_END.pattern, *map(re.escape, _ALIKE), *_OTHER_MARKS)))
_JSON_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<[=｜"}
_ARGUMENTS = ("arguments", "parameters", "args")
_NAMES = ("name", "function", "tool_name", "tool")


@dataclass(frozen=True)
class Call:
    """A tool call.

    Attributes:
        arguments: None where what stands in their place is no object.
        typed: Whether the form tells a number from a text; XML does not.
    """

    name: str
    arguments: Mapping[str, Any] | None
    typed: bool = True


@dataclass(frozen=True)
class Calls:
    """The calls in a text, in order, and how many more it begins that cannot be read."""

    found: tuple[Call, ...]
    broken: int


def calls_in(text: str, names: Collection[str] = ()) -> Calls:
    r"""The tool calls that a text makes.

    Args:
        text: An answer without blocks of thinking.
        names: Of the tools that are offered, none if unknown: a form without marks is then only read where it cannot
            be anything else.

    >>> calls_in('<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>')
    Calls(found=(Call(name='add', arguments={'a': 1}, typed=True),), broken=0)
    """
    text = _without_marks_in_json(text)
    for mark, own in _ALIKE.items():
        text = text.replace(mark, own)
    text = _first_turn(text)
    bodies = _marked(text)
    if not bodies and ("<function=" in text or "<invoke name=" in text):
        bodies = [text]
    if bodies:
        read = [_of_body(body, names) for body in bodies]
        return Calls(tuple(call for calls in read for call in calls), sum(not calls for calls in read))
    actions = [action for action in _ACTION.finditer(text) if not names or action[1] in names]
    if addressed := list(_HARMONY.finditer(text)) or actions:
        found = [Call(mark[1], _arguments_at(text, mark.end())) for mark in addressed]
        return Calls(tuple(found), 0)
    return _unmarked(text, names)


def _without_marks_in_json(text: str) -> str:
    r"""The same JSON, with `\u003c` for the `<` of a mark in one of its texts: an argument that speaks of marks."""
    parts, at = [], 0
    for _, start, end in places(text):
        if _ANY_MARK.search(text, start, end):
            parts += [text[at:start], _JSON_TEXT.sub(lambda own: own[0].translate(_ESCAPED), text[start:end])]
            at = end
    return "".join([*parts, text[at:]])


def _first_turn(text: str) -> str:
    end = _TURN_END.search(text)
    return text if end is None else text[: end.start()]


def _marked(text: str) -> list[str]:
    """What stands after each opening mark, up to the next mark; a mark before another one has nothing of its own."""
    marks = list(_MARK.finditer(text))
    found = []
    for i, mark in enumerate(marks):
        following = marks[i + 1] if i + 1 < len(marks) else None
        body = text[mark.end() : following.start() if following else len(text)]
        if mark["opens"] and (body.strip() or following is None or not following["opens"]):
            found.append(body)
    return found


def _of_body(body: str, names: Collection[str]) -> list[Call]:
    """The calls that a body spells, in whatever form; none if it cannot be read."""
    if body.strip() in names:  # GLM's call of a tool without arguments
        return [Call(body.strip(), {})]
    if own := _GEMMA.match(body):
        return _escaped(own[1], body[own.end() :])
    if "<function=" in body or "<invoke name=" in body:
        return _xml(body)
    if "<arg_key>" in body:
        return _keys_and_values(body)
    named = _named(body)
    return named or [call for value, _ in values(body) for call in _of_json(value)] or _of_python(body, ())


def _unmarked(text: str, names: Collection[str]) -> Calls:
    """The calls in a text without marks."""
    found, rest = list[Call](), []
    at = 0
    for value, own in values(text):
        calls = [call for call in _of_json(value) if call.name in names or call.arguments is not None]
        if calls or _is_offer(value):
            found += calls
            start = text.index(own, at)
            rest.append(text[at:start])
            at = start + len(own)
    begun = len(_begun(names).findall("".join([*rest, text[at:]])))
    if not found and names and (named := _named(text)) and all(call.name in names for call in named):
        return Calls(tuple(named), 0)
    if not found:
        sources = fenced(text) or [text]
        found = [call for source in sources for call in _of_python(source, names)]
    return Calls(tuple(found), begun)


def _begun(names: Collection[str]) -> re.Pattern[str]:
    """What a call as JSON begins with, as far as it is surely one."""
    name = "|".join(map(re.escape, names)) or rf"{_NAME}"
    known = "" if names else rf'"[^{{}}]{{0,99}}"(?:{"|".join(_ARGUMENTS)})'
    return re.compile(rf'"(?:{"|".join(_NAMES)})"\s{{0,9}}:\s{{0,9}}"(?:{name}){known}"')


def _of_json(value: Any) -> list[Call]:
    """The calls that a JSON value is."""
    if isinstance(value, list):
        return [call for one in value for call in _of_json(one)]
    if not isinstance(value, dict):
        return []
    for key in ("tool_calls", "function_call", "function", "tool_call"):
        if isinstance(value.get(key), (dict, list)):
            return _of_json(value[key])
    name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), None)
    if name is None:
        return []
    given: Any = next((value[key] for key in _ARGUMENTS if key in value), {} if len(value) == 1 else None)
    if _is_offer(value):
        return []
    if given in (None, "") and any(key in value for key in _ARGUMENTS):  # of a tool that takes none
        given = {}
    if isinstance(given, str):  # as in OpenAI's messages
        try:
            given = load(given)
        except NotJSON:
            given = None
    return [Call(name.removeprefix("functions."), given if isinstance(given, dict) else None)]


def _is_offer(value: Any) -> bool:
    """Whether a JSON value is a tool as it was offered, said again, or holds only such."""
    if isinstance(value, list):
        return bool(value) and all(map(_is_offer, value))
    if not isinstance(value, dict):
        return False
    inner = value.get("function", value.get("tools"))
    if isinstance(inner, (dict, list)):
        return _is_offer(inner)
    given = value.get("parameters", {})
    schema = isinstance(given, dict) and (not given or isinstance(given.get("properties"), dict) or "type" in given)
    return isinstance(value.get("name"), str) and isinstance(value.get("description"), str) and schema


def _named(text: str) -> list[Call]:
    """Names with JSON after each, and nothing else; none if there is anything else."""
    found: list[Call] = []
    at = 0
    while (mark := _NAMED.match(text, at)) is not None:
        read = value_at(text, mark.end())
        if read is None:
            return []
        found.append(Call(mark[1], read[0]))
        at = read[1]
    return found if not text[at:].strip(" \n`") else []


def _arguments_at(text: str, start: int) -> dict[str, Any] | None:
    read = value_at(text, start)
    return read[0] if read and isinstance(read[0], dict) else None


def _xml(text: str) -> list[Call]:
    """Calls as `<function=NAME><parameter=KEY>VALUE</parameter></function>`, or with `<invoke name="NAME">`."""
    found = []
    opening, value_of = ("<function=", "<parameter=") if "<function=" in text else ("<invoke name=", "<parameter name=")
    for part in text.split(opening)[1:]:
        name, closed, body = part.partition(">")
        body = body.partition("</function>")[0].partition("</invoke>")[0]
        if not closed or not re.fullmatch(_NAME, name.strip().strip("\"'")):
            return []
        name = name.strip().strip("\"'")
        if value_of not in body:
            found.append(Call(name, _arguments_at(body.strip(), 0) if body.strip() else {}))
            continue
        arguments = {}
        for parameter in body.split(value_of)[1:]:
            key, _, rest = parameter.partition(">")
            key = key.partition('" string=')[0]  # DeepSeek's, which says so of texts
            arguments[key.strip().strip("\"'")] = rest.partition("</parameter>")[0].strip()
        found.append(Call(name, arguments, typed=False))
    return found


def _keys_and_values(body: str) -> list[Call]:
    """A call as a name with `<arg_key>` and `<arg_value>` after it."""
    name, *pairs = body.split("<arg_key>")
    arguments = {}
    for pair in pairs:
        key, _, rest = pair.partition("</arg_key>")
        arguments[key.strip()] = rest.partition("<arg_value>")[2].partition("</arg_value>")[0].strip()
    return [Call(name.strip(), arguments, typed=False)] if re.fullmatch(_NAME, name.strip()) else []


def _escaped(name: str, body: str) -> list[Call]:
    """A call with keys that are not quoted, and texts between `<escape>` on both sides."""
    parts = body.split("<escape>")
    parts[::2] = [_KEY.sub(r'\1"\2":', part) for part in parts[::2]]
    parts[1::2] = [json.dumps(part) for part in parts[1::2]]
    read = value_at("".join(parts), 0)
    return [Call(name, read[0])] if read else []


def _of_python(source: str, names: Collection[str]) -> list[Call]:
    found = [Call(name, arguments) for name, arguments in python_calls(source)]
    return found if not names or all(call.name in names for call in found) else []
