"""Loads models and tokenizers from a directory or the hub, for commands that take one. Knows nothing of probes."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from forget_callback.probes.quoting import quoted
from forget_callback.probes.remote import hub_problem, model_problem, require_model
from forget_callback.scoring.models import kind_of

_OTHER_TOKENIZER = "--tokenizer, of a command that has it, names the model's own, a directory or hub id"
_GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")


def load_tokenizer(name: str, *, remedy: str = _OTHER_TOKENIZER) -> Any:
    """The tokenizer that was saved with a model.

    AutoTokenizer picks a class by model type and then pre-tokenizes by that class's rules, whatever `tokenizer.json`
    says. A tokenizer saved as the generic class is therefore loaded as the generic class.

    Args:
        name: A directory or hub id.
        remedy: What to do where there is none.

    Raises:
        ValueError: If there is none.
    """
    if (problem := model_problem(name)) is not None:
        raise ValueError(f"no tokenizer at {quoted(name)}: {problem}; {remedy}")
    try:
        generic = get_tokenizer_config(name).get("tokenizer_class") in _GENERIC
        return (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = hub_problem(name, error) or str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"no tokenizer at {quoted(name)}: {reason}; {remedy}") from error


def load_model(name: str, *, device: str | None = None, dtype: str | None = None) -> Any:
    """A causal language model, by default in the dtype of its checkpoint, and on the accelerator if there is one.

    Raises:
        ValueError: If there is none, its files are damaged, or the checkpoint is of another kind of model or lacks
            weights, which transformers would make up.
    """
    require_model(name)
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(name, dtype=dtype or "auto", output_loading_info=True)
    except (OSError, SafetensorError) as error:
        reason = hub_problem(name, error) or f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise ValueError(f"the model at {quoted(name)} cannot be loaded: {reason}") from error
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        kind = getattr(AutoConfig.from_pretrained(name), "model_type", "its kind")
        raise ValueError(
            f"no causal language model at {name!r}: transformers has none for {kind!r} (an encoder-decoder model or an "
            "encoder does not continue a prompt); pass a checkpoint that AutoModelForCausalLM loads"
        ) from error
    saved = (model.config.architectures or [type(model).__name__])[0]
    made_up = [key for key, _ in model.named_parameters() if key in loaded["missing_keys"]]
    if (is_a := kind_of(saved)) is not None or made_up:
        raise ValueError(
            f"no causal language model at {name!r}: it was saved as {saved}, {is_a or f'without {made_up[0]}'}; pass "
            "the checkpoint of a causal language model"
        )
    return model.to(device or here)
