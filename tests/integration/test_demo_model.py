"""`demo --model` as a user runs it, on a tiny model in a directory: each method, own data, own probe, bad input."""

import re

import pandas as pd
import pytest
import torch

from forget_callback.demo import tiny
from forget_callback.demo.samples import quiz

PROBE = "builtin:facts?kind=choice&limit=40"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A causal language model as `save_pretrained` leaves it, untaught."""
    place = tmp_path_factory.mktemp("models") / "small"
    tokenizer = tiny.make_tokenizer([" ".join(pair) for pair in quiz()])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny.make_model(tokenizer, hidden_size=32).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def base(directory, tmp_path_factory):
    """The same without a chat template and without a padding token, as many base models are."""
    place = tmp_path_factory.mktemp("models") / "base"
    tokenizer = tiny.make_tokenizer([" ".join(pair) for pair in quiz()])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny.make_model(tokenizer, hidden_size=32).save_pretrained(place)
    tokenizer.chat_template, tokenizer.pad_token = None, None
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture
def demo(run_cli, monkeypatch, tmp_path, wandb_offline):
    """demo(model, *options) -> what it prints; the run is in tmp_path / "run"."""
    monkeypatch.setenv("WANDB_PROJECT", "demo")  # or the demo would set it for all that comes after

    def run(model, *options):
        status, out, err = run_cli("demo", "--model", model, "--out", tmp_path / "run", *options)
        assert status == 0, err
        return out, err

    return run


def table(directory):
    history = pd.read_parquet(directory / "forget" / "history.parquet")
    return history[history["category"] == ""].set_index("step")


@pytest.mark.parametrize("method, metric", [("sft", "loss"), ("dpo", "loss"), ("grpo", "reward")])
def test_each_method_trains_and_shows_the_task_beside_what_was_lost(demo, directory, tmp_path, method, metric):
    out, err = demo(directory, "--method", method, "--samples", 32, "--probe", PROBE)
    history = table(tmp_path / "run")
    assert history["variants"].iloc[-1] == 2, "the last evaluation asks every prompt"
    assert history["knowledge_lost"].notna().sum() == 2, "variants='ends': the baseline and the last one"
    assert len(history) == 5
    assert re.search(rf"samples +{metric} +accuracy +1→0 +0→1 +lost", out)
    rows = re.findall(r"^ +([\d,]+) +(-?[\d.]+) +([\d.]+)% ", out, re.MULTILINE)
    assert [int(row[0]) for row in rows] == list(history["samples_seen"].iloc[1:].astype(int))
    for row, accuracy in zip(rows, history["accuracy_after"].iloc[1:], strict=True):
        assert float(row[2]) == pytest.approx(100 * accuracy, abs=0.051)
    assert re.search(r"step \d+ of \d+, about \d+ (s|min) left", err)
