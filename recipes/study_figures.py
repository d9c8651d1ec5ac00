"""The figures of the study: what each regime ended with, and every run's curve."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.lines import Line2D
from study_numbers import (
    BEHAVIOUR,
    FINDINGS,
    LOST,
    NAMES,
    OUTCOMES,
    PLAIN,
    TASK,
    TEXT,
    dials,
    looks,
    of_regime,
    t_interval,
)

matplotlib.use("Agg")

# A hue a method, darker with more data or a higher rate.
COLORS = dict(
    zip(
        NAMES,
        (
            *("#c0c0c0", "#808080", "#303030"),  # pretraining
            *("#ffd28a", "#ff9d2e", "#e05c00", "#8f2d00"),  # SFT
            "#1f77b4",
            *("#c5b0d5", "#9467bd", "#5b2c8f"),  # replay
            *("#98df8a", "#2ca02c"),  # GRPO
        ),
        strict=True,
    )
)
DIAL_COLOR = "#17becf"


def figure(runs: list[dict[str, Any]], path: Path) -> None:
    """What each regime ended with: a row a regime, small dots its seeds, large ones their mean with its interval."""
    rows = {name: (COLORS[key], [looks(run)[-1] for run in of_regime(runs, key)]) for key, name in NAMES.items()}
    for key, own in dials(runs).items():
        rows[f"the dial, {key}% of {NAMES[PLAIN]}"] = (DIAL_COLOR, own)
    rows = {name: own for name, own in rows.items() if own[1]}
    start = looks(runs[0])[0]
    columns = {
        "right in the new task, %": {"": TASK},
        "knowledge lost, %": {"by one prompt": FINDINGS["knowledge lost, one prompt"], "by two": LOST},
        "behaviour, net loss, %": {"": BEHAVIOUR},
        "text, more bits per byte, %": {"": TEXT},
    }
    plot, axes = pyplot.subplots(
        1, len(columns), figsize=(13, 0.3 * len(rows) + 1.2), sharey=True, layout="constrained"
    )
    for axis, (title, numbers) in zip(axes, columns.items()):
        axis.axvline(100 * TASK(start) if "task" in title else 0, color="black", lw=0.6)
        for place, (color, ends) in enumerate(rows.values()):
            for shift, (what, number) in enumerate(numbers.items()):
                y = -place - (0.0 if len(numbers) == 1 else 0.36 * shift - 0.18)
                values = 100 * np.array([number(end) for end in ends])
                values, face = values[~np.isnan(values)], "white" if what == "by one prompt" else color
                axis.plot(values, [y] * len(values), "o", color=color, mfc=face, ms=3, alpha=0.6)
                if len(values) > 2:
                    axis.plot(t_interval(values), [y, y], "-", color=color, lw=0.8)
                if len(values):
                    axis.plot(values.mean(), y, "o", color=color, mfc=face, ms=7)
        axis.set(xlabel=title, yticks=-np.arange(len(rows)), yticklabels=list(rows))
        axis.grid(axis="y", lw=0.3)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(left=False)
    for face, name in (("white", "by one prompt"), ("gray", "by two prompts")):
        axes[1].plot([], [], "o", color="gray", mfc=face, label=name)
    axes[1].legend(frameon=False, fontsize="small")
    plot.savefig(path, dpi=150)
    pyplot.close(plot)


def curves(runs: list[dict[str, Any]], path: Path) -> None:
    """Every run's curve over the data seen: a column a method, a row an outcome, a line a run."""
    groups: dict[str, list[str]] = {}
    for key in NAMES:
        groups.setdefault(key.partition("-")[0], []).append(key)
    numbers = {"right in the new task": TASK, **OUTCOMES}
    size = (2.2 * len(groups) + 1, 1.8 * len(numbers) + 1)
    plot, axes = pyplot.subplots(
        len(numbers), len(groups), figsize=size, sharey="row", sharex="col", layout="constrained"
    )
    for column, keys in zip(axes.T, groups.values()):
        for key, run in ((name, run) for name in keys for run in of_regime(runs, name)):
            path_of = looks(run)
            seen = [float(look["samples_seen"].iloc[0]) for look in path_of]
            for axis, number in zip(column, numbers.values()):
                axis.plot(seen, [100 * number(look) for look in path_of], "-o", color=COLORS[key], ms=2, lw=1)
        for axis in column[1:]:
            axis.axhline(0, color="black", lw=0.4)
        for axis in column:
            axis.spines[["top", "right"]].set_visible(False)
        named = [Line2D([], [], color=COLORS[key], label=NAMES[key]) for key in keys]
        column[0].legend(handles=named, frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0))
        column[-1].set_xlabel("samples")
    for axis, what in zip(axes[:, 0], numbers):
        axis.set_ylabel(f"{what}, %")
    plot.savefig(path, dpi=130)
    pyplot.close(plot)
