"""Where the metrics of a snapshot go: one small protocol, and the trainer's reporters behind it.

Which metrics are logged (`log=`), what may leave the machine (`upload=`) and the names of metrics are decided here and
nowhere else. A tracker gets a flat row of finished numbers and never computes one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, runtime_checkable

import pandas as pd

from forget_callback.metrics.abilities import ABILITIES
from forget_callback.probes.quoting import printable, quoted
from forget_callback.runs.rows import ALL_METRICS, Row

X_AXIS = "forget/samples_seen"
TASK = "forget/task"  # the task's own metrics

# What curves can stand against.
AXES = (X_AXIS, "forget/tokens_seen", "forget/step", "forget/stage", "forget/total_samples_seen")
GLOBAL_STEP = "train/global_step"

Log = Literal["main", "all"]
Upload = Literal["metrics", "all", "none"]

# What log="main" logs, headline first. A metric that a history does not have, or that is NaN, is left out.
MAIN = (
    *("knowledge_lost", "knowledge_lost_low", "knowledge_lost_high", "knowledge_gained", "spurious_forgetting"),
    *("forgetting", "backward_transfer", "accuracy_after", "recall_lost", "score_change", "score_after"),
)
MAIN_OF_CATEGORY = ("knowledge_lost", "forgetting", "accuracy_after", "score_after")
# The same of text, where nothing is right or wrong: `forgetting` is the share of documents that got worse.
MAIN_OF_TEXT = (
    *("bits_per_byte_change", "bits_per_byte_change_low", "bits_per_byte_change_high", "bits_per_byte_after"),
    *("forgetting", "kl", "top1_agreement"),
)
MAIN_OF_TEXT_CATEGORY = ("bits_per_byte_change", "forgetting", "bits_per_byte_after")
# What the Trainer's evaluations get, beside what the user and `metric_for_best_model` name.
MAIN_OF_EVALUATION = ("knowledge_lost", "forgetting", "accuracy_after")
MAIN_OF_TEXT_EVALUATION = ("bits_per_byte_change",)

# Columns of the table of changed items that hold text of a probe or of a model.
_TEXTS = ("prompt", "expected", "answer_at_baseline", "answer_now")


@runtime_checkable
class Tracker(Protocol):
    """Anything that takes rows of numbers and messages; an exception that it raises never reaches training."""

    def log(self, row: Mapping[str, float]) -> None:
        """Takes the numbers of one snapshot, by full metric name."""

    def alert(self, title: str, text: str) -> None:
        """Takes a message for people."""


@runtime_checkable
class Gallery(Tracker, Protocol):
    """A tracker that also shows what no single number says: both methods are optional, but together."""

    def show(self, rows: Sequence[Row], changes: pd.DataFrame) -> None:
        """Takes the history so far and the items that changed at its last snapshot, see `changes.item_changes`.

        Comes before `log` with the numbers of that snapshot.
        """

    def finish(self, rows: Sequence[Row], files: Mapping[str, Path]) -> None:
        """Takes the whole history and the files that may leave the machine, by name within `forget/`, at the end."""


def checked_trackers(trackers: Tracker | Iterable[Tracker]) -> tuple[Tracker, ...]:
    """One tracker or several.

    Raises:
        ValueError: If one lacks a method of `Tracker`, or is a class.
    """
    given = list(trackers) if isinstance(trackers, Iterable) else [trackers]
    for tracker in given:
        if isinstance(tracker, type) or not isinstance(tracker, Tracker):
            raise ValueError(
                f"trackers takes one or several objects with methods log(row) and alert(title, text), got "
                f"{quoted(tracker)}"
            )
    return tuple(given)


def scalars(rows: Iterable[Row], *, log: Log = "main", sampled: Collection[str] = ()) -> dict[str, float]:
    """`forget/<probe>/<metric>` and `forget/<probe>/<category>/<metric>`; metrics that are NaN are left out.

    Whole probes come before categories, the pool "all" first, then by ability, and each opens with its headline: W&B's
    automatic sections show panels in the order in which their keys came.

    Args:
        rows: Of one step.
        log: "main" keeps `MAIN` of whole probes and `MAIN_OF_CATEGORY` of categories, of text `MAIN_OF_TEXT` and
            `MAIN_OF_TEXT_CATEGORY`; "all" keeps every metric.
        sampled: Probes whose answers are sampled: the headline is `knowledge_lost_net`, what was lost on balance.
    """
    ordered = sorted(rows, key=_place)
    return {
        "/".join(part for part in ("forget", row.probe, printable(row.category), name) if part): value
        for row in ordered
        for name, value in _chosen(row, log, sampled=row.probe in sampled).items()
    }


def _place(row: Row) -> tuple[bool, bool, int]:
    """Where a row stands: abilities in one order from the first evaluation on, at which nothing is lost yet."""
    ability = row.transitions.ability
    return row.category != "", row.probe != "all", ABILITIES.index(ability)


def tracked(
    rows: Sequence[Row],
    *,
    log: Log = "main",
    sampled: Collection[str] = (),
    seconds: float = math.nan,
    overhead: float = math.nan,
    task: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, float]:
    """All that trackers get of one step: its `scalars`, then what a run has once; what is NaN is left out.

    Args:
        seconds: Time that scoring took.
        overhead: Share of the run's time that scoring took so far.
        task: The task's own metrics that stand beside it: `forget/task/<metric>`, so that they share the x-axis.
    """
    one, later = rows[0], rows[0].stage.number > 1
    run = {
        X_AXIS: one.samples_seen,
        "forget/tokens_seen": one.tokens_seen,
        "forget/step": float(one.step),
        "forget/stage": float(one.stage.number) if later else math.nan,
        "forget/total_samples_seen": one.total_samples_seen if later else math.nan,
        "forget/probe_seconds": seconds,
        "forget/overhead": overhead,
        GLOBAL_STEP: float(one.step),
        **{f"{TASK}/{printable(name)}": value for name, value in task.items()},
    }
    numbers = scalars(rows, log=log, sampled=sampled)
    return numbers | {name: value for name, value in run.items() if not math.isnan(value)}


def _chosen(row: Row, log: Log, *, sampled: bool) -> dict[str, float]:
    values = _numbers(row)
    names: tuple[str, ...] = MAIN_OF_CATEGORY if row.category else MAIN
    if row.transitions.ability == "text":
        names = MAIN_OF_TEXT_CATEGORY if row.category else MAIN_OF_TEXT
    if sampled:
        names = tuple(name.replace("knowledge_lost", "knowledge_lost_net") for name in names)
    if log == "all":
        names = tuple(dict.fromkeys((*names, *values)))
    return {name: values[name] for name in names if name in values}


def without_texts(changes: pd.DataFrame) -> pd.DataFrame:
    """The table of changed items without prompts, expected answers and generated answers."""
    return changes.drop(columns=list(_TEXTS))


def uploadable(folder: Path, upload: Upload) -> dict[str, Path]:
    """The files of a `forget/` folder that may leave the machine, by their name in it.

    "metrics" is the history alone: probes, snapshots and the page hold prompts and answers. What was set aside is of
    another run, or was taken back, and stays here whatever `upload` says.
    """
    if upload == "none":
        return {}
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    if upload == "metrics":
        return {name: path for name, path in found.items() if name == "history.parquet"}
    # Hidden files are half-written ones.
    return {name: path for name, path in found.items() if not name.startswith("set-aside/") and path.name[0] != "."}


def evaluation_metrics(rows: Iterable[Row], *, more: Iterable[str] = (), wanted: str = "") -> dict[str, float]:
    """`eval_forget_<probe>_<metric>`, NaN included: a notebook shows each in a column, so there are few.

    Args:
        more: Metrics of each probe beside `MAIN_OF_EVALUATION`, of text `MAIN_OF_TEXT_EVALUATION`.
        wanted: A key that is needed as well, for `metric_for_best_model`; also of "all", the pool of the probes.
    """
    whole = [row for row in rows if not row.category]
    found = {
        _key(row, name): row.value(name)
        for row in whole
        if row.probe != "all"
        for name in (*(MAIN_OF_TEXT_EVALUATION if row.transitions.ability == "text" else MAIN_OF_EVALUATION), *more)
    }
    return found | {key: row.value(name) for row in whole for name in ALL_METRICS if (key := _key(row, name)) == wanted}


def _key(row: Row, metric: str) -> str:
    return f"eval_forget_{row.probe}_{metric}"


def _numbers(row: Row) -> dict[str, float]:
    values = row.numbers
    return {name: float(values[name]) for name in ALL_METRICS if not math.isnan(values[name])}


class TrainerTracker:
    """The Trainer's other reporters (TensorBoard, Trackio, ...) and its log history.

    Rows go to each reporter's own `on_log`, not through `Trainer.log`, which would flush the pending training metrics
    of TRL into them and lose a loss row.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def log(self, row: Mapping[str, float]) -> None:
        """Passes a row on, and appends it to `state.log_history`."""
        from transformers.integrations.integration_utils import (
            TensorBoardCallback,
            WandbCallback,
            get_reporting_integration_callbacks,
        )

        trainer = self.trainer
        against_samples = copy(trainer.state)
        against_samples.global_step = int(row.get(X_AXIS, trainer.state.global_step))
        logged = {name: value for name, value in row.items() if name != GLOBAL_STEP}
        trainer.state.log_history.append({**logged, "step": trainer.state.global_step})
        for reporter in trainer.callback_handler.callbacks:
            kinds = get_reporting_integration_callbacks(trainer.args.report_to)
            if type(reporter) in kinds and not isinstance(reporter, WandbCallback):
                # TensorBoard draws against the step and nothing else.
                state = against_samples if isinstance(reporter, TensorBoardCallback) else trainer.state
                reporter.on_log(trainer.args, state, trainer.control, model=trainer.model, logs=dict(logged))

    def alert(self, title: str, text: str) -> None:
        """Reporters take no messages; the log has it."""
