"""The tables and the figure of the study, from its run files.

python recipes/study_tables.py OUT

Writes OUT/study.md and OUT/study.png. Means over seeds come with the 95% interval of Student's t; what too few runs can
say is left out, and the table says so.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot
from scipy import stats
from study_record import frame_of, read_run

Number: TypeAlias = Callable[[pd.DataFrame], float]

NAMES = {
    "pretrain-small": "pretraining, little data",
    "pretrain-large": "pretraining, more data",
    "pretrain-hot": "pretraining, 5 times the rate",
    "sft-small": "SFT, little data",
    "sft-large": "SFT, more data",
    "sft-hot": "SFT, twice the rate",
    "sft-hotter": "SFT, 5 times the rate",
    "lora": "LoRA, 10 times the rate",
    "replay-pool": "replay of other knowledge",
    "replay-own": "replay of own answers",
    "replay-pack": "replay of what was lost",
    "grpo-small": "GRPO, little data",
    "grpo-large": "GRPO, more data",
}
PLAIN = "sft-hot"  # what mitigations are compared with
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
CONTRASTS = (
    *(("pretrain-large", "pretrain-small"), ("sft-large", "sft-small"), ("grpo-large", "grpo-small")),
    *(("sft-hot", "sft-large"), ("sft-large", "grpo-large"), ("sft-hot", "pretrain-large")),
)
MITIGATIONS = ("sft-hot", "sft-large", "replay-pool", "replay-own", "replay-pack", "lora", "grpo-large")
LEVEL = 0.75  # task accuracy at which mitigations are compared: not every run of plain SFT comes to 80%
FEWEST_RUNS, FEWEST_REGIMES, DRAWS = 8, 4, 2000


def of(probe: str, metric: str) -> Number:
    """One number of a probe at an evaluation, of "facts" also where it is "facts-choice"; NaN where there is none."""

    def number(look: pd.DataFrame) -> float:
        own = (look["probe"] + "-").str.startswith(f"{probe}-")
        found = look.loc[own, metric] if metric in look else ()
        return float(found.iloc[0]) if len(found) else math.nan

    return number


def of_choices(metric: str) -> Number:
    """One number over all probes of multiple choice, each counted by its items."""

    def number(look: pd.DataFrame) -> float:
        own = look[(look["knowledge_method"] == "choice") & (look["probe"] != "all")]
        known = own[own[metric].notna()] if metric in own else own[:0]
        return float(np.average(known[metric], weights=known["n"])) if len(known) else math.nan

    return number


def net(probe: str) -> Number:
    """By how much the share that is passed fell."""
    return lambda look: -of(probe, "net_change")(look)


def worse(probe: str, end: str = "") -> Number:
    """By which share the bits per byte of texts rose, or an end of its interval."""
    before, change = of(probe, "bits_per_byte_before"), of(probe, f"bits_per_byte_change{end}")
    return lambda look: change(look) / before(look)


def half_width(low: Number, high: Number) -> Number:
    """Of an interval, which need not be symmetric."""
    return lambda look: (high(look) - low(look)) / 2


TASK = of("task", "accuracy_after")
LOST, GAINED = of_choices("knowledge_lost"), of_choices("knowledge_gained")
FORM = of_choices("spurious_forgetting")  # the estimate of the first prompt alone is as much higher
BEHAVIOUR, TEXT = net("behaviour"), worse("text")
OUTCOMES = {"knowledge lost": LOST, "behaviour, net loss": BEHAVIOUR, "text, more bits": TEXT}
HALF_WIDTHS = {
    "knowledge lost": half_width(of("all", "knowledge_lost_low"), of("all", "knowledge_lost_high")),
    "behaviour, net loss": half_width(of("behaviour", "net_change_low"), of("behaviour", "net_change_high")),
    "text, more bits": half_width(worse("text", "_low"), worse("text", "_high")),
}
FINDINGS = {
    "task right": TASK,
    "1→0, one prompt": of_choices("forgetting"),
    "the paper's": of_choices("forgetting_adjusted"),
    "knowledge lost, one prompt": lambda look: LOST(look) + FORM(look),
    "knowledge lost": LOST,
    "the paper's gain": of_choices("backward_transfer_adjusted"),
    "knowledge gained": GAINED,
    "behaviour, 1→0": of("behaviour", "forgetting"),
    "behaviour, net loss": BEHAVIOUR,
    "text, more bits": TEXT,
}
KL_AND_DRIFT = {"kl": of("tickets", "kl"), "drift": of("facts", "drift")}
EARLY = {
    "1→0 in facts (itself)": of("facts", "forgetting"),
    "drift on the options": KL_AND_DRIFT["drift"],
    "KL on the new task": KL_AND_DRIFT["kl"],
    "KL on other text": of("text", "kl"),
    "loss on other text": TEXT,
}


def looks(run: dict[str, Any], table: str = "history") -> list[pd.DataFrame]:
    """The evaluations of a run, or the points of its dial, in order."""
    frame = frame_of((run if table == "history" else run[table])["history"])
    return [own for _, own in frame.groupby("step")]


def dial_of(run: dict[str, Any]) -> list[pd.DataFrame]:
    """The points of a run's dial, from the model before to the fine-tuned one."""
    return [*looks(run, "dial"), looks(run)[-1]]


