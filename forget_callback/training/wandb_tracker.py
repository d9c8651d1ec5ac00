"""W&B: the metrics, tables and charts of a run; `wandb_workspace` has the workspace that shows them.

Which metrics and files get here is decided before: `trackers.scalars`, `trackers.uploadable` and the monitor. Nothing
here is computed but what a chart needs.
"""

from __future__ import annotations

import html
import logging
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import pandas as pd

from forget_callback.probes.quoting import printable
from forget_callback.runs.abilities import is_mixed, side_by_side
from forget_callback.runs.categories import significant_categories
from forget_callback.runs.comparison import overall
from forget_callback.runs.headline import headline
from forget_callback.runs.rows import Row
from forget_callback.runs.side_by_side import COLUMNS, groups_of_lines
from forget_callback.training.trackers import AXES, GLOBAL_STEP, X_AXIS

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
        """Keeps for the next row the items that changed, an incremental table, the shares of all items, and the map.

        Where there is more than knowledge, also the abilities side by side, what was lost first.
        """
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
        now = [row for row in rows if row.step == last.step]
        if is_mixed(now):
            lines = [line for group in groups_of_lines(now) for line in group]
            data: list[Any] = [
                [line.ability, *map(printable, (line.probe, line.category)), *line.cells] for line in lines
            ]
            self._media["forget/abilities"] = wandb.Table(columns=["ability", "probe", "category", *COLUMNS], data=data)
        if self._items is None:
            self._items = wandb.Table(columns=list(changes.columns), log_mode="INCREMENTAL")
        room = min(ITEMS_AT_ONCE, ITEMS_IN_ALL - len(self._items.data))
        for values in changes.head(max(room, 0)).itertuples(index=False):
            self._items.add_data(*(None if value is None or value != value else value for value in values))
        if room > 0 and len(changes):  # an increment without rows gets a broken name
            self._media["forget/items"] = self._items

    def finish(self, rows: Sequence[Row], files: Mapping[str, Path]) -> None:
        """Writes headline and highest losses into the summary, and keeps the files as a version of an Artifact."""
        import wandb

        self._write()
        if rows:
            now = [row for row in rows if row.step == rows[-1].step]
            self.run.summary["forget/headline"] = printable(headline(overall(now), among=now).sentence)
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
    """The highest of a run's losses, by probe: `forget/<probe>/worst_knowledge_lost`, `worst_forgetting` and so on.

    The highest of many noisy numbers grows with their number, which is `worst_<metric>_over_looks`.
    """
    found: dict[str, float] = {}
    for metric in ("knowledge_lost", "forgetting", "bits_per_byte_change"):
        for probe in dict.fromkeys(row.probe for row in rows):
            own = [row.value(metric) for row in rows if (row.probe, row.category) == (probe, "")]
            own = [value for value in own if not math.isnan(value)]
            if own:
                found[f"forget/{probe}/worst_{metric}"] = max(own)
                found[f"forget/{probe}/worst_{metric}_over_looks"] = len(own) - 1  # the baseline is none
    return found


def forgetting_map(rows: Sequence[Row]) -> Any:
    """What was lost by category and snapshot, as a plotly figure; what is not significant is pale (Holm).

    Of text the share of documents that got worse. Of several abilities what was lost at last comes first.
    """
    from plotly.graph_objects import Figure, Heatmap

    last = [row for row in rows if row.step == rows[-1].step]
    ordered = [part.row for group in side_by_side(last) for part in group] if is_mixed(last) else []
    names = list(dict.fromkeys((row.probe, row.category) for row in (*ordered, *rows) if row.probe != "all"))
    at = list(dict.fromkeys(row.samples_seen for row in rows))
    lost = {True: "forgetting", False: "knowledge_lost"}
    values = {
        (row.probe, row.category, row.samples_seen): row.value(lost[row.transitions.ability == "text"]) for row in rows
    }
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
