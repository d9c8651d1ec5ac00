"""The task's metrics of real trainings are recorded as the Trainer logs them, beside what was forgotten."""

import math

import pytest
from transformers import TrainerCallback

from forget_callback import ForgetCallback, Store


def logged(trainer, *metrics):
    """step -> value of each metric, out of the trainer's own log."""
    rows = [row for row in trainer.state.log_history if "forget/step" not in row]
    return {name: {row["step"]: row[name] for row in rows if name in row} for name in metrics}


def recorded(directory, *metrics):
    found = Store(directory).task_curves()
    return {name: dict(zip(found[name].steps.tolist(), found[name].values.tolist())) for name in metrics}


def test_an_sft_run_records_losses_over_the_samples_seen(make_sft, probe, tmp_path):
    callback = ForgetCallback(probe, on_error="raise")
    trainer = make_sft([callback], eval_strategy="steps", eval_steps=2, gradient_accumulation_steps=1)
    trainer.train()
    found = Store(tmp_path).task_curves()
    assert recorded(tmp_path, "loss", "eval_loss") == logged(trainer, "loss", "eval_loss")
    assert found["loss"].steps.tolist() == [1, 2, 3, 4, 5, 6] and found["eval_loss"].steps.tolist() == [2, 4, 6]
    assert found["loss"].samples_seen.tolist() == [4, 8, 12, 16, 20, 24]
    assert found["eval_loss"].samples_seen.tolist() == [8, 16, 24] and found["loss"].tokens_seen[0] > 0
    assert set(found) == {"loss", "mean_token_accuracy", "eval_loss", "eval_mean_token_accuracy"}
    # In the same row as the forgetting of that step, for charts over samples; the last snapshot comes before both logs.
    rows = [row for row in trainer.state.log_history if "forget/step" in row]
    mine = logged(trainer, "loss", "eval_loss")
    assert [row.get("forget/task/eval_loss") for row in rows] == [
        None,
        mine["eval_loss"][2],
        mine["eval_loss"][4],
        None,
    ]
    assert [row.get("forget/task/loss") for row in rows] == [None, *(mine["loss"][step] for step in (2, 4, 5))]
    assert {name for row in rows for name in row if "/task/" in name} == {"forget/task/loss", "forget/task/eval_loss"}


def test_a_grpo_run_records_its_reward(make_grpo, probe, tmp_path):
    trainer = make_grpo([ForgetCallback(probe, every=2)])
    trainer.train()
    assert recorded(tmp_path, "reward", "loss") == logged(trainer, "reward", "loss")
    found = Store(tmp_path).task_curves()
    assert set(found) == {"reward", "loss"} and found["reward"].samples_seen.tolist() == [8, 16, 24, 32]


def test_logs_of_several_steps_and_of_an_epochs_end(make_sft, probe, tmp_path):
    trainer = make_sft([ForgetCallback(probe, every=4)], logging_steps=5, eval_strategy="epoch", num_train_epochs=2)
    trainer.train()
    found = Store(tmp_path).task_curves()
    assert found["loss"].samples_seen.tolist() == [20, 40] and found["eval_loss"].samples_seen.tolist() == [24, 48]


class Ends(TrainerCallback):
    """Ends the training in the middle, with no event that tells of it."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt


def test_a_run_that_breaks_off_keeps_what_a_resumed_one_goes_on_from(make_sft, probe, tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    make_sft([ForgetCallback(probe)], output_dir=str(tmp_path / "whole"), **saved).train()
    with pytest.raises(KeyboardInterrupt):
        make_sft([ForgetCallback(probe), Ends()], output_dir=str(tmp_path / "cut"), **saved).train()
    assert {1, 2, 3, 4} <= set(recorded(tmp_path / "cut", "loss")["loss"]) <= {1, 2, 3, 4, 5}
    resumed = make_sft([ForgetCallback(probe)], output_dir=str(tmp_path / "cut"), **saved)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-2"))
    names = ("loss", "eval_loss")
    found, expected = recorded(tmp_path / "cut", *names), recorded(tmp_path / "whole", *names)
    for name in names:
        assert found[name] == pytest.approx(expected[name], abs=1e-5)


def test_a_run_that_goes_back_drops_what_came_after(make_sft, probe, tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 3}
    make_sft([ForgetCallback(probe)], num_train_epochs=2, **saved).train()
    assert max(recorded(tmp_path, "loss")["loss"]) == 12
    seen = []

    class Looks(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            seen.extend(recorded(tmp_path, "loss")["loss"])

    make_sft([ForgetCallback(probe), Looks()], **saved).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert seen == [1, 2, 3] and list(recorded(tmp_path, "loss")["loss"]) == [1, 2, 3, 4, 5, 6]


def test_logs_of_the_users_own_and_odd_values_fail_nothing(make_sft, probe, tmp_path):
    class Logs(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            trainer.log({"reward": "high", "eval_accuracy": 0.5, "eval_forget_mini_forgetting": 1.0})

    trainer = make_sft([ForgetCallback(probe, on_error="raise"), Logs()], max_steps=2)
    trainer.train()
    found = Store(tmp_path).task_curves()
    assert set(found) == {"loss", "mean_token_accuracy", "eval_accuracy"}
    assert found["eval_accuracy"].steps.tolist() == [0, 1] and not math.isnan(found["loss"].samples_seen[0])
