"""An offline W&B run, read back with W&B's own inspector."""

import json
import subprocess
import sys

import pytest
import wandb

from forget_callback import ForgetCallback, Probe, StopRule
from forget_callback.history import ALL_METRICS
from forget_callback.trackers import RUN_METRICS, scalars

# What a probe of some kinds of items, or a run that lost nothing, has no number for.
MAY_BE_MISSING = {"recovered", "knowledge_lost_bounds_low", "knowledge_lost_bounds_high", "guess_persistence"}
MAY_BE_MISSING |= {"persistence_p_value", "no_forgetting_p_value"}
MAY_BE_MISSING |= {"stage_forgetting", "stage_backward_transfer", "stage_knowledge_lost"}  # of a later stage


def records(directory):
    """Every record of the run below `directory`."""
    run = next(directory.glob("wandb/offline-run-*"))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_the_run_holds_every_key_with_the_values_of_the_history(make_sft, probe, wandb_offline):
    other = Probe("other", probe.items[:3])
    callback = ForgetCallback([probe, other], stop=StopRule("churn", above=-1, confidence=None, patience=3))
    trainer = make_sft([callback], report_to="wandb", eval_strategy="steps", eval_steps=2)
    trainer.train()
    wandb.finish()
    found = records(wandb_offline)
    rows = [record["history"]["item"] for record in found if record["type"] == "history"]
    ours = {row["forget/step"]: row for row in rows if "forget/step" in row}
    history = callback.history
    assert sorted(ours) == sorted(set(history["step"]))
    for row in callback.monitor.rows:
        logged = ours[row.step]
        for name, value in scalars([row]).items():
            assert logged[name] == pytest.approx(value, rel=1e-12), name
        assert logged["forget/samples_seen"] == row.samples_seen
        assert logged["train/global_step"] == row.step
    # Every key of the contract that has a number for these items.
    last = ours[max(ours)]
    assert set(RUN_METRICS) - {"forget/stage", "forget/total_samples_seen"} <= set(last)
    table = history[history["step"] == history["step"].max()].set_index(["probe", "category"])
    for (name, category), values in table.iterrows():
        prefix = f"forget/{name}/{category}/" if category else f"forget/{name}/"
        present = {metric for metric in ALL_METRICS if values[metric] == values[metric]}
        assert {prefix + metric for metric in present} <= set(last)
        if not category:
            assert set(ALL_METRICS) - present <= MAY_BE_MISSING
    # Each is defined by its full name against the samples seen.
    metrics = [record["metric"] for record in found if record["type"] == "metric"]
    axes = {metric["name"]: metric.get("step_metric") for metric in metrics if "name" in metric}
    assert {axes[key] for key in last if key.startswith("forget/") and key != "forget/samples_seen"} == {
        "forget/samples_seen"
    }
    # The loss rows are all still there, and the alert of the stop.
    assert sum("train/loss" in row for row in rows) == trainer.state.global_step
    assert sum("eval/loss" in row for row in rows) == 3
    alerts = [record for record in found if record["type"] == "alert"]
    assert len(alerts) == 1
    assert "mini" in json.dumps(alerts) or "all/churn" in json.dumps(alerts)


def test_a_tracker_that_is_down_costs_nothing(make_sft, probe, wandb_offline, monkeypatch, caplog):
    def down(self, *args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("forget_callback.trackers.WandbTracker.log", down)
    callback = ForgetCallback(probe, every=3)
    trainer = make_sft([callback], report_to="wandb")
    trainer.train()
    assert trainer.state.global_step == 6
    assert len(set(callback.history["step"])) == 3
    assert "WandbTracker failed, the run's own files have the numbers: no route to host" in caplog.text


def test_tensorboard_and_the_log_history_get_the_numbers_through_attach(make_sft, probe, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    plain = make_sft([], report_to="none")
    plain.train()
    trainer = make_sft([], report_to="tensorboard")
    callback = ForgetCallback(probe, every=3, trainer=trainer)
    trainer.train()
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    history = callback.history[callback.history["category"] == ""].set_index("step")
    read = {event.step: event.value for event in board.Scalars("train/forget/mini/margin")}
    assert read == pytest.approx(history["margin"].to_dict(), rel=1e-6)
    logged = [row for row in trainer.state.log_history if "forget/mini/margin" in row]
    assert [row["step"] for row in logged] == [0, 3, 6]
    losses = [[row["loss"] for row in t.state.log_history if "loss" in row] for t in (plain, trainer)]
    assert losses[0] == losses[1]
