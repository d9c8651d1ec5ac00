"""`ForgetCallback`: the face of the package towards a Hugging Face Trainer.

Decides when to look; what a look is, and what all processes do together then, is `watch.py`'s. Nothing that goes wrong
in here reaches training, unless the user asked for it with on_error="raise".
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import pandas as pd
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from forget_callback.probes.load import Probes, as_probes
from forget_callback.runs.history import ALL_METRICS, table_of
from forget_callback.runs.stopping import StopRule, stop_rules
from forget_callback.scoring.distributed import on_main
from forget_callback.training import schedule
from forget_callback.training.monitor import ForgetMonitor
from forget_callback.training.resume import SameWandbRun
from forget_callback.training.session import Settings, Watch
from forget_callback.training.trackers import Tracker, checked_trackers, evaluation_metrics

logger = logging.getLogger(__name__)


class ForgetCallback(TrainerCallback):
    """Records which items of a probe a model gets right as it trains, and what changed since training began.

    Works with `Trainer` and every TRL trainer. Put it before an `EarlyStoppingCallback` that reads its metrics.

    Args:
        probes: One or several: a `Probe`, a spec or path for `load_probe`, or a table with the fields of an item (a
            list of dicts, a `datasets.Dataset`, a DataFrame), named "probe"; or names with these, {"maths": rows}.
        stop: When to stop training, or to warn: one rule or several, each a `StopRule` or a text as in a recipe's YAML,
            "METRIC>VALUE", "PROBE/METRIC>VALUE" or "PROBE/CATEGORY/METRIC>VALUE", such as "knowledge_lost>0.05".
        every: When to evaluate: None at each evaluation of the Trainer; a number at every so many optimizer steps; a
            list at those steps; "log2" at steps 1, 2, 4, 8, ... The baseline and the last step are always measured.
        baseline: What is compared against: "start", the model when training starts; "base", a PEFT model with its
            adapters off; or a RUN directory, of which this run is the next stage: what that run was compared against
            (RUN@N: its step N). The model when training starts is measured in any case.
        output_dir: Where `forget/` goes; the Trainer's output_dir by default.
        trainer: Attach to this trainer at once.
        trackers: Trackers of your own, one or several, beside those of the trainer: objects with `log(row)` and
            `alert(title, text)`, see `Tracker`.
        max_overhead: Share of the wall time of training that probing may take, such as 0.05. Snapshots that would
            exceed it are left out; where too few would be left, a fixed random part of the items is scored instead.
        noise_floor: Score the baseline a second time, in other batches and with other samples, to know what flips for
            no reason. None does so unless `max_overhead` is given.
        batch_tokens: Tokens of one forward, see `score_probe`.
        on_error: "warn" logs an error of the probe and lets training go on; "raise" passes it on.

    Raises:
        ValueError: If an argument is out of range, a probe is not valid or a rule has nothing to read.
    """

    def __init__(
        self,
        probes: Probes = "builtin:facts",
        *,
        stop: StopRule | str | Iterable[StopRule | str] = (),
        every: int | Iterable[int] | str | None = None,
        baseline: str | os.PathLike[str] = "start",
        output_dir: str | os.PathLike[str] | None = None,
        trainer: Any = None,
        trackers: Tracker | Iterable[Tracker] = (),
        max_overhead: float | None = None,
        noise_floor: bool | None = None,
        batch_tokens: int | None = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        self.settings = Settings(
            probes=as_probes(probes),
            stop=stop_rules(stop),
            every=schedule.checked(every),
            baseline=baseline,
            output_dir=output_dir,
            trackers=checked_trackers(trackers),
            max_overhead=max_overhead,
            noise_floor=max_overhead is None if noise_floor is None else noise_floor,
            batch_tokens=batch_tokens,
            on_error=on_error,
        )
        self._training = False
        self._trainer: Any = None
        self._watch = Watch(self.settings)
        if trainer is not None:
            self.attach(trainer)

    @property
    def monitor(self) -> ForgetMonitor | None:
        """The run's monitor; None before training starts, and on all processes but the main one."""
        return self._watch.monitor

    @property
    def history(self) -> pd.DataFrame:
        """The table of the run so far: a row per (step, probe, category); empty before training starts."""
        return table_of(self._watch.rows)

    @property
    def last_step(self) -> int | None:
        """Step of the last snapshot, None before the first."""
        return self._watch.last_step

    def attach(self, trainer: Any) -> None:
        """Adds this callback to a trainer, before early stopping, and sends its numbers to all of `report_to`.

        A resumed run goes on in its own W&B run, and greedy answers are written by the trainer's vLLM if it has one.
        """
        callbacks = trainer.callback_handler.callbacks
        if not any(isinstance(callback, SameWandbRun) for callback in callbacks):
            callbacks.insert(0, SameWandbRun())
        if self in callbacks:
            callbacks.remove(self)
        trainer.add_callback(self)
        early = [i for i, callback in enumerate(callbacks) if isinstance(callback, EarlyStoppingCallback)]
        if early:
            callbacks.insert(early[0], callbacks.pop())
        self._trainer = trainer

    # Events of the Trainer, in the order in which they come.

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        """Takes the baseline, or reads it back when training was resumed."""
        self._watch.stop()
        self._watch = Watch(self.settings, self._trainer)
        self._training = True
        with self._errors("the baseline could not be taken, so this run is not watched"):
            self._watch.begin(args, state, model, processing_class)
            if self.settings.every is None and args.eval_strategy == "no":
                logger.warning(
                    "no evaluation is scheduled, so only the first and the last step are measured; "
                    "pass every= to ForgetCallback, or eval_strategy= to the trainer"
                )

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Looks if it is time by `every`, and after the last step: later the best model may stand in its place."""
        last = state.global_step >= state.max_steps
        if control.should_save:
            self._watch.count(state)
        if last or schedule.is_due(self.settings.every, state.global_step):
            self._look(state, control, model, always=last)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Counts, for the checkpoint that may follow."""
        self._watch.count(state)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Looks if evaluations are the schedule, and adds the numbers to the evaluation's own."""
        if not self._training:
            return
        self._watch.count(state)  # a new best model is saved next
        wanted = f"eval_{(args.metric_for_best_model or '').removeprefix('eval_')}"
        chooses_best = wanted in self._evaluation_names()
        if self.settings.every is None or chooses_best:
            self._look(state, control, model)
        if metrics is None:
            return
        if self._watch.ready and self.last_step == state.global_step:
            metrics.update(evaluation_metrics(row for row in self._watch.rows if row.step == self.last_step))
        elif chooses_best:
            metrics[wanted] = math.nan  # a failed probe is never the best, and its key must be there

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Looks once more if training ended before its last planned step."""
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            logger.info("the best model was loaded, so the last step is not measured again")
        else:
            self._look(state, control, model, always=True)
        with self._errors("the end of the run could not be recorded"):
            on_main(self._watch.finish)
        self._watch.stop()
        self._training = False

    def _look(self, state: TrainerState, control: TrainerControl, model: Any, *, always: bool = False) -> None:
        """Looks, once per step whatever fires twice."""
        step, last = state.global_step, self.last_step
        if not self._watch.ready or last is None or step <= last:
            return
        with self._errors(f"the snapshot of step {step} could not be taken"):
            if self._watch.look(state, model, always=always):
                control.should_training_stop = True
                control.should_save = True

    def _evaluation_names(self) -> set[str]:
        names = [probe.name for probe in self.settings.probes] + ["all"] * (len(self.settings.probes) > 1)
        return {f"eval_forget_{name}_{metric}" for name in names for metric in ALL_METRICS}

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is, it must not end a run that costs days
            if self.settings.on_error == "raise":
                raise
            logger.warning("forget_callback: %s: %s: %s", what, type(error).__name__, error)
            logger.debug("the error in full", exc_info=True)
