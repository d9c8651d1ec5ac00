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
# Marks of DeepSeek and Gemma, as those that mean the same here.
_ALIKE = {
    "｜DSML｜": "",
    "<start_function_call>": "<tool_call>",
    "<end_function_call>": "</tool_call>",
    "<tool_call|>": "</tool_call>",
    '<|"|>': "<escape>",
    "<start_function_response>": "<tool_response>",
}
# The strings of a JSON text, and what no mark in one of them does without.
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_MASK = str.maketrans("<[=｜", "____")
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


@dataclass(frozen=True)
class _Text:
    """A text, and the same with a mask over the marks in strings of JSON: of one length, so that places hold for both.

    Attributes:
        own: What is read.
        masked: Where marks are looked for: an argument may speak of them.
    """

    own: str
    masked: str

    def __getitem__(self, where: slice) -> _Text:
        return _Text(self.own[where], self.masked[where])

    def partition(self, mark: str) -> tuple[_Text, str, _Text]:
        before, found, _ = self.masked.partition(mark)
        return self[: len(before)], found, self[len(before) + len(found) :]

    def before(self, mark: str) -> _Text:
        return self.partition(mark)[0]

    def split(self, mark: str) -> list[_Text]:
        parts, at = [], 0
        for part in self.masked.split(mark):
            parts.append(self[at : at + len(part)])
            at += len(part) + len(mark)
        return parts

    def replace(self, mark: str, other: str) -> _Text:
        parts = self.split(mark)
        return _Text(other.join(part.own for part in parts), other.join(part.masked for part in parts))


def calls_in(text: str, names: Collection[str] = ()) -> Calls:
    r"""The tool calls that a text makes.

    Args:
        text: An answer without blocks of thinking.
        names: Of the tools that are offered, none if unknown: a form without marks is then only read where it cannot
            be anything else.

    >>> calls_in('<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>')
    Calls(found=(Call(name='add', arguments={'a': 1}, typed=True),), broken=0)
    """
    whole = _masked(text)
    for mark, own in _ALIKE.items():
        whole = whole.replace(mark, own)
    whole = _first_turn(whole)
    bodies = _marked(whole)
    if not bodies and ("<function=" in whole.masked or "<invoke name=" in whole.masked):
        bodies = [whole]
    if bodies:
        read = [_of_body(body, names) for body in bodies]
        return Calls(tuple(call for calls in read for call in calls), sum(not calls for calls in read))
    actions = [action for action in _ACTION.finditer(whole.masked) if not names or action[1] in names]
    if addressed := list(_HARMONY.finditer(whole.masked)) or actions:
        found = [Call(mark[1], _arguments_at(whole.own, mark.end())) for mark in addressed]
        return Calls(tuple(found), 0)
    return _unmarked(whole.own, names)


def _masked(text: str) -> _Text:
    parts, at = [], 0
    for _, start, end in places(text):
        masked = _JSON_STRING.sub(lambda string: string[0].translate(_MASK), text[start:end])
        parts += [text[at:start], masked]
        at = end
    return _Text(text, "".join([*parts, text[at:]]))


def _first_turn(text: _Text) -> _Text:
    end = _TURN_END.search(text.masked)
    return text if end is None else text[: end.start()]


def _marked(text: _Text) -> list[_Text]:
    """What stands after each opening mark, up to the next mark; a mark before another one has nothing of its own."""
    marks = list(_MARK.finditer(text.masked))
    found = []
    for i, mark in enumerate(marks):
        following = marks[i + 1] if i + 1 < len(marks) else None
        body = text[mark.end() : following.start() if following else None]
        if mark["opens"] and (body.own.strip() or following is None or not following["opens"]):
            found.append(body)
    return found


def _of_body(body: _Text, names: Collection[str]) -> list[Call]:
    """The calls that a body spells, in whatever form; none if it cannot be read."""
    own = body.own
    if own.strip() in names:  # GLM's call of a tool without arguments
        return [Call(own.strip(), {})]
    if gemma := _GEMMA.match(own):
        return _escaped(gemma[1], body[gemma.end() :])
    if "<function=" in body.masked or "<invoke name=" in body.masked:
        return _xml(body)
    if "<arg_key>" in body.masked:
        return _keys_and_values(body)
    return _named(own) or [call for value, _ in values(own) for call in _of_json(value)] or _of_python(own, ())


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


def _xml(text: _Text) -> list[Call]:
    """Calls as `<function=NAME><parameter=KEY>VALUE</parameter></function>`, or with `<invoke name="NAME">`."""
    found = []
    functions = "<function=" in text.masked
    opening, value_of = ("<function=", "<parameter=") if functions else ("<invoke name=", "<parameter name=")
    for part in text.split(opening)[1:]:
        head, closed, body = part.partition(">")
        body = body.before("</function>").before("</invoke>")
        name = head.own.strip().strip("\"'")
        if not closed or not re.fullmatch(_NAME, name):
            return []
        if value_of not in body.masked:
            given = body.own.strip()
            found.append(Call(name, _arguments_at(given, 0) if given else {}))
            continue
        arguments = {}
        for parameter in body.split(value_of)[1:]:
            key, _, rest = parameter.partition(">")
            key = key.before('" string=')  # DeepSeek's, which says so of texts
            arguments[key.own.strip().strip("\"'")] = rest.before("</parameter>").own.strip()
        found.append(Call(name, arguments, typed=False))
    return found


def _keys_and_values(body: _Text) -> list[Call]:
    """A call as a name with `<arg_key>` and `<arg_value>` after it."""
    head, *pairs = body.split("<arg_key>")
    arguments = {}
    for pair in pairs:
        key, _, rest = pair.partition("</arg_key>")
        value = rest.partition("<arg_value>")[2].before("</arg_value>")
        arguments[key.own.strip()] = value.own.strip()
    name = head.own.strip()
    return [Call(name, arguments, typed=False)] if re.fullmatch(_NAME, name) else []


def _escaped(name: str, body: _Text) -> list[Call]:
    """A call with keys that are not quoted, and texts between `<escape>` on both sides."""
    parts = [part.own for part in body.split("<escape>")]
    parts[::2] = [_KEY.sub(r'\1"\2":', part) for part in parts[::2]]
    parts[1::2] = [json.dumps(part) for part in parts[1::2]]
    read = value_at("".join(parts), 0)
    return [Call(name, read[0])] if read else []


def _of_python(source: str, names: Collection[str]) -> list[Call]:
    found = [Call(name, arguments) for name, arguments in python_calls(source)]
    return found if not names or all(call.name in names for call in found) else []
