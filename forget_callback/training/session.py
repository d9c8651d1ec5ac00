"""One training run under watch, by all of its processes: what `ForgetCallback` does once it knows when.

All processes score, and all get what came of it: whatever fails on one fails on all, so that none waits for another.
The monitor, with the history, the disk and the trackers, is the main process' alone.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console
from tqdm.auto import tqdm
from transformers import TrainerState, TrainingArguments

from forget_callback.probes.probe import Probe
from forget_callback.report.terminal import changes_table, snapshot_line
from forget_callback.runs.history import Row, Stage
from forget_callback.runs.stopping import StopRule
from forget_callback.runs.store import Store, open_run
from forget_callback.scoring.distributed import on_main, rank, together
from forget_callback.scoring.engine import Scorer
from forget_callback.scoring.judge import Judge
from forget_callback.scoring.likelihood.tokens import bind
from forget_callback.snapshots.snapshot import Snapshot
from forget_callback.training import schedule
from forget_callback.training.data_seen import DataSeen
from forget_callback.training.monitor import ForgetMonitor, check
from forget_callback.training.resume import Notes, active_wandb_run, address_of, report_changes, setup_of
from forget_callback.training.schedule import LOOKS, affordable, allowance, part_of
from forget_callback.training.trackers import Log, Tracker, TrainerTracker, Upload
from forget_callback.training.wandb_tracker import WandbTracker

logger = logging.getLogger(__name__)

# Steps after which the time of a step is known; the first ones take longer.
_STEPS_TO_KNOW = 5


@dataclass(frozen=True)
class Settings:
    """The arguments of `ForgetCallback`, which explains them.

    Raises:
        ValueError: If one is out of range, a probe is not valid or a rule has nothing to read.
    """

    probes: tuple[Probe, ...]
    stop: tuple[StopRule, ...]
    every: schedule.Schedule
    baseline: str | os.PathLike[str]
    output_dir: str | os.PathLike[str] | None
    trackers: tuple[Tracker, ...]
    max_overhead: float | None
    noise_floor: bool
    batch_tokens: int | None
    scorer: Judge | None
    log: Log
    upload: Upload
    on_error: Literal["warn", "raise"]

    def __post_init__(self) -> None:
        check(self.probes, self.stop)
        if self.max_overhead is not None and not 0 < self.max_overhead < 1:
            raise ValueError(f"max_overhead must lie in (0, 1), got {self.max_overhead!r}")
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ValueError(f"batch_tokens must be 1 or more, got {self.batch_tokens}")
        if self.log not in get_args(Log):
            raise ValueError(f"log must be 'main' or 'all', got {self.log!r}")
        if self.upload not in get_args(Upload):
            raise ValueError(f"upload must be 'metrics', 'all' or 'none', got {self.upload!r}")
        if self.on_error not in ("warn", "raise"):
            raise ValueError(f"on_error must be 'warn' or 'raise', got {self.on_error!r}")


class Watch:
    """One training run under watch.

    Args:
        settings: What the user wants.
        trainer: Whose trackers get the numbers and whose vLLM writes, if the callback was attached to one.

    Attributes:
        monitor: Of the main process, once there is one.
        rows: The history so far, the same on all processes.
        ready: Whether there is a baseline, and later looks make sense.
    """

    def __init__(self, settings: Settings, trainer: Any = None) -> None:
        self.settings, self.trainer = settings, trainer
        self.monitor: ForgetMonitor | None = None
        self.rows: list[Row] = []
        self.ready = False
        self._part = 1.0
        self._setup: dict[str, Any] = {}
        self._first_step = 0
        self._begun_with = 0.0  # seconds of probing before the first step
        self._scorer = Scorer(None, [])
        self._data = DataSeen()

    @property
    def last_step(self) -> int | None:
        """Step of the last snapshot, None before the first."""
        return self.rows[-1].step if self.rows else None

    def begin(self, args: TrainingArguments, state: TrainerState, model: Any, processing_class: Any) -> None:
        """Takes the baseline, or reads it back when training was resumed.

        Raises:
            Exception: If that is not possible: then this run is not watched.
        """
        tokenizer = together(lambda: _tokenizer_of(model, processing_class))
        notes = self._resume(args, state, tokenizer)
        self._data.watch(model)
        probes = together(lambda: [bind(probe, tokenizer) for probe in self.settings.probes])
        self.rows, batch_tokens = on_main(lambda: self._open(args, state, probes, notes))
        self._scorer = self._make_scorer(tokenizer, probes, batch_tokens=self.settings.batch_tokens or batch_tokens)
        if not self.rows:
            self._take_baseline(state, model)
        self._begun_with = 0.0 if self.monitor is None else self.monitor.probe_seconds[0]
        self._score_part(notes.part)
        self.ready = True

    def look(self, state: TrainerState, model: Any, *, always: bool = False) -> bool:
        """Takes a snapshot, unless this step has one or the time budget forbids it; whether training should stop.

        Args:
            always: Whatever it costs.
        """
        step = state.global_step
        samples, tokens = self.count(state)
        if self.settings.max_overhead is not None:
            # Clocks differ between processes, and they must look together.
            part, too_dear = on_main(lambda: self._afforded(state))
            self._score_part(part)
            if too_dear and not always:
                logger.info("no snapshot at step %d: it would exceed max_overhead=%g", step, self.settings.max_overhead)
                return False
        return self._observe(step, self._score(self._scorer, model), samples=samples, tokens=tokens)

    def finish(self) -> None:
        """Hands the whole run to whoever shows it, and prints what changed from the baseline to the last snapshot."""
        if self.monitor is None or not self.rows:
            return
        self.monitor.finish()
        rows = self.monitor.last_rows
        title = f"From the baseline to step {rows[0].step:,}, after {rows[0].samples_seen:,.0f} samples"
        Console(stderr=True).print(changes_table(rows, title=title))

    def stop(self) -> None:
        """Removes the forward hook, and lets go of what holds the model: the callback may outlive the trainer."""
        self._data.stop()
        self._scorer = Scorer(None, [])

    def count(self, state: TrainerState) -> tuple[float, float]:
        """Samples and tokens so far, also noted where every checkpoint keeps them."""
        samples, tokens = self._data.totals()
        Notes(samples, tokens, self._part, address_of(active_wandb_run()), self._setup).write(state)
        return samples, tokens

    def _observe(
        self,
        step: int,
        snapshots: Sequence[Snapshot],
        *,
        samples: float,
        tokens: float,
        again: Sequence[Snapshot] | None = None,
    ) -> bool:
        """Passes snapshots to the main process' monitor; whether to stop."""

        def observe() -> tuple[tuple[Row, ...], bool]:
            assert self.monitor is not None
            seen = self.monitor.observe(step, snapshots, samples_seen=samples, tokens_seen=tokens, again=again)
            tqdm.write(snapshot_line(seen.rows, seen.seconds, first=not self.rows), file=sys.stderr)
            if seen.error is not None and self.settings.on_error == "raise":
                raise seen.error
            return seen.rows, seen.stop

        rows, stop = on_main(observe)
        self.rows = [*self.rows, *rows]
        return stop

    def _score(self, scorer: Scorer, model: Any) -> list[Snapshot]:
        return scorer.score(model, progress=rank() == 0)

    def _make_scorer(self, tokenizer: Any, probes: Sequence[Probe], *, batch_tokens: int | None, **more: Any) -> Scorer:
        vllm = getattr(self.trainer, "vllm_generation", None)
        return Scorer(
            tokenizer, probes, batch_tokens=batch_tokens, shared=True, vllm=vllm, scorer=self.settings.scorer, **more
        )

    def _make_other_scorer(self, **more: Any) -> Scorer:
        """One that differs from the scorer that there is; its batches are as small as that one had to make them."""
        scorer = self._scorer
        return self._make_scorer(scorer.tokenizer, scorer.probes, batch_tokens=scorer.batch_tokens, **more)

    def _afforded(self, state: TrainerState) -> tuple[float, bool]:
        """The part of the items to score from here on, and whether even that is too dear now."""
        monitor, limit = self.monitor, self.settings.max_overhead
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
            self.settings.max_overhead,
            ", ".join(f"{len(only[probe.name])} of {len(probe)} of {probe.name!r}" for probe in probes),
        )

    def _open(
        self, args: TrainingArguments, state: TrainerState, probes: list[Probe], notes: Notes
    ) -> tuple[list[Row], int | None]:
        """Makes the monitor of this run. What is on disk already: rows, and the batches that they were scored in."""
        store = Store(self.settings.output_dir or args.output_dir or ".")
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
        if args.push_to_hub and self.settings.upload != "all":
            self._report_push(store, args)
        last = int(state.max_steps)
        evaluations = schedule.evaluations(
            args.eval_strategy, last, steps=state.eval_steps or 0, epochs=args.num_train_epochs
        )
        planned = schedule.planned(self.settings.every, last, evaluations=evaluations)
        self.monitor = monitor = ForgetMonitor(
            probes,
            store,
            self._trackers(),
            self.settings.stop,
            planned=planned,
            log=self.settings.log,
            upload=self.settings.upload,
        )
        if monitor.last_step is None:
            return [], None
        self._retell(notes)
        return monitor.rows, store.read(probes[0].name, monitor.last_step).metadata.get("batch_tokens")

    def _report_push(self, store: Store, args: TrainingArguments) -> None:
        """Warns where the Trainer itself uploads the folder of the probes: `upload` has no say there."""
        if store.path.resolve().is_relative_to(Path(args.output_dir or ".").resolve()):
            logger.warning(
                "push_to_hub=True uploads %s, prompts and answers included; pass an output_dir= outside of it to "
                "ForgetCallback, or upload='all' if they may leave this machine",
                store.path,
            )

    def _retell(self, notes: Notes) -> None:
        """Logs the curves so far once more, where a resumed run has to go on in another W&B run."""
        before, now = notes.wandb_run.get("id"), active_wandb_run()
        if before is None or now is None or now.id == before:
            return
        logger.warning(
            "training resumes in W&B run %s, not in its own, %s; the curves so far are logged there again. To resume "
            "that one, pass ForgetCallback in the Trainer's callbacks=, or set WANDB_RUN_ID=%s and WANDB_RESUME=allow",
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
        if self.settings.baseline == "base":
            if not hasattr(model, "disable_adapter"):
                raise ValueError("baseline='base' needs a PEFT model, whose adapters can be switched off")
            with model.disable_adapter():
                base = self._score(self._scorer, model)
            on_main(lambda: self._compare_with(base, Stage()))
        elif self.settings.baseline != "start":
            on_main(self._compare_with_run)
        elif resumed:
            raise ValueError(
                f"training resumed at step {state.global_step}, but there is no baseline of its start; resume in the "
                "run's own output_dir, or pass baseline=RUN, or baseline='base' for adapters"
            )
        now, again = self._score(self._scorer, model), None
        if self.settings.noise_floor and not resumed:
            again = self._score_again(model)
        samples, tokens = self.count(state)
        self._observe(state.global_step, now, samples=samples, tokens=tokens, again=again)

    def _compare_with(self, snapshots: Sequence[Snapshot], stage: Stage) -> None:
        assert self.monitor is not None
        self.monitor.compare_with(snapshots, stage=stage)

    def _compare_with_run(self) -> None:
        run = open_run(self.settings.baseline)
        names = [probe.name for probe in self.settings.probes]
        self._compare_with([run.baseline(name) for name in names], run.next_stage(names[0]))

    def _score_again(self, model: Any) -> list[Snapshot] | None:
        """The model once more, in other batches and with other samples."""
        try:
            return self._score(self._make_other_scorer(variant=1), model)
        except Exception as error:  # the baseline itself is safe
            logger.warning("the noise floor could not be measured: %s: %s", type(error).__name__, error)
            return None

    def _trackers(self) -> list[Tracker]:
        trackers = list(self.settings.trackers)
        own = any(isinstance(tracker, WandbTracker) for tracker in trackers)
        if active_wandb_run() is not None and not own:
            trackers.append(WandbTracker())
        if self.trainer is not None:
            trackers.append(TrainerTracker(self.trainer))
        return trackers

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
        if rank() == 0:
            report_changes(notes.setup, self._setup)
        self._data.stop()
        self._data = DataSeen(notes.samples_seen, notes.tokens_seen)
        return notes


def _tokenizer_of(model: Any, processing_class: Any) -> Any:
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    if model is None or tokenizer is None:
        raise ValueError(
            f"the trainer gave no {'model' if model is None else 'tokenizer'}; pass processing_class= to it"
        )
    return tokenizer
