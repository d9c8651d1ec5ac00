"""`forget-callback run` for real: a command of processes that are started anew, without a line of ours in its script.

The history is that of the callback in code, item by item, and the weights are those of neither.
"""

import json
import os
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from forget_callback.probes.records import item_record
from tests.forked import finish, start

HERE = Path(__file__).parent


@pytest.fixture
def here(tmp_path, tokenizer, probe, monkeypatch):
    """A directory with a model that AutoTokenizer reads, data and a probe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), attention_dropout=0.1, pad_token_id=0, bos_token_id=None, **sizes)
    LlamaForCausalLM(config).save_pretrained("model")
    tokenizer.save_pretrained("model")
    Path("data.jsonl").write_text("".join(f'{{"text": "{i} is the fox, {i + 1} is not."}}\n' for i in range(16)))
    paths = [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    Path("mini.jsonl").write_text("".join(json.dumps(item_record(item)) + "\n" for item in probe.items))
    Path("forget.yaml").write_text("probes: mini.jsonl\nevery: 1\n")
    return tmp_path


def ended(*words):
    process = start(*words, err="err.txt")
    assert finish(process, seconds=300) == 0, Path("err.txt").read_text()[-3000:]


def under_run(command):
    """What `run` said of its own."""
    Path("err.txt").unlink(missing_ok=True)
    ended("-m", "forget_callback", "run", "--config", "forget.yaml", "--require", "--", *command)
    return [line for line in Path("err.txt").read_text().splitlines() if line.startswith("forget-callback run: ")]


def check_same(trainer, said):
    """Snapshots and history as in code, the weights as with neither, and each thing said once."""
    assert said == [f"forget-callback run: watches {trainer}", f"forget-callback run: watched 1 {trainer}"]
    weights = {Path(way, "model.safetensors").read_bytes() for way in ("neither", "code", "run")}
    assert len(weights) == 1 and weights != {Path("model", "model.safetensors").read_bytes()}
    files = sorted(Path("code", "forget").rglob("*.parquet"))
    assert len(files) >= 5
    for file in files:
        pd.testing.assert_frame_equal(pd.read_parquet(file), pd.read_parquet(Path("run", *file.parts[1:])))


def test_a_script_with_a_trainer(here):
    script = HERE / "run_script.py"
    data = ["model", "data.jsonl"]
    ended(script, *data, "neither")
    ended(script, *data, "code", "mini.jsonl")
    check_same("Trainer", under_run([sys.executable, str(script), *data, "run"]))


LOSES_IT = """
import runpy, sys, transformers as it
train = it.Trainer.train
def of_its_own(self):
    self.callback_handler.callbacks = [it.DefaultFlowCallback()]
    return train(self)
it.Trainer.train = of_its_own
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_script_that_takes_the_callback_out_is_not_watched_which_is_no_success_where_required(here):
    command = [sys.executable, "-c", LOSES_IT, str(HERE / "run_script.py"), "model", "data.jsonl", "run"]
    words = ["-m", "forget_callback", "run", "--config", "forget.yaml", "--require", "--", *command]
    assert finish(start(*words, err="err.txt"), seconds=300) == 2
    said = [line for line in Path("err.txt").read_text().splitlines() if line.startswith("forget-callback run: ")]
    assert said[-1] == "forget-callback run: not watched: Trainer: it has no ForgetCallback any more"
    assert not Path("run", "model.safetensors").exists()
