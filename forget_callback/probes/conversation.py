"""Conversations: the messages of an item and the tools that it offers, checked, and as people read them.

Both are kept as JSON would hold them, so that an item read from disk is the item that was written. Knows neither chat
templates nor models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from forget_callback.probes.checks import require, require_text
from forget_callback.probes.quoting import quoted
from forget_callback.probes.suggest import did_you_mean

Message: TypeAlias = Mapping[str, Any]

ROLES = ("system", "user", "assistant", "tool")
_LAST = ("user", "tool")


def checked_messages(item: Any, given: object) -> tuple[dict[str, Any], ...]:
    """The messages of an item: content that is a list of text parts becomes one text, and fields that are None go.

    Raises:
        ValueError: Naming the item and the field of the message that is wrong.
    """
    is_list = isinstance(given, (list, tuple))
    require(is_list, item, "messages", f"expected a list of messages with role and content, got {quoted(given)}")
    assert isinstance(given, (list, tuple))
    messages = tuple(_message(item, f"messages[{i}]", message) for i, message in enumerate(given))
    if messages:
        last = messages[-1]["role"]
        expected = f"the last message must be a user's or a tool's, which the model answers; got {quoted(last)}"
        remedy = "; leave out the answer, it belongs in `answer`" if last == "assistant" else ""
        require(last in _LAST, item, f"messages[{len(messages) - 1}].role", expected + remedy)
    return messages


def checked_tools(item: Any, given: object) -> tuple[dict[str, Any], ...]:
    """The tools of an item, as `apply_chat_template(tools=...)` takes them; also the text of their JSON.

    Raises:
        ValueError: Naming the item and the tool that is wrong.
    """
    if isinstance(given, str) and given:
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            require(False, item, "tools", f"expected a list of tools or the JSON of one, got {quoted(given)} ({error})")
    given = given or ()
    is_list = isinstance(given, (list, tuple))
    require(is_list, item, "tools", f"expected a list of tools, each an object with a name, got {quoted(given)}")
    assert isinstance(given, (list, tuple))
    tools = []
    for i, tool in enumerate(given):
        remedy = "; transformers.utils.get_json_schema makes one of a function" if callable(tool) else ""
        problem = f"expected an object such as {{'type': 'function', 'function': {{'name': ...}}}}, got {quoted(tool)}"
        require(isinstance(tool, Mapping), item, f"tools[{i}]", problem + remedy)
        name = tool_name(tool)
        require(isinstance(name, str) and bool(name), item, f"tools[{i}]", f"has no name: {quoted(tool)}")
        tools.append(_as_json(item, f"tools[{i}]", tool))
    return tuple(tools)


def without_gaps(value: Any) -> Any:
    """The value without the fields that hold None, at any depth; a None in a list stays."""
    if isinstance(value, Mapping):
        return {key: without_gaps(each) for key, each in value.items() if each is not None}
    return [without_gaps(each) for each in value] if isinstance(value, (list, tuple)) else value


def tool_name(tool: Mapping[str, Any]) -> Any:
    """What a tool is called by, with or without `function` around its description; None if it has no name."""
    function = tool.get("function")
    return function.get("name") if isinstance(function, Mapping) else tool.get("name")


def called(message: Message) -> list[dict[str, Any]]:
    """The calls of an assistant's message, each with `name` and `arguments`; arguments that are JSON text are read."""
    calls = []
    for call in message.get("tool_calls") or ():
        function = call.get("function") or call
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            with suppress(ValueError):  # what a model wrote, whatever it is
                arguments = json.loads(arguments)
        calls.append({"name": function.get("name"), "arguments": arguments})
    return calls


def calls_as_text(message: Message) -> list[str]:
    """The calls of an assistant's message as people read them."""
    return [f"{call['name']}({json.dumps(call['arguments'], ensure_ascii=False)})" for call in called(message)]


def last_user(messages: Sequence[Message]) -> int:
    """Place of the last message of a user, -1 if there is none."""
    return max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)


