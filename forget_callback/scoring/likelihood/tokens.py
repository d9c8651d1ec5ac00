"""Token ids of a probe's items: contexts, and the continuations to score after them. No torch here.

Context and continuation are split as in lm-eval (`TemplateLM._encode_pair`), so that both score the same token ids.
Knows tokenizers and chat templates, but no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from forget_callback.probes.items import Item, MultipleChoice, Recall, accepted
from forget_callback.probes.probe import Probe


@dataclass(frozen=True)
class Continuation:
    """One text to score after its context: an option, or an accepted answer of a recall item.

    Attributes:
        item: Index of the item in the probe.
        tokens: Context and continuation.
        n_context: How many of `tokens` are context, at least one.
        greedy: Whether the argmax is needed too, as for recall items: would greedy decoding generate it?
    """

    item: int
    tokens: tuple[int, ...]
    n_context: int
    greedy: bool = False


def bind(probe: Probe, tokenizer: Any) -> Probe:
    """The probe with the tokenizer's chat template in its fingerprint, if it is a chat probe without a template.

    Raises:
        ValueError: If the probe needs a chat template and the tokenizer has none.
    """
    if not probe.chat or probe.template:
        return probe
    template = getattr(tokenizer, "chat_template", None)
    if not isinstance(template, str):
        raise ValueError(
            f"probe {probe.name!r} has chat=True, but the tokenizer has no chat template; set tokenizer.chat_template "
            "or use chat=False"
        )
    return replace(probe, template=template)


def context_of(item: Item, probe: Probe, tokenizer: Any) -> str:
    """The text before the answer: the prompt, or the conversation rendered by the chat template."""
    if not probe.chat:
        return item.prompt
    return render(messages_of(item, probe), probe, tokenizer, generation_prompt=probe.generation_prompt)


def render(messages: Sequence[Mapping[str, str]], probe: Probe, tokenizer: Any, *, generation_prompt: bool) -> str:
    """A conversation as the chat template of a probe renders it.

    Args:
        generation_prompt: Whether the template opens the assistant's turn.

    Raises:
        Exception: What the template raises.
    """
    thinking = {} if probe.thinking is None else {"enable_thinking": probe.thinking}
    rendered = tokenizer.apply_chat_template(
        list(messages),
        chat_template=probe.template,
        add_generation_prompt=generation_prompt,
        tokenize=False,
        **thinking,
    )
    return str(rendered)


def messages_of(item: Item, probe: Probe) -> list[dict[str, str]]:
    """The messages of an item of a chat probe."""
    system = [{"role": "system", "content": probe.system}] if probe.system else []
    return [*system, {"role": "user", "content": item.prompt}]


def continuations(probe: Probe, tokenizer: Any) -> list[Continuation]:
    """Every continuation of the choice and recall items, in item order; options and accepted answers keep their order.

    Raises:
        ValueError: If a continuation has no token that the context does not have.
    """
    result = []
    for index, item in enumerate(probe.items):
        if isinstance(item, MultipleChoice):
            texts, between = item.choices, item.contexts or [""] * len(item.choices)
        elif isinstance(item, Recall):
            texts, between = accepted(item), [""] * len(accepted(item))
        else:
            continue
        context = context_of(item, probe, tokenizer)
        for own, text in zip(between, texts):
            # The template ends right where the answer begins, so a leading space would be one too many.
            text = text.lstrip() if probe.chat else text
            head, tail = split(context + own, text, tokenizer, chat=probe.chat)
            if not tail:
                raise ValueError(
                    f"probe {probe.name!r}, item {item.id!r}: {text!r} has no token of its own after the prompt; "
                    "give it a leading space, or another wording"
                )
            result.append(Continuation(index, (*head, *tail), len(head), isinstance(item, Recall)))
    return result


def split(context: str, continuation: str, tokenizer: Any, *, chat: bool) -> tuple[list[int], list[int]]:
    """Token ids of context and continuation.

    Plain text is split as in lm-eval: trailing white space of the context moves to the continuation, and the
    continuation's tokens are those of the whole text after as many as the context alone has. An empty context is the
    BOS token, or EOS where there is none; so is one of white space, which lm-eval rejects. A rendered conversation is
    kept as it is, exactly as for generation.

    Raises:
        ValueError: If the context is empty and the tokenizer has neither BOS nor EOS.
    """
    if chat:
        head = encode(context, tokenizer, special=False)
        whole = encode(context + continuation, tokenizer, special=False)
        merged = whole[: len(head)] != head
        return head, encode(continuation, tokenizer, special=False) if merged else whole[len(head) :]
    bare = context.rstrip()
    if not bare:
        prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if prefix is None:
            raise ValueError(
                f"the tokenizer has neither a BOS nor an EOS token to put before {continuation!r}; "
                "give the item a prompt, or set tokenizer.bos_token"
            )
        tail = encode(context + continuation, tokenizer, special=False)
        return (tail[:1], tail[1:]) if tail[:1] == [prefix] else ([prefix], tail)
    head = encode(bare, tokenizer)
    return head, encode(context + continuation, tokenizer)[len(head) :]


def encode(text: str, tokenizer: Any, *, special: bool = True) -> list[int]:
    """Token ids. `special` adds the tokenizer's special tokens, unless the text already begins with BOS."""
    has_bos = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=special and not has_bos)
    return ids
