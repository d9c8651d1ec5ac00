"""Loads models and tokenizers from a directory or the hub, for commands that take one. Knows nothing of probes."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

_GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")


def load_tokenizer(name: str) -> Any:
    """The tokenizer that was saved with a model.

    AutoTokenizer picks a class by model type and then pre-tokenizes by that class's rules, whatever `tokenizer.json`
    says. A tokenizer saved as the generic class is therefore loaded as the generic class.

    Raises:
        ValueError: If there is none.
    """
    try:
        generic = get_tokenizer_config(name).get("tokenizer_class") in _GENERIC
        return (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no tokenizer at {name!r}: {str(error).splitlines()[0]}; pass the directory or hub id of the model's own "
            "(--tokenizer of a command that has it)"
        ) from error


def load_model(name: str) -> Any:
    """A causal language model in the dtype of its checkpoint, on the accelerator if there is one."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return AutoModelForCausalLM.from_pretrained(name, dtype="auto").to(device)
