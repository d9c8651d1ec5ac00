"""How a run is set up: the arguments of the user, and the monitor over the run's directory.

Knows no model and scores nothing: what happens from the baseline on is `session.py`'s.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import TrainerState, TrainingArguments

from forget_callback.probes.exits import exits_as_errors
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted
from forget_callback.runs.rows import ALL_METRICS
from forget_callback.runs.run_at import open_run
from forget_callback.runs.stop_rules import StopRule, check_targets, unknown_metric
from forget_callback.runs.store import Store
from forget_callback.runs.training import Training
from forget_callback.scoring.judge import Judge
from forget_callback.training import schedule
from forget_callback.training.claim import claim
from forget_callback.training.idle import idle_by_items
from forget_callback.training.monitor import ForgetMonitor
from forget_callback.training.resume import Notes, active_wandb_run
from forget_callback.training.trackers import Log, Tracker, TrainerTracker, Upload
from forget_callback.training.wandb_tracker import WandbTracker, has_curves

logger = logging.getLogger(__name__)

# When the further prompts of the items are asked.
Variants = Literal["all", "changed", "ends", "off"]
# What an error does: is logged, or raised where training starts, or always.
OnError = Literal["warn", "refuse", "raise"]


# How things are measured, which a training that is watched from outside does not do; with their defaults.
_OF_THE_WATCHER: dict[str, Any] = {
    "baseline": "start",
    "max_overhead": None,
    "variants": "all",
    "rescore": None,
    "batch_tokens": None,
    "scorer": None,
    "evaluation_metrics": (),
}


@dataclass(frozen=True)
class Settings:
    """The arguments of `ForgetCallback`, which explains them.

    Attributes:
        probes: None where another process measures.
        specs: Of the probes that were given for that process.

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
    variants: Variants
    rescore: bool | None
    batch_tokens: int | None
    scorer: Judge | None
    log: Log
    upload: Upload
    evaluation_metrics: tuple[str, ...]
    on_error: OnError
    remote: bool = False
    specs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.remote, bool):
            raise ValueError(f"remote must be True or False, got {quoted(self.remote)}")
        if self.remote:
            self._require_only_what_is_remote()
        else:
            check_targets(self.stop, self.probes)
        share, tokens = self.max_overhead, self.batch_tokens
        if share is not None and not (isinstance(share, Real) and 0 < share < 1):
            raise ValueError(f"max_overhead must lie in (0, 1), such as 0.05 for 5%, got {quoted(share)}")
        if self.variants not in get_args(Variants):
            raise ValueError(f"variants must be 'all', 'changed', 'ends' or 'off', got {quoted(self.variants)}")
        if not isinstance(self.rescore, bool | None):
            raise ValueError(f"rescore must be True, False or None, got {quoted(self.rescore)}")
        for name in self.evaluation_metrics:
            if name not in ALL_METRICS:
                raise ValueError(f"evaluation_metrics: {unknown_metric(name, ALL_METRICS)}")
        if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, Integral) or tokens < 1):
            raise ValueError(f"batch_tokens must be a whole number of 1 or more, or None, got {quoted(tokens)}")
        if self.output_dir is not None and not (self.output_dir and isinstance(self.output_dir, str | os.PathLike)):
            raise ValueError(f"output_dir must be a path, or None for the Trainer's own, got {quoted(self.output_dir)}")
        _check_baseline(self.baseline)
        if self.log not in get_args(Log):
            raise ValueError(f"log must be 'main' or 'all', got {quoted(self.log)}")
        if self.upload not in get_args(Upload):
            raise ValueError(f"upload must be 'metrics', 'all' or 'none', got {quoted(self.upload)}")
        if self.on_error not in get_args(OnError):
            raise ValueError(f"on_error must be 'warn', 'refuse' or 'raise', got {quoted(self.on_error)}")

    def say_idle_rules(self) -> None:
        """Logs, in one process, the rules that cannot fire on these probes."""
        if os.environ.get("RANK", "0") == "0" and not self.remote:
            staged = self.baseline != "start"
            for line in idle_by_items(self.stop, self.probes, variants=self.variants != "off", staged=staged):
                logger.warning("%s", line)

    def _require_only_what_is_remote(self) -> None:
        for name, default in _OF_THE_WATCHER.items():
            if getattr(self, name) != default:
                raise ValueError(
                    f"{name}={quoted(getattr(self, name))} has no effect with remote=True, where another process "
                    "measures; leave it out here, and see `forget-callback watch --help` for what that takes"
                )

    @property
    def evaluation_names(self) -> dict[str, str]:
        """The metric of each key that evaluations of the Trainer may have."""
        names = [probe.name for probe in self.probes] + ["all"] * (len(self.probes) > 1)
        return {f"eval_forget_{name}_{metric}": metric for name in names for metric in ALL_METRICS}

    def is_ours(self, key: str) -> bool:
        """Whether a key of an evaluation is one that only this callback could give it."""
        return key in self.evaluation_names or (self.remote and key.startswith("eval_forget_"))


def metric_names(metrics: Iterable[str] | None) -> tuple[str, ...]:
    """The names that a user gives.

    Raises:
        ValueError: If they are one text.
    """
    if isinstance(metrics, str):
        raise ValueError(f"evaluation_metrics must be a list of names of metrics, got {metrics!r}; write [{metrics!r}]")
    return tuple(metrics or ())


