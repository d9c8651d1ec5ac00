"""Evaluation without side effects: whatever happens inside, training continues bit for bit as if nothing had run.

Guards everything but the weights: train and eval modes, random generators, tokenizer and configs. Weights are safe
because gradients are off and nothing here steps an optimizer.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch

from forget_callback.probes.generators import generators_kept

_PLAIN = (str, int, float, bool, type(None), list, tuple, dict, set)


@contextlib.contextmanager
def no_side_effects(model: torch.nn.Module, tokenizer: Any) -> Iterator[None]:
    """Eval mode without gradients; restores all state on exit, also after an exception."""
    with contextlib.ExitStack() as restore:
        restore.enter_context(generators_kept())
        for module in model.modules():  # one by one: `train()` would set the mode of all submodules
            restore.callback(setattr, module, "training", module.training)
        for owner in _owners(model, tokenizer):
            plain = {name: copy.deepcopy(value) for name, value in vars(owner).items() if isinstance(value, _PLAIN)}
            restore.callback(_restore_attributes, owner, plain)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            restore.callback(_restore_backend, backend, backend.truncation, backend.padding)
        restore.enter_context(torch.no_grad())  # not inference_mode: the model may cache its tensors
        model.eval()
        yield


@contextlib.contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Replaces attributes of an object, and restores them on exit."""
    with contextlib.ExitStack() as restore:
        for name, value in values.items():
            restore.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


def without_router_loss(model: Any) -> contextlib.AbstractContextManager[None]:
    """Disables the auxiliary loss of a mixture of experts: not needed here, and it fails on 4-D attention masks."""
    config = model.config.get_text_config()
    has_loss = getattr(config, "output_router_logits", False)
    return replaced(config, output_router_logits=False) if has_loss else contextlib.nullcontext()


def _owners(model: torch.nn.Module, tokenizer: Any) -> list[Any]:
    """Objects whose plain attributes a forward pass, `generate` or the tokenizer may set."""
    owners = [tokenizer]
    for name in ("config", "generation_config"):
        config = getattr(model, name, None)
        if hasattr(config, "__dict__"):
            owners += [config, *(nested for nested in vars(config).values() if hasattr(nested, "to_dict"))]
    return owners


def _restore_attributes(owner: Any, before: dict[str, Any]) -> None:
    now = vars(owner)
    for name in [name for name, value in now.items() if isinstance(value, _PLAIN) and name not in before]:
        del now[name]
    for name, value in before.items():
        if name not in now or now[name] != value:
            now[name] = value


def _restore_backend(backend: Any, truncation: dict[str, Any] | None, padding: dict[str, Any] | None) -> None:
    """The Rust tokenizer keeps truncation and padding as state, which any tokenizer call may change."""
    if backend.truncation != truncation:
        backend.enable_truncation(**truncation) if truncation else backend.no_truncation()
    if backend.padding != padding:
        backend.enable_padding(**padding) if padding else backend.no_padding()
