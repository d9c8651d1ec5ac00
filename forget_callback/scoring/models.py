"""What can be scored: causal language models. Anything else is refused in words before it is asked.

Also reads settings of configs whose layers differ, and knows which rotary embeddings depend on the sequences they see.
Knows nothing of probes or batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from forget_callback.scoring.likelihood.head import FULL, head_of, rounding

# What a model is, by the end of its class name.
_KINDS = {
    "ForSequenceClassification": "a reward model or classifier: it gives texts scores, and next tokens no probability",
    "ForTokenClassification": "a token classifier: it gives labels, and next tokens no probability",
    "ForQuestionAnswering": "an extractive question-answering model: it marks a span, and generates nothing",
    "ForMultipleChoice": "a classifier of options: it gives options scores, and next tokens no probability",
    "ForMaskedLM": "a masked language model: it sees the tokens after the one that it predicts",
}
_NEEDED = "model must be a causal language model"
_ADVICE = "pass the causal language model itself (AutoModelForCausalLM)"
# Settings that limit a model's positions, under the names that configs give them.
_LIMITS = ("max_position_embeddings", "max_target_positions", "max_seq_len")
_SPARSE_LAYERS = {"indexed_attention", "compressed_sparse_attention", "heavily_compressed_attention"}
# Kinds of rotary embeddings whose frequencies depend on the sequences that they see.
_VARYING = ("dynamic", "longrope")


def require_causal(model: Any) -> None:
    """Refuses what is by its class or config no causal language model; what its numbers say: `require_next_tokens`.

    Raises:
        ValueError: With a sentence that says what the model is.
    """
    if any(getattr(one, "is_prompt_learning", False) for one in (getattr(model, "peft_config", None) or {}).values()):
        kinds = ", ".join(str(getattr(one.peft_type, "value", one.peft_type)) for one in model.peft_config.values())
        raise ValueError(
            f"{_NEEDED} of tokens alone, got a PEFT model with virtual tokens ({kinds}): they "
            "take positions of the prompt, which scoring counts as its own; use LoRA or another adapter of the weights"
        )
    if (found := not_causal(model)) is not None:
        raise ValueError(f"{_NEEDED}, got {found}; {_ADVICE}")


def not_causal(model: Any) -> str | None:
    """What a model is that is by its class or config no causal language model; None if it may be one."""
    bare = _unwrapped(model)
    name = type(bare).__name__
    kind = kind_of(name)
    if getattr(getattr(bare, "config", None), "is_encoder_decoder", False):
        kind = "an encoder-decoder model: it does not continue a prompt, but answers in a second sequence"
    elif hasattr(bare, "v_head"):
        kind = (
            "a causal language model with a value head: it returns values beside logits; its `pretrained_model` is one"
        )
    return None if kind is None else f"{name}, {kind}"


@torch.no_grad()
def require_next_tokens(model: Any, tokens: Sequence[int], dtype: torch.dtype) -> None:
    """Refuses a model that gives no logits of every token, or whose logits depend on later tokens.

    Two forward passes that differ in the last token: all logits before it must be the same, within 1e-4 of what its own
    logits change by (another order of additions), and in low precision within rounding. A model that is not
    deterministic passes: what it gives twice is compared later.

    Args:
        model: In eval mode.
        tokens: Two or more.
        dtype: The dtype in which the model computes.

    Raises:
        ValueError: With a sentence that says what the model does.
    """
    other = next((token for token in tokens if token != tokens[-1]), int(not tokens[-1]))
    logits, changed = _logits(model, tokens), _logits(model, [*tokens[:-1], other])
    change = (logits - changed).abs()
    earlier, allowed = float(change[:-1].max()), 1e-4 * float(change[-1].max())
    if dtype not in FULL:
        allowed = max(allowed, rounding(logits, dtype))
    if earlier > allowed and earlier > 10 * float((_logits(model, tokens) - logits).abs().max()):
        raise ValueError(
            f"{_NEEDED}, got {_name(model)}, whose logits depend on later tokens: another last token changes those "
            f"before it by {earlier:.2g}. An encoder such as BERT needs is_decoder=True in its config, and training as "
            f"a decoder; {_ADVICE}"
        )


def _logits(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """Logits of one plain forward pass, float32, ``(n_tokens, vocabulary)``."""
    ids = torch.tensor([tokens], device=next(model.parameters()).device)
    logits = getattr(model(input_ids=ids, use_cache=False), "logits", None)
    if not isinstance(logits, torch.Tensor):
        raise ValueError(
            f"{_NEEDED}, got {_name(model)}, which returns no logits: it has no LM head, or is wrapped in something "
            f"else; {_ADVICE}"
        )
    if logits.ndim != 3 or logits.shape[:2] != ids.shape or logits.shape[2] <= max(tokens):
        raise ValueError(
            f"{_NEEDED}, got {_name(model)}, whose logits of {len(tokens)} tokens have shape {tuple(logits.shape)}, "
            f"not (1, {len(tokens)}, vocabulary): it gives next tokens no probability, or its vocabulary is not the "
            f"tokenizer's; {_ADVICE}"
        )
    return logits[0].float()


def kind_of(name: str) -> str | None:
    """What a model class is by the end of its name, None if it may be a causal language model."""
    return next((text for end, text in _KINDS.items() if name.endswith(end)), None)


def text_config(model: Any) -> Any:
    """The config of the language model, which others nest in theirs."""
    return model.config.get_text_config(decoder=True)


def layer_settings(config: Any, name: str) -> set[Any]:
    """The values of a setting over the layers of a model, None left out.

    A config whose layers differ refuses to be asked for one value of all: transformers raises a RuntimeError.
    """
    differs = name in (getattr(config, "per_layer_attributes", None) or ())
    values = (getattr(one, name, None) for one in (config.per_layer_config if differs else [config]))
    each: Iterable[Any] = itertools.chain.from_iterable(v if isinstance(v, (list, tuple)) else [v] for v in values)
    return {value for value in each if value is not None}


def context_length(model: Any) -> int:
    """Tokens that the model has positions for; unlimited where its config names no limit, or -1 as XLNet's."""
    limits = (n for name in _LIMITS for n in layer_settings(text_config(model), name))
    return min((n for n in limits if isinstance(n, int) and n > 0), default=2**62)


