r"""Conversations in other tools' logs: lists of messages, their JSON, and prompts that a chat template has rendered.

They are for people to read, so that whatever is no conversation of a known form stays the text that it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from forget_callback.probes.conversation import checked_messages

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
    "gpt": "assistant",
    "ai": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
}
_NAMES = f"({'|'.join(_ROLES)})"
# How templates mark that a turn begins, and that it ends.
_MARKS = (
    (re.compile(rf"<\|im_start\|>{_NAMES}\n"), "<|im_end|>"),  # ChatML, Qwen
    (re.compile(rf"<\|start_header_id\|>{_NAMES}<\|end_header_id\|>"), "<|eot_id|>"),  # Llama 3
    (re.compile(rf"<start_of_turn>{_NAMES}\n"), "<end_of_turn>"),  # Gemma
    (re.compile(rf"<\|{_NAMES}\|>"), "<|end|>"),  # Phi
    (re.compile(rf"<\|{_NAMES}\|>"), "</s>"),  # Zephyr
    (re.compile(rf"^{_NAMES}\n", re.MULTILINE), ""),  # ChatML without its special tokens, as verl writes it
)
_BEGIN = re.compile(r"\A\s*(?:<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>)?\s*")


def messages_in(value: Any) -> tuple[dict[str, Any], ...]:
    r"""The messages that a log has as a prompt, up to the one that the model answers; none if it is no conversation.

    >>> [message["role"] for message in messages_in("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")]
    ['user']
    """
    if isinstance(value, (list, tuple)) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]  # lm-eval's prompts for a chat server
    if isinstance(value, str):
        value = _of_json(value) or _of_rendered(value)
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(one, Mapping) for one in value):
        return ()
    given = [_message(one) for one in value]
    if given[-1]["role"] == "assistant" and not given[-1]["content"]:  # the turn that is open
        del given[-1]
    try:
        return checked_messages(SimpleNamespace(id=""), given)
    except ValueError:
        return ()


def _of_json(text: str) -> Any:
    if not text.lstrip().startswith("["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _of_rendered(text: str) -> list[dict[str, str]] | None:
    """The turns of a rendered conversation that is nothing but turns, the last of them open and the assistant's."""
    begin = _BEGIN.match(text)
    body = text[begin.end() :] if begin else text
    for mark, end in _MARKS:
        marks = list(mark.finditer(body))
        if not marks or marks[0].start() != 0 or _ROLES[marks[-1][1]] != "assistant":
            continue
        texts = [body[one.end() : after].strip() for one, after in zip(marks, [m.start() for m in marks[1:]])]
        if body[marks[-1].end() :].strip() in ("", "<think>") and all(text.endswith(end) for text in texts):
            return [{"role": one[1], "content": text.removesuffix(end).strip()} for one, text in zip(marks, texts)]
    return None


def _message(given: Mapping[str, Any]) -> dict[str, Any]:
    role = given.get("role", given.get("from"))
    message = {"role": _ROLES.get(str(role).lower(), role), "content": said(given.get("content", given.get("value")))}
    calls = given.get("tool_calls")
    return {**message, "tool_calls": calls} if calls else message


def said(content: Any) -> str:
    """The text of a message's content; what is no text stands by its kind."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, Mapping):
        text = content.get("text", content.get("content"))
        return said(text) if text is not None else f"[{content.get('type', 'no text')}]"
    return "\n".join(map(said, content)) if isinstance(content, (list, tuple)) else str(content)