def mean_interval(values: Sequence[float]) -> str:
    """Mean over seeds with the 95% interval of Student's t, in percent; of fewer runs where some have no number."""
    x = 100 * np.array([value for value in values if not math.isnan(value)])
    few = f" ({len(x)} of {len(values)} runs)" if len(x) < len(values) else ""
    if not len(x):
        return f"-{few}"
    mean = f"{round(x.mean(), 1) + 0:.1f}"  # never -0.0
    if len(x) < 2:
        return f"{mean}{few}"
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return f"{mean} ± {half:.1f}{few}"


def matrix(what: str, heads: Sequence[str], rows: dict[str, list[list[float]]]) -> str:
    """A table in Markdown: a row a name, each cell the values of all seeds."""
    return table(what, heads, {name: list(map(mean_interval, cells)) for name, cells in rows.items()})


def table(what: str, heads: Sequence[str], rows: dict[str, list[str]]) -> str:
    """A table in Markdown: a row a name."""
    lines = [f"| {what} | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]
    return "\n".join(lines)


def findings(runs: list[dict[str, Any]]) -> str:
    """What each regime ended with, in percent: one prompt, the paper's number and ours beside each other."""
    rows = {}
    for key, name in NAMES.items():
        if ends := [looks(run)[-1] for run in of_regime(runs, key)]:
            shown = sum(of("all", "knowledge_lost_low")(end) > 0 for end in ends)
            cells = [mean_interval([number(end) for end in ends]) for number in FINDINGS.values()]
            rows[name] = [f"{shown} of {len(ends)}", *cells]
    return table("%, at the end", ["a loss of knowledge is shown in (runs)", *FINDINGS], rows)


def item_noise(runs: list[dict[str, Any]]) -> str:
    """How wide the intervals of single runs are: all runs ask the same items, so that seeds do not show it."""
    ends = [looks(run)[-1] for run in runs]
    known = pd.DataFrame([{name: 100 * number(end) for name, number in HALF_WIDTHS.items()} for end in ends]).mean()
    widths = ", ".join(f"± {width:.1f} ({name})" for name, width in known.dropna().items())
    return f"Other items: the 95% interval of one run over its items is {widths} on average."


def contrasts(runs: list[dict[str, Any]]) -> str:
    """Differences between two regimes, over the seeds that both have."""
    ends = {key: {run["seed"]: looks(run)[-1] for run in of_regime(runs, key)} for key in NAMES}
    rows = {}
    for more, less in CONTRASTS:
        if pairs := [(end, ends[less][seed]) for seed, end in ends[more].items() if seed in ends[less]]:
            name = f"{NAMES[more]}, less {NAMES[less]} ({len(pairs)})"
            rows[name] = [[number(a) - number(b) for a, b in pairs] for number in FINDINGS.values()]
    return matrix("% (seeds)", list(FINDINGS), rows)


def mitigations(runs: list[dict[str, Any]]) -> list[str]:
    """What each mitigation lost in the end, and how much less than plain SFT when the task first reaches a level."""
    found = {
        NAMES[key]: {run["seed"]: looks(run) for run in own} for key in MITIGATIONS if (own := of_regime(runs, key))
    }
    dials = {run["seed"]: dial_of(run) for run in of_regime(runs, PLAIN)}
    ends = {name: [own[-1] for own in by_seed.values()] for name, by_seed in found.items()}
    for points in zip(*(dial[1:-1] for dial in dials.values())):
        ends[f"{NAMES[PLAIN]}, {points[0]['step'].iloc[0]}% of it"] = list(points)
    first = found.pop(NAMES[PLAIN], {})
    plain = {outcome: {seed: crossing(own, f) for seed, own in first.items()} for outcome, f in OUTCOMES.items()}
    less = {
        name: [
            [plain[outcome][seed] - crossing(own, f) for seed, own in by_seed.items() if seed in first]
            for outcome, f in OUTCOMES.items()
        ]
        for name, by_seed in {**found, "the dial": dials}.items()
    }
    every = {"task right": TASK, **OUTCOMES}
    return [
        matrix(
            "%, at the end",
            list(every),
            {name: [list(map(f, own)) for f in every.values()] for name, own in ends.items()},
        ),
        matrix(f"% less than {NAMES[PLAIN]} when the task is at {LEVEL:.0%}", list(OUTCOMES), less),
    ]


def crossing(path: list[pd.DataFrame], number: Number, level: float = LEVEL) -> float:
    """A number when the task first reaches a level, by straight lines between evaluations; NaN if it never does."""
    points = [(TASK(look), number(look)) for look in path]
    for (right, value), (later, then) in zip([points[0], *points], points):
        if later >= level:
            return value + ((level - right) / (later - right) if later > right else 1.0) * (then - value)
    return math.nan


def early_numbers(run: dict[str, Any]) -> dict[str, float]:
    """What is known of a run after its first evaluation in training."""
    before, first = looks(run)[:2]
    margin = of("facts", "margin")
    conflicts = run["conflicts"]
    return {
        **{name: number(first) for name, number in EARLY.items()},
        "fall of the margin": margin(before) - margin(first),
        "confident conflicts": math.nan if conflicts is None else conflicts["share"],
    }


def warnings(runs: list[dict[str, Any]]) -> str:
    """Rank correlations over runs of what is known early with what was lost in the end."""
    known = pd.DataFrame([early_numbers(run) for run in runs])
    ends = pd.DataFrame([{name: number(looks(run)[-1]) for name, number in OUTCOMES.items()} for run in runs])
    regimes = np.array([run["name"] for run in runs])
    rows = {
        name: [spearman(known[name].to_numpy(), ends[outcome].to_numpy(), regimes) for outcome in OUTCOMES]
        for name in known
    }
    return table(f"Spearman, over {len(runs)} runs", list(OUTCOMES), rows)


def shown_lost(end: pd.DataFrame) -> list[str]:
    """What was lost for sure at an evaluation: where the 95% interval of the run over its items lies above 0."""
    lows = {
        "knowledge": of("all", "knowledge_lost_low")(end),
        "behaviour": -of("behaviour", "net_change_high")(end),
        "text": worse("text", "_low")(end),
    }
    return [name for name, low in lows.items() if low > 0]


def early_table(runs: list[dict[str, Any]]) -> str:
    """The table of `forget_callback.runs.early_warning`: a line a run, with what it had early and lost in the end."""
    numbers = {"text_worse": TEXT, "text_worse_low": worse("text", "_low"), **KL_AND_DRIFT}
    lines = ["\t".join(["name", *numbers, "text_worse_last", "lost"])]
    for run in sorted(runs, key=lambda run: (list(NAMES).index(run["name"]), run["seed"])):
        _, first, *_, last = looks(run)
        name, values = f"{run['name']}-{run['seed']}", [*(number(first) for number in numbers.values()), TEXT(last)]
        lines.append("\t".join([name, *map("{:.4g}".format, values), " ".join(shown_lost(last))]))
    return "\n".join(lines) + "\n"


def spearman(x: np.ndarray, y: np.ndarray, regimes: np.ndarray, *, seed: int = 0) -> str:
    """A rank correlation with its 95% bootstrap interval; regimes are drawn whole, as seeds of one are alike."""
    there = np.isfinite(x) & np.isfinite(y)
    x, y, regimes = x[there], y[there], regimes[there]
    kinds = np.unique(regimes)
    if len(x) < FEWEST_RUNS or len(kinds) < FEWEST_REGIMES:
        return f"too few: {len(x)} runs of {len(kinds)} regimes"
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return "all equal"
    rng, places = np.random.default_rng(seed), [np.flatnonzero(regimes == kind) for kind in kinds]
    drawn = []
    for _ in range(DRAWS):
        own = np.concatenate([places[kind] for kind in rng.integers(len(kinds), size=len(kinds))])
        if np.ptp(x[own]) and np.ptp(y[own]):
            drawn.append(rank_correlation(x[own], y[own]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    few = f", {len(x)} runs" if len(x) < len(there) else ""
    return f"{rank_correlation(x, y):.2f} [{low:.2f}, {high:.2f}{few}]"


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's, without the p-value that makes scipy's slow."""
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def figure(runs: list[dict[str, Any]], path: Path) -> None:
    """What was lost against accuracy in the new task: a line a regime through its evaluations, mean over seeds."""
    matplotlib.use("Agg")
    plot, axes = pyplot.subplots(1, len(OUTCOMES), figsize=(13, 4.4), constrained_layout=True)
    lines = [(name, "-o", COLORS[key], [looks(run) for run in of_regime(runs, key)]) for key, name in NAMES.items()]
    lines.append(("the dial", "--s", "black", [dial_of(run) for run in of_regime(runs, PLAIN)]))
    for axis, (what, number) in zip(axes, OUTCOMES.items()):
        for name, style, color, own in lines:
            if not own:
                continue
            points = 100 * np.array([[(TASK(look), number(look)) for look in path] for path in own])
            axis.plot(*points.mean(0).T, style, color=color, ms=3, label=name)
            axis.plot(*points[:, -1].T, style[-1], color=color, ms=5, alpha=0.5)
        axis.axhline(0, color="black", lw=0.5)
        axis.set(xlabel="right in the new task, %", ylabel=f"{what}, %")
        axis.spines[["top", "right"]].set_visible(False)
    plot.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    plot.savefig(path, dpi=150)
    pyplot.close(plot)


def of_regime(runs: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The runs of one regime, by seed."""
    return sorted((run for run in runs if run["name"] == name), key=lambda run: run["seed"])


def text(runs: list[dict[str, Any]]) -> str:
    """All tables."""
    minutes = sum(run["minutes"] for run in runs)
    return "\n\n".join(
        [
            f"{len(runs)} runs, {minutes / 60:.1f} hours.",
            findings(runs),
            item_noise(runs),
            contrasts(runs),
            *mitigations(runs),
            warnings(runs),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The tables and the figure of the study.")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    runs = [read_run(path) for path in sorted((given.out / "runs").glob("*.json"))]
    if not runs:
        parser.error(f"there is no run in {given.out / 'runs'}")
    (given.out / "study.md").write_text(text(runs) + "\n", encoding="utf-8")
    figure(runs, given.out / "study.png")
    print(text(runs))