@contextlib.contextmanager
def errors(on_error: OnError, report: Callable[[Exception], object], *, starting: bool = False) -> Iterator[None]:
    """Reports what goes wrong, or raises it if that is wanted: as training starts, or always."""
    try:
        with exits_as_errors():
            yield
    except Exception as error:  # whatever it is, it must not end a run that costs days
        if on_error == "raise" or (starting and on_error == "refuse"):
            raise
        report(error)
        logger.debug("the error in full", exc_info=True)


def can_differ(model: Any, probes: Sequence[Probe], *, low_precision: bool = False) -> list[str]:
    """Names of the probes that the same model may answer differently a second time.

    All of them below float32, where other batches round otherwise, and in float32 those that are sampled.

    Args:
        low_precision: Whether the model computes below float32, whatever the dtype of its weights.
    """
    low = low_precision or torch.finfo(model.dtype).bits < 32
    return [probe.name for probe in probes if low or probe.sampled]


def _check_baseline(baseline: Any) -> None:
    if baseline in ("start", "base"):
        return
    if not isinstance(baseline, str | os.PathLike):
        raise ValueError(f"baseline must be 'start', 'base' or a RUN directory, got {quoted(baseline)}")
    if os.environ.get("RANK", "0") == "0":  # rank 0 reads it; machines of other ranks may not have the directory
        try:
            open_run(baseline)
        except ValueError as error:
            raise ValueError(f"baseline must be 'start', 'base' or a RUN directory: {error}") from None


def open_store(
    settings: Settings, args: TrainingArguments, state: TrainerState, notes: Notes, training: Training
) -> Store:
    """The store of a run, with its lock: the first thing that a run does. See `claim`.

    Args:
        notes: Of the checkpoint that training resumes from.
        training: What is trained.

    Raises:
        OSError: If what another run left there can neither be moved nor told apart.
    """
    directory = settings.output_dir or args.output_dir or "."
    return claim(directory, state, notes.run_id if state.global_step > 0 else None, training)


def open_monitor(
    settings: Settings,
    trainer: Any,
    args: TrainingArguments,
    state: TrainerState,
    probes: Sequence[Probe],
    store: Store,
    *,
    started: float | None = None,
) -> ForgetMonitor:
    """The monitor of a run, over what a resumed one has on disk.

    Args:
        store: From `open_store`.
        started: When the run began, by `time.perf_counter`; now by default.

    Raises:
        ValueError: If a resumed run has another probe of a name there, or its baseline is damaged.
    """
    if args.push_to_hub and settings.upload != "all":
        _warn_of_push(store, args)
    last = int(state.max_steps)
    return ForgetMonitor(
        probes,
        store,
        trackers_of(settings, trainer),
        settings.stop,
        planned=schedule.planned(settings.every, last, evaluations=evaluations_of(args, state)),
        log=settings.log,
        upload=settings.upload,
        started=started,
    )


def evaluations_of(args: TrainingArguments, state: TrainerState) -> int:
    """Evaluations that the Trainer plans."""
    how = {"steps": float(state.eval_steps or 0), "epochs": args.num_train_epochs}
    return schedule.evaluations(args.eval_strategy, int(state.max_steps), **how)


def trackers_of(settings: Settings, trainer: Any) -> list[Tracker]:
    """The user's own, W&B where a run is active, and the trainer's reporters."""
    trackers = list(settings.trackers)
    if active_wandb_run() is not None and not any(isinstance(tracker, WandbTracker) for tracker in trackers):
        trackers.append(WandbTracker())
    if trainer is not None:
        trackers.append(TrainerTracker(trainer))
    return trackers


def _warn_of_push(store: Store, args: TrainingArguments) -> None:
    """Warns where the Trainer itself uploads the folder of the probes: `upload` has no say there."""
    if store.path.resolve().is_relative_to(Path(args.output_dir or ".").resolve()):
        logger.warning(
            "push_to_hub=True uploads %s, prompts and answers included; pass an output_dir= outside of it to "
            "ForgetCallback, or upload='all' if they may leave this machine",
            store.path,
        )


def log_again(monitor: ForgetMonitor, notes: Notes) -> None:
    """Logs the curves so far once more, where a resumed run has to continue in a W&B run that does not hold them."""
    before, now = notes.wandb_run.get("id"), active_wandb_run()
    if before is None or now is None or has_curves(now, before):
        return
    if now.id == before:
        logger.warning(
            "W&B cannot continue run %s, which was offline or is gone; our curves so far are logged again in %s: sync "
            "that and not the earlier directory, which has the same id",
            before,
            now.dir,
        )
    else:
        logger.warning(
            "training resumes in W&B run %s, not in its own, %s; the curves so far are logged there again. To resume "
            "that one, pass ForgetCallback in the Trainer's callbacks=, or set WANDB_RUN_ID=%s and WANDB_RESUME=allow",
            now.id,
            before,
            before,
        )
    for tracker in monitor.trackers:
        if isinstance(tracker, WandbTracker):
            monitor.relog(tracker)
