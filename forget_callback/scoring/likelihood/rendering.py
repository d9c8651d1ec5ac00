"""What a model is asked: the prompt of an item, or its conversation as the chat template renders it. No torch here.

What a template leaves out the model never sees. So tools, and calls of tools, that a template does not write are put
into the messages, and an item is not scored where the template leaves out one of its messages.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from forget_callback.probes.conversation import Message, called
from forget_callback.probes.items import Item
from forget_callback.probes.probe import PLAIN, Probe
from forget_callback.probes.quoting import quoted

logger = logging.getLogger(__name__)

_TOOLS = """You may call these functions:
<tools>
{tools}
</tools>
To call one, answer with <tool_call>{{"name": <its name>, "arguments": <its arguments as JSON>}}</tool_call>"""
_WORD = " Umbrella"  # a change that a template which writes a message shows

_said: set[tuple[str, str]] = set()


class NotScorableError(ValueError):
    """An item that cannot be put to this model; the message says why."""


def bind(probe: Probe, tokenizer: Any) -> Probe:
    """The probe with the tokenizer's chat template in its fingerprint, if it is a chat probe without a template.

    With `chat` None the tokenizer decides whether it is one. Of a tokenizer that has several templates by name, as for
    conversations with and without tools, all are in the fingerprint.

    Raises:
        ValueError: If the probe needs a chat template and the tokenizer has none.
    """
    if probe.chat is False or probe.template:
        return probe
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, Mapping) and template:
        template = json.dumps(dict(template), sort_keys=True)
    if probe.chat is None and not isinstance(template, str):
        return replace(probe, **PLAIN)
    if not isinstance(template, str):
        talks = next((item.id for item in probe.items if item.messages), None)
        why = "has chat=True" if talks is None else f"has conversations, such as item {quoted(talks)}"
        remedy = "use chat=False" if talks is None else "score a model that was tuned for chat"
        raise ValueError(
            f"probe {probe.name!r} {why}, but the tokenizer has no chat template; set tokenizer.chat_template "
            f"or {remedy}"
        )
    return replace(probe, chat=True, template=template)


def context_of(item: Item, probe: Probe, tokenizer: Any) -> str:
    """The text before the answer: the prompt, or the conversation rendered by the chat template.

    Raises:
        NotScorableError: If the template leaves out a message.
        Exception: What the template raises.
    """
    if not probe.chat:
        return item.prompt
    messages = messages_of(item, probe)

    def draw(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
        return render(messages, probe, tokenizer, tools=tools, generation_prompt=probe.generation_prompt)

    if not item.messages:
        return draw(messages, ())
    shown = _with_tools(_with_calls(messages, item.tools, draw, probe.name), item.tools, draw, probe.name)
    text = draw(*shown)
    _require_shown(*shown, text, draw)
    return text


def render(
    messages: Sequence[Message],
    probe: Probe,
    tokenizer: Any,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    generation_prompt: bool,
) -> str:
    """A conversation as the chat template of a probe renders it.

    Args:
        generation_prompt: Whether the template opens the assistant's turn.

    Raises:
        Exception: What the template raises.
    """
    thinking = {} if probe.thinking is None else {"enable_thinking": probe.thinking}
    several = isinstance(getattr(tokenizer, "chat_template", None), Mapping)  # the tokenizer chooses by the tools
    rendered = tokenizer.apply_chat_template(
        list(messages),
        tools=list(tools) or None,
        chat_template=None if several else probe.template,
        add_generation_prompt=generation_prompt,
        tokenize=False,
        **thinking,
    )
    return str(rendered)


def messages_of(item: Item, probe: Probe) -> list[dict[str, Any]]:
    """The messages of an item of a chat probe; a system message of its own stands in place of the probe's."""
    messages = [dict(message) for message in item.messages] or [{"role": "user", "content": item.prompt}]
    own = not probe.system or messages[0]["role"] == "system"
    return messages if own else [{"role": "system", "content": probe.system}, *messages]


_Draw = Callable[[Sequence[Message], Sequence[Mapping[str, Any]]], str]


def _with_calls(
    messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]], draw: _Draw, probe: str
) -> list[dict[str, Any]]:
    """The messages, with the calls of an assistant as text where the template does not write them."""
    if not any(message.get("tool_calls") for message in messages):
        return messages
    bare = [{"content": "", **{k: v for k, v in message.items() if k != "tool_calls"}} for message in messages]
    if _drawn(draw, messages, tools) not in (None, _drawn(draw, bare, tools)):
        return messages
    _say(probe, "calls of tools", "they are written into the assistant's messages, within <tool_call>")
    for plain, message in zip(bare, messages):
        calls = [f"<tool_call>{json.dumps(call, ensure_ascii=False)}</tool_call>" for call in called(message)]
        plain["content"] = "\n".join(text for text in (plain["content"], *calls) if text)
    return bare


def _with_tools(
    messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]], draw: _Draw, probe: str
) -> tuple[list[dict[str, Any]], Sequence[Mapping[str, Any]]]:
    """The messages and the tools; these as text of a message where the template does not write them."""
    if not tools or _drawn(draw, messages, tools) not in (None, _drawn(draw, messages, ())):
        return messages, tools
    text = _TOOLS.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    _say(probe, "tools", "they are put into the system message (or the first one), with how to call them")
    rest = messages[1:] if messages[0]["role"] == "system" else messages
    before = [messages[0]["content"]] if rest is not messages and messages[0]["content"] else []
    system = {"role": "system", "content": "\n\n".join([*before, text])}
    if _drawn(draw, [system, *rest], ()) is not None or rest is not messages:
        return [system, *rest], ()
    first = {**messages[0], "content": f"{text}\n\n{messages[0].get('content', '')}"}
    return [first, *messages[1:]], ()


def _require_shown(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], text: str, draw: _Draw) -> None:
    for i, message in enumerate(messages):
        content = message.get("content", "").strip()
        if content and content not in text:  # some write it as JSON, or without an earlier block of thinking
            changed = [*messages[:i], {**message, "content": content + _WORD}, *messages[i + 1 :]]
            if _drawn(draw, changed, tools) == text:
                raise NotScorableError(f"the chat template leaves out a message of the {message['role']}")


def _drawn(draw: _Draw, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str | None:
    """The conversation rendered, None where the template refuses it."""
    try:
        return draw(messages, tools)
    except Exception:  # each template in its own way
        return None


def _say(probe: str, what: str, done: str) -> None:
    if (probe, what) not in _said:
        _said.add((probe, what))
        logger.warning("probe %s: the chat template does not show %s to the model; %s", probe, what, done)
