"""W&B: the metrics, tables and charts of a run, and the saved workspace that shows them.

Which metrics and files get here is decided before: `trackers.scalars`, `trackers.uploadable` and the monitor. Nothing
here is computed but what a chart needs.
"""

from __future__ import annotations

import html
import logging
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import groupby
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import pandas as pd

from forget_callback.runs.categories import significant_categories
from forget_callback.runs.comparison import overall
from forget_callback.runs.history import ALL_METRICS, Row
from forget_callback.training.trackers import AXES, GLOBAL_STEP, TASK, X_AXIS

if TYPE_CHECKING:
    import wandb

logger = logging.getLogger(__name__)

# The four cells of the table, as shares of all items.
SHARES = {
    "stayed right (1→1)": "n11",
    "forgetting (1→0)": "n10",
    "backward transfer (0→1)": "n01",
    "stayed wrong (0→0)": "n00",
}
MAP_ENDS = 0.3  # colours that follow the numbers paint noise as strongly as loss

# Rows of the table of items: of one snapshot, and of a run.
ITEMS_AT_ONCE, ITEMS_IN_ALL = 200, 5_000

# The runs that got curves in this process: a run that is offline starts empty in another one, even under its old id.
_LOGGED: WeakSet[Any] = WeakSet()

# Rows that others may finish at one training step: the Trainer's losses, an evaluation.
_ROWS_OF_OTHERS = 2


class WandbTracker:
    """Logs to a W&B run, the active one by default, against the samples seen.

    W&B counts rows, and drops one whose `step=` is below its count. So that callbacks of the user that log with
    ``step=state.global_step`` keep all that they keep without us, a row of ours is finished only where the count stays
    below the training step; else it is left open, and whatever is logged next finishes it.
    """

    def __init__(self, run: wandb.Run | None = None) -> None:
        import wandb

        active = run or wandb.run
        if active is None:
            raise ValueError("no W&B run is active; call wandb.init() first or pass run=")
        self.run = active
        self._defined: set[str] = set()
        self._items: wandb.Table | None = None
        self._media: dict[str, Any] = {}  # of the next row
        self._rows: list[dict[str, Any]] = []  # that would overwrite the open one
        self._without_media = False  # and that was said
        self._open: float | None = None  # W&B's count where our last row was left open

    def log(self, row: Mapping[str, float]) -> None:
        """Adds one row to the run's history.

        Each metric is defined by its full name: a glob of ours would lose against the `*` of transformers' callback.
        """
        axis = X_AXIS if X_AXIS in row else "forget/step"
        for name in row:
            if name not in self._defined and name != GLOBAL_STEP:
                self.run.define_metric(name, step_metric=None if name == axis else axis, hidden=_is_hidden(name))
                self._defined.add(name)
        # step_sync would fill in the last logged step otherwise, so the row carries its own.
        for held in self._rows if "forget/items" in self._media else ():
            held.pop("forget/items", None)  # the table is one, and an increment without rows gets a broken name
        self._rows.append({**row, **self._media})
        self._media = {}
        self._write(row.get(GLOBAL_STEP, math.inf))

    def _write(self, limit: float = math.inf) -> None:
        """Hands rows to W&B, oldest first, as far as its count does not come near `limit`."""
        _LOGGED.add(self.run)
        while self._rows:
            count = _count(self.run)
            room = count + 1 + _ROWS_OF_OTHERS <= limit
            if self._open == count:
                if not room:
                    return
                self.run.log({}, commit=True)
                self._open = None
                continue
            self._open = None if room else count
            self._log(self._rows.pop(0), commit=room)

    def _log(self, row: dict[str, Any], *, commit: bool) -> None:
        """Logs a row, or its numbers alone where what else it has cannot be read, as after somebody cleaned /tmp."""
        try:
            self.run.log(row, commit=commit)
        except FileNotFoundError as error:
            if not self._without_media:
                logger.warning("W&B gets numbers and neither tables nor charts: %s", error)
            self._without_media = True
            self.run.log({name: value for name, value in row.items() if isinstance(value, Real)}, commit=commit)

    def alert(self, title: str, text: str) -> None:
        """Sends a W&B alert."""
        self.run.alert(title=title, text=text, level="WARN")

    def show(self, rows: Sequence[Row], changes: pd.DataFrame) -> None:
        """Keeps for the next row the items that changed, an incremental table, the shares of all items, and the map."""
        import wandb

        of_all = overall(rows).probe
        whole = [row for row in rows if (row.probe, row.category) == (of_all, "")]
        last = whole[-1]
        shares = wandb.plot.line_series(
            xs=[row.samples_seen for row in whole],
            ys=[[getattr(row.transitions, cell) / row.transitions.n for row in whole] for cell in SHARES.values()],
            keys=list(SHARES),
            title=f"What became of the items of {last.probe}",
            xname="samples seen",
        )
        self._media |= {"forget/shares": shares, "forget/map": forgetting_map(rows)}
        if self._items is None:
            self._items = wandb.Table(columns=list(changes.columns), log_mode="INCREMENTAL")
        room = min(ITEMS_AT_ONCE, ITEMS_IN_ALL - len(self._items.data))
        for values in changes.head(max(room, 0)).itertuples(index=False):
            self._items.add_data(*(None if value is None or value != value else value for value in values))
        if room > 0 and len(changes):  # an increment without rows gets a broken name
            self._media["forget/items"] = self._items

    def finish(self, rows: Sequence[Row], files: Mapping[str, Path]) -> None:
        """Writes the run's highest losses into its summary, and keeps the files as a version of an Artifact."""
        import wandb

        self._write()
        for name, value in worst(rows).items():
            self.run.summary[name] = value
        artifact = wandb.Artifact(f"forgetting-{self.run.id}", "forgetting", "Files of the run's forget/ folder")
        for name, path in files.items():
            artifact.add_file(str(path), name=name)
        self.run.log_artifact(artifact)