def question_of(item: Any) -> str:
    """What a variant's prompt stands for: the prompt of an item, or the last user's message."""
    place = last_user(item.messages)
    return str(item.messages[place]["content"]) if place >= 0 else str(item.prompt)


def asks_as(messages: Sequence[Message], prompt: str) -> list[dict[str, Any]]:
    """The conversation with a prompt in place of the last user's message, or after all where no user said anything."""
    asked, place = [dict(message) for message in messages], last_user(messages)
    if place < 0:
        return [*asked, {"role": "user", "content": prompt}]
    asked[place]["content"] = prompt
    return asked


def as_text(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
    r"""A conversation as people read it.

    >>> as_text([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    'system: Be brief.\n\nuser: Hi'
    """
    turns = [f"tools: {', '.join(str(tool_name(tool)) for tool in tools)}"] if tools else []
    for message in messages:
        said = "\n".join(text for text in (message.get("content", ""), *calls_as_text(message)) if text)
        turns.append(f"{message['role']}: {said}")
    return "\n\n".join(turns)


def asked(item: Any) -> str:
    """What an item asks, for people: its prompt, or its conversation."""
    return as_text(item.messages, item.tools) if item.messages else str(item.prompt)


def _message(item: Any, name: str, given: object) -> dict[str, Any]:
    require(isinstance(given, Mapping), item, name, f"expected an object with role and content, got {quoted(given)}")
    assert isinstance(given, Mapping)
    role = given.get("role")
    known = f"expected one of {', '.join(ROLES)}, got {quoted(role)}{did_you_mean(role, ROLES)}"
    require(role in ROLES, item, f"{name}.role", known if "role" in given else f"missing; {known}")
    # A table fills what one message has and another has not with None.
    own = {key: value for key, value in given.items() if value is not None and key not in ("role", "content")}
    if "tool_calls" in own:
        _require_calls(item, f"{name}.tool_calls", role, own["tool_calls"])
        if own["tool_calls"] in ([], ()):
            del own["tool_calls"]
    calls = bool(own.get("tool_calls"))
    if given.get("content") is not None or not calls:
        content = _content(item, f"{name}.content", given.get("content", "") if calls else given.get("content"), calls)
        own = {"content": content, **own}
    return _as_json(item, name, {"role": role, **own})


def _content(item: Any, name: str, given: object, calls: bool) -> str:
    """The text of a message, which templates for text alone can put between others."""
    if given is None and calls:
        return ""
    if isinstance(given, (list, tuple)):
        for i, part in enumerate(given):
            is_text = isinstance(part, Mapping) and isinstance(part.get("text"), str)
            fits = is_text and part.get("type", "text") == "text"
            require(fits, item, f"{name}[{i}]", f"expected a part of text, as only text is scored, got {quoted(part)}")
        given = "".join(part["text"] for part in given)
    require_text(item, name, given, empty=True)
    return str(given)


def _require_calls(item: Any, name: str, role: object, given: object) -> None:
    require(isinstance(given, (list, tuple)), item, name, f"expected a list of calls, got {quoted(given)}")
    assert isinstance(given, (list, tuple))
    require(role == "assistant" or not given, item, name, f"only an assistant calls tools, this is a {role}'s message")
    for i, call in enumerate(given):
        function = call.get("function", call) if isinstance(call, Mapping) else None
        fits = isinstance(function, Mapping) and isinstance(function.get("name"), str) and bool(function["name"])
        problem = f"expected an object with function.name and function.arguments, got {quoted(call)}"
        require(fits, item, f"{name}[{i}]", problem)


def _as_json(item: Any, name: str, value: Any) -> dict[str, Any]:
    """A copy that nobody else holds, as it comes back from a file; fields that are None are not there.

    Arrow gives every message and tool of a column the fields of all, and None where it has none.
    """
    try:
        text = json.dumps(without_gaps(value), allow_nan=False, ensure_ascii=False)
        text.encode()  # half of a surrogate pair, which no file can hold
    except (TypeError, ValueError, RecursionError) as error:
        require(False, item, name, f"expected what JSON can hold, got {quoted(value)} ({error})")
    copied: dict[str, Any] = json.loads(text)
    return copied
