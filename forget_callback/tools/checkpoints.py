"""Checkpoints of one run: where each is, which step it is of, and what it was trained on.

Knows where a checkpoint keeps these; how they are scored is `checkpoint_history.py`'s.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from transformers import TrainerState

from forget_callback.training.resume import Notes

_STATE = "trainer_state.json"
_NUMBERED = re.compile(r"(?:checkpoint|step)[-_]?(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Checkpoint:
    """A model at one step of its training.

    Attributes:
        model: Directory or hub id; a PEFT adapter's directory names its base model.
        step: None if neither its trainer's state nor its name says.
        samples_seen: As the callback counted them. NaN where it did not: steps and batch sizes do not tell under
            packing or on several processes.
        tokens_seen: Likewise.
        dtype: In which it is scored, such as "bfloat16"; None for that in which it was saved.
    """

    model: str
    step: int | None
    samples_seen: float = math.nan
    tokens_seen: float = math.nan
    dtype: str | None = None

    @classmethod
    def of(cls, model: str) -> Checkpoint:
        """What a directory or hub id is a checkpoint of."""
        file = Path(model) / _STATE
        if file.is_file():
            state = TrainerState.load_from_json(str(file))
            notes = Notes.of(state)
            seen = (math.nan, math.nan) if notes is None else (notes.samples_seen, notes.tokens_seen)
            return cls(model, state.global_step, *seen)
        numbered = _NUMBERED.fullmatch(Path(model).name)
        return cls(model, int(numbered[1]) if numbered else None)


def baseline_of(model: str, first: Checkpoint) -> Checkpoint:
    """The model before training as step 0, in the dtype in which it was trained: the trainer cast it when it began.

    Args:
        first: A checkpoint of the training.
    """
    try:
        config = json.loads((Path(first.model) / "config.json").read_text(encoding="utf-8"))
        dtype = config.get("dtype") or config.get("torch_dtype")
    except (OSError, ValueError, AttributeError):  # an adapter, which is scored on its base as that is
        dtype = None
    return Checkpoint(model, 0, 0.0, 0.0, dtype=dtype if isinstance(dtype, str) else None)


def find_checkpoints(models: Sequence[str]) -> list[Checkpoint]:
    """The checkpoints that MODEL arguments name, by step; a run's directory without a model stands for all in it.

    Raises:
        ValueError: If there are several and the step of one is not known, or two are of one step.
    """
    found = [Checkpoint.of(path) for model in models for path in _expanded(model)]
    if len(found) == 1:
        return found
    for checkpoint in found:
        if checkpoint.step is None:
            raise ValueError(
                f"the step of {checkpoint.model} is not known: it has no {_STATE} and is not named checkpoint-N; of "
                "several models each must be a checkpoint of one run, and the one before training is --baseline"
            )
    found.sort(key=lambda checkpoint: checkpoint.step or 0)
    for one, other in pairwise(found):
        if one.step == other.step:
            raise ValueError(f"{one.model} and {other.model} are both of step {one.step}; name one of them")
    return found


def _expanded(model: str) -> list[str]:
    path = Path(model)
    is_model = any((path / name).is_file() for name in ("config.json", "adapter_config.json"))
    inside = [] if is_model else sorted(str(found) for found in path.glob("checkpoint-*") if found.is_dir())
    return inside or [model]