def has_curves(run: wandb.Run, before: str) -> bool:
    """Whether a W&B run holds the curves that were logged to the run with the id `before`."""
    return run.id == before and (run.resumed or run in _LOGGED)


def _count(run: wandb.Run) -> float:
    """The rows of a run so far; those of a run that several processes share have no order."""
    return -math.inf if run.settings.mode == "shared" else run.step


def _is_hidden(name: str) -> bool:
    """Whether W&B makes no panel of its own for a metric: categories, ends of intervals and x-axes have none."""
    of_category = name.count("/") > 2
    return of_category or name.endswith(("_low", "_high")) or name in AXES


def worst(rows: Sequence[Row]) -> dict[str, float]:
    """The highest of a run's losses, by probe: `forget/<probe>/worst_knowledge_lost` and `worst_forgetting`.

    The highest of many noisy numbers grows with their number, which is `worst_<metric>_over_looks`.
    """
    found: dict[str, float] = {}
    for metric in ("knowledge_lost", "forgetting"):
        for probe in dict.fromkeys(row.probe for row in rows):
            own = [row.value(metric) for row in rows if (row.probe, row.category) == (probe, "")]
            own = [value for value in own if not math.isnan(value)]
            if own:
                found[f"forget/{probe}/worst_{metric}"] = max(own)
                found[f"forget/{probe}/worst_{metric}_over_looks"] = len(own) - 1  # the baseline is none
    return found


def forgetting_map(rows: Sequence[Row]) -> Any:
    """What was lost by category and snapshot, as a plotly figure; what is not significant is pale (Holm)."""
    from plotly.graph_objects import Figure, Heatmap

    names = list(dict.fromkeys((row.probe, row.category) for row in rows if row.probe != "all"))
    at = list(dict.fromkeys(row.samples_seen for row in rows))
    values = {(row.probe, row.category, row.samples_seen): row.value("knowledge_lost") for row in rows}
    sure = {(row.probe, "", row.samples_seen) for row in rows if not row.category and row.transitions.verdict == "lost"}
    for _, look in groupby(rows, key=lambda row: row.step):
        sure |= {(row.probe, row.category, row.samples_seen) for row in significant_categories(list(look))}

    def cells(*, significant: bool, **how: Any) -> Any:
        keys = [[(*name, seen) for seen in at] for name in names]
        z = [[values.get(key) if (key in sure) is significant else None for key in line] for line in keys]
        labels = [html.escape(" / ".join(part for part in name if part)) for name in names]
        return Heatmap(x=at, y=labels, z=z, zmin=-MAP_ENDS, zmax=MAP_ENDS, colorscale="RdBu_r", **how)

    bar = {"title": "lost, significant", "tickformat": ".0%"}
    figure = Figure([cells(significant=False, opacity=0.25, showscale=False), cells(significant=True, colorbar=bar)])
    figure.update_xaxes(title="samples seen", type="category")
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


