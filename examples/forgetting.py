"""Draws the README's picture, of a run of `forget-callback demo --model`.

    forget-callback demo --model HuggingFaceTB/SmolLM2-135M-Instruct --out demo-run
    python examples/forgetting.py demo-run

Keeps the run's numbers in `forgetting.json` beside the picture; without a RUN it draws what is kept. Needs matplotlib.
"""

import argparse
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

NUMBERS = (
    *("samples_seen", "n", "variants", "accuracy_before", "accuracy_after", "forgetting", "backward_transfer"),
    *("knowledge_lost", "knowledge_lost_low", "knowledge_lost_high", "knowledge_gained", "known_before"),
    *("knowledge_lost_range_low", "knowledge_lost_range_high"),
)
HERE = Path(__file__).resolve().parent


def numbers_of(run: Path) -> dict[str, Any]:
    """What the picture shows: a row an evaluation, and the loss of every step."""
    history, state = run / "forget" / "history.parquet", run / "trainer_state.json"
    for file in (history, state):
        if not file.is_file():
            raise SystemExit(f"{run} is no finished run of the demo: it has no {file.relative_to(run)}")
    table = pd.read_parquet(history)
    rows = table[(table["category"] == "") & (table["probe"] != "all")].sort_values("step")
    logged = json.loads(state.read_text(encoding="utf-8"))["log_history"]
    kept = rows[list(NUMBERS)].round(4).to_dict("records")
    return {
        "probe": rows["probe"].iloc[0],
        "rows": [{name: None if math.isnan(value) else value for name, value in row.items()} for row in kept],
        "loss": [round(row["loss"], 4) for row in logged if "loss" in row],
    }


def digest(found: dict[str, Any]) -> str:
    """Of the numbers; it stands in the picture, so that a test knows whether it was drawn from them."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def draw(found: dict[str, Any], file: Path) -> None:
    """The task on the left; on the right what its average hides: items lost, items gained, and what is left of both."""
    rows, loss = found["rows"], found["loss"]
    seen = [row["samples_seen"] for row in rows]
    net = [100 * (row["accuracy_after"] - row["accuracy_before"]) for row in rows]
    up, down = ([100 * row[name] for row in rows] for name in ("backward_transfer", "forgetting"))
    red, blue, ink = "#c2410c", "#2563a8", "#1f2937"

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, (task, items) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(1, 1.9))
    samples = [(i + 1) * seen[-1] / len(loss) for i in range(len(loss))]
    smooth = pd.Series(loss).rolling(9, center=True, min_periods=1).mean()
    task.plot(samples, loss, color="#9ca3af", linewidth=0.7)
    task.plot(samples, smooth, color=ink, linewidth=1.8)
    task.set(title="The training loss falls ...", xlabel="training samples", ylim=(0, None))

    items.axhline(0, color="#9ca3af", linewidth=0.8)
    items.fill_between(seen, 0, up, color=blue, alpha=0.25, linewidth=0)
    items.fill_between(seen, 0, [-one for one in down], color=red, alpha=0.3, linewidth=0)
    for values, color in ((up, blue), ([-one for one in down], red), (net, ink)):
        items.plot(seen, values, color=color, marker="o", markersize=4, linewidth=1.6)
    last = {name: 100 * rows[-1][f"knowledge_lost{name}"] for name in ("", "_low", "_high")}
    bar = ([last["_high"] - last[""]], [last[""] - last["_low"]])  # drawn downward, so its ends change places
    items.errorbar(seen[-1], -last[""], bar, color=red, marker="D", markersize=6, mfc="white", capsize=3, clip_on=False)
    ends = (
        (up[-1], f"{up[-1]:.1f}% newly right", blue),
        (net[-1], f"accuracy {net[-1]:+.1f} points".replace("-", "−"), ink),
        (-last[""], f"{last['']:.1f}% lost in {rows[-1]['variants']:.0f} prompts", red),
        (-down[-1], f"{down[-1]:.1f}% newly wrong", red),
    )
    for height, text, color in ends:
        items.annotate(text, (seen[-1], height), (8, 0), textcoords="offset points", va="center", color=color)
    items.set(title="... accuracy holds, and hides what is forgotten", xlabel="training samples")
    items.set_ylabel(f"% of {rows[0]['n']:.0f} facts, against the start")
    items.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
    figure.tight_layout()
    about = {"Description": digest(found)}
    figure.savefig(file, dpi=160, metadata=about)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, default=HERE, help="directory for both files (default: this one)")
    options = parser.parse_args()
    saved = options.out / "forgetting.json"
    if options.run is not None:
        saved.write_text(json.dumps(numbers_of(options.run), indent=1) + "\n", encoding="utf-8")
    draw(json.loads(saved.read_text(encoding="utf-8")), options.out / "forgetting.png")
    print(f"wrote {options.out / 'forgetting.png'}")
