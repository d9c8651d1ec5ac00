"""Leaks are found, and the pilot is the first steps of the training itself."""

import json
import math
import re

import pytest

from forget_callback import ForgetCallback, load_probe
from forget_callback.demo.smoke import make_taught
from forget_callback.demo.tiny import quiet
from forget_callback.runs.early_warning import followed, text_worse
from forget_callback.tools.preflight import FACTS, ROWS, TEXTS
from forget_callback.tools.recipe import Recipe
from tests.schema import checked

STEPS = 40  # an eighth are 5


def reward(completions, **kwargs):
    """Longer is better."""
    return [float(len(str(text))) for text in completions]


@pytest.fixture
def model(tmp_path, make_model, tokenizer):
    make_model(attention_dropout=0.1).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def data(tmp_path):
    """data(*more) -> a file of 24 rows and these."""

    def make(*more):
        rows = [{"prompt": f"Who is {i}?", "completion": f" The fox {i}."} for i in range(24)]
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in (*rows, *more)))
        return path

    return make


@pytest.fixture
def recipe(tmp_path, model, data):
    """recipe(**fields) -> a YAML file for a tiny model with dropout and its own data."""

    def make(*rows, **more):
        fields = {
            "model_name_or_path": str(model),
            "dtype": "float32",
            "dataset_name": str(data(*rows)),
            "output_dir": str(tmp_path / "out"),
            "probes": ["builtin:facts?category=capitals"],
            "use_cpu": True,
            "bf16": False,
            "per_device_train_batch_size": 4,
            "max_steps": STEPS,
            "disable_tqdm": True,
            **more,
        }
        path = tmp_path / f"config-{len(list(tmp_path.glob('config-*')))}.yaml"
        path.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in fields.items()))
        return path

    return make


def test_a_leak_and_a_loss_fail_and_the_numbers_are_those_of_the_whole_training(run_cli, recipe, tmp_path, caplog):
    leak = {"prompt": "Here it is: what is the capital of Angola?", "completion": " Luanda."}
    path = recipe(leak, learning_rate=0.3)
    code, out, err = run_cli("preflight", path, "--out", tmp_path / "pilot", "--format", "json")
    assert code == 1, (out, err)
    found = checked(out, "preflight")
    assert found["leaks"][0]["items"] == ["capitals/angola/choice"] and found["rows"] == 25 and not found["passed"]
    assert found["pilot"] == {"steps": 5, "planned": STEPS, "warmup": 0, "unscored": 0}
    assert "within the first 5 of 40 steps: no run of the study of SmolLM2-135M had as much" in caplog.text
    worse = found["numbers"]["text_worse"]["value"]
    assert found["text_worse_interval"][0] > 0 and found["forecast"] is None, "worse than any run of the study"

    probes = [load_probe(spec) for spec in (FACTS, TEXTS, ROWS)]
    callback = ForgetCallback(probes, every=5, variants="off", rescore=False, output_dir=tmp_path / "whole")
    Recipe.read(path).build([callback], report_to=[], save_strategy="no").train()
    at = {row.probe: row for row in callback.monitor.rows if row.step == 5 and not row.category}
    facts, texts, rows = (at[probe.name] for probe in probes)
    assert (worse, found["text_worse_interval"]) == (text_worse(texts)[0], [*text_worse(texts)[1]])
    for name, value in (("kl", rows.value("kl")), ("drift", facts.value("drift"))):
        one = followed(name, value)
        expected = {"value": value, "runs": one.runs, "lost": one.lost}
        expected |= {"runs_below": one.runs_below, "lost_below": one.lost_below}
        assert found["numbers"][name] == expected and value > 0


def test_a_rise_as_in_the_study_has_a_forecast_and_a_higher_one_says_why_not(run_cli, recipe, tmp_path):
    worst, some = (
        run_cli("preflight", recipe(learning_rate=rate), "--out", tmp_path / str(rate))[1].splitlines()[-1]
        for rate in (0.3, 0.01)
    )
    assert worst.startswith("no forecast: texts are worse already than in any run of the study of SmolLM2-135M")
    assert re.fullmatch(r"forecast: texts [\d.]+% to [\d.]+% worse at the end, if it goes on as there", some)


def test_a_harmless_data_set_passes_and_nothing_is_forecast(run_cli, model, data, tmp_path):
    words = (
        "preflight",
        data(),
        "--model",
        model,
        "--learning-rate",
        1e-9,
        "--probe",
        "builtin:facts?kind=choice&category=capitals&limit=20",
    )
    code, out, err = run_cli(*words, "--out", tmp_path / "pilot")
    assert code == 0, (out, err)
    lines = out.splitlines()
    assert lines[0] == "data: nothing in the 24 rows of facts-capitals-choice (20 items)"
    assert lines[1] == "pilot: 1 of 9 steps" and lines[-1] == "no forecast: texts did not get worse by more than noise"
    assert [line.split(",")[0].strip() for line in lines[5:8]] == ["texts", "new data", "facts"]
    assert (tmp_path / "pilot" / "forget" / "history.parquet").is_file()