# How W&B picks what a panel draws: the keys of whole probes, and those of categories.
_OF_PROBE, _OF_CATEGORY = "^forget/[^/]+/{}$", "^forget/[^/]+/.+/{}$"

# The panels of log="main", by section, as (title, metrics): each section opens with its headline.
_OVERVIEW = (
    ("Knowledge lost", ("knowledge_lost", "knowledge_lost_net")),
    ("Knowledge lost, 95% confidence interval", ("knowledge_lost_low", "knowledge_lost_high")),
    ("Knowledge gained", ("knowledge_gained",)),
    ("Spurious forgetting", ("spurious_forgetting",)),
    ("Right to wrong (1→0) and wrong to right (0→1), guesses included", ("forgetting", "backward_transfer")),
    ("Accuracy", ("accuracy_after",)),
    ("Recall lost", ("recall_lost",)),
)
_CATEGORIES = (
    ("Knowledge lost", ("knowledge_lost", "knowledge_lost_net")),
    ("Right to wrong (1→0), guesses included", ("forgetting",)),
    ("Accuracy", ("accuracy_after",)),
)


_TASKS = tuple(f"{TASK}/{name}" for name in ("reward", "eval_loss", "loss"))


def make_workspace(entity: str, project: str) -> Any:
    """The workspace, not saved yet: `.save()` sends it to W&B.

    Raises:
        ImportError: Without `wandb-workspaces`; says what to install.
    """
    try:
        panels: Any = import_module("wandb_workspaces.reports.v2")
        views: Any = import_module("wandb_workspaces.workspaces")
    except ImportError as error:
        raise ImportError("a workspace needs wandb-workspaces; pip install 'forget-callback[workspace]'") from error

    def lines(pattern: str, titled: Sequence[tuple[str, Sequence[str]]]) -> list[Any]:
        found = []
        for title, metrics in titled:
            regex = "|".join(pattern.format(metric) for metric in metrics if metric in ALL_METRICS)
            if regex:
                found.append(panels.LinePlot(title=title, x=X_AXIS, metric_regex=regex, title_x="samples seen"))
        return found

    overview = lines(_OF_PROBE, _OVERVIEW)
    # Under the headline what was learned for it; by full names, for what a trainer logs of the task is the user's.
    task = panels.LinePlot(title="The task itself: reward, loss", x=X_AXIS, y=list(_TASKS), title_x="samples seen")
    overview.insert(1, task)
    sections = {
        "Forgetting: overview": [*overview, panels.MediaBrowser(title="Forgetting map", media_keys=["forget/map"])],
        "Forgetting: per category": lines(_OF_CATEGORY, _CATEGORIES),
        "Forgetting: items": [panels.WeavePanelSummaryTable(table_name="forget/items")],
        "Forgetting: cost": [
            panels.LinePlot(title="Seconds of a snapshot", x=X_AXIS, y=["forget/probe_seconds"]),
            panels.LinePlot(title="Share of the run's time", x=X_AXIS, y=["forget/overhead"]),
        ],
    }
    return views.Workspace(
        entity=entity,
        project=project,
        name="Forgetting",
        sections=[views.Section(name=name, panels=own, is_open=True) for name, own in sections.items()],
        settings=views.WorkspaceSettings(x_axis=X_AXIS),
    )


def as_json(workspace: Any) -> str:
    """What `save` would send, for people without a server: the package has no public way to it."""
    text: str = workspace._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=2)
    return text + "\n"
