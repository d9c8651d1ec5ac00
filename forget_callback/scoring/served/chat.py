"""Conversations with tools as an OpenAI-compatible chat server takes them, and its calls as a model writes them.

Such servers name each call, and take its arguments as text; chat templates do neither. Whether a server shows tools to
its model at all is asked before anything is scored.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from forget_callback.probes.conversation import Message, called
from forget_callback.probes.items import Item
from forget_callback.probes.probe import Probe
from forget_callback.scoring.likelihood.rendering import messages_of
from forget_callback.scoring.served.client import Body, Server, Unanswered

_REMEDY = (
    "start it so that it takes tools (vLLM: --enable-auto-tool-choice --tool-call-parser NAME; llama.cpp: --jinja), or "
    "pass --tokenizer with the model's, and conversations are rendered here"
)


def chat_body(item: Item, probe: Probe) -> dict[str, Any]:
    """The conversation of an item and its tools, as fields of a request."""
    body: dict[str, Any] = {"messages": sent(messages_of(item, probe))}
    return body | ({"tools": list(item.tools)} if item.tools else {})


def sent(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as the API has them: calls have ids, which a tool's answers name in turn, and arguments are text.

    >>> said = [{"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}]
    >>> sent([*said, {"role": "tool", "content": "2"}])[1]
    {'role': 'tool', 'content': '2', 'tool_call_id': 'call_0'}
    """
    result: list[dict[str, Any]] = []
    open_calls: deque[str] = deque()
    n = 0
    for message in map(dict, messages):
        if calls := called(message):
            own = []
            for given, call in zip(message["tool_calls"], calls):
                name, arguments = given.get("id") or f"call_{n}", json.dumps(call["arguments"], ensure_ascii=False)
                own.append({"id": name, "type": "function", "function": {"name": call["name"], "arguments": arguments}})
                open_calls.append(name)
                n += 1
            message["tool_calls"] = own
        elif message["role"] == "tool" and open_calls:
            message.setdefault("tool_call_id", open_calls.popleft())
        result.append(message)
    return result


def said(message: Mapping[str, Any]) -> str:
    """The text of a server's message, with the calls that the server parsed out of it, as a model writes them."""
    calls = [f"<tool_call>{json.dumps(call, ensure_ascii=False)}</tool_call>" for call in called(message)]
    return "\n".join(text for text in (message.get("content") or "", *calls) if text)


def require_tools(server: Server, probe: Probe) -> None:
    """Checks that a server, which renders conversations itself, shows tools to its model.

    Raises:
        ValueError: If it takes no tools, or its prompt has no token more with them.
    """
    item = next((item for item in probe.items if item.tools), None)
    if item is None:
        return
    body: Body = {"max_tokens": 1, "temperature": 0, **chat_body(item, probe)}
    lengths = []
    for fields in (body, {name: value for name, value in body.items() if name != "tools"}):
        answer = server.request("chat/completions", fields)
        if isinstance(answer, Unanswered):
            if not answer.refused:
                raise ValueError(f"{server.url} does not answer for model {server.model!r}: {answer.problem}")
            if fields is body:
                raise ValueError(
                    f"{server.url} takes no tools for model {server.model!r}, and probe {probe.name!r} has them: "
                    f"{answer.problem}; {_REMEDY}"
                )
            return  # it refuses a conversation with calls and no tools
        lengths.append((answer.get("usage") or {}).get("prompt_tokens"))
    if lengths[0] is not None and lengths[0] == lengths[1]:
        raise ValueError(
            f"{server.url} shows no tools to model {server.model!r} ({lengths[0]} tokens of prompt with them and "
            f"without), and probe {probe.name!r} has them; {_REMEDY}"
        )