def vocabulary_size(model: Any) -> int:
    """Tokens that the model has an embedding of; unlimited where it does not say."""
    try:
        size = getattr(model.get_input_embeddings(), "num_embeddings", None)
    except (AttributeError, NotImplementedError):  # transformers does not know every model's
        size = None
    return size if isinstance(size, int) else 2**62


def head_cost(model: torch.nn.Module) -> float:
    """What a token costs in the LM head, where it costs 1 in the decoder: the ratio of their weights."""
    embeddings = [head_of(model), model.get_input_embeddings()]  # type: ignore[operator]
    outside = {id(p): p.numel() for module in embeddings if module is not None for p in module.parameters()}
    decoder = sum(p.numel() for p in model.parameters() if id(p) not in outside)
    head = sum(p.numel() for p in embeddings[0].parameters()) if embeddings[0] is not None else 0
    return head / max(decoder, 1)


def is_sparse(model: Any) -> bool:
    """Whether layers choose the tokens that they attend to: padding may change their choice."""
    return bool(layer_settings(text_config(model), "layer_types") & _SPARSE_LAYERS)


def varies_from(model: Any) -> int:
    """Tokens from which rotary embeddings depend on the longest sequence of a batch; unlimited where they never do.

    Dynamic NTK and LongRoPE choose the frequencies of all rows by the highest position that they see.
    """
    found = []
    for module in varying_rotary(model):
        scaling = getattr(module.config, "rope_parameters", None) or getattr(module.config, "rope_scaling", None) or {}
        settings = [scaling, *(one for one in scaling.values() if isinstance(one, dict)), vars(module.config)]
        found += [one.get("original_max_position_embeddings") for one in settings]
        found.append(getattr(module, "original_max_seq_len", None))
    return min((n for n in found if isinstance(n, int)), default=2**62)


def varying_rotary(model: torch.nn.Module) -> list[Any]:
    """The rotary embeddings whose frequencies depend on the sequences that they see."""
    kinds = [(module, getattr(module, "rope_type", None)) for module in model.modules()]
    flat = [(module, kind.values() if isinstance(kind, dict) else [kind]) for module, kind in kinds]
    return [module for module, each in flat if any(name in str(kind) for kind in each for name in _VARYING)]


def _name(model: Any) -> str:
    return type(_unwrapped(model)).__name__


def _unwrapped(model: Any) -> Any:
    """The model itself, without what PEFT, torch.compile and DDP put around it."""
    while True:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else None
        inner = inner or getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, torch.nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None or inner is model:
            return model
        model = inner
