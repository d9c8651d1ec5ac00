"""Evaluation without side effects: whatever happens inside, training continues bit for bit as if nothing had run.

Guards everything but the weights: buffers and attributes of modules, train and eval modes, random generators, tokenizer
and configs. Weights are safe because gradients are off and nothing here steps an optimizer. Nor does what training left
in a model's rotary embeddings change its answers.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from forget_callback.probes.generators import generators_kept
from forget_callback.scoring.models import text_config, varying_rotary

logger = logging.getLogger(__name__)

_PLAIN = (str, int, float, bool, type(None), list, tuple, dict, set)
# What every module has, hooks and parameters among it.
_TORCHS = frozenset(vars(torch.nn.Module()))
# Larger buffers are those of quantized weights.
_COPIED = 2**20


@contextlib.contextmanager
def no_side_effects(model: torch.nn.Module, tokenizer: Any) -> Iterator[None]:
    """Eval mode without gradients; restores all state on exit, also after an exception."""
    with contextlib.ExitStack() as restore:
        restore.enter_context(torch.no_grad())  # not inference_mode: the model may cache its tensors
        restore.enter_context(generators_kept())
        for kept in _module_state(model):
            restore.callback(kept.restore)
        for module in varying_rotary(model):
            restore.enter_context(module.register_forward_pre_hook(_forget_sequences))
        for module in model.modules():  # one by one: `train()` would set the mode of all submodules
            restore.callback(setattr, module, "training", module.training)
        for owner in _owners(model, tokenizer):
            plain = {name: copy.deepcopy(value) for name, value in vars(owner).items() if isinstance(value, _PLAIN)}
            restore.callback(_restore_attributes, owner, plain)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            restore.callback(_restore_backend, backend, backend.truncation, backend.padding)
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
    config = text_config(model)
    has_loss = getattr(config, "output_router_logits", False)
    return replaced(config, output_router_logits=False) if has_loss else contextlib.nullcontext()


@dataclass(frozen=True)
class _Kept:
    """An attribute, buffer or child of a module as it was.

    Attributes:
        place: The dict that holds it.
        content: A copy of what may be changed in place, None where there is nothing to copy.
        version: Of a tensor: how often it was changed in place.
    """

    place: dict[str, Any]
    name: str
    value: Any
    content: Any
    version: int

    @classmethod
    def of(cls, place: dict[str, Any], name: str) -> _Kept:
        """Keeps a copy where that is cheap: of containers, and of tensors up to `_COPIED` bytes."""
        value, content, version = place[name], None, -1
        if isinstance(value, (list, dict, set)):
            content = _members(value)
        elif _is_plain_tensor(value):
            version = value._version
            content = value.clone() if value.nbytes <= _COPIED else None
        return cls(place, name, value, content, version)

    def restore(self) -> None:
        """Puts back the object, and what it held."""
        value, content = self.value, self.content
        if self.place.get(self.name) is not value:
            self.place[self.name] = value
        if isinstance(content, torch.Tensor):
            if not torch.equal(value, content):  # not by version: batch norm's kernel changes statistics in silence
                value.copy_(content)
        elif self.version >= 0 and value._version != self.version:
            logger.warning(
                "a forward pass changed the buffer %r of %d MB in place: it is left so, and training does not continue "
                "bit for bit",
                self.name,
                value.nbytes // 10**6,
            )
        elif isinstance(value, (list, dict, set)) and not _are_same(_members(value), content):
            value.clear()
            if isinstance(value, list):
                value.extend(content)
            else:
                half = len(content) // 2
                value.update(zip(content[:half], content[half:]) if isinstance(value, dict) else content)


def _module_state(model: torch.nn.Module) -> Iterator[_Kept]:
    """What a forward pass may change in modules: rotary frequencies, counters of experts, statistics, caches.

    What wrappers of torch.distributed hold is set up by their first forward pass, for all that follow.
    """
    for module in model.modules():
        if type(module).__module__.startswith("torch.distributed"):
            continue
        own = vars(module)
        yield from (_Kept.of(own, name) for name, value in own.items() if name not in _TORCHS and _may_change(value))
        yield from (_Kept.of(place, name) for place in (module._buffers, module._modules) for name in place)


def _may_change(value: Any) -> bool:
    return isinstance(value, (*_PLAIN, torch.Tensor, torch.dtype, torch.device))


def _is_plain_tensor(value: Any) -> bool:
    # Inference tensors have no version, and cannot be changed here; other classes know how to copy themselves.
    return type(value) is torch.Tensor and value.layout is torch.strided and not value.is_inference()


def _members(container: Any) -> list[Any]:
    return [*container, *(container.values() if isinstance(container, dict) else ())]


def _are_same(now: list[Any], before: list[Any]) -> bool:
    return len(now) == len(before) and all(a is b for a, b in zip(now, before))


def _forget_sequences(module: Any, args: Any) -> None:
    """Sets a rotary embedding back to the frequencies of short sequences.

    Dynamic NTK keeps those of the longest sequence that it has seen, in training as well.
    """
    for name in [*module._buffers, *vars(module)]:
        if name.endswith("original_inv_freq"):
            prefix = name.removesuffix("original_inv_freq")
            first = getattr(module, name)
            current = getattr(module, f"{prefix}inv_freq")
            setattr(module, f"{prefix}inv_freq", first.to(current.device, copy=True))
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


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
