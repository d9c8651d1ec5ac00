"""`ForgetCallback`: the face of the package towards a Hugging Face Trainer.

Decides when to look; everything else is the monitor's. Nothing that goes wrong in here reaches training, unless the
user asked for it with on_error="raise".
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import pandas as pd
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from forget_callback.data_seen import DataSeen
from forget_callback.history import ALL_METRICS
from forget_callback.monitor import ForgetMonitor, check
from forget_callback.probes import Probe
from forget_callback.processes import any_of, wait
from forget_callback.scoring import Scorer, bind
from forget_callback.snapshot import Snapshot
from forget_callback.sources import load_probe
from forget_callback.stopping import StopRule
from forget_callback.store import RunAt, Store, open_run
from forget_callback.trackers import Tracker, TrainerTracker, WandbTracker, evaluation_metrics

logger = logging.getLogger(__name__)

_NOTE = "forget_callback"


class ForgetCallback(TrainerCallback):
    """Records which items of a probe a model gets right as it trains, and what changed since training began.

    Works with `Trainer` and every TRL trainer. Put it before an `EarlyStoppingCallback` that reads its metrics.

    Args:
        probes: One or several probes, or specs for `load_probe`.
        stop: Rules that stop training, or warn.
        every: None looks at each evaluation; a number at every so many optimizer steps; a list at those steps; "log2"
            at steps 1, 2, 4, 8, ... The baseline and the last step are always measured.
        baseline: What is compared against: "start", the model when training starts; "base", a PEFT model with its
            adapters off; or a RUN directory (RUN@N for its step N), whose first snapshot is taken.
        output_dir: Where `forget/` goes; the Trainer's output_dir by default.
        trainer: Attach to this trainer at once.
        max_overhead: Share of the wall time of training that probing may take, such as 0.05; looks that would exceed
            it are left out.
        noise_floor: Score the baseline a second time, in other batches and with other samples, to know what flips for
            no reason. None does so unless `max_overhead` is given.
        batch_tokens: Tokens of one forward, see `score_probe`.
        on_error: "warn" logs an error of the probe and lets training go on; "raise" passes it on.

    Raises:
        ValueError: If an argument is out of range, a probe is not valid or a rule has nothing to read.
    """

    def __init__(
        self,
        probes: str | Probe | Sequence[str | Probe] = "builtin:facts",
        *,
        stop: StopRule | Sequence[StopRule] = (),
        every: int | Sequence[int] | Literal["log2"] | None = None,
        baseline: str | os.PathLike[str] = "start",
        output_dir: str | os.PathLike[str] | None = None,
        trainer: Any = None,
        max_overhead: float | None = None,
        noise_floor: bool | None = None,
        batch_tokens: int | None = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        given = [probes] if isinstance(probes, (str, Probe)) else list(probes)
        self.probes = [probe if isinstance(probe, Probe) else load_probe(probe) for probe in given]
        self.stop = (stop,) if isinstance(stop, StopRule) else tuple(stop)
        check(self.probes, self.stop)
        self.every = _checked_every(every)
        self.baseline = baseline
        self.output_dir = output_dir
        if max_overhead is not None and not 0 < max_overhead < 1:
            raise ValueError(f"max_overhead must lie in (0, 1), got {max_overhead!r}")
        self.max_overhead = max_overhead
        self.noise_floor = max_overhead is None if noise_floor is None else noise_floor
        if batch_tokens is not None and batch_tokens < 1:
            raise ValueError(f"batch_tokens must be 1 or more, got {batch_tokens}")
        self.batch_tokens = batch_tokens
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error must be 'warn' or 'raise', got {on_error!r}")
        self.on_error = on_error
        self.monitor: ForgetMonitor | None = None
        self._training = False
        self._scorer = Scorer(None, [])
        self._data = DataSeen()
        self._trainer: Any = None
        if trainer is not None:
            self.attach(trainer)

    @property
    def history(self) -> pd.DataFrame:
        """The table of the run so far: a row per (step, probe, category); empty before training starts."""
        if self.monitor is None:
            return pd.DataFrame(columns=["step", "samples_seen", "tokens_seen", "probe", "category", *ALL_METRICS])
        return self.monitor.history

    def attach(self, trainer: Any) -> None:
        """Adds this callback to a trainer, before early stopping, and sends its numbers to all of `report_to`."""
        callbacks = trainer.callback_handler.callbacks
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
        self.monitor, self._training = None, True
        with self._errors("the baseline could not be taken, so this run is not watched"):
            tokenizer = getattr(processing_class, "tokenizer", processing_class)
            if model is None or tokenizer is None:
                raise ValueError(
                    f"the trainer gave no {'model' if model is None else 'tokenizer'}; pass processing_class= to it"
                )
            self._resume_counts(state)
            self._data.watch(model)
            monitor = self._open(args, state, [bind(probe, tokenizer) for probe in self.probes])
            self._scorer = Scorer(tokenizer, monitor.probes, batch_tokens=self.batch_tokens)
            if monitor.last_step is None:
                self._take_baseline(monitor, state, model, tokenizer)
            self.monitor = monitor
            if self.every is None and args.eval_strategy == "no":
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
            self._count(state)
        if last or is_due(self.every, state.global_step):
            self._look(state, control, model, always=last)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Counts, for the checkpoint that may follow."""
        self._count(state)

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
        self._count(state)  # a new best model is saved next
        wanted = f"eval_{(args.metric_for_best_model or '').removeprefix('eval_')}"
        chooses_best = wanted in self._evaluation_names()
        if self.every is None or chooses_best:
            self._look(state, control, model)
        if metrics is None:
            return
        if self.monitor is not None and self.monitor.last_step == state.global_step:
            metrics.update(evaluation_metrics(self.monitor.last_rows))
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
        self._data.stop()
        self._training = False

    # What the events share.

    def _look(self, state: TrainerState, control: TrainerControl, model: Any, *, always: bool = False) -> None:
        """Takes a snapshot, once per step whatever fires twice."""
        monitor, step = self.monitor, state.global_step
        if monitor is None or monitor.last_step is None or step <= monitor.last_step:
            return
        if not always and self._too_dear(monitor, step):
            return
        with self._errors(f"the snapshot of step {step} could not be taken"):
            samples, tokens = self._count(state)
            score = self._scorer.by_probe(model, progress=True)
            observation = monitor.observe(step, score, samples_seen=samples, tokens_seen=tokens)
            if any_of(observation.stop):
                control.should_training_stop = True
                control.should_save = True

    def _too_dear(self, monitor: ForgetMonitor, step: int) -> bool:
        # Clocks differ between processes, and they must look together.
        if self.max_overhead is None or not any_of(monitor.overhead_after_next() > self.max_overhead):
            return False
        logger.info("no snapshot at step %d: it would take more than max_overhead=%g", step, self.max_overhead)
        return True

    def _open(self, args: TrainingArguments, state: TrainerState, probes: list[Probe]) -> ForgetMonitor:
        """The monitor of this run, with whatever the run has on disk."""
        main = state.is_world_process_zero
        store = Store(self.output_dir or args.output_dir or ".", writable=main)
        store.begin(probes)
        aside = store.set_aside(after=state.global_step if state.global_step > 0 else -1)
        if aside is not None:
            logger.warning("%s held later or other snapshots; they are kept in %s", store.path, aside)
        wait()  # nobody reads what is still being moved
        return ForgetMonitor(
            probes, store, self._trackers() if main else (), self.stop, planned=_planned(self.every, args, state)
        )

    def _take_baseline(self, monitor: ForgetMonitor, state: TrainerState, model: Any, tokenizer: Any) -> None:
        score, adapters = self._scorer.by_probe(model, progress=True), contextlib.nullcontext()
        other = Scorer(tokenizer, monitor.probes, batch_tokens=self.batch_tokens, variant=1)
        again = other.by_probe(model, progress=True) if self.noise_floor else None
        if self.baseline == "base":
            if not hasattr(model, "disable_adapter"):
                raise ValueError("baseline='base' needs a PEFT model, whose adapters can be switched off")
            adapters = model.disable_adapter()
        elif self.baseline != "start":
            score, again = partial(_first_of, open_run(self.baseline)), None
        elif state.global_step > 0:
            raise ValueError(
                f"training resumed at step {state.global_step}, but {monitor.store.path} has no baseline; resume "
                "in the run's own output_dir, or pass baseline=RUN, or baseline='base' for adapters"
            )
        with adapters:
            monitor.observe(0, score, again=again, samples_seen=0.0, tokens_seen=0.0)

    def _trackers(self) -> list[Tracker]:
        trackers: list[Tracker] = []
        wandb = sys.modules.get("wandb")
        if wandb is not None and wandb.run is not None:
            trackers.append(WandbTracker())
        if self._trainer is not None:
            trackers.append(TrainerTracker(self._trainer))
        return trackers

    def _count(self, state: TrainerState) -> tuple[float, float]:
        """Samples and tokens so far, also noted where every checkpoint keeps them."""
        samples, tokens = self._data.totals()
        # Not as an ExportableState: on request the Trainer would rebuild those from JSON, without the user's object.
        notes: Any = state.stateful_callbacks
        notes[_NOTE] = {"samples_seen": samples, "tokens_seen": tokens}
        return samples, tokens

    def _resume_counts(self, state: TrainerState) -> None:
        notes: Any = state.stateful_callbacks
        kept = notes.get(_NOTE, {}) if state.global_step > 0 else {}
        self._data.stop()
        self._data = DataSeen(kept.get("samples_seen", 0.0), kept.get("tokens_seen", 0.0))

    def _evaluation_names(self) -> set[str]:
        names = [probe.name for probe in self.probes] + ["all"] * (len(self.probes) > 1)
        return {f"eval_forget_{name}_{metric}" for name in names for metric in ALL_METRICS}

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is, it must not end a run that costs days
            if self.on_error == "raise":
                raise
            logger.warning("forget_callback: %s: %s: %s", what, type(error).__name__, error)
            logger.debug("the error in full", exc_info=True)


