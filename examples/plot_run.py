"""Draws the forgetting curves of one or several runs over the samples seen.

    python examples/plot_run.py demo-run --out curve.png
    python examples/plot_run.py "no replay=run-a" "20% replay=run-b" --out curve.png

The task's own metric (reward, evaluation loss or loss) stands below, where the run's trainer logged one. Reads
`forget/history.parquet` and `forget/task.parquet` and nothing else. Needs matplotlib.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("runs", nargs="+", metavar="[LABEL=]RUN")
parser.add_argument("--metric", default="knowledge_lost", help="a metric with an interval (default: %(default)s)")
parser.add_argument("--task", help="the metric below, or none (default: reward, eval_loss or loss)")
parser.add_argument("--out", type=Path, default=Path("curve.png"))
options = parser.parse_args()

labelled = [run.rpartition("=")[::2] for run in options.runs]
tables = {label or Path(run).name: pd.read_parquet(Path(run) / "forget" / "history.parquet") for label, run in labelled}
tables = {label: table[(table["category"] == "") & (table["probe"] != "all")] for label, table in tables.items()}
probes = sorted({name for table in tables.values() for name in table["probe"]})

logs = {label or Path(run).name: Path(run) / "forget" / "task.parquet" for label, run in labelled}
tasks = {label: pd.read_parquet(path) for label, path in logs.items() if path.exists()}
known = {name for table in tasks.values() for name in table["metric"]}
task = options.task or next((name for name in ("reward", "eval_loss", "loss") if name in known), "none")

heights = [3] if task == "none" else [3, 1]
figure, axes = plt.subplots(
    len(heights),
    len(probes),
    figsize=(4.5 * len(probes), 1 + 0.8 * sum(heights)),
    sharex=True,
    sharey="row",
    squeeze=False,
    height_ratios=heights,
)
for probe, (above, *below) in zip(probes, axes.T, strict=True):
    for label, table in tables.items():
        rows = table[table["probe"] == probe]
        (line,) = above.plot(rows["samples_seen"], 100 * rows[options.metric], marker="o", markersize=3, label=label)
        low, high = (100 * rows[f"{options.metric}_{end}"] for end in ("low", "high"))
        above.fill_between(rows["samples_seen"], low, high, alpha=0.15, color=line.get_color(), linewidth=0)
        for axis in below if label in tasks else ():
            logged = tasks[label][tasks[label]["metric"] == task]
            axis.plot(logged["samples_seen"], logged["value"], color=line.get_color(), linewidth=1.2)
    above.set_title(probe)
    above.axhline(0, color="grey", linewidth=0.6)
    [above, *below][-1].set_xlabel("training samples seen")
    for axis in (above, *below):
        axis.spines[["top", "right"]].set_visible(False)
axes[0][0].set_ylabel(f"{options.metric.replace('_', ' ')} (% of items)")
if task != "none":
    axes[1][0].set_ylabel(task.replace("_", " "))
axes[0][0].legend(frameon=False)
figure.align_ylabels()
figure.tight_layout()
figure.savefig(options.out, dpi=160)
print(f"wrote {options.out}")
