"""Draws the forgetting curves of one or several runs over the samples seen.

    python examples/plot_run.py demo-run --out curve.png
    python examples/plot_run.py "no replay=run-a" "20% replay=run-b" --out curve.png

Reads `forget/history.parquet` and nothing else. Needs matplotlib.
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
parser.add_argument("--out", type=Path, default=Path("curve.png"))
options = parser.parse_args()

labelled = [run.rpartition("=")[::2] for run in options.runs]
tables = {label or Path(run).name: pd.read_parquet(Path(run) / "forget" / "history.parquet") for label, run in labelled}
tables = {label: table[(table["category"] == "") & (table["probe"] != "all")] for label, table in tables.items()}
probes = sorted({name for table in tables.values() for name in table["probe"]})

figure, axes = plt.subplots(1, len(probes), figsize=(4.5 * len(probes), 3.4), sharey=True, squeeze=False)
for axis, probe in zip(axes[0], probes, strict=True):
    for label, table in tables.items():
        rows = table[table["probe"] == probe]
        (line,) = axis.plot(rows["samples_seen"], 100 * rows[options.metric], marker="o", markersize=3, label=label)
        low, high = (100 * rows[f"{options.metric}_{end}"] for end in ("low", "high"))
        axis.fill_between(rows["samples_seen"], low, high, alpha=0.15, color=line.get_color(), linewidth=0)
    axis.set_title(probe)
    axis.set_xlabel("training samples seen")
    axis.axhline(0, color="grey", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
axes[0][0].set_ylabel(f"{options.metric.replace('_', ' ')} (% of items)")
axes[0][0].legend(frameon=False)
figure.tight_layout()
figure.savefig(options.out, dpi=160)
print(f"wrote {options.out}")
