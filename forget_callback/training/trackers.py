"""Where the numbers of a snapshot go: one small protocol, and W&B behind it.

A tracker gets a flat row of finished numbers and never computes one. Metric names are made here and nowhere else.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from forget_callback.changes import COLUMNS
from forget_callback.history import ALL_METRICS, Row

if TYPE_CHECKING:
    import wandb

X_AXIS = "forget/samples_seen"
RUN_METRICS = (
    *(X_AXIS, "forget/tokens_seen", "forget/step", "forget/probe_seconds", "forget/overhead"),
    *("forget/stage", "forget/total_samples_seen"),
)
GLOBAL_STEP = "train/global_step"
# What becomes of a known item: the four cells of the table, as shares of all items.
SHARES = {"retained": "n11", "forgotten": "n10", "gained": "n01", "missed": "n00"}
# Rows of the table of items: of one snapshot, and of a run.
ITEMS_AT_ONCE, ITEMS_IN_ALL = 200, 5_000


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
        self._items: wandb.Table | None = None

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

    def show(self, rows: Sequence[Row], changes: pd.DataFrame) -> None:
        """Logs the items that changed as an incremental table, the shares of all items as lines, and the map."""
        import wandb

        whole = rows_of_all(rows)
        last = whole[-1]
        shares = wandb.plot.line_series(
            xs=[row.samples_seen for row in whole],
            ys=[[getattr(row.transitions, cell) / row.transitions.n for row in whole] for cell in SHARES.values()],
            keys=list(SHARES),
            title=f"What became of the items of {last.probe}",
            xname="samples seen",
        )
        logged: dict[str, Any] = {"forget/shares": shares, "forget/map": forgetting_map(rows)}
        if self._items is None:
            self._items = wandb.Table(columns=list(COLUMNS), log_mode="INCREMENTAL")
        room = min(ITEMS_AT_ONCE, ITEMS_IN_ALL - len(self._items.data))
        for values in changes.head(max(room, 0)).itertuples(index=False):
            self._items.add_data(*(None if value is None or value != value else value for value in values))
        if room > 0 and len(changes):  # an increment without rows gets a broken name
            logged["forget/items"] = self._items
        self.run.log({**logged, X_AXIS: last.samples_seen, GLOBAL_STEP: float(last.step)})

    def finish(self, rows: Sequence[Row], folder: Path) -> None:
        """Writes the run's worst numbers into its summary, and keeps the snapshots as a version of an Artifact."""
        import wandb

        for name, value in worst(rows).items():
            self.run.summary[name] = value
        artifact = wandb.Artifact(f"forgetting-{self.run.id}", "forgetting", "Every answer at every snapshot")
        artifact.add_dir(str(folder))
        self.run.log_artifact(artifact)


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


def rows_of_all(rows: Sequence[Row]) -> list[Row]:
    """The rows of all items together, oldest first."""
    probes = {row.probe for row in rows}
    name = "all" if len(probes) > 1 else next(iter(probes))
    return [row for row in rows if (row.probe, row.category) == (name, "")]


def worst(rows: Sequence[Row]) -> dict[str, float]:
    """The highest of a run's losses, by probe: `forget/<probe>/worst_knowledge_lost` and `worst_forgetting`."""
    found: dict[str, float] = {}
    for row in rows:
        for metric in ("knowledge_lost", "forgetting"):
            name, value = f"forget/{row.probe}/worst_{metric}", row.value(metric)
            if not row.category and not math.isnan(value):
                found[name] = max(value, found.get(name, value))
    return found


def forgetting_map(rows: Sequence[Row]) -> Any:
    """Knowledge lost by category and snapshot, as a plotly figure."""
    from plotly.graph_objects import Figure, Heatmap

    names = list(dict.fromkeys((row.probe, row.category) for row in rows if row.probe != "all"))
    at = list(dict.fromkeys(row.samples_seen for row in rows))
    values = {(row.probe, row.category, row.samples_seen): row.value("knowledge_lost") for row in rows}
    figure = Figure(
        Heatmap(
            x=at,
            y=[html.escape(" / ".join(part for part in name if part)) for name in names],
            z=[[values.get((*name, seen)) for seen in at] for name in names],
            zmid=0,
            colorscale="RdBu_r",
            colorbar={"title": "knowledge lost", "tickformat": ".0%"},
        )
    )
    figure.update_xaxes(title="samples seen", type="category")
    figure.update_yaxes(autorange="reversed", type="category")
    return figure
