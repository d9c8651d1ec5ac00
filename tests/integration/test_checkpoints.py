"""A history built from a run's checkpoints is, item by item, what the callback recorded in the run."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from peft import LoraConfig, get_peft_model

from forget_callback import ForgetCallback, Store
from forget_callback.probes.records import item_record
from forget_callback.runs.training import Training
from tests.forked import PROGRAM, finish, start

STEPS = [0, 2, 4, 6]


@pytest.fixture
def probe(probe):
    """Each item also in another form, made by hand: the file below must hold these, and gets no others."""
    return replace(probe, items=tuple(replace(item, variants=(f"Well: {item.prompt}",)) for item in probe.items))


@pytest.fixture
def spec(probe, tmp_path):
    """The probe as a file, which is named by its stem."""
    path = tmp_path / f"{probe.name}.jsonl"
    path.write_text("".join(json.dumps(item_record(item)) + "\n" for item in probe.items))
    return path


@pytest.fixture
def run(make_sft, make_model, tokenizer, probe, tmp_path):
    """A directory with the model before training, `start`, and a run with the callback and its checkpoints, `run`."""
    model = make_model(attention_dropout=0.1)
    model.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    saved = {"save_strategy": "steps", "save_steps": 2, "save_only_model": True}
    make_sft([ForgetCallback(probe, every=2)], model=model, output_dir=str(tmp_path / "run"), **saved).train()
    return tmp_path


def checkpoints(run):
    return sorted((run / "run").glob("checkpoint-*"))


def same_history(found, expected, *, steps=STEPS, atol=1e-6):
    """That two stores hold the same snapshots and the same table."""
    assert found.steps("mini") == expected.steps("mini") == steps
    for step in steps:
        mine, theirs = found.read("mini", step), expected.read("mini", step)
        assert mine.fingerprint == theirs.fingerprint
        assert mine.n_variants == theirs.n_variants == 2
        for column in (
            "ids",
            "category",
            "correct",
            "outcome",
            "choice",
            "prediction",
            "text",
            "correct_2",
            "choice_2",
        ):
            np.testing.assert_array_equal(getattr(mine, column), getattr(theirs, column), err_msg=column)
        np.testing.assert_allclose(mine.margin, theirs.margin, atol=atol)
        for a, b in zip(mine.scores, theirs.scores):
            np.testing.assert_allclose(a, b, atol=atol)
        for name in ("step", "samples_seen", "tokens_seen"):
            np.testing.assert_equal(getattr(mine, name), getattr(theirs, name))
    pd.testing.assert_frame_equal(
        pd.read_parquet(found.path / "history.parquet"),
        pd.read_parquet(expected.path / "history.parquet"),
        check_exact=False,
        atol=atol,
    )


def test_the_history_of_checkpoints_is_what_the_callback_recorded(run, run_cli, spec):
    out = run / "after"
    code, said, err = run_cli(
        "snapshot", *reversed(checkpoints(run)), "--baseline", run / "start", "--probe", spec, "--out", out
    )
    assert code == 0, err
    recorded = Store(run / "run")
    same_history(Store(out), recorded)
    assert (
        pd.read_parquet(recorded.path / "history.parquet")["forgetting"].max() > 0
        and recorded.read("mini", 6).samples_seen == 24
    )
    # Greedy in float32: nothing could differ.
    assert Store(out).read_beside("again", "mini") is recorded.read_beside("again", "mini") is None
    assert (out / "forget" / "report.html").stat().st_size > 10_000
    first, *later = said.splitlines()
    assert first.startswith("baseline: mini ")
    assert [line.split(" | ")[0] for line in later] == [
        f"forgetting at step {step}, {4 * step} samples" for step in STEPS[1:]
    ]
    assert "checkpoint-2" in Store(out).read("mini", 2).metadata["model"]
    assert Store(out).training == Training(model=str(run / "start"))
    code, said, _ = run_cli("compare", run / "run", out, "--format", "json", "--fail-if", "n10<1")
    assert code == 0 and json.loads(said)["all"]["n11"] + json.loads(said)["all"]["n10"] > 0


def test_an_interrupted_command_goes_on_and_scores_nothing_twice(run, run_cli, spec, monkeypatch):
    baseline = ("--baseline", run / "start", "--probe", spec)
    assert run_cli("snapshot", *checkpoints(run)[:1], *baseline, "--out", run / "parts")[0] == 0
    first = (run / "parts" / "forget" / "snapshots" / "mini" / "step-00000000.parquet").stat().st_mtime_ns
    code, said, err = run_cli("snapshot", *checkpoints(run), *baseline, "--out", run / "parts")
    assert code == 0 and "2 of 4 are scored already" in err
    assert [line.split(",")[0] for line in said.splitlines()] == [f"forgetting at step {step}" for step in (4, 6)]
    assert (run / "parts" / "forget" / "snapshots" / "mini" / "step-00000000.parquet").stat().st_mtime_ns == first
    same_history(Store(run / "parts"), Store(run / "run"))
    code, said, err = run_cli("snapshot", *checkpoints(run), *baseline, "--out", run / "parts")
    assert (code, said) == (0, "") and "4 of 4 are scored already" in err
    # A run's own directory goes on where the callback was.
    shutil.rmtree(run / "run" / "forget" / "snapshots" / "mini")
    shutil.copytree(run / "parts" / "forget" / "snapshots" / "mini", run / "run" / "forget" / "snapshots" / "mini")
    (run / "run" / "forget" / "snapshots" / "mini" / "step-00000006.parquet").unlink()
    code, said, err = run_cli("snapshot", run / "run", "--probe", spec, "--out", run / "run")
    assert code == 0 and "2 of 3 are scored already" in err
    same_history(Store(run / "run"), Store(run / "parts"))
    assert Store(run / "run").training.trainer == "SFTTrainer"


def test_a_run_without_baseline_or_callback_says_what_is_not_known(run, run_cli, spec):
    for checkpoint in checkpoints(run):
        state = checkpoint / "trainer_state.json"
        kept = json.loads(state.read_text())
        kept["stateful_callbacks"].pop("forget_callback")
        state.write_text(json.dumps(kept))
    (checkpoints(run)[-1] / "trainer_state.json").unlink()  # then its name tells the step
    code, said, err = run_cli("snapshot", run / "run", "--probe", spec, "--out", run / "after")
    assert code == 0, err
    assert "no --baseline: everything is compared with step 2" in err and "saved without ForgetCallback" in err
    store = Store(run / "after")
    assert (
        store.steps("mini") == [2, 4, 6]
        and pd.read_parquet(store.path / "history.parquet")["samples_seen"].isna().all()
    )
    assert said.startswith("baseline at step 2: mini ")
    assert (store.path / "report.html").exists()
    code, _, _ = run_cli("report", run / "after", "--out", run / "page.html")
    assert code == 0


def test_adapters_are_scored_on_their_base(make_sft, make_model, tokenizer, probe, spec, run_cli, tmp_path):
    base = make_model(attention_dropout=0.1)
    base.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    base.name_or_path = base.config._name_or_path = str(tmp_path / "start")
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    saved = {"save_strategy": "steps", "save_steps": 2, "output_dir": str(tmp_path / "run"), "learning_rate": 0.1}
    make_sft([ForgetCallback(probe, every=2)], model=model, **saved).train()
    assert not list(tmp_path.glob("run/checkpoint-*/model.safetensors"))
    out = tmp_path / "after"
    code, _, err = run_cli(
        "snapshot", tmp_path / "run", "--baseline", tmp_path / "start", "--probe", spec, "--out", out
    )
    assert code == 0, err
    same_history(Store(out), Store(tmp_path / "run"), atol=1e-5)
    margins = [Store(out).read("mini", step).margin for step in (0, 6)]
    assert np.nanmax(np.abs(margins[0] - margins[1])) > 1e-3


def test_one_checkpoint_is_recorded_under_its_own_step(run, run_cli, spec, make_model, tokenizer, probe):
    one = checkpoints(run)[1]
    assert run_cli("snapshot", one, "--probe", spec, "--out", run / "one")[0] == 0
    assert run_cli("snapshot", one, "--probe", spec, "--out", run / "one", "--step", 9)[0] == 0
    found = Store(run / "one").read("mini", 4)
    assert found.samples_seen == 16 and Store(run / "one").read("mini", 9).samples_seen == 16
    np.testing.assert_array_equal(found.correct, Store(run / "run").read("mini", 4).correct)


@pytest.fixture
def models(make_model, tokenizer, tmp_path):
    """Directories of models: checkpoint-1, checkpoint-2 and one without a step."""
    for at, name in enumerate(("checkpoint-1", "checkpoint-2", "other", "again/checkpoint-2")):
        make_model(seed=at).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("checkpoint-1", "other"), "the step of {}/other is not known"),
        (("checkpoint-2", "again/checkpoint-2"), "are both of step 2"),
        (("checkpoint-1", "checkpoint-2", "--step", "3"), "--step 3 goes with one model"),
        (("checkpoint-1", "--baseline", "nowhere"), "nowhere"),
        (("checkpoint-*",), "checkpoint-*"),
    ],
)
def test_what_is_no_history_is_said(models, run_cli, spec, arguments, message):
    places = [argument if argument.startswith("--") or argument == "3" else models / argument for argument in arguments]
    code, out, err = run_cli("snapshot", *places, "--probe", spec, "--out", models / "out")
    assert (code, out) == (2, "")
    assert message.format(models) in err and len(err.strip().splitlines()) <= 3
    assert not list((models / "out").rglob("*.parquet"))


def test_a_history_grows_by_later_steps_alone(models, run_cli, spec):
    given = ("--probe", spec, "--out", models / "out")
    assert run_cli("snapshot", models / "checkpoint-2", "--baseline", models / "other", *given)[0] == 0
    code, _, err = run_cli("snapshot", models / "checkpoint-1", models / "checkpoint-2", *given)
    assert code == 2 and "is of step 1, and" in err and "use another --out" in err
    assert Store(models / "out").steps("mini") == [0, 2]
    other = spec.rename(spec.with_name("other.jsonl"))
    code, _, err = run_cli(
        "snapshot", models / "checkpoint-2", "--baseline", models / "other", *("--probe", other), *given[2:]
    )
    assert code == 2 and "has snapshots of ['mini'] too" in err


def in_processes(directory, *arguments):
    """(exit status, stdout, stderr) of the command under torchrun: two processes."""
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONWARNINGS": "ignore"}
    out, err = directory / "out.txt", directory / "err.txt"
    command = [PROGRAM, "snapshot", *arguments]
    status = finish(start(*command, environment=environment, out=out, err=err, processes=2))
    return status, out.read_text(), err.read_text()


@pytest.mark.in_turn(2)
def test_two_processes_write_what_one_writes(models, run_cli, spec, tmp_path):
    history = ("snapshot", models / "checkpoint-1", models / "checkpoint-2", "--baseline", models / "other")
    assert run_cli(*history, "--probe", spec, "--out", models / "one")[0] == 0
    status, said, err = in_processes(tmp_path, *history[1:], "--probe", spec, "--out", models / "two")
    assert status == 0, err
    same_history(Store(models / "two"), Store(models / "one"), steps=[0, 1, 2], atol=1e-5)
    assert len(said.splitlines()) == 3, "one process speaks"
    found = Store(models / "two").read("mini", 1)
    assert found.metadata["processes"] == 2 and found.metadata["model"] == str(models / "checkpoint-1")


def test_an_error_ends_all_processes(models, spec, tmp_path):
    """One alone cannot write: the other ends with it, and with the same status."""
    out = models / "out"
    (out / "forget" / "snapshots").mkdir(parents=True)
    (out / "forget" / "snapshots" / "mini").write_text("no directory")
    status, _, err = in_processes(tmp_path, models / "checkpoint-1", "--probe", spec, "--out", out)
    assert status != 0
    assert "error: " in err and "rank 0: " in err
    assert "exitcode  : 2" in err
