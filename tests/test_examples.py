"""The examples run as their own text says; `plot_run.py` runs with the README's commands in `test_demo.py`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from forget_callback import load_probe
from forget_callback.demo import make_model, make_tokenizer
from forget_callback.store import Store

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TWO_PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def run(*command, **more):
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", **more}
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A directory with a tiny model that knows nothing."""
    directory = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer([item.prompt for item in load_probe("builtin:facts", limit=100).items])
    torch.manual_seed(0)
    make_model(tokenizer).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("name", ["own_loop.py", "accelerate_loop.py"])
def test_loops_without_a_trainer(model, tmp_path, name):
    processes, more = (TWO_PROCESSES, {"ACCELERATE_USE_CPU": "true"}) if "accelerate" in name else ([], {})
    printed = run(*processes, EXAMPLES / name, model, "--out", tmp_path, "--steps", 10, **more)
    assert [line.split()[:2] for line in printed.splitlines()[-3:]] == [["0", "0.0"], ["5", "40.0"], ["10", "80.0"]]
    store = Store(tmp_path)
    assert store.steps("facts-choice") == [0, 5, 10]
    last = store.read("facts-choice", 10)
    assert len(last) == 200
    assert last.metadata["processes"] == (2 if processes else 1)
    assert (last.margin != store.read("facts-choice", 0).margin).all()


def test_known_truth_writes_its_table_and_figure(tmp_path):
    run(
        EXAMPLES / "known_truth.py",
        *("--out", tmp_path / "study", "--seeds", 1, "--facts", 60, "--steps", 5, 15),
    )
    table = (tmp_path / "study.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1
    assert (tmp_path / "study.png").read_bytes()[:4] == b"\x89PNG"
