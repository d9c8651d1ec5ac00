"""Gives a tokenizer what TRL needs and its model does without: an end, padding and a chat template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from forget_callback.probes.quoting import quoted

# For models without a chat template: base models know this form best.
_PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ {'user': 'Question', 'assistant': 'Answer'}[message.role] | default(message.role) }}: {{ message.content }}"
    "{{ eos_token if message.role == 'assistant' else '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"
)


def prepare(tokenizer: Any, config: Any, *, name: str) -> None:
    """Sets the end, the padding token and the chat template of a tokenizer that lacks them.

    Args:
        tokenizer: Changed in place; what it has stays.
        config: Of its model, which may know an end that the tokenizer does not.
        name: Where both come from, for the error.

    Raises:
        ValueError: If it lacks both tokens, and has no special token that could stand in.
    """
    if tokenizer.eos_token is None:
        found = next(_stand_ins(tokenizer, config), None)
        if found is None:
            raise ValueError(
                f"the tokenizer of {quoted(name)} has no end-of-text token (eos_token) and no padding token "
                "(pad_token), and no special token that could be either; training needs them. Name a token of its "
                'vocabulary in tokenizer_config.json, such as "eos_token": "</s>", or add one: '
                "tokenizer.add_special_tokens({'eos_token': '</s>'}), model.resize_token_embeddings(len(tokenizer)), "
                "and save both"
            )
        tokenizer.eos_token = found
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _PLAIN_TEMPLATE


def _stand_ins(tokenizer: Any, config: Any) -> Iterator[str]:
    """Tokens that can mark an end, the best first; each has an embedding."""
    ends = getattr(config, "eos_token_id", None)
    known = [*(ends if isinstance(ends, list) else [ends]), tokenizer.pad_token_id, tokenizer.unk_token_id]
    special = [*tokenizer.all_special_ids, *(i for i, one in tokenizer.added_tokens_decoder.items() if one.special)]
    size = min(len(tokenizer), getattr(config, "vocab_size", None) or len(tokenizer))
    for number in (*known, *special):
        if isinstance(number, int) and 0 <= number < size:
            token = tokenizer.convert_ids_to_tokens(number)
            if isinstance(token, str):
                yield token