def test_of_grpo_the_rows_are_prompts_and_have_no_kl(run_cli, recipe, tmp_path):
    more = {"num_generations": 2, "max_completion_length": 8, "reward_funcs": [f"{__name__}.reward"], "trainer": "grpo"}
    code, out, err = run_cli(
        "preflight", recipe(**more, learning_rate=1e-9), "--steps", 2, "--out", tmp_path / "pilot", "--format", "json"
    )
    found = checked(out, "preflight")
    assert code == 0 and found["pilot"]["steps"] == 2 and set(found["numbers"]) == {"text_worse", "drift"}, err
    assert not math.isnan(found["numbers"]["drift"]["value"]) and found["forecast"] is None


def test_a_pilot_that_diverges_does_not_pass(run_cli, recipe, tmp_path):
    path = recipe(learning_rate=1e30, max_grad_norm=0.0)
    code, out, err = run_cli("preflight", path, "--steps", 2, "--out", tmp_path / "pilot")
    assert code == 1, (out, err)
    assert re.search(r"\n[\d,]+ items could not be scored at the end, .*\nno forecast: ", out), out
    code, out, err = run_cli("preflight", path, "--steps", 2, "--out", tmp_path / "pilot", "--format", "json")
    found = checked(out, "preflight")
    assert code == 1 and found["numbers"] == {} and found["pilot"]["unscored"] > 200 and not found["passed"]


def test_a_part_that_the_study_did_not_look_at_has_no_forecast(run_cli, recipe, tmp_path):
    path = recipe(learning_rate=0.3, max_steps=200)
    code, out, _ = run_cli("preflight", path, "--steps", 5, "--out", tmp_path / "pilot")
    assert code == 1 and out.splitlines()[-1].startswith("no forecast: the study says what followed after an eighth")


def test_what_looks_for_nothing_does_not_pass(run_cli, recipe, tmp_path):
    code, out, err = run_cli("preflight", recipe(probes=["train:"], learning_rate=1e-9), "--out", tmp_path / "pilot")
    assert code == 1 and "no item was looked for in the data, so this does not pass: give --probe SPEC" in err
    assert not out.startswith("data")


@pytest.mark.in_turn(1)
def test_a_loss_of_facts_fails(run_cli, recipe, tmp_path, capsys):
    with quiet():
        taught = make_taught(tmp_path / "taught")
    capsys.readouterr()
    path = recipe(model_name_or_path=str(taught), learning_rate=0.02, max_steps=8)
    code, out, _ = run_cli("preflight", path, "--out", tmp_path / "pilot", "--format", "json")
    found = checked(out, "preflight")
    assert code == 1 and "lost" in found["knowledge"] and found["numbers"]["drift"]["value"] > 0, found


def test_a_warm_up_is_said(run_cli, recipe, tmp_path):
    code, _, err = run_cli("preflight", recipe(warmup_steps=20, learning_rate=1e-9), "--out", tmp_path / "pilot")
    assert code == 0 and "the learning rate rises over the first 20 steps" in err


def test_what_does_not_go_together_is_said(run_cli, recipe, data, model, tmp_path):
    split, columns = tmp_path / "split", tmp_path / "columns.jsonl"
    split.mkdir()
    (split / "test.jsonl").write_text('{"text": "a"}\n')
    columns.write_text('{"instruction": "a", "output": "b"}\n')
    for words, problem in (
        ((recipe(), "--model", model), "is a recipe, which says both"),
        ((data(),), "is no recipe (.yaml), so name the model as well: --model MODEL"),
        ((tmp_path / "no.jsonl", "--model", model), "no such file"),
        ((tmp_path / "no.yaml",), "no such file"),
        ((data(), "--model", tmp_path / "no-model"), "no-model"),
        (
            (data(), "--model", model, "--learning-rate", "nan"),
            "--learning-rate must be above 0",
        ),
        ((data(), "--model", model, "--learning-rate", 0), "--learning-rate must be above 0, such as 1e-4, got 0"),
        ((recipe(train_samples=0),), "train_samples must be 1 or more, got 0"),
        ((recipe(dataset_train_split="sft", dataset_name=str(split)),), "there is no split 'sft', but 'test'"),
        ((columns, "--model", model), "SFT trains on the columns 'messages', or 'prompt' and 'completion', or 'text'"),
    ):
        code, out, err = run_cli("preflight", *words, "--out", tmp_path / "pilot")
        assert (code, out) == (2, "") and problem in err, (words, err)
