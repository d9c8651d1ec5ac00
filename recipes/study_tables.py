"""The tables and the figures of the study, from its run files.

python recipes/study_tables.py OUT

Writes OUT/study.md, OUT/study.png and OUT/curves.png. Means over seeds come with the 95% interval of Student's t; what
too few runs can say is left out, and the table says so.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from study_figures import curves, figure
from study_numbers import (
    FINDINGS,
    NAMES,
    OUTCOMES,
    PLAIN,
    TASK,
    TEXT,
    Number,
    dial_of,
    dials,
    half_width,
    looks,
    of,
    of_regime,
    t_interval,
    worse,
)
from study_record import read_run

CONTRASTS = (
    *(("pretrain-large", "pretrain-small"), ("sft-large", "sft-small"), ("grpo-large", "grpo-small")),
    *(("sft-hot", "sft-large"), ("sft-large", "grpo-large"), ("sft-hot", "pretrain-large")),
)
MITIGATIONS = ("sft-hot", "sft-large", "replay-pool", "replay-own", "replay-pack", "lora", "grpo-large")
LEVEL = 0.75  # task accuracy at which mitigations are compared: not every run of plain SFT comes to 80%
FEWEST_RUNS, FEWEST_REGIMES, DRAWS = 8, 4, 2000

HALF_WIDTHS = {
    "knowledge lost": half_width(of("all", "knowledge_lost_low"), of("all", "knowledge_lost_high")),
    "behaviour, net loss": half_width(of("behaviour", "net_change_low"), of("behaviour", "net_change_high")),
    "text, more bits": half_width(worse("text", "_low"), worse("text", "_high")),
}
LOSSES = {  # the lower ends of their intervals
    "knowledge": of("all", "knowledge_lost_low"),
    "behaviour": lambda look: -of("behaviour", "net_change_high")(look),
    "text": worse("text", "_low"),
}
KL_AND_DRIFT = {"kl": of("tickets", "kl"), "drift": of("facts", "drift")}
EARLY = {
    "1→0 in facts (itself)": of("facts", "forgetting"),
    "drift on the options": KL_AND_DRIFT["drift"],
    "KL on the new task": KL_AND_DRIFT["kl"],
    "KL on other text": of("text", "kl"),
    "loss on other text": TEXT,
}


def mean_interval(values: Sequence[float]) -> str:
    """Mean over seeds in percent, with Student's 95% interval of three and more; where not of all, of how many."""
    x = 100 * np.array([value for value in values if not math.isnan(value)])
    few = f" ({len(x)} of {len(values)} runs)" if len(x) < len(values) else ""
    if not len(x):
        return f"-{few}"
    mean = f"{round(x.mean(), 1) + 0:.1f}"  # never -0.0
    if len(x) < 3:
        return f"{mean}{few}"
    low, high = t_interval(x)
    return f"{mean} ± {(high - low) / 2:.1f}{few}"


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
    start = mean_interval([TASK(looks(runs[0])[0])])
    rows = {"the model before": ["-", start, *["-"] * (len(FINDINGS) - 1)]}
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
    turned = {run["seed"]: dial_of(run) for run in of_regime(runs, PLAIN)}
    ends = {name: [own[-1] for own in by_seed.values()] for name, by_seed in found.items()}
    for share, points in dials(runs).items():
        ends[f"{NAMES[PLAIN]}, {share}% of it"] = points
    first = found.pop(NAMES[PLAIN], {})
    plain = {outcome: {seed: crossing(own, f) for seed, own in first.items()} for outcome, f in OUTCOMES.items()}
    less = {
        name: [
            [plain[outcome][seed] - crossing(own, f) for seed, own in by_seed.items() if seed in first]
            for outcome, f in OUTCOMES.items()
        ]
        for name, by_seed in {**found, "the dial": turned}.items()
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
    return [name for name, low in LOSSES.items() if low(end) > 0]


def early_rises(runs: list[dict[str, Any]]) -> str:
    """What followed where texts had got worse early, and by how many times as much they had in the end."""
    ends: dict[bool, list[list[str]]] = {True: [], False: []}
    times = []
    for run in runs:
        _, first, *_, last = looks(run)
        risen = "text" in shown_lost(first)
        ends[risen].append(shown_lost(last))
        if risen:
            times.append((run["name"], TEXT(last) / TEXT(first)))
    within = 0
    for name, ratio in times:
        others = [one for other, one in times if other != name]
        within += bool(others) and min(others) <= ratio <= max(others)
    became = [ratio for _, ratio in times]
    counts = ", ".join(f"{name} in {sum(name in lost for lost in ends[True])}" for name in LOSSES)
    lost, below = (sum(map(bool, ends[risen])) for risen in (True, False))
    grew = f"{min(became):.1f} to {max(became):.1f}" if became else "-"
    return (
        f"Texts had got worse by more than noise after the first eighth of {len(times)} runs. A loss shows at the end "
        f"of {lost} of these ({counts}), and of {below} of the {len(ends[False])} others. The rise was {grew} times as "
        f"large at the end; {within} of {len(times)} lie within what runs of other regimes say."
    )


def early_table(runs: list[dict[str, Any]]) -> str:
    """The table of `forget_callback.runs.early_warning`: a line a run, with what it had early and lost in the end."""
    numbers = {"text_worse": TEXT, "text_worse_low": LOSSES["text"], **KL_AND_DRIFT}
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
            early_rises(runs),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The tables and the figures of the study.")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    runs = [read_run(path) for path in sorted((given.out / "runs").glob("*.json"))]
    if not runs:
        parser.error(f"there is no run in {given.out / 'runs'}")
    (given.out / "study.md").write_text(text(runs) + "\n", encoding="utf-8")
    figure(runs, given.out / "study.png")
    curves(runs, given.out / "curves.png")
    print(text(runs))