def _first_of(run: RunAt, probe: Probe) -> Snapshot:
    return run.read(probe.name, default="first")


def _checked_every(every: int | Iterable[int] | str | None) -> int | frozenset[int] | str | None:
    if every is None or every == "log2":
        return every
    steps = [every] if isinstance(every, int) else list(every) if not isinstance(every, str) else []
    if not steps or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in steps):
        raise ValueError(f"every must be None, a number of steps of 1 or more, a list of them or 'log2', got {every!r}")
    return every if isinstance(every, int) else frozenset(steps)


def is_due(every: int | frozenset[int] | str | None, step: int) -> bool:
    """Whether a schedule of steps names this one."""
    if every is None:
        return False
    if isinstance(every, int):
        return step % every == 0
    return step in every if isinstance(every, frozenset) else step & (step - 1) == 0


def _planned(every: int | frozenset[int] | str | None, args: Any, state: Any) -> int:
    """Snapshots after the baseline that the run plans, at least one: the last step's."""
    last = int(state.max_steps)
    if every is not None:
        return sum(1 for step in range(1, last + 1) if is_due(every, step) or step == last)
    if args.eval_strategy == "steps":
        return math.ceil(last / max(int(state.eval_steps or last), 1))
    return max(math.ceil(args.num_train_epochs), 1) if args.eval_strategy == "epoch" else 1
