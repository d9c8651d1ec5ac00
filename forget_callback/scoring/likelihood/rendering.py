"""What a model is asked: the prompt of an item, or its conversation as the chat template renders it. No torch here.

Knows templates, and nothing of tokens; `shown.py` has what is done where a template does not show all of a
conversation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from forget_callback.probes.conversation import Message
from forget_callback.probes.items import Item
from forget_callback.probes.probe import PLAIN, Probe
from forget_callback.probes.quoting import quoted
from forget_callback.scoring.likelihood.shown import shown


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
        NotScorableError: If the template does not show all of a conversation.
        Exception: What the template raises.
    """
    if not probe.chat:
        return item.prompt
    messages = messages_of(item, probe)

    def draw(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
        return render(messages, probe, tokenizer, tools=tools, generation_prompt=probe.generation_prompt)

    return shown(messages, item.tools, draw, owner=f"probe {probe.name}")


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
    for message in messages:
        message.setdefault("content", "")  # of calls alone; templates put it between other texts
    own = not probe.system or messages[0]["role"] == "system"
    return messages if own else [{"role": "system", "content": probe.system}, *messages]
