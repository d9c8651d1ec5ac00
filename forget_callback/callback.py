"""`ForgetCallback`: the face of the package towards a Hugging Face Trainer.

Decides when to look; everything else is the monitor's, which the main process alone has. All processes score, and all
get what came of it: whatever fails on one fails on all, so that none waits for another. Nothing that goes wrong in here
reaches training, unless the user asked for it with on_error="raise".
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from forget_callback import schedule
from forget_callback.budget import LOOKS, affordable, allowance, part_of
from forget_callback.data_seen import DataSeen
from forget_callback.history import ALL_METRICS, Row, Stage, table_of
from forget_callback.monitor import ForgetMonitor, check
from forget_callback.probes import Probe
from forget_callback.processes import index, on_main, together
from forget_callback.resume import Notes, SameWandbRun, active_wandb_run, address_of, report_changes, setup_of
from forget_callback.scoring import Scorer, bind
from forget_callback.snapshot import Snapshot
from forget_callback.sources import load_probe
from forget_callback.stopping import StopRule
from forget_callback.store import Store, open_run
from forget_callback.terminal import snapshot_line
from forget_callback.trackers import Tracker, TrainerTracker, WandbTracker, evaluation_metrics

logger = logging.getLogger(__name__)

# Steps after which the time of a step is known; the first ones take longer.
_STEPS_TO_KNOW = 5


class ForgetCallback(TrainerCallback):
    """Records which items of a probe a model gets right as it trains, and what changed since training began.

    Works with `Trainer` and every TRL trainer. Put it before an `EarlyStoppingCallback` that reads its metrics.

    Args:
        probes: One or several probes, or specs for `load_probe`.
        stop: Rules that stop training, or warn.
        every: None looks at each evaluation; a number at every so many optimizer steps; a list at those steps; "log2"
            at steps 1, 2, 4, 8, ... The baseline and the last step are always measured.
        baseline: What is compared against: "start", the model when training starts; "base", a PEFT model with its
            adapters off; or a RUN directory, of which this run is the next stage: what that run was compared against
            (RUN@N: its step N). The model when training starts is measured in any case.
        output_dir: Where `forget/` goes; the Trainer's output_dir by default.
        trainer: Attach to this trainer at once.
        max_overhead: Share of the wall time of training that probing may take, such as 0.05. Looks that would exceed it
            are left out; where too few would be left, a fixed random part of the items is scored from then on.
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
        self.every = schedule.checked(every)
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
        self.monitor: ForgetMonitor | None = None  # of the main process
        self._rows: list[Row] = []
        self._training = self._watching = False
        self._part = 1.0
        self._setup: dict[str, Any] = {}
        self._first_step = 0
        self._begun_with = 0.0  # seconds of probing before the first step
        self._scorer = Scorer(None, [])
        self._data = DataSeen()
        self._trainer: Any = None
        if trainer is not None:
            self.attach(trainer)

    @property
    def history(self) -> pd.DataFrame:
        """The table of the run so far: a row per (step, probe, category); empty before training starts."""
        return table_of(self._rows)

    @property
    def last_step(self) -> int | None:
        """Step of the last snapshot, None before the first."""
        return self._rows[-1].step if self._rows else None

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
        self.monitor, self._rows, self._part = None, [], 1.0
        self._training, self._watching = True, False
        with self._errors("the baseline could not be taken, so this run is not watched"):
            tokenizer = together(lambda: _tokenizer_of(model, processing_class))
            notes = self._resume(args, state, tokenizer)
            self._data.watch(model)
            probes = together(lambda: [bind(probe, tokenizer) for probe in self.probes])
            self._rows, batch_tokens = on_main(lambda: self._open(args, state, probes, notes))
            self._scorer = self._make_scorer(tokenizer, probes, batch_tokens=self.batch_tokens or batch_tokens)
            if not self._rows:
                self._take_baseline(state, model)
            self._begun_with = 0.0 if self.monitor is None else self.monitor.probe_seconds[0]
            self._score_part(notes.part)
            self._watching = True
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
        if last or schedule.is_due(self.every, state.global_step):
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
        if self._watching and self.last_step == state.global_step:
            metrics.update(evaluation_metrics(row for row in self._rows if row.step == self.last_step))
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
        step = state.global_step
        if not self._watching or self.last_step is None or step <= self.last_step:
            return
        with self._errors(f"the snapshot of step {step} could not be taken"):
            samples, tokens = self._count(state)
            if self.max_overhead is not None:
                # Clocks differ between processes, and they must look together.
                part, too_dear = on_main(lambda: self._afforded(state))
                self._score_part(part)
                if too_dear and not always:
                    logger.info("no snapshot at step %d: it would exceed max_overhead=%g", step, self.max_overhead)
                    return
            if self._observe(step, self._scores(self._scorer, model), samples=samples, tokens=tokens):
                control.should_training_stop = True
                control.should_save = True

    def _observe(self, step: int, taken: _Taken, *, samples: float, tokens: float, again: Any = None) -> bool:
        """Hands scores to the main process' monitor; whether to stop."""

        def observe() -> tuple[tuple[Row, ...], bool]:
            assert self.monitor is not None
            seen = self.monitor.observe(
                step, taken.score, again=again, samples_seen=samples, tokens_seen=tokens, seconds=taken.seconds
            )
            tqdm.write(snapshot_line(seen.rows, seen.seconds, first=not self._rows), file=sys.stderr)
            if seen.error is not None and self.on_error == "raise":
                raise seen.error
            return seen.rows, seen.stop

        rows, stop = on_main(observe)
        self._rows = [*self._rows, *rows]
        return stop

    def _scores(self, scorer: Scorer, model: Any) -> _Taken:
        begun = time.perf_counter()
        snapshots = {snapshot.probe: snapshot for snapshot in scorer.score(model, progress=index() == 0)}
        return _Taken(snapshots, time.perf_counter() - begun)

    def _make_scorer(self, tokenizer: Any, probes: Sequence[Probe], *, batch_tokens: int | None, **more: Any) -> Scorer:
        vllm = getattr(self._trainer, "vllm_generation", None)
        return Scorer(tokenizer, probes, batch_tokens=batch_tokens, shared=True, vllm=vllm, **more)

    def _make_other_scorer(self, **more: Any) -> Scorer:
        """One that differs from the scorer that there is; its batches are as small as that one had to make them."""
        scorer = self._scorer
        return self._make_scorer(scorer.tokenizer, scorer.probes, batch_tokens=scorer.batch_tokens, **more)

    def _afforded(self, state: TrainerState) -> tuple[float, bool]:
        """The part of the items to score from here on, and whether even that is too dear now."""
        monitor, limit = self.monitor, self.max_overhead
        assert monitor is not None and limit is not None
        spent, last = monitor.probe_seconds
        progress = (state.global_step - self._first_step) / (state.max_steps - self._first_step)
        allowed = allowance(limit, trained=monitor.elapsed - spent, progress=progress)
        part = self._part
        if part == 1 and state.global_step - self._first_step >= _STEPS_TO_KNOW:
            part = affordable(allowed - spent, last)
        cost = last * part / self._part
        # What is left after the baseline is spent evenly.
        return part, spent - self._begun_with + cost > progress * (allowed - self._begun_with)

    def _score_part(self, part: float) -> None:
        """Goes on with a fixed part of the items, for the rest of the run."""
        probes = self._scorer.probes
        only = {probe.name: part_of(probe, part) for probe in probes}
        if part == self._part or all(len(only[probe.name]) == len(probe) for probe in probes):
            return
        self._scorer = self._make_other_scorer(only=only)
        self._part = part
        logger.warning(
            "scoring all items %d more times would take more than max_overhead=%g of this run; from here on the same "
            "random part of them is scored, by category: %s",
            LOOKS,
            self.max_overhead,
            ", ".join(f"{len(only[probe.name])} of {len(probe)} of {probe.name!r}" for probe in probes),
        )

    def _open(
        self, args: TrainingArguments, state: TrainerState, probes: list[Probe], notes: Notes
    ) -> tuple[list[Row], int | None]:
        """Makes the monitor of this run. What is on disk already: rows, and the batches that they were scored in."""
        store = Store(self.output_dir or args.output_dir or ".")
        after = state.global_step if state.global_step > 0 else -1
        try:
            store.begin(probes)
            aside = store.set_aside(after=after)
        except OSError:
            if any(step > after for probe in probes for step in store.steps(probe.name)):
                raise  # snapshots of two runs must not mix
            aside = None
        if aside is not None:
            logger.warning("%s held later or other snapshots; they are kept in %s", store.path, aside)
        last = int(state.max_steps)
        evaluations = schedule.evaluations(
            args.eval_strategy, last, steps=state.eval_steps or 0, epochs=args.num_train_epochs
        )
        planned = schedule.planned(self.every, last, evaluations=evaluations)
        self.monitor = monitor = ForgetMonitor(probes, store, self._trackers(), self.stop, planned=planned)
        if monitor.last_step is None:
            return [], None
        self._retell(notes)
        return monitor.rows, store.read(probes[0].name, monitor.last_step).metadata.get("batch_tokens")

    def _retell(self, notes: Notes) -> None:
        """Logs the curves so far once more, where a resumed run has to go on in another W&B run."""
        before, now = notes.wandb_run.get("id"), active_wandb_run()
        if before is None or now is None or now.id == before:
            return
        logger.warning(
            "training goes on in W&B run %s, not in its own, %s; the curves so far are logged there again. To go on in "
            "the same run, call attach(trainer), or set WANDB_RUN_ID=%s and WANDB_RESUME=allow before training",
            now.id,
            before,
            before,
        )
        assert self.monitor is not None
        for tracker in self.monitor.trackers:
            if isinstance(tracker, WandbTracker):
                self.monitor.retell(tracker)

    def _take_baseline(self, state: TrainerState, model: Any) -> None:
        """Measures the model that is there, and what it is compared against if that is another one."""
        resumed = state.global_step > 0
        if self.baseline == "base":
            if not hasattr(model, "disable_adapter"):
                raise ValueError("baseline='base' needs a PEFT model, whose adapters can be switched off")
            with model.disable_adapter():
                base = self._scores(self._scorer, model)
            on_main(lambda: self._compare_with(base.score, Stage()))
        elif self.baseline != "start":
            on_main(self._compare_with_run)
        elif resumed:
            raise ValueError(
                f"training resumed at step {state.global_step}, but there is no baseline of its start; resume in the "
                "run's own output_dir, or pass baseline=RUN, or baseline='base' for adapters"
            )
        now, again = self._scores(self._scorer, model), None
        if self.noise_floor and not resumed:
            again = self._score_again(model)
        samples, tokens = self._count(state)
        self._observe(state.global_step, now, samples=samples, tokens=tokens, again=again)

    def _compare_with(self, score: Callable[[Probe], Snapshot], stage: Stage) -> None:
        assert self.monitor is not None
        self.monitor.compare_with(score, stage=stage)

    def _compare_with_run(self) -> None:
        run = open_run(self.baseline)
        self._compare_with(lambda probe: run.baseline(probe.name), run.next_stage(self.probes[0].name))

    def _score_again(self, model: Any) -> Callable[[Probe], Snapshot] | None:
        """The model once more, in other batches and with other samples."""
        try:
            taken = self._scores(self._make_other_scorer(variant=1), model)
        except Exception as error:  # the baseline itself is safe
            logger.warning("the noise floor could not be measured: %s: %s", type(error).__name__, error)
            return None
        return taken.score

    def _trackers(self) -> list[Tracker]:
        trackers: list[Tracker] = []
        if active_wandb_run() is not None:
            trackers.append(WandbTracker())
        if self._trainer is not None:
            trackers.append(TrainerTracker(self._trainer))
        return trackers

    def _count(self, state: TrainerState) -> tuple[float, float]:
        """Samples and tokens so far, also noted where every checkpoint keeps them."""
        samples, tokens = self._data.totals()
        Notes(samples, tokens, self._part, address_of(active_wandb_run()), self._setup).write(state)
        return samples, tokens

    def _resume(self, args: TrainingArguments, state: TrainerState, tokenizer: Any) -> Notes:
        """Goes on with what a checkpoint keeps of the run so far."""
        kept = Notes.of(state)
        if state.global_step > 0 and kept is None:
            logger.warning(
                "the checkpoint was saved without ForgetCallback: the samples before step %d are not counted",
                state.global_step,
            )
        notes = kept or Notes()
        self._first_step = state.global_step
        self._setup = setup_of(args, tokenizer)
        if index() == 0:
            report_changes(notes.setup, self._setup)
        self._data.stop()
        self._data = DataSeen(notes.samples_seen, notes.tokens_seen)
        return notes

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


@dataclass(frozen=True)
class _Taken:
    """What one scoring of all probes gave."""

    snapshots: dict[str, Snapshot]
    seconds: float

    def score(self, probe: Probe) -> Snapshot:
        """The snapshot of a probe, as `ForgetMonitor.observe` asks for it."""
        return self.snapshots[probe.name]


def _tokenizer_of(model: Any, processing_class: Any) -> Any:
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    if model is None or tokenizer is None:
        raise ValueError(
            f"the trainer gave no {'model' if model is None else 'tokenizer'}; pass processing_class= to it"
        )
    return tokenizer
