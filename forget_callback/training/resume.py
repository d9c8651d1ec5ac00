"""What a checkpoint keeps of a run, so that a resumed run continues as if it had never stopped.

Samples and tokens seen, the W&B run, and the setup whose change would bend the curves. The history itself is read back
from the run's own directory.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

_KEY = "forget_callback"
# What may change between two starts of a run, and what that does to its curves.
_RISKS = {
    "samples_per_step": "the trainer leaves out data by its steps, so samples may be trained on twice or never, and a "
    "step is not what it was; compare by samples_seen",
    "processes": "the ranks get the data in another order than they would have; the probe's items do not change",
    "template": "from here on the model is trained on chats of another form, which alone may look like forgetting",
}


@dataclass(frozen=True)
class Notes:
    """Kept in `trainer_state.json`, with every checkpoint.

    Attributes:
        part: Share of the items that is scored.
        budget: What was measured of the time that probing takes, see `Budget`.
        wandb_run: `entity`, `project` and `id` of the W&B run, empty without one.
        setup: What should not change when a run is resumed, see `setup_of`.
        run_id: Whose record the run's directory must hold when it is resumed.
        step: Up to which the samples were counted; a checkpoint of a later step was trained without the callback.
    """

    samples_seen: float = 0.0
    tokens_seen: float = 0.0
    part: float = 1.0
    budget: Mapping[str, Any] = field(default_factory=dict)
    wandb_run: Mapping[str, str] = field(default_factory=dict)
    setup: Mapping[str, Any] = field(default_factory=dict)
    run_id: str = ""
    step: int = 0

    @classmethod
    def of(cls, state: TrainerState) -> Notes | None:
        """The notes of the checkpoint that training resumes from; None if it has none, or nothing was resumed."""
        notes: Any = state.stateful_callbacks
        kept = notes.get(_KEY) if state.global_step > 0 else None
        return None if kept is None else cls(**{f.name: kept[f.name] for f in fields(cls) if f.name in kept})

    def write(self, state: TrainerState) -> None:
        """Puts the notes where the next checkpoint takes them from."""
        # Not as an ExportableState: on request the Trainer would rebuild those from JSON, without the user's object.
        notes: Any = state.stateful_callbacks
        notes[_KEY] = asdict(self)


def setup_of(args: TrainingArguments, tokenizer: Any) -> dict[str, Any]:
    """What the curves of a run depend on, beside the model and the probe."""
    template = getattr(tokenizer, "chat_template", None)
    return {
        "samples_per_step": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "processes": args.world_size,
        "template": hashlib.sha256(str(template).encode()).hexdigest()[:12] if template else None,
    }


def report_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Logs what changed since the run was interrupted, and the risk of that."""
    for name, risk in _RISKS.items():
        if name in before and before[name] != now[name]:
            logger.warning("%s was %s before training was resumed and is %s: %s", name, before[name], now[name], risk)


def active_wandb_run() -> Any:
    """The W&B run that is active in this process, None without one."""
    return getattr(sys.modules.get("wandb"), "run", None)


def address_of(run: Any) -> dict[str, str]:
    """Where a W&B run is found."""
    return {} if run is None else {name: getattr(run, name) for name in ("entity", "project", "id")}


class ResumeWandbRun(TrainerCallback):
    """Resumes the W&B run of a checkpoint. Stands before the reporters, which would start another."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Resumes the run that the checkpoint names, unless one is active or the user chose one."""
        notes = Notes.of(state)
        if notes is None or not notes.wandb_run or not state.is_world_process_zero or "wandb" not in args.report_to:
            return
        if active_wandb_run() is not None or "WANDB_RUN_ID" in os.environ:
            return
        try:
            import wandb

            run = notes.wandb_run
            wandb.init(run["entity"] or None, run["project"], id=run["id"], name=args.run_name, resume="allow")
        except Exception as error:  # then the reporter starts a run of its own
            logger.warning("could not resume W&B run %s: %s", notes.wandb_run["id"], error)
