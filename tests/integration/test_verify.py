"""The certificate, for real setups: it passes where nothing is changed, and finds one random number."""

import json

import pytest
import torch

from forget_callback import ForgetCallback
from forget_callback.tools.recipe import Recipe
from forget_callback.tools.verify import certify


def reward(completions, **kwargs):
    """Longer is better."""
    return [float(len(str(text))) for text in completions]


@pytest.fixture
def recipe(tmp_path, make_model, tokenizer, probe):
    """recipe(**fields) -> a YAML file for a tiny model with dropout and its own data and probe."""
    make_model(attention_dropout=0.1).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"prompt": f"Who is {i}?", "completion": f" The fox {i}."} for i in range(24)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = [{"id": f"{i}", "prompt": f"{i} is", "choices": [" odd", " even"], "answer": i % 2} for i in range(6)]
    (tmp_path / "mini.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))

    def make(**more):
        fields = {
            "model_name_or_path": str(tmp_path / "model"),
            "dtype": "float32",
            "dataset_name": str(tmp_path / "data.jsonl"),
            "output_dir": str(tmp_path / "out"),
            "probes": [str(tmp_path / "mini.jsonl")],
            "use_cpu": True,
            "bf16": False,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "max_length": 64,
            "disable_tqdm": True,
            **more,
        }
        path = tmp_path / "config.yaml"
        path.write_text(
            "".join(f"{name}: {json.dumps(value)}\n" for name, value in fields.items() if value is not None)
        )
        return path

    return make


GRPO = {
    "trainer": "grpo",
    "reward_funcs": [f"{__name__}.reward"],
    "num_generations": 2,
    "max_completion_length": 8,
    "max_length": None,
}


@pytest.mark.parametrize(
    "fields",
    [{}, {"packing": True}, {"use_peft": True, "lora_target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1}, GRPO],
    ids=["dropout", "packing", "LoRA", "GRPO"],
)
def test_the_callback_passes(run_cli, recipe, fields):
    code, out, err = run_cli("verify", recipe(**fields), "--steps", "3")
    assert code == 0, (out, err)
    lines = out.splitlines()
    assert len(lines) == 9 and all("equal (" in line for line in lines[:8])
    assert lines[-1] == "passed: 3 steps, 4 snapshots"


class Draws(ForgetCallback):
    """Draws one random number."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            torch.rand(1)


def test_one_random_number_is_found(recipe, probe, tmp_path):
    built = Recipe.read(recipe())
    more = {"save_strategy": "no", "report_to": [], "logging_steps": 1, "max_steps": 3}
    found = certify(
        lambda own: built.build(own, **more),
        lambda: Draws(probe, every=1, output_dir=tmp_path / "probed", on_error="raise"),
        seed=0,
    )
    assert found.deterministic and not found.passed
    differing = {name for name, value in found.without.items() if found.with_callback[name] != value}
    assert {"losses", "weights", "generators"} <= differing


def test_a_setup_that_differs_from_itself_is_said_to(run_cli, recipe, monkeypatch):
    """As where kernels are not deterministic."""
    from trl import SFTTrainer

    training_step = SFTTrainer.training_step

    def noisy(self, *args, **kwargs):
        for parameter in self.model.parameters():
            parameter.data += 1e-3 * torch.randn(parameter.shape, generator=noise)
        return training_step(self, *args, **kwargs)

    noise = torch.Generator().manual_seed(0)
    monkeypatch.setattr(SFTTrainer, "training_step", noisy)
    code, out, err = run_cli("verify", recipe(), "--steps", "2")
    assert code == 1 and "nothing can be verified" in err and out.splitlines()[-1].startswith("failed")


@pytest.mark.parametrize(
    "text, problem",
    [
        (None, "no such file"),
        ("trainer: ppo\n", "trainer must be one of sft, grpo, got 'ppo'"),
    ],
)
def test_bad_configs_are_errors_of_two_lines(run_cli, tmp_path, text, problem):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    code, out, err = run_cli("verify", path)
    assert code == 2 and out == "" and problem in " ".join(err.split()) and "Traceback" not in err
