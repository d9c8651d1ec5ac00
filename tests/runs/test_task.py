"""The task's own metrics: which of a trainer's logs they are, which one is shown, and what stands beside a snapshot."""

import math

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from forget_callback.runs import task
from forget_callback.runs.store import Store


def numbers(names):
    return dict.fromkeys(names.split(), 1.0)


SFT = numbers("loss grad_norm learning_rate entropy num_tokens epoch")
GRPO = numbers(
    "loss reward reward_std rewards/length/mean rewards/length/std completions/mean_length completions/clipped_ratio kl"
    " clip_ratio/region_mean frac_reward_zero_std step_time num_tokens"
)
EVALUATION = numbers(
    "eval_loss eval_runtime eval_samples_per_second eval_steps_per_second eval_num_tokens eval_entropy epoch"
    " eval_mean_token_accuracy eval_exact_match eval_quiz_loss eval_model_preparation_time"
)
END = numbers("train_runtime train_loss train_samples_per_second total_flos")


@pytest.mark.parametrize(
    "logged, kept",
    [
        ({**SFT, "mean_token_accuracy": 0.5}, {"loss", "mean_token_accuracy"}),
        (GRPO, {"loss", "reward"}),
        (numbers("loss rewards/accuracies rewards/margins logps/chosen"), {"loss", "rewards/accuracies"}),
        (EVALUATION, {"eval_loss", "eval_mean_token_accuracy", "eval_exact_match", "eval_quiz_loss"}),
        (END, set()),
    ],
)
def test_what_trainers_log_of_the_task_is_told_from_the_rest(logged, kept):
    assert {name for name in logged if task.is_task_metric(name)} == kept


def test_the_metric_that_chooses_the_best_model_is_one_whatever_its_name():
    assert task.is_task_metric("eval_kl", best="eval_kl") and not task.is_task_metric("eval_kl")


@pytest.mark.parametrize(
    "names, best, shown",
    [
        (["loss", "reward", "eval_loss"], "eval_f1", "reward"),
        (["loss", "eval_loss", "eval_f1"], "eval_f1", "eval_f1"),
        (["loss", "eval_loss", "eval_f1"], None, "eval_loss"),
        (["loss", "eval_quiz_loss"], "eval_absent", "eval_quiz_loss"),
        (["mean_token_accuracy", "loss"], None, "loss"),
        (["mean_token_accuracy"], None, "mean_token_accuracy"),
        ([], None, None),
    ],
)
def test_reward_comes_first_then_what_the_user_chose_then_losses(names, best, shown):
    assert task.main_metric(names, best=best) == shown


def curves(**metrics):
    rows = [(step, 4.0 * step, math.nan, name, value) for name, own in metrics.items() for step, value in own.items()]
    columns = dict(zip(task.SCHEMA.names, zip(*rows))) if rows else {name: [] for name in task.SCHEMA.names}
    return task.curves_of(pa.table(columns, schema=task.SCHEMA))


def test_beside_a_snapshot_stand_the_last_training_loss_and_the_evaluation_of_its_step():
    found = curves(loss={1: 5.0, 2: 4.0, 3: 3.5, 5: 3.0}, eval_loss={3: 9.0, 4: 8.0}, mean_token_accuracy={4: 0.5})
    assert task.beside(found, [0, 2, 4, 5, 6]) == [
        {},
        {"loss": 4.0},
        {"loss": 3.5, "eval_loss": 8.0},
        {"loss": 3.0},
        {},
    ]
    assert task.beside(curves(), [0, 3]) == [{}, {}]
    assert task.beside(curves(loss={1: math.nan}), [1]) == [{}]
    np.testing.assert_array_equal(found["loss"].at([0, 2, 2, 9]), [math.nan, 4.0, math.nan, 3.0])


def test_curves_come_back_from_disk_by_metric_and_step(tmp_path):
    store = Store(tmp_path)
    store.begin([])
    assert store.task_curves() == {}
    rows = {"step": [2, 1, 1], "samples_seen": [8.0, 4.0, math.nan], "tokens_seen": [80.0, 40.0, math.nan]}
    store.write_task(pa.table({**rows, "metric": ["b", "b", "a"], "value": [2.0, 1.0, math.nan]}, schema=task.SCHEMA))
    found = Store(tmp_path).task_curves()
    assert list(found) == ["b", "a"] and found["b"].steps.tolist() == [1, 2] and found["b"].values.tolist() == [1, 2]
    assert found["b"].samples_seen.tolist() == [4, 8] and math.isnan(found["a"].samples_seen[0])
    store.drop_task(after=1)
    assert {name: curve.steps.tolist() for name, curve in store.task_curves().items()} == {"b": [1], "a": [1]}


@pytest.mark.parametrize("damage", ["cut", "another table"])
def test_a_damaged_file_is_an_error_that_names_it_and_a_run_goes_on_without_it(tmp_path, damage, caplog):
    store = Store(tmp_path)
    store.begin([])
    path = store.path / "task.parquet"
    if damage == "cut":
        store.write_task(task.SCHEMA.empty_table())
        path.write_bytes(path.read_bytes()[:40])
    else:
        parquet.write_table(pa.table({"step": ["x"], "value": [1.0]}), path)
    with pytest.raises(ValueError, match=r"task\.parquet is damaged: .*or delete it"):
        store.task_curves()
    assert len(store.read_task()) == 0 and not path.exists()
    assert "is damaged" in caplog.text and (store.path / "set-aside" / "1" / "task.parquet").exists()


def test_another_run_sets_it_aside_with_the_record(tmp_path):
    store = Store(tmp_path)
    store.begin([])
    store.write_task(curves_table())
    aside = store.set_aside()
    assert store.task_curves() == {} and (aside / "task.parquet").exists()


def curves_table():
    return pa.table({name: [1] if name != "metric" else ["loss"] for name in task.SCHEMA.names}, schema=task.SCHEMA)
