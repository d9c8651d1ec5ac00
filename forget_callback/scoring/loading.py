"""Models and tokenizers from a directory or the hub, for the commands that take one. Nothing here knows of probes."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

_GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")


def load_tokenizer(name: str) -> Any:
    """The tokenizer that was saved with a model.

    AutoTokenizer picks a class by the model's type and then splits text by that class's rules, whatever
    `tokenizer.json` says; a tokenizer that was saved as the generic class is loaded as it was saved.
    """
    if get_tokenizer_config(name).get("tokenizer_class") in _GENERIC:
        return PreTrainedTokenizerFast.from_pretrained(name)
    return AutoTokenizer.from_pretrained(name)


def load_model(name: str) -> Any:
    """A causal language model in the precision it was saved in, on the accelerator if there is one."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return AutoModelForCausalLM.from_pretrained(name, dtype="auto").to(device)
