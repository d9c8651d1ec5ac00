"""Counts what a model was trained on: true samples and tokens, whatever the trainer makes of its batches.

Reads the forward passes of training themselves, through hooks, because neither steps times batch size nor the
Trainer's own counters are right under packing, padding-free batches or GRPO.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from forget_callback.scoring.distributed import all_reduce_sum, rank
from forget_callback.training.unmeasured import alarm

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """Samples and tokens that a model was trained on up to a step, NaN if unknown."""

    step: int = 0
    samples: float = 0.0
    tokens: float = 0.0


def seen_before(step: int, known: Iterable[Seen], *, samples_per_step: float) -> Seen:
    """What a model was trained on before it is resumed at a step; says what of it is estimated.

    Args:
        known: What was counted up to that step or to earlier ones.
        samples_per_step: Rows of all batches of a step, for a run in which nothing was counted.
    """
    last = max((one for one in known if one.step <= step), key=lambda one: one.step, default=Seen())
    missing = step - last.step
    if not missing:
        return last
    counted = last.step > 0 and last.samples > 0
    each = last.samples / last.step if counted else samples_per_step
    samples = last.samples + each * missing
    if rank() == 0:
        logger.warning(
            "steps %d to %d were trained without ForgetCallback, and the checkpoint was saved without its counts: the "
            "samples before step %d are estimated as %.0f, at %.4g a step%s",
            last.step + 1,
            step,
            step,
            samples,
            each,
            "" if counted else ", rows of batches, which is too few if they are packed; read the curves over steps",
        )
    return Seen(step, samples, last.tokens / last.step * step if counted else math.nan)


class DataSeen:
    """Samples and tokens of all forward passes in training of one model, over all ranks.

    A sample is one sequence that the model was trained on: an example of SFT, packed or not; a prompt with one
    completion of GRPO; each of chosen and rejected of DPO. A sequence that is trained on twice counts twice, padding
    never.

    Args:
        before: What it was trained on so far.
    """

    def __init__(self, before: Seen = Seen()) -> None:
        self.before = before
        self._sums: dict[str, torch.Tensor] = {}  # "here", and "whole" without a step that has not ended
        self._handles: list[Any] = []
        self._running = threading.local()  # whose forward pass is, in this thread: DataParallel has one a device
        self._alike = 1
        self._unseen = False  # and that was said

    def watch(self, model: torch.nn.Module) -> None:
        """Starts to count the forward passes of `model` in train mode with gradients.

        Its backbone counts as well: losses that need no logits, as those of TRL's distillation, forward that alone.
        """
        # The ranks of one tensor-parallel group train on the same batch. Not run here: it needs accelerators.
        self._alike = getattr(model, "tp_size", None) or 1
        inside = [part for part in model.modules() if isinstance(part, PreTrainedModel) and part is not model]
        for module in (model, *inside):
            self._handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._leave, always_call=True))

    def stop(self) -> None:
        """Removes the forward hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._running = [], threading.local()

    def end_step(self) -> None:
        """Notes that an optimizer step has ended."""
        if "here" in self._sums:
            self._sums["whole"] = self._sums["here"].clone()

    def totals(self, step: int) -> Seen:
        """Samples and tokens up to a step, NaN if none of its forward passes were seen: then nothing is known.

        A collective: under torch.distributed all ranks must call it together.
        """
        seen = self._added(step, "here")
        if step == self.before.step or seen.samples != self.before.samples:
            return seen
        if not self._unseen:
            self._unseen = True
            alarm(
                "NOT MEASURED: samples and tokens. No forward pass of this training was seen: the trainer calls",
                "neither the model nor its backbone. samples_seen is unknown (NaN): read the curves over steps.",
            )
        return Seen(step, math.nan, math.nan)

    def whole_steps(self, step: int) -> Seen:
        """The same without the step in which training broke off. A collective."""
        return self._added(step, "whole")

    def _added(self, step: int, name: str) -> Seen:
        samples, tokens = all_reduce_sum(self._sums.get(name, [0.0, 0.0]))
        return Seen(step, self.before.samples + samples / self._alike, self.before.tokens + tokens / self._alike)

    def _enter(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Generation, reference models and probes run without gradients or in eval mode. A model calls its backbone, and
        # one batch counts once. Some trainers redirect the model's own call to their loss: that one has no batch.
        if not module.training or not torch.is_grad_enabled() or getattr(self._running, "module", None) is not None:
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        ids = kwargs.get("inputs_embeds") if ids is None else ids
        if isinstance(ids, torch.Tensor) and ids.dim() >= 2:
            self._running.module = module
            self._count(ids[..., 0] if ids.dim() > 2 else ids, kwargs)

    def _leave(self, module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if module is getattr(self._running, "module", None):
            self._running.module = None

    def _count(self, ids: torch.Tensor, kwargs: dict[str, Any]) -> None:
        # Stays on the device: reading it here would make every training step wait.
        here = self._sums.get("here")
        if here is None:  # of several threads one makes it
            here = self._sums.setdefault("here", torch.zeros(2, dtype=torch.float64, device=ids.device))
        here += torch.stack(_samples_and_tokens(ids, kwargs)).to(here)


def _samples_and_tokens(ids: torch.Tensor, kwargs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
    if isinstance(mask, torch.Tensor) and mask.dim() == 2:
        return mask.any(dim=-1).sum(), mask.ne(0).sum()
    if isinstance(positions, torch.Tensor) and positions.shape == ids.shape:
        # Packed or padding-free: a sequence starts at each 0, but a tail of zeros is padding. (A last sequence of one
        # token cannot be told from that; it has nothing to be trained on.)
        not_padding = positions.ne(0).flip(-1).cumsum(-1).flip(-1) > 0
        return (not_padding & (positions == 0)).sum(), not_padding.sum()
    return torch.tensor(len(ids), device=ids.device), torch.tensor(ids.numel(), device=ids.device)
