"""Where the numbers of a snapshot go: one small protocol, and W&B behind it.

A tracker gets a flat row of finished numbers and never computes one. Metric names are made here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from forget_callback.history import ALL_METRICS, Row

if TYPE_CHECKING:
    import wandb

X_AXIS = "forget/samples_seen"
RUN_METRICS = (
    *(X_AXIS, "forget/tokens_seen", "forget/step", "forget/probe_seconds", "forget/overhead"),
    *("forget/stage", "forget/total_samples_seen"),
)
GLOBAL_STEP = "train/global_step"


class Tracker(Protocol):
    """Anything that takes rows of numbers and messages; an exception that it raises never reaches training."""

    def log(self, row: Mapping[str, float]) -> None:
        """Takes the numbers of one snapshot, by full metric name."""

    def alert(self, title: str, text: str) -> None:
        """Takes a message for people."""


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
    values = row.as_dict()
    return {name: float(values[name]) for name in ALL_METRICS if missing or not math.isnan(values[name])}


class WandbTracker:
    """Logs to a W&B run, the active one by default, against the samples seen."""

    def __init__(self, run: wandb.Run | None = None) -> None:
        import wandb

        active = run or wandb.run
        if active is None:
            raise ValueError("no W&B run is active; call wandb.init() first or pass run=")
        self.run = active
        self._defined: set[str] = set()

    def log(self, row: Mapping[str, float]) -> None:
        """Adds one row to the run's history.

        Each metric is defined by its full name: a glob of ours would lose against the `*` of transformers' callback.
        """
        axis = X_AXIS if X_AXIS in row else "forget/step"
        for name in row:
            if name not in self._defined and name != GLOBAL_STEP:
                self.run.define_metric(name, step_metric=None if name == axis else axis)
                self._defined.add(name)
        # step_sync would fill in the last logged step otherwise, so the row carries its own. Never step=: W&B drops
        # rows whose step goes back.
        self.run.log(dict(row))

    def alert(self, title: str, text: str) -> None:
        """Sends a W&B alert."""
        self.run.alert(title=title, text=text, level="WARN")


class TrainerTracker:
    """The Trainer's other reporters (TensorBoard, Trackio, ...) and its log history.

    Rows go to each reporter's own `on_log`, not through `Trainer.log`, which would flush the pending training metrics
    of TRL into them and lose a loss row.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def log(self, row: Mapping[str, float]) -> None:
        """Passes a row on, and appends it to `state.log_history`."""
        from transformers.integrations.integration_utils import WandbCallback, get_reporting_integration_callbacks

        trainer = self.trainer
        logged = {name: value for name, value in row.items() if name != GLOBAL_STEP}
        trainer.state.log_history.append({**logged, "step": trainer.state.global_step})
        for reporter in trainer.callback_handler.callbacks:
            kinds = get_reporting_integration_callbacks(trainer.args.report_to)
            if type(reporter) in kinds and not isinstance(reporter, WandbCallback):
                reporter.on_log(trainer.args, trainer.state, trainer.control, model=trainer.model, logs=dict(logged))

    def alert(self, title: str, text: str) -> None:
        """Reporters take no messages; the log has it."""
