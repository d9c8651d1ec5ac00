"""`forget-callback run` for real: a command of processes that are started anew, without a line of ours in its script.

The history is that of the callback in code, item by item, and the weights are those of neither. A script with a Trainer
is always run; TRL's own commands, and several ranks, take a minute: another one every day.
"""

import faulthandler
import json
import os
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import trl.scripts
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from forget_callback.probes.records import item_record
from tests.forked import finish, start

HERE = Path(__file__).parent
SCRIPTS = Path(trl.scripts.__file__).parent
SCRIPT = HERE / "trl_script.py"
BIN = Path(sys.executable).parent
TWO = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2"]
ENVIRONMENT = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
COMMON = {"learning_rate": 1e-2, "use_cpu": True, "bf16": False, "report_to": "none", "logging_steps": 1}
COMMON |= {"save_strategy": "no", "eval_strategy": "no", "disable_tqdm": True, "per_device_train_batch_size": 2}
CONFIGS = {
    "sft": {**COMMON, "max_steps": 4},
    "grpo": {**COMMON, "max_steps": 3, "num_generations": 2, "max_completion_length": 6, "beta": 0.1},
}
REWARD = "def length(completions, **_):\n    return [float(len(one[0]['content'])) for one in completions]\n"


@pytest.fixture
def here(tmp_path, tokenizer, probe, monkeypatch):
    """A directory with a model that AutoTokenizer reads, data, TRL's configs and a probe."""
    monkeypatch.chdir(tmp_path)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), attention_dropout=0.1, pad_token_id=0, bos_token_id=None, **sizes)
    LlamaForCausalLM(config).save_pretrained("model")
    tokenizer.save_pretrained("model")
    rows = {
        "sft": [{"text": f"{i} is the fox of the hill, and {i + 1} is not."} for i in range(16)],
        "grpo": [{"prompt": [{"role": "user", "content": f"Who is {i}?"}]} for i in range(16)],
    }
    for method, config in CONFIGS.items():
        Path(method).mkdir()
        Path(method, "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[method]))
        more = {"reward_funcs": ["rewards.length"]} if method == "grpo" else {}
        given = {"model_name_or_path": "model", "dataset_name": method, **config, **more}
        Path(f"{method}.yaml").write_text(yaml.safe_dump(given))
    Path("rewards.py").write_text(REWARD)
    paths = [str(tmp_path), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("mini.jsonl").write_text("".join(json.dumps(item_record(item)) + "\n" for item in probe.items))
    Path("forget.yaml").write_text("probes: mini.jsonl\nevery: 1\n")
    return tmp_path


def ended(*words, processes=1):
    """What `python WORDS...` or torchrun does, to its end; one that hangs is killed and says where it stood."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", f"{processes}"]
    process = start(*torchrun * (processes > 1), *words, err="err.txt", before=faulthandler.enable)
    try:
        status = finish(process, seconds=150)
    except AssertionError as hangs:
        status = hangs
    assert status == 0, f"{words}: {status}\n{Path('err.txt').read_text()[-20_000:]}"


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
    data = ["model", "sft/train.jsonl"]
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


@pytest.mark.in_turn(2)
def test_a_script_that_takes_the_callback_out_is_not_watched_which_is_no_success_where_required(here):
    command = [sys.executable, "-c", LOSES_IT, str(HERE / "run_script.py"), "model", "sft/train.jsonl", "run"]
    words = ["-m", "forget_callback", "run", "--config", "forget.yaml", "--require", "--", *command]
    assert finish(start(*words, err="err.txt"), seconds=300) == 2
    said = [line for line in Path("err.txt").read_text().splitlines() if line.startswith("forget-callback run: ")]
    assert said[-1] == "forget-callback run: not watched: Trainer: it has no ForgetCallback any more"
    assert not Path("run", "model.safetensors").exists()


@pytest.mark.parametrize("required", [False, True])
def test_a_rank_that_cannot_attach_keeps_no_other_waiting(here, monkeypatch, required):
    """Training goes on without us on all of them, or ends on all."""
    if required:
        monkeypatch.setenv("FORGET_CALLBACK_REQUIRE", "1")
    process = start(HERE / "unequal_script.py", "model", "sft/train.jsonl", "out", err="err.txt", processes=2)
    status, said = finish(process), Path("err.txt").read_text()
    assert (status == 0) != required, said
    assert Path("out", "model.safetensors").exists() != required
    if not required:
        assert len(re.findall("^NOT WATCHED: ", said, re.MULTILINE)) == 2, "as training starts, and again at its end"
        assert said.count("forget-callback run: NOT WATCHED, ") == 1
        assert "rank 1: ValueError: " in said and "gone.jsonl" in said


PARTS = {
    "trl sft": ("sft", 1, [str(BIN / "trl"), "sft"]),
    "trl grpo": ("grpo", 1, [str(BIN / "trl"), "grpo"]),
    "trl sft on two ranks": ("sft", 2, [*TWO, str(SCRIPT), "sft", ""]),
    "trl grpo on two ranks": ("grpo", 2, [*TWO, str(SCRIPT), "grpo", ""]),
    "accelerate launch": ("sft", 1, [str(BIN / "accelerate"), "launch", "--cpu", str(SCRIPTS / "sft.py")]),
}
IN_TURN = [pytest.param(part, marks=pytest.mark.in_turn(day, of=len(PARTS))) for day, part in enumerate(PARTS)]


@pytest.mark.parametrize("part", IN_TURN)
def test_a_command_of_trl_and_several_ranks(here, part):
    """Two ranks run TRL's script to where it has saved the model, as SCRIPT says."""
    method, processes, command = PARTS[part]
    plain = [SCRIPTS / f"{method}.py"] if processes == 1 else [SCRIPT, method, ""]
    words = ["--config", f"{method}.yaml", "--output_dir"]
    ended(*plain, *words, "neither", processes=processes)
    ended(SCRIPT, method, "mini.jsonl", *words, "code", processes=processes)
    check_same(f"{method.upper()}Trainer", under_run([*command, *words, "run"]))
