"""The tiny model's study: what is shown follows from the runs that are kept, and each method trains and is watched."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.smoke import make_untaught

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
RUNS = json.loads((ROOT / "recipes" / "study" / "runs.json").read_text(encoding="utf-8"))


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "recipes")
    import tiny_study

    return tiny_study


def test_the_tables_that_are_shown_are_those_of_the_runs(study):
    assert all(table in PAGE for table in study.tables(RUNS))


def test_the_findings_are_in_the_tables(study):
    def cells(table, row):
        line = next(line for line in study.tables(RUNS)[table].splitlines() if line.startswith(f"| {row} |"))
        return [tuple(float(x) for x in cell.split("±")) for cell in line.split("|")[2:-1]]

    said = " ".join(PAGE.split())
    rl = cells(0, "SFT less GRPO")
    for mean, half in (cells(0, "SFT less SFT, 20% replay")[-1], *rl[-2:], cells(0, "LoRA less SFT")[-1]):
        assert f"{mean} ± {half} points" in said
        assert mean > half, "the interval leaves out 0"
    mean, half = cells(1, "SFT less GRPO")[-1]
    assert f"at 95% the difference is {mean} ± {half}" in said and abs(mean) < half
    narrow, middle, wide = (f"{mean} ± {half}" for mean, half in cells(2, "SFT, 2,560 samples"))
    assert f"{narrow}, {middle} and {wide}%" in said
    lost = [round(cells(table, method)[-1][0]) for table in (1, 0) for method in ("SFT", "GRPO")]
    assert "forgotten {}% and {}% of the facts, and at 10,240 samples {}% and {}%".format(*lost) in said
    steps = [run["steps"] for run in RUNS if (run["method"], run["samples"]) == ("lora", 10240)]
    leaps = [max(b["task"] - a["task"] for a, b in pairwise(own)) for own in steps]
    assert min(leaps) > 0.5, "each run learned over half of the task between two evaluations"


def test_so_are_those_of_the_dial_and_the_replay_pack(study):
    import tools  # beside tiny_study

    seeds = json.loads((ROOT / "recipes" / "study" / "tools.json").read_text(encoding="utf-8"))
    assert all(table in PAGE for table in tools.tables(seeds))
    assert sorted(seed["dial"]["best"] for seed in seeds) == [0.5] * 5 + [0.75]


def test_a_cell_is_the_mean_over_seeds_with_students_interval(study):
    ends = [run["steps"][-1]["forgotten"] for run in RUNS if (run["method"], run["samples"]) == ("grpo", 10240)]
    mean, half = 100 * np.mean(ends), 100 * stats.t.interval(0.95, len(ends) - 1, scale=stats.sem(ends))[1]
    assert len(ends) == 6
    assert re.search(rf"^\| GRPO \| .*\| {mean:.1f} ± {half:.1f} \|$", study.tables(RUNS)[0], re.MULTILINE)


def test_forgetting_at_equal_accuracy_is_interpolated_between_evaluations(study):
    run = {"steps": [{"task": task, "forgotten": lost} for task, lost in ((0.0, 0.0), (0.4, 0.1), (0.8, 0.3))]}
    assert study.at_task(run, 0.6) == pytest.approx(0.2)
    assert study.at_task(run, 0.0) == 0.0
    assert math.isnan(study.at_task(run, 0.9))


def test_the_figure_is_drawn(study, tmp_path):
    study.figure(RUNS, tmp_path / "study.png")
    assert (tmp_path / "study.png").read_bytes()[:4] == b"\x89PNG"


IN_TURN = [pytest.param(name, marks=pytest.mark.in_turn(day)) for day, name in enumerate(["replay", "lora", "grpo"])]


@pytest.mark.parametrize("method", ["sft", *IN_TURN])
def test_each_method_trains_and_is_watched(study, tmp_path, method):
    make_untaught(tmp_path)
    (tmp_path / "model-128").rename(tmp_path / "model-128-0")  # there already, so it is not taught first
    job = {"root": str(tmp_path), "out": str(tmp_path / "run"), "method": method, "samples": 64, "seed": 0, "size": 128}
    found = study.train(job)
    assert [(step["step"], step["samples"]) for step in found["steps"]] == [(0, 0), (1, 32), (2, 64)]
    assert set(study.KEPT) <= set(found)
    assert (tmp_path / "run" / "forget" / "history.parquet").is_file()
