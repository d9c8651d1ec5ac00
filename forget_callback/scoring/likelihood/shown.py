"""A conversation in a form that a chat template shows to the model. No torch here.

Templates refuse roles (Gemma's has no system), leave out tools or calls of tools, or want calls in a form of their own.
What a template leaves out the model never sees, and the item would look forgotten. So forms of a conversation are
tried, the one that was given first, until the template renders one and shows all of it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

from forget_callback.probes.conversation import called

logger = logging.getLogger(__name__)

Messages: TypeAlias = Sequence[dict[str, Any]]
Tools: TypeAlias = Sequence[Mapping[str, Any]]
Draw: TypeAlias = Callable[[Messages, Tools], str]
_Change: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]

_TOOLS = """You may call these functions:
<tools>
{tools}
</tools>
To call one, answer with <tool_call>{{"name": <its name>, "arguments": <its arguments as JSON>}}</tool_call>"""
_WORD = " Umbrella"  # a change that a template which shows a message shows

_said: set[tuple[str, str]] = set()


class NotScorableError(ValueError):
    """An item that cannot be put to this model; the message says why."""


def shown(messages: Messages, tools: Tools, draw: Draw, *, owner: str) -> str:
    """The conversation as the template renders it, with nothing left out.

    Args:
        draw: Renders messages and tools by the template.
        owner: Whose conversation it is, for the line that says what the template does not show.

    Raises:
        NotScorableError: If it leaves out something whatever the form.
        Exception: What the template raises on the conversation as it was given.
    """
    problem: Exception | None = None
    for form in _forms(messages, tools):
        if form.parts and type(problem).__name__ == "TemplateError":  # the template's own words, not a text in the way
            continue
        drawn = _drawn_in_parts(draw) if form.parts else draw
        try:
            text = drawn(form.messages, form.tools)
        except Exception as error:  # each template in its own way
            problem = problem or error
            continue
        if hidden := _hidden(form, text, drawn):
            problem = problem or NotScorableError(f"the chat template leaves out {hidden}")
            continue
        for what in form.said:
            _say(owner, what)
        return text
    assert problem is not None
    raise problem


@dataclass(frozen=True)
class _Form:
    """A form of a conversation.

    Attributes:
        said: What is put otherwise than it was given, for people.
        parts: Whether texts are lists of parts, which templates of models with images read alone.
    """

    messages: Messages
    tools: Tools
    said: tuple[str, ...] = ()
    parts: bool = False


def _forms(messages: Messages, tools: Tools) -> Iterator[_Form]:
    """The forms of a conversation, those with the least changes first."""
    yield _Form(messages, tools)
    roles, calls = {message["role"] for message in messages}, any(map(_calls, messages))
    written = len(_CALLS) - 1
    ways = [
        range(len(_CALLS) if calls else 1),
        range(1 + ("tool" in roles)),
        range(1 + bool(tools)),
        range(1 + ("system" in roles or bool(tools))),
        range(2),
    ]
    changes = sorted(product(*ways), key=lambda way: (way[0] == written) + sum(way[1:4]) + 9 * way[4] + way[0] / 100)
    for call, answer, offer, system, parts in changes[1:]:
        asked = [_CALLS[call](message) for message in messages]
        if answer:
            asked = _answered_by_user(asked)
        if offer:
            asked = _with_tools(asked, tools)
        if system:
            if len(asked) < 2 or (asked[0]["role"], asked[1]["role"]) != ("system", "user"):
                continue
            first = f"{asked[0]['content']}\n\n{asked[1]['content']}".strip()
            asked = [{**asked[1], "content": first}, *asked[2:]]
        said = [what for what, done in zip(_DONE, (call == written, answer, offer, system)) if done]
        yield _Form(asked, () if offer else tools, tuple(said), bool(parts))


def _drawn_in_parts(draw: Draw) -> Draw:
    def in_parts(message: dict[str, Any]) -> dict[str, Any]:
        text = message.get("content")
        return message if text is None else {**message, "content": [{"type": "text", "text": text}]}

    return lambda messages, tools: draw([in_parts(message) for message in messages], tools)


def _content(value: str | None) -> _Change:
    return lambda message: {**message, "content": message.get("content") or value} if _calls(message) else message


def _arguments(change: _Change) -> _Change:
    """Arguments as text, as the API of servers has them."""

    def changed(message: dict[str, Any]) -> dict[str, Any]:
        calls = [
            {**given, "function": {**call, "arguments": json.dumps(call["arguments"], ensure_ascii=False)}}
            for given, call in zip(_calls(message), called(message))
        ]
        return {**change(message), "tool_calls": calls} if calls else message

    return changed


def _written(message: dict[str, Any]) -> dict[str, Any]:
    """Calls as Hermes and Qwen write them, as the text of the message."""
    calls = [f"<tool_call>{json.dumps(call, ensure_ascii=False)}</tool_call>" for call in called(message)]
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**rest, "content": "\n".join(text for text in (message.get("content"), *calls) if text)}


def _calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(message.get("tool_calls") or ())


# The forms of an assistant's message with calls: templates read its content as text, or expect none.
_CALLS: tuple[_Change, ...] = (
    lambda message: message,
    _content(""),
    _content(None),
    _arguments(_content("")),
    _arguments(_content(None)),
    _written,
)


def _answered_by_user(messages: Messages) -> list[dict[str, Any]]:
    """What tools answered as a user's message, as Qwen's template has it; answers in a row are one."""
    result: list[dict[str, Any]] = []
    before = ""
    for message in messages:
        if message["role"] == "tool":
            text = f"<tool_response>\n{message['content']}\n</tool_response>"
            if before == "tool":
                text = f"{result.pop()['content']}\n{text}"
            result.append({"role": "user", "content": text})
        else:
            result.append(message)
        before = message["role"]
    return result


def _with_tools(messages: Messages, tools: Tools) -> list[dict[str, Any]]:
    """The tools in the system message, with how to call them."""
    text = _TOOLS.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    own = messages[0]["role"] == "system"
    system = f"{messages[0]['content']}\n\n{text}".strip() if own else text
    return [{"role": "system", "content": system}, *messages[own:]]


def _hidden(form: _Form, text: str, draw: Draw) -> str:
    """What a rendered conversation does not show, "" if nothing."""
    messages, tools = form.messages, form.tools

    def same(changed: Messages, offered: Tools) -> bool:
        try:
            return draw(changed, offered) == text
        except Exception:  # then the template reads it
            return False

    if form.parts and "'type': 'text'" in text:
        return "that a text is one part of several, which it writes as they are"
    if tools and same(messages, ()):
        return "the tools"
    for i, message in enumerate(messages):
        content, role = (message.get("content") or "").strip(), message["role"]
        before, after = messages[:i], messages[i + 1 :]
        if _calls(message):
            bare = {name: value for name, value in message.items() if name != "tool_calls"}
            for empty in (content, message.get("content")):  # some write None as a word, which is no call
                if same([*before, {**bare, "content": empty}, *after], tools):
                    return "a call of a tool"
        # Some write it as JSON, or without an earlier block of thinking.
        changed = {**message, "content": content + _WORD}
        if content and content not in text and same([*before, changed, *after], tools):
            return f"a message of the {role}"
    return ""


def _say(owner: str, what: str) -> None:
    if (owner, what) not in _said:
        _said.add((owner, what))
        logger.warning("%s: the chat template does not show %s to the model; %s", owner, what, _DONE[what])


_DONE = {
    "calls of tools": "they are put into the assistant's messages as <tool_call>{...}</tool_call>",
    "answers of tools": "they are put into a user's message as <tool_response>...</tool_response>",
    "tools": "they are put into the system message as JSON, with how to call one",
    "a system message": "it is put before the first user's message",
}
