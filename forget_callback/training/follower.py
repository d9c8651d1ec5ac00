"""What follows a training: the interface behind which the callback does not care where forgetting is measured.

`evaluations.py` measures in the training's own process, `remote.py` obeys a process that measures elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from transformers import TrainerControl, TrainerState, TrainingArguments

from forget_callback.training.data_seen import DataSeen
from forget_callback.training.record import Record


class Follower(Protocol):
    """What follows one training, through those events of the Trainer that are of this training.

    Attributes:
        failed: What could not be done where a training cannot be followed.
        lacking: What it lacks then; "{}" stands for "will be" or "was".
        record: Of the run.
        data: What the model was trained on.
    """

    failed: ClassVar[str]
    lacking: ClassVar[str]
    record: Record
    data: DataSeen

    def step_ended(self, state: TrainerState, control: TrainerControl, model: Any) -> None:
        """After an optimizer step."""

    def epoch_ended(self, state: TrainerState, control: TrainerControl, model: Any) -> None:
        """After an epoch, or where training ends early."""

    def logged(self, state: TrainerState, control: TrainerControl, logs: Mapping[str, Any]) -> None:
        """What the Trainer logs; no collective, for one rank may log alone."""

    def evaluated(
        self, state: TrainerState, control: TrainerControl, model: Any, metrics: dict[str, float] | None, wanted: str
    ) -> None:
        """After an evaluation of the Trainer.

        Args:
            metrics: Of the evaluation, to add to.
            wanted: The key that chooses the best model.
        """

    def train_ended(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any) -> None:
        """After training."""

    def stop(self) -> None:
        """Lets go of the model."""

    def close(self) -> None:
        """The same, and lets other runs have the directory."""
