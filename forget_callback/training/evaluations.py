"""When a training is evaluated: what each event of the Trainer means to its `Session`.

Knows the schedule; `session.py` runs one evaluation across all ranks. `remote.py` follows a training in its place where
another process measures it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import TrainerControl, TrainerState, TrainingArguments

from forget_callback.runs.rows import OF_ALL_PROMPTS
from forget_callback.scoring.distributed import on_main
from forget_callback.training import schedule
from forget_callback.training.follower import Follower
from forget_callback.training.session import Session
from forget_callback.training.setup import Settings, errors
from forget_callback.training.trackers import evaluation_metrics
from forget_callback.training.unmeasured import reason

logger = logging.getLogger(__name__)


class Evaluations:
    """Follows one training, and measures it in its own process when that is due.

    Args:
        before: What followed an earlier start of the same training that did not end.
        more: As `Session`.

    Raises:
        Exception: If there can be no baseline: then this run is not measured, and its record says so.
    """

    failed: ClassVar[str] = "the baseline could not be taken"
    lacking: ClassVar[str] = "no forgetting {} measured in this run"

    def __init__(self, settings: Settings, *more: Any, before: Follower | None, trained: bool) -> None:
        self._settings = settings
        self._session = Session(settings, *more, before=before, trained=trained)
        self.record, self.data = self._session.record, self._session.data

    def step_ended(self, state: TrainerState, control: TrainerControl, model: Any) -> None:
        """Evaluates when `every` is due, and at the last step, before load_best_model_at_end replaces the weights."""
        self.data.end_step()
        self._session.step_ended(state)
        last = state.global_step >= state.max_steps
        if control.should_save or control.should_log or control.should_evaluate:
            self._session.count(state)  # a collective: `on_log` may come on one rank alone
        if last or schedule.is_due(self._settings.every, state.global_step):
            self._snapshot(state, control, model, last=last)

    def epoch_ended(self, state: TrainerState, control: TrainerControl, model: Any) -> None:
        """Counts samples and tokens, for the checkpoint that may follow.

        Also evaluates where training ends early: afterwards the best model may stand in the place of the last one.
        """
        self._session.count(state)
        if control.should_training_stop:
            self._snapshot(state, control, model, last=True)

    def logged(self, state: TrainerState, control: TrainerControl, logs: Mapping[str, Any]) -> None:
        """Keeps what the Trainer logs of the task itself: loss, reward, evaluations."""
        own = {name: value for name, value in logs.items() if name not in self._settings.evaluation_names}
        self._session.log_task(state, own, saving=control.should_save)

    def evaluated(
        self, state: TrainerState, control: TrainerControl, model: Any, metrics: dict[str, float] | None, wanted: str
    ) -> None:
        """Evaluates if the Trainer's evaluations are the schedule, and adds the metrics to those of the evaluation."""
        self._session.count(state)  # a new best model is saved next
        chosen = self._settings.evaluation_names.get(wanted)
        if self._settings.every is None or chosen is not None:
            # The best model is one of all prompts where its metric is.
            self._snapshot(state, control, model, whole=chosen in OF_ALL_PROMPTS)
        if metrics is not None and self.record.last_step == state.global_step:
            more = self._settings.evaluation_metrics
            metrics.update(evaluation_metrics(self.record.last_rows, more=more, wanted=wanted))

    def train_ended(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any) -> None:
        """Evaluates once more if training ended before its last planned step, and writes the report."""
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            logger.info("the best model was loaded, so the last step is not scored again")
        else:
            self._snapshot(state, control, model, last=True)
        with errors(
            self._settings.on_error,
            lambda error: logger.warning("the end of the run could not be recorded: %s", reason(error)),
        ):
            on_main(lambda: self._session.finish(state))

    def stop(self) -> None:
        """Removes the forward hooks from the model."""
        self.data.stop()

    def close(self) -> None:
        """The same, and lets other runs have the directory."""
        self._session.close()

    def _snapshot(
        self, state: TrainerState, control: TrainerControl, model: Any, *, last: bool = False, whole: bool = False
    ) -> None:
        """Takes a snapshot, once a step even where two events fire, and stops training if a rule says so.

        Args:
            last: Of the last evaluation, which is taken whatever it costs, of all prompts.
            whole: Of all prompts.
        """
        session, step, before, whole = self._session, state.global_step, self.record.last_step, whole or last
        if before is None or step < before or (step == before and not (whole and session.lacks_prompts)):
            return
        with errors(self._settings.on_error, lambda error: session.missed(step, error)):
            if session.evaluate(state, model, always=last or step == before, whole=whole):
                control.should_training_stop = True
                control.should_save = True
