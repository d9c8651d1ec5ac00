"""Where the numbers of a snapshot go: one small protocol, and the trainer's reporters behind it.

A tracker gets a flat row of finished numbers and never computes one. Metric names are made here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from forget_callback.runs.history import ALL_METRICS, Row

X_AXIS = "forget/samples_seen"

RUN_METRICS = (
    *(X_AXIS, "forget/tokens_seen", "forget/step", "forget/probe_seconds", "forget/overhead"),
    *("forget/stage", "forget/total_samples_seen"),
)

GLOBAL_STEP = "train/global_step"


@runtime_checkable
class Tracker(Protocol):
    """Anything that takes rows of numbers and messages; an exception that it raises never reaches training."""

    def log(self, row: Mapping[str, float]) -> None:
        """Takes the numbers of one snapshot, by full metric name."""

    def alert(self, title: str, text: str) -> None:
        """Takes a message for people."""


class Gallery(Tracker, Protocol):
    """A tracker that also shows what no single number says."""

    def show(self, rows: Sequence[Row], changes: pd.DataFrame) -> None:
        """Takes the history so far and the items that changed at its last snapshot, see `changes.item_changes`."""

    def finish(self, rows: Sequence[Row], folder: Path) -> None:
        """Takes the whole history and the folder of its snapshots when a run ends."""


def checked_trackers(trackers: Tracker | Iterable[Tracker]) -> tuple[Tracker, ...]:
    """One tracker or several.

    Raises:
        ValueError: If one lacks a method of `Tracker`, or is a class.
    """
    given = list(trackers) if isinstance(trackers, Iterable) else [trackers]
    for tracker in given:
        if isinstance(tracker, type) or not isinstance(tracker, Tracker):
            raise ValueError(
                f"trackers takes one or several objects with methods log(row) and alert(title, text), got {tracker!r}"
            )
    return tuple(given)


def scalars(rows: Iterable[Row]) -> dict[str, float]:
    """`forget/<probe>/<metric>` and `forget/<probe>/<category>/<metric>`; numbers that do not exist are left out."""
    return {
        "/".join(part for part in ("forget", row.probe, row.category, name) if part): value
        for row in rows
        for name, value in _numbers(row).items()
    }


def evaluation_metrics(rows: Iterable[Row]) -> dict[str, float]:
    """`eval_forget_<probe>_<metric>` of whole probes, NaN included: `metric_for_best_model` needs each to be there."""
    return {
        f"eval_forget_{row.probe}_{name}": value
        for row in rows
        if not row.category
        for name, value in _numbers(row, missing=True).items()
    }


def _numbers(row: Row, *, missing: bool = False) -> dict[str, float]:
    values = row.numbers
    return {name: float(values[name]) for name in ALL_METRICS if missing or not math.isnan(values[name])}


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
