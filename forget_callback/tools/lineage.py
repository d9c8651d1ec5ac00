"""What a checkpoint says of the training that it is of: which one, from which model, and whether it is its last.

Reads `trainer_state.json`, an adapter's configuration and the model card of TRL; a checkpoint without them says
nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from math import gcd
from pathlib import Path

import yaml
from transformers import TrainerState

from forget_callback.tools.whole import TRAINER_STATE
from forget_callback.training.resume import Notes


def state_of(path: Path) -> TrainerState | None:
    """The trainer's state in a checkpoint, None if it has none or is being removed."""
    file = path / TRAINER_STATE
    try:
        return TrainerState.load_from_json(str(file)) if file.is_file() else None
    except (OSError, ValueError, TypeError):
        return None


def is_last(state: TrainerState | None) -> bool:
    """Whether training ends with this checkpoint, by the steps that were planned."""
    return state is not None and 0 < state.max_steps <= state.global_step


def run_id_of(path: Path) -> str:
    """The run that the callback in the training says it is, "" if there was none."""
    state = state_of(path)
    notes = None if state is None else Notes.of(state)
    return "" if notes is None else notes.run_id


def may_continue(path: Path, later: Path) -> bool:
    """Whether two checkpoints may be of one training: then what the later one logged begins with what this one did."""
    states = state_of(path), state_of(later)
    if states[0] is None or states[1] is None:
        return True
    logged = states[0].log_history
    return bool(states[1].log_history[: len(logged)] == logged)


def started_from(path: Path) -> list[str]:
    """The names of the model that was trained, as an adapter's configuration and TRL's model card have it."""
    names = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        names.append(json.loads((path / "adapter_config.json").read_text("utf-8")).get("base_model_name_or_path"))
    with contextlib.suppress(OSError, ValueError, LookupError, AttributeError, yaml.YAMLError):
        names.append(yaml.safe_load((path / "README.md").read_text("utf-8").split("---")[1]).get("base_model"))
    return [name for name in names if isinstance(name, str) and name]


def missing_steps(state: TrainerState | None, step: int, *, since: int, seen: Collection[int]) -> list[int]:
    """The steps at which the Trainer must have saved after `since` and before `step`, none of which was seen.

    Args:
        state: In the checkpoint of `step`.
        seen: Steps of all checkpoints that are there, or were.
    """
    every = 0 if state is None else int(state.save_steps or 0)
    if state is None or every < 1:
        return []
    regular = [at for at in {step, *seen} if at > 0 and (at < state.max_steps or at % every == 0)]
    # Where checkpoints are written every epoch, or on improvement, save_steps is there too, and means nothing.
    if gcd(*regular) != every:
        return []
    return [at for at in range((since // every + 1) * every, step, every) if at not in seen]
