"""The numbers of the study's runs by name: what tables and figures show.

A `Number` reads one evaluation, a frame with a row a probe.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from scipy import stats
from study_record import frame_of

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


def looks(run: dict[str, Any], table: str = "history") -> list[pd.DataFrame]:
    """The evaluations of a run, or the points of its dial, in order."""
    frame = frame_of((run if table == "history" else run[table])["history"])
    return [own for _, own in frame.groupby("step")]


def dial_of(run: dict[str, Any]) -> list[pd.DataFrame]:
    """The points of a run's dial, from the model before to the fine-tuned one."""
    return [*looks(run, "dial"), looks(run)[-1]]


def of_regime(runs: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The runs of one regime, by seed."""
    return sorted((run for run in runs if run["name"] == name), key=lambda run: run["seed"])


def dials(runs: list[dict[str, Any]]) -> dict[int, list[pd.DataFrame]]:
    """The points between the two models of the dial, by their share in percent, a run each."""
    points: dict[int, list[pd.DataFrame]] = {}
    for run in of_regime(runs, PLAIN):
        for look in dial_of(run)[1:-1]:
            points.setdefault(int(look["step"].iloc[0]), []).append(look)
    return points


def t_interval(x: np.ndarray) -> tuple[float, float]:
    """Of the mean of two numbers or more, 95%."""
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return x.mean() - half, x.mean() + half
