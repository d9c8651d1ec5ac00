"""The callback in real training runs: it sees everything, and changes nothing."""

import logging
import math
import random
import re
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from forget_callback import ForgetCallback, ForgetMonitor, Generation, Probe, Snapshot, StopRule, compare, score_probe
from forget_callback.runs.stop_rules import stop_rules
from forget_callback.runs.store import Store
from forget_callback.scoring import group
from forget_callback.scoring.engine import Scorer
from forget_callback.scoring.likelihood import fallbacks, tokens
from forget_callback.training.data_seen import DataSeen
from tests.helpers import generators

from .conftest import weights_hash

DRAWN = Probe("drawn", [Generation("g", "Say 42:", "42", "number")], temperature=1.0)


class Listening:
    """A tracker of a user's own."""

    def __init__(self):
        self.rows, self.alerts = [], []

    def log(self, row):
        self.rows.append(row)

    def alert(self, title, text):
        self.alerts.append((title, text))


def whole(history):
    return history[history["category"] == ""]


def test_a_run_leaves_a_baseline_and_a_snapshot_at_each_evaluation(make_sft, probe, tokenizer, tmp_path):
    callback = ForgetCallback(probe)
    trainer = make_sft([callback], eval_strategy="steps", eval_steps=2)
    before = score_probe(trainer.model, tokenizer, probe)
    trainer.train()
    after = score_probe(trainer.model, tokenizer, probe)
    store = Store(tmp_path)
    assert store.steps("mini") == [0, 2, 4, 6]
    for step, snapshot in ((0, before), (6, after)):
        stored = store.read("mini", step)
        assert stored.ids.tolist() == list(probe.ids)
        np.testing.assert_array_equal(stored.correct, snapshot.correct)
        np.testing.assert_array_equal(stored.margin, snapshot.margin)
        assert stored.prediction.tolist() == snapshot.prediction.tolist()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "forget" / "history.parquet"), callback.history)
    assert whole(callback.history)["samples_seen"].tolist() == [0, 8, 16, 24]
    assert set(callback.history["category"]) == {"", "capitals", "words"}
    lost = ((before.correct == 1) & (after.correct == 0)).sum()
    assert whole(callback.history)["n10"].tolist()[-1] == lost


@pytest.mark.parametrize(
    "every, steps", [(4, [0, 4, 6]), ([1, 5], [0, 1, 5, 6]), ("log2", [0, 1, 2, 4, 6]), (None, [0, 6])]
)
def test_own_schedules_add_the_first_and_the_last_step(make_sft, probe, every, steps):
    callback = ForgetCallback(probe, every=every)
    make_sft([callback]).train()
    assert whole(callback.history)["step"].tolist() == steps


def test_evaluations_that_coincide_with_the_schedule_count_once(make_sft, probe, rows):
    callback = ForgetCallback(probe, every=3)
    trainer = make_sft([callback], eval_strategy="steps", eval_steps=3, eval_on_start=True)
    trainer.eval_dataset = {"one": trainer.eval_dataset, "two": trainer.eval_dataset}
    trainer.train()
    assert whole(callback.history)["step"].tolist() == [0, 3, 6]


def test_a_schedule_of_its_own_leaves_the_trainers_evaluations_alone(make_sft, probe):
    """An evaluation that is not due costs nothing, and gets no metrics of another step."""
    callback = ForgetCallback(probe, every=4, on_error="raise")
    trainer = make_sft([callback], eval_strategy="steps", eval_steps=1)
    found = {}

    class After(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            found[state.global_step] = "eval_forget_mini_forgetting" in metrics

    trainer.add_callback(After())
    trainer.train()
    assert whole(callback.history)["step"].tolist() == [0, 4, 6]
    assert found == {1: False, 2: False, 3: False, 4: True, 5: False, 6: True}


@pytest.mark.parametrize("temperature", [0.0, pytest.param(1.0, marks=pytest.mark.in_turn(0))])
@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_final_weights_and_losses_are_bit_identical_with_and_without(
    make_sft, make_grpo, probe_in_two, kind, temperature, tmp_path
):
    """Whichever prompts are asked at which evaluation; a rule that is triggered has the further ones asked."""
    make = make_sft if kind == "sft" else make_grpo
    probe = replace(probe_in_two, temperature=temperature)
    stop = () if temperature else "forgetting>-1"
    rule = {"stop": [replace(rule, action="warn") for rule in stop_rules(stop)], "every": 1, "on_error": "raise"}
    runs = []
    for callbacks in ([], *([ForgetCallback(probe, variants=asked, **rule)] for asked in ("all", "changed", "ends"))):
        trainer = make(callbacks)
        trainer.train()
        keep = ("loss", "grad_norm", "entropy", "num_tokens", "reward")
        theirs = [row for row in trainer.state.log_history if "forget/step" not in row]
        logs = [{k: v for k, v in row.items() if k in keep} for row in theirs]
        runs.append((weights_hash(trainer.model), logs, trainer.model.training))
    assert runs[0] == runs[1] == runs[2] == runs[3]
    store, last = Store(tmp_path), trainer.state.global_step
    asked = [store.read("mini", step).n_variants for step in range(last + 1)]
    # A rule of patience 2 would act at each step from the second one on.
    assert asked == ([2, *[1] * (last - 1), 2] if temperature else [2, 1, *[2] * (last - 1)])


def last_rows(history):
    return history[history["step"] == history["step"].max()].reset_index(drop=True)


def test_asked_at_the_ends_alone_the_last_verdict_is_that_of_all_prompts_always(make_sft, probe_in_two, tmp_path):
    tables = {}
    for variants in ("all", "ends", "off"):
        callback = ForgetCallback(probe_in_two, every=1, variants=variants, on_error="raise")
        make_sft([callback]).train()
        tables[variants] = callback.history
    pd.testing.assert_frame_equal(last_rows(tables["ends"]), last_rows(tables["all"]))
    known = whole(tables["ends"]).set_index("step")["knowledge_lost"].notna()
    assert known.to_dict() == {step: step in (0, 6) for step in range(7)}
    assert (
        whole(tables["off"])["variants"].tolist() == [1] * 7 and not whole(tables["off"])["knowledge_lost"].isna().any()
    )
    for raw in ("forgetting", "churn", "accuracy_after", "margin"):
        for variants in ("ends", "off"):
            pd.testing.assert_series_equal(tables[variants][raw], tables["all"][raw])


def skipped(store, step):
    return store.read("mini", step).further[0].skipped


@pytest.mark.parametrize("best", [None, pytest.param("forget_mini_knowledge_lost", marks=pytest.mark.in_turn(1))])
def test_asked_where_an_answer_changed_the_numbers_are_those_of_all_prompts(make_sft, probe_in_two, tmp_path, best):
    """And the last snapshot is of all of them."""
    config = {"load_best_model_at_end": True, "metric_for_best_model": best, "save_strategy": "steps"} if best else {}
    config |= {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "learning_rate": 5e-3}
    tables = []
    for variants in ("all", "changed"):
        out = tmp_path / variants
        callback = ForgetCallback(probe_in_two, variants=variants, on_error="raise")
        make_sft([callback], output_dir=str(out), **config).train()
        tables.append(callback.history)
    pd.testing.assert_frame_equal(*tables)
    store = Store(out)
    assert not skipped(store, 0).any() and not skipped(store, 6).any()
    between = [skipped(store, step).mean() for step in range(1, 6)]
    assert max(between) > 0.5 and min(between) < 1 and tables[0]["knowledge_lost"].notna().all()
    if best:
        resumed = ForgetCallback(probe_in_two, variants="changed", on_error="raise")
        make_sft([resumed], output_dir=str(out), **config).train(resume_from_checkpoint=str(out / "checkpoint-3"))
        pd.testing.assert_frame_equal(resumed.history, tables[0])


class _Ends(TrainerCallback):
    """Ends training at a step, from within an evaluation, after all others have seen it."""

    def __init__(self, step):
        self.step = step

    def on_evaluate(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


@pytest.mark.parametrize("best", [False, pytest.param(True, marks=pytest.mark.in_turn(2))])
def test_training_that_ends_early_is_asked_all_prompts_at_its_last_step(make_sft, probe_in_two, tmp_path, best):
    """Before the best model takes the place of the last one."""
    config = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    if best:
        config |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    tables = []
    for variants in ("all", "ends", "changed"):
        callback = ForgetCallback(probe_in_two, variants=variants, on_error="raise")
        make_sft([callback, _Ends(4)], output_dir=str(tmp_path / variants), learning_rate=3e-2, **config).train()
        tables.append(callback.history)
    whole_table, ends, changed = tables
    assert whole(ends)["step"].tolist() == [0, 1, 2, 3, 4]
    assert whole(ends)["knowledge_lost"].notna().tolist() == [True, False, False, False, True]
    pd.testing.assert_frame_equal(last_rows(ends), last_rows(whole_table))
    pd.testing.assert_frame_equal(changed, whole_table)
    assert Store(tmp_path / "ends").read("mini", 4).n_variants == 2
    store = Store(tmp_path / "changed")
    assert skipped(store, 1).any() and not skipped(store, 4).any()


def test_a_best_model_by_what_was_lost_is_asked_all_prompts_at_every_evaluation(make_sft, probe_in_two):
    config = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    callback = ForgetCallback(probe_in_two, every=1, variants="ends", on_error="raise")
    make_sft(
        [callback], load_best_model_at_end=True, metric_for_best_model="forget_mini_knowledge_lost", **config
    ).train()
    table = whole(callback.history).set_index("step")
    assert table["knowledge_lost"].notna().to_dict() == {step: step % 2 == 0 for step in range(7)}


def test_a_run_resumed_in_its_middle_reads_its_further_prompts_back(make_sft, probe_in_two, tmp_path):
    options = {"every": 1, "variants": "ends", "on_error": "raise"}
    straight = ForgetCallback(probe_in_two, output_dir=tmp_path / "straight", **options)
    make_sft([straight]).train()
    config = {"save_strategy": "steps", "save_steps": 2}
    make_sft([ForgetCallback(probe_in_two, **options)], **config).train()
    resumed = ForgetCallback(probe_in_two, **options)
    make_sft([resumed], **config).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    pd.testing.assert_frame_equal(resumed.history, straight.history)


def test_a_run_in_mixed_precision_uses_the_fastest_scoring_path(make_sft, probe, tmp_path):
    """The Trainer wraps the forward of float32 weights in autocast; numbers then differ as they do in bfloat16."""
    callback = ForgetCallback(probe, every=3, on_error="raise")
    trainer = make_sft([callback], bf16=True)
    trainer.train()
    assert whole(callback.history)["step"].tolist() == [0, 3, 6]
    for step in (0, 3, 6):
        metadata = Store(tmp_path).read("mini", step).metadata
        assert (metadata["dtype"], metadata["likelihood"], metadata["generation"]) == ("float32", "tree, tiles", "loop")


@pytest.mark.parametrize("name", ["python", "numpy", "torch"])
def test_a_model_that_draws_random_numbers_in_eval_mode_is_trained_alike(make_sft, make_model, probe, name):
    """Such as a noisy router. Without the guard, dropout and the order of the data would follow other draws."""
    draw = {"python": random.random, "numpy": np.random.rand, "torch": lambda: torch.rand(1)}[name]
    runs, drawn = [], []

    def noise(module, args, output):
        if not module.training:
            drawn.append(draw())

    for callbacks in ([], [ForgetCallback(probe, every=1, on_error="raise")]):
        model = make_model(attention_dropout=0.1)
        model.model.layers[0].register_forward_hook(noise)
        trainer = make_sft(callbacks, model=model)
        trainer.train()
        runs.append((weights_hash(trainer.model), generators()))
    assert drawn
    assert runs[0] == runs[1]


def test_a_train_mode_forward_does_change_the_weights(make_sft, probe):
    """That the test above can fail: a callback that draws random numbers is found out."""

    class Careless(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            torch.rand(1)

    first, second = make_sft([]), make_sft([Careless()])
    first.train()
    second.train()
    assert weights_hash(first.model) != weights_hash(second.model)


@pytest.mark.parametrize("where, upload, warned", [("out", "metrics", 1), ("probes", "metrics", 0), ("out", "all", 0)])
def test_a_push_to_the_hub_that_takes_prompts_along_is_warned_of(
    make_sft, probe, tmp_path, caplog, where, upload, warned
):
    callback = ForgetCallback(probe, output_dir=tmp_path / where, upload=upload)
    trainer = make_sft([callback], max_steps=1, output_dir=str(tmp_path / "out"))
    trainer.args.push_to_hub = True  # with nothing saved nothing is pushed
    trainer.train()
    assert caplog.text.count("push_to_hub=True uploads") == warned


@pytest.mark.parametrize("several", [False, True])
def test_trackers_of_ones_own_get_every_number_and_every_alert(make_sft, probe, several):
    tracker, other = Listening(), Listening()
    trackers = [tracker, other] if several else tracker
    callback = ForgetCallback(probe, every=3, trackers=trackers, stop="churn>-1", on_error="raise")
    make_sft([callback]).train()
    table = whole(callback.history)
    assert [row["forget/step"] for row in tracker.rows] == [0, 3, 6]
    assert [row["forget/mini/knowledge_lost"] for row in tracker.rows] == table["knowledge_lost"].tolist()
    assert [title for title, _ in tracker.alerts] == ["Forgetting: stopping"]
    assert (other.rows, other.alerts) == ((tracker.rows, tracker.alerts) if several else ([], []))


def test_a_threshold_stops_the_run_and_the_checkpoint_of_the_stop_exists(make_sft, probe, tmp_path, caplog):
    rule = StopRule("churn", above=-1.0, confidence=None, patience=2)
    callback = ForgetCallback(probe, every=1, stop=rule)
    trainer = make_sft([callback])
    trainer.train()
    assert trainer.state.global_step == 2
    assert (tmp_path / "checkpoint-2" / "model.safetensors").is_file()
    assert whole(callback.history)["step"].tolist() == [0, 1, 2]
    message = [record.getMessage() for record in caplog.records if "Forgetting" in record.getMessage()]
    assert len(message) == 1
    assert "mini/churn" in message[0]
    assert "above -100% at 2 snapshots in a row up to step 2" in message[0]


def test_a_rule_that_warns_lets_training_go_on(make_sft, probe, caplog):
    rule = StopRule("churn", above=-1.0, confidence=None, patience=1, action="warn")
    trainer = make_sft([ForgetCallback(probe, every=3, stop=[rule])])
    trainer.train()
    assert trainer.state.global_step == 6
    assert sum("Forgetting: warning" in record.getMessage() for record in caplog.records) == 1


def test_the_best_model_is_the_one_that_forgot_least(make_sft, probe, caplog):
    callback = ForgetCallback(probe)
    trainer = make_sft(
        [callback],
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="forget_mini_drift",
        greater_is_better=False,
        learning_rate=3e-2,
    )
    trainer.train()
    drift = whole(callback.history).set_index("step")["drift"].drop(0)
    assert drift.idxmin() != drift.index[-1], "the last step must not be the best, or the test shows nothing"
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{drift.idxmin()}")
    assert trainer.state.best_metric == pytest.approx(drift.min())
    rows = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert len(rows) == 6
    assert caplog.text.count("keeps the checkpoint that forgot least, and that is mostly the earliest") == 1


@pytest.mark.parametrize(
    "best, asked, more",
    [
        (None, None, []),
        ("eval_forget_mini_drift", None, ["eval_forget_mini_drift"]),
        ("forget_all_known_before", None, ["eval_forget_all_known_before"]),
        ("eval_loss", ["churn"], ["eval_forget_mini_churn", "eval_forget_other_churn"]),
    ],
)
def test_a_probe_adds_three_numbers_to_an_evaluation_and_what_is_asked_for(make_sft, probe, best, asked, more):
    """What comes after the callback sees them: the progress table of a notebook has a column for each."""
    found = []

    class Table(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            found.append([name for name in metrics if "forget" in name])

    probes = [probe, Probe("other", probe.items[:3])]
    config = {} if best is None else {"metric_for_best_model": best, "greater_is_better": False}
    callback = ForgetCallback(probes, evaluation_metrics=asked, on_error="raise")
    make_sft([callback, Table()], eval_strategy="steps", eval_steps=3, **config).train()
    three = ("knowledge_lost", "forgetting", "accuracy_after")
    names = {f"eval_forget_{name}_{metric}" for name in ("mini", "other") for metric in three}
    assert len(found) == 2 and all(len(one) == len(set(one)) and set(one) == {*names, *more} for one in found)


def test_early_stopping_reads_our_metrics(make_sft, probe):
    callback, early = ForgetCallback(probe), EarlyStoppingCallback(early_stopping_patience=1)
    trainer = make_sft(
        [early, callback],  # the callback takes its place before early stopping
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_forget_mini_drift",
        greater_is_better=False,
        learning_rate=3e-2,
    )
    trainer.train()
    drift = whole(callback.history)["drift"].tolist()[1:]
    assert trainer.state.global_step == next(i for i in range(1, len(drift) + 1) if drift[i] >= min(drift[:i])) + 1


def test_a_best_model_by_a_probe_of_another_name_is_said_before_the_first_step(make_sft, probe, caplog):
    config = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "eval_forget_facts_knowledge_lost"}
    callback = ForgetCallback(probe)
    trainer = make_sft([callback], **config)
    with pytest.raises(KeyError, match="eval_forget_facts_knowledge_lost"):
        trainer.train()
    said = [one for one in caplog.records if "did you mean 'eval_forget_mini_knowledge_lost'?" in one.getMessage()]
    assert [one.levelname for one in said] == ["ERROR"]
    assert caplog.records.index(said[0]) == 0, "before anything is measured"
    assert trainer.state.global_step == 2, "and what this callback could do was done"
    trainer = make_sft([ForgetCallback(probe, on_error="refuse")], **config)
    with pytest.raises(ValueError, match="did you mean 'eval_forget_mini_knowledge_lost'"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_failing_probe_does_not_stop_training_unless_asked(make_sft, probe, monkeypatch, caplog):
    calls = []

    score = Scorer.score

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:  # after the baseline
            raise RuntimeError("CUDA is on fire")
        return score(*args, **kwargs)

    monkeypatch.setattr(Scorer, "score", failing)
    callback = ForgetCallback(probe)
    trainer = make_sft(
        [callback],
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="forget_mini_drift",
        greater_is_better=False,
    )
    trainer.train()
    assert trainer.state.global_step == 6
    assert whole(callback.history)["step"].tolist() == [0, 4, 6]
    assert "step 2 could not be taken: RuntimeError: CUDA is on fire" in caplog.text

    calls.clear()
    with pytest.raises(RuntimeError, match="on fire"):
        make_sft([ForgetCallback(probe, every=2, on_error="raise")]).train()


def test_a_run_with_another_probe_sets_the_first_aside(make_sft, make_model, tokenizer, probe, tmp_path):
    other = type(probe)("mini", probe.items[:3])
    store = Store(tmp_path)
    store.begin([other])
    store.write(score_probe(make_model(), tokenizer, other))
    make_sft([ForgetCallback(probe, every=2)]).train()
    assert store.steps("mini") == [0, 2, 4, 6] and store.probes()[0].fingerprint == probe.fingerprint
    assert Snapshot.load(next(store.path.glob("set-aside/1/snapshots/mini/*"))).fingerprint == other.fingerprint


def test_a_second_run_in_the_same_directory_sets_the_first_aside(make_sft, probe, tmp_path, caplog):
    for _ in range(2):
        make_sft([ForgetCallback(probe, every=3)]).train()
    assert Store(tmp_path).steps("mini") == [0, 3, 6]
    kept = sorted((tmp_path / "forget" / "set-aside" / "1" / "snapshots" / "mini").iterdir())
    assert [path.name for path in kept] == [f"step-0000000{step}.parquet" for step in (0, 3, 6)]
    assert Snapshot.load(kept[0]).step == 0
    assert "set-aside" in caplog.text
    for page in (tmp_path / "forget" / "report.html", tmp_path / "forget" / "set-aside" / "1" / "report.html"):
        assert "<!doctype html>" in page.read_text(encoding="utf-8")[:200].lower()


@pytest.mark.parametrize("restore", [False, True])
def test_a_resumed_run_keeps_its_baseline_counts_and_history(make_sft, probe, tmp_path, restore):
    whole_run = ForgetCallback(probe, every=1, output_dir=tmp_path / "whole")
    make_sft([whole_run]).train()
    first = make_sft([ForgetCallback(probe, every=1)], save_strategy="steps", save_steps=2)
    first.train()
    assert Store(tmp_path).steps("mini") == [0, 1, 2, 3, 4, 5, 6]
    resumed = ForgetCallback(probe, every=1)
    config = {"save_strategy": "steps", "save_steps": 2, "restore_callback_states_from_checkpoint": restore}
    make_sft([resumed], **config).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    pd.testing.assert_frame_equal(resumed.history, whole_run.history)
    assert len(list((tmp_path / "forget" / "set-aside" / "1" / "snapshots" / "mini").iterdir())) == 4


def test_resuming_without_a_baseline_says_what_to_do(make_sft, probe, tmp_path, caplog):
    make_sft([], save_strategy="steps", save_steps=2).train()
    callback = ForgetCallback(probe, every=1)
    trainer = make_sft([callback], save_strategy="steps", save_steps=2)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert trainer.state.global_step == 6
    assert "training resumed at step 2, but there is no baseline of its start" in caplog.text
    assert callback.history.empty
    assert "baseline=RUN" in caplog.text


@pytest.mark.in_turn(2)
def test_a_run_that_is_resumed_in_another_setup_says_what_that_risks(make_sft, probe, tokenizer, tmp_path, caplog):
    config = {"save_strategy": "steps", "save_steps": 2}
    make_sft([ForgetCallback(probe, every=2)], **config).train()
    again = make_sft([ForgetCallback(probe, every=2)], **config)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert "before training was resumed" not in caplog.text
    tokenizer.chat_template = tokenizer.chat_template + " "
    other = make_sft([ForgetCallback(probe, every=2)], per_device_train_batch_size=3, **config)
    other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert "samples_per_step was 4 before training was resumed and is 3: the trainer leaves out data" in caplog.text
    assert "template was" in caplog.text
    assert "processes was" not in caplog.text


def test_a_resumed_run_asks_in_the_batches_that_memory_allowed_before(make_sft, probe, tmp_path):
    """Else an answer could flip by nothing but the batch that it was asked in."""
    config = {"save_strategy": "steps", "save_steps": 2}
    make_sft([ForgetCallback(probe, every=2, batch_tokens=64)], **config).train()
    resumed = ForgetCallback(probe, every=2)
    make_sft([resumed], **config).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    store = Store(tmp_path)
    assert [store.read("mini", step).metadata["batch_tokens"] for step in (0, 2, 4, 6)] == [64] * 4


def test_each_snapshot_is_one_line_on_standard_error_and_the_end_a_table(make_sft, probe, tmp_path, capsys):
    make_sft([ForgetCallback([probe, Probe("other", probe.items[:3])], every=3)]).train()
    lines = [line.rstrip() for line in capsys.readouterr().err.splitlines()]
    assert not any("\x1b" in line for line in lines if "forgetting" in line or "probe" in line)  # not a terminal
    table = lines[lines.index("From the baseline to step 6, after 24 samples") :]
    assert [line.split()[:2] for line in table if line.count("%") == 2 and "(Holm)" not in line] == [
        *(["knowledge", "(mini)"], ["capitals", "3"], ["words", "2"]),
        *(["knowledge", "(other)"], ["capitals", "2"], ["words", "1"]),
        *(["task", "(mini)"], ["words", "1"]),
    ]
    said = [line for line in lines if line.startswith(("baseline", "forgetting at step"))]
    assert len(said) == 3
    assert f"page: {tmp_path / 'forget' / 'report.html'}" in lines
    assert re.fullmatch(r"baseline: mini \S+ of 6 items right \| other \S+ of 3 items right \| \S+ s", said[0])
    few = r"unclear, \d scored items? \w+ too few \(30 at least\), \d of \d items? right to wrong, \d wrong to right"
    every = rf"all: knowledge: {few}; task: {few}"
    assert re.fullmatch(rf"forgetting at step 6, 24 samples \| {every} \| \S+ s", said[2]), said[2]


def test_a_checkpoint_without_notes_resumes_with_a_baseline_from_another_run(make_sft, probe, tmp_path, caplog):
    """Its own start was never measured, but somebody measured that model."""
    measured = ForgetCallback(probe, every=2, output_dir=tmp_path / "measured")
    make_sft([measured], save_strategy="steps", save_steps=2, output_dir=str(tmp_path / "measured")).train()
    first = Store(tmp_path / "measured").read("mini", 0)
    make_sft([], save_strategy="steps", save_steps=2).train()
    callback = ForgetCallback(probe, every=2, baseline=f"{tmp_path / 'measured'}@0", on_error="raise")
    trainer = make_sft([callback], save_strategy="steps", save_steps=2)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert sorted(set(callback.history["step"])) == [2, 4, 6]
    store = Store(tmp_path)
    for row in whole(callback.history).itertuples():
        assert row.n10 == compare(first, store.read("mini", row.step)).n10
        assert row.n01 == compare(first, store.read("mini", row.step)).n01
    assert "steps 1 to 2 were trained without ForgetCallback" in caplog.text
    assert whole(callback.history)["samples_seen"].tolist() == [8, 16, 24]  # of whole batches


def test_a_checkpoint_without_notes_counts_on_from_what_its_run_has_on_disk(make_sft, probe, tmp_path):
    make_sft([], save_strategy="steps", save_steps=2).train()
    watched = ForgetCallback(probe, every=1, output_dir=tmp_path)
    make_sft([watched], max_steps=2, output_dir=str(tmp_path / "elsewhere")).train()
    resumed = ForgetCallback(probe, every=1, on_error="raise")
    make_sft([resumed]).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert whole(resumed.history)["samples_seen"].tolist() == [0, 4, 8, 12, 16, 20, 24]


@pytest.mark.in_turn(1)
def test_stages_of_a_pipeline_keep_one_baseline(make_sft, make_model, probe, tokenizer, tmp_path, caplog):
    """Two stages and a third one: against the very first model, and against each stage's own start."""
    model = make_model()
    runs = [tmp_path / name for name in ("one", "two", "three")]
    callbacks = []
    for stage, out in enumerate(runs):
        baseline = runs[stage - 1] if stage else "start"
        callbacks.append(ForgetCallback(probe, every=3, baseline=baseline, output_dir=out, on_error="raise"))
        make_sft([callbacks[-1]], model=model, learning_rate=5e-2).train()
    first = Store(runs[0]).read("mini", 0)
    for number, (callback, out) in enumerate(zip(callbacks, runs), 1):
        table, store = whole(callback.history), Store(out)
        assert table["stage"].tolist() == [number] * 3
        assert table["total_samples_seen"].tolist() == [24 * (number - 1) + seen for seen in (0, 12, 24)]
        start = store.read("mini", 0)
        for row in table.itertuples():
            now = store.read("mini", row.step)
            assert row.forgetting == compare(first, now).forgetting
            if number > 1:
                own = compare(start, now)
                assert row.stage_forgetting == own.forgetting
                assert row.stage_backward_transfer == own.backward_transfer
            else:
                assert math.isnan(row.stage_forgetting)
        # Read back from disk it is the same.
        pd.testing.assert_frame_equal(ForgetMonitor(store.probes(), store).history, callback.history)
    assert whole(callbacks[0].history)["n10"].iloc[-1] > 0  # something was forgotten, or this test shows nothing
    assert "the model of step 0 differs from the baseline before this run" in caplog.text


def test_a_step_of_a_run_as_baseline(make_sft, probe, tmp_path):
    make_sft([ForgetCallback(probe, every=3)]).train()
    callback = ForgetCallback(probe, every=3, baseline=f"{tmp_path}@3", output_dir=tmp_path / "next")
    make_sft([callback]).train()
    first, second = Store(tmp_path).read("mini", 3), Store(tmp_path / "next").read_beside("baseline", "mini")
    np.testing.assert_array_equal(first.margin, second.margin)


def test_adapters_off_as_baseline(make_sft, make_model, probe, tokenizer, tmp_path):
    from peft import LoraConfig, get_peft_model

    base = make_model()
    expected = score_probe(base, tokenizer, probe)
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    started = score_probe(model, tokenizer, probe)
    assert not np.array_equal(started.margin, expected.margin, equal_nan=True)
    trainer = make_sft([ForgetCallback(probe, every=3, baseline="base", on_error="raise")], model=model)
    trainer.train()
    np.testing.assert_array_equal(Store(tmp_path).read_beside("baseline", "mini").margin, expected.margin)
    np.testing.assert_array_equal(Store(tmp_path).read("mini", 0).margin, started.margin)


def test_several_probes_are_pooled(make_sft, probe, tmp_path):
    other = type(probe)("other", probe.items[:2])
    callback = ForgetCallback([probe, other], every=3)
    make_sft([callback]).train()
    table = whole(callback.history).set_index(["step", "probe"])
    assert table.loc[6, "all"]["n"] == table.loc[6, "mini"]["n"] + table.loc[6, "other"]["n"]


class _Slow:
    """A clock on which only scored items and steps of training take time: what is tested is arithmetic of times."""

    def __init__(self, monkeypatch, per_item, per_step):
        self.scored, self.steps, self.now = [], [], 0.0
        judge = group.judge_likelihoods

        def slow(answers, scored, tokenizer):
            self.scored.append(len({row.item for row, _ in scored}))
            self.now += per_item * self.scored[-1]
            return judge(answers, scored, tokenizer)

        class Step(TrainerCallback):
            def on_step_begin(step, args, state, control, **kwargs):
                self.now += per_step
                self.steps.append(state.global_step)

        monkeypatch.setattr(group, "judge_likelihoods", slow)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        self.step = Step()


@pytest.mark.parametrize("variants", ["all", "ends"])
def test_max_overhead_scores_a_part_where_all_is_too_dear(
    make_sft, probe_in_two, tmp_path, monkeypatch, caplog, variants
):
    """A probe that takes a quarter of a second in its two prompts, every eight steps of a 32nd: half of the time."""
    items = [replace(probe_in_two.items[i % 3], id=f"{i}", category=f"{i % 2}") for i in range(200)]
    slow = _Slow(monkeypatch, per_item=1 / 1600, per_step=1 / 32)
    callback = ForgetCallback(Probe("mini", items), every=8, max_overhead=0.05, variants=variants, on_error="raise")
    make_sft([slow.step, callback], max_steps=480).train()
    table = whole(callback.history)
    assert "random part of them is scored, by category" in caplog.text
    # The limit holds for what comes after the baseline, of 200 items in two prompts.
    probing, rest = sum(slow.scored) / 1600 - 400 / 1600, slow.now - 400 / 1600
    assert 0.04 < probing / rest < 0.051
    assert len(table) >= 4 and table["n"].iloc[0] == 200
    assert table["n"].iloc[1:].nunique() == 1 and 30 <= table["n"].iloc[-1] < 200  # the same items from then on
    store = Store(tmp_path)
    steps = store.steps("mini")[1:]
    known = [tuple(s.ids[~np.isnan(s.correct)]) for s in (store.read("mini", step) for step in steps)]
    assert len(set(known)) == 1
    by_category = np.bincount([int(i) % 2 for i in known[0]])
    assert abs(by_category[0] - by_category[1]) <= 1


def test_what_the_first_scoring_does_once_cuts_no_later_one(make_sft, probe_in_two, monkeypatch, caplog):
    """Token ids, batches and self-checks of 40 seconds, before evaluations of a quarter of a second."""
    items = [replace(probe_in_two.items[i % 3], id=f"{i}") for i in range(200)]
    slow = _Slow(monkeypatch, per_item=1 / 1600, per_step=1 / 32)
    for module, name in ((tokens, "encode_items"), (fallbacks, "plan"), (fallbacks, "plain_passes")):
        work = getattr(module, name)

        def once(*args, work=work, **how):
            slow.now += 10
            return work(*args, **how)

        monkeypatch.setattr(module, name, once)
    callback = ForgetCallback(Probe("mini", items), every=8, max_overhead=0.55, on_error="raise")
    make_sft([slow.step, callback], max_steps=40).train()
    assert slow.now > 40 and whole(callback.history)["n"].tolist() == [200] * 6
    assert "random part" not in caplog.text and "no snapshot at" not in caplog.text


@pytest.mark.parametrize("per_item, limit, before", [(1 / 1600, 0.05, True), (1 / 16, 0.1, False)])
def test_a_baseline_that_alone_exceeds_max_overhead_is_whole_and_said(
    make_sft, probe_in_two, tmp_path, monkeypatch, caplog, per_item, limit, before
):
    """By prompts and samples before it is scored; where these do not show it, as soon as it is measured."""
    items = [replace(probe_in_two.items[i % 3], id=f"{i}") for i in range(200)]
    slow = _Slow(monkeypatch, per_item=per_item, per_step=1 / 32)
    said_by = []
    judge = group.judge_likelihoods
    monkeypatch.setattr(
        group, "judge_likelihoods", lambda *a: (said_by.append("the baseline alone" in caplog.text), judge(*a))
    )
    callback = ForgetCallback(Probe("mini", items), every=40, max_overhead=limit, on_error="raise")
    make_sft([slow.step, callback], max_steps=40 if before else 480).train()
    assert said_by[0] == before and caplog.text.count("the baseline alone") == 1
    assert whole(callback.history)["n"].iloc[0] == 200
    # What comes after the baseline keeps to the limit, but for the last one, which is always taken.
    probing, training = sum(slow.scored[2:-2]) * per_item, len(slow.steps) / 32
    assert probing <= limit * (probing + training)


def test_max_overhead_leaves_snapshots_out_but_never_the_last(make_sft, probe, caplog):
    caplog.set_level(logging.INFO)
    callback = ForgetCallback(probe, every=1, max_overhead=1e-6)
    make_sft([callback]).train()
    assert whole(callback.history)["step"].tolist() == [0, 6]
    skipped = [record.levelname for record in caplog.records if "would exceed max_overhead" in record.getMessage()]
    assert skipped == ["WARNING"] + ["INFO"] * 4


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"every": 0}, "every must be"),
        ({"every": 0.1}, "eval_steps=0.1 in TrainingArguments"),
        ({"stop": "knowledge_lost"}, "expected METRIC>VALUE"),
        ({"trackers": print}, "methods log.row. and alert"),
        ({"trackers": [Listening, Listening()]}, "got <class"),
        ({"max_overhead": 2.0}, "max_overhead must lie"),
        ({"max_overhead": "5%"}, "max_overhead must lie in .0, 1., such as 0.05 for 5%, got '5%'"),
        ({"max_overhead": True}, "max_overhead must lie"),
        ({"rescore": "no"}, "rescore must be True, False or None, got 'no'"),
        ({"variants": True}, "variants must be 'all', 'changed', 'ends' or 'off', got True"),
        ({"evaluation_metrics": "drift"}, "write \\['drift'\\]"),
        ({"evaluation_metrics": ["drif"]}, "evaluation_metrics: no metric is called 'drif'; did you mean drift"),
        ({"batch_tokens": 0}, "batch_tokens must be"),
        ({"batch_tokens": 512.0}, "batch_tokens must be a whole number of 1 or more, or None, got 512.0"),
        ({"batch_tokens": True}, "batch_tokens must be a whole number"),
        ({"output_dir": 5}, "output_dir must be a path, or None for the Trainer's own, got 5"),
        ({"baseline": "strat"}, "baseline must be 'start', 'base' or a RUN directory: strat is not a run"),
        ({"baseline": None}, "baseline must be 'start', 'base' or a RUN directory, got None"),
        ({"trainer": 5}, "trainer must be a Trainer .an object that has callback_handler., got 5"),
        ({"trainer": Trainer}, "trainer must be a Trainer .*got <class"),
        ({"on_error": "ignore"}, "on_error must be"),
        ({"stop": StopRule("forgetting", 0.1, category="nothing")}, "has no category 'nothing'"),
        ({"stop": StopRule("forgetting", 0.1, probe="nothing")}, "probe 'nothing' is not among"),
        ({"probes": "nothing:at-all"}, "spec 'nothing:at-all' is not known"),
        ({"probes": DRAWN, "stop": "forgetting>0.1"}, "sampled, 1 an item.*samples=4.*temperature=0"),
    ],
)
def test_bad_arguments_fail_before_training(probe, arguments, message):
    with pytest.raises(ValueError, match=message):
        ForgetCallback(**{"probes": probe, **arguments})


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_baseline_of_a_real_model_scored_again(make_sft, probe_in_two, tokenizer, tmp_path, temperature):
    probe = replace(probe_in_two, temperature=temperature)
    callback = ForgetCallback(probe, every=3, rescore=True)
    trainer = make_sft([callback])
    again = score_probe(trainer.model, tokenizer, probe, replicate=1)
    trainer.train()
    store = Store(tmp_path)
    kept = store.read_beside("again", "mini")
    np.testing.assert_array_equal(kept.margin, again.margin)
    assert kept.text.tolist() == again.text.tolist() and kept.n_variants == 1
    # Other batches move likelihoods by rounding at most; another seed writes another text.
    first = store.read("mini", 0)
    np.testing.assert_allclose(kept.margin, first.margin, atol=1e-4)
    assert (kept.text.tolist() == first.text.tolist()) == (temperature == 0)
    assert not callback.history["rescored_flips"].isna().any()


def test_a_second_scoring_that_fails_costs_its_own_number_alone(make_sft, probe, monkeypatch, caplog):
    score = Scorer.score

    def failing(scorer, *args, **kwargs):
        if scorer.replicate:
            raise RuntimeError("out of memory")
        return score(scorer, *args, **kwargs)

    monkeypatch.setattr(Scorer, "score", failing)
    callback = ForgetCallback(probe, every=3, rescore=True, on_error="raise")
    make_sft([callback]).train()
    assert whole(callback.history)["step"].tolist() == [0, 3, 6] and callback.history["rescored_flips"].isna().all()
    assert "the baseline could not be scored a second time: RuntimeError: out of memory" in caplog.text


@pytest.mark.parametrize(
    "temperature, precision, options, measured",
    [
        (0.0, {}, {}, False),  # nothing can differ
        (1.0, {}, {}, True),
        (0.0, {"bf16": True}, {}, True),
        (1.0, {}, {"max_overhead": 0.5}, False),
        (1.0, {}, {"rescore": False}, False),
    ],
)
def test_the_baseline_is_scored_again_where_something_can_differ(
    make_sft, probe, tmp_path, temperature, precision, options, measured
):
    callback = ForgetCallback(replace(probe, temperature=temperature), every=6, **options)
    make_sft([callback], **precision).train()
    assert callback.history["rescored_flips"].notna().all() == measured
    assert (Store(tmp_path).read_beside("again", "mini") is not None) == measured


class Forwarded(TrainerCallback):
    """The first row of each forward pass before the first step."""

    def __init__(self, model):
        self.rows = []
        keep = lambda module, args, kwargs: self.rows.append(kwargs["input_ids"][0].tolist())  # noqa: E731
        self._handle = model.register_forward_pre_hook(keep, with_kwargs=True)

    def on_step_begin(self, args, state, control, **kwargs):
        self._handle.remove()


def test_only_what_can_differ_is_forwarded_twice(make_sft, make_model, tokenizer, probe, tmp_path):
    """In float32 the sampled probe alone: greedy answers, choices and self-checks of the others are not repeated."""

    def run(name, rescore, dtype=torch.float32):
        model = make_model(attention_dropout=0.1).to(dtype)
        trainer = make_sft([ForgetCallback([probe, DRAWN], every=6, rescore=rescore)], model=model, max_steps=1)
        trainer.args.output_dir = str(tmp_path / name)
        trainer.add_callback(seen := Forwarded(model))
        trainer.train()
        return Store(tmp_path / name), trainer, seen.rows

    _, _, once = run("once", False)
    store, trainer, rows = run("sampled", None)
    assert rows[: len(once)] == once
    said = [tokenizer.decode(row) for row in rows[len(once) :] if len(row) > 1]
    assert said == [DRAWN.items[0].prompt]
    assert [one.probe for one in store.beside("again", [probe, DRAWN])] == ["drawn"]
    (callback,) = (one for one in trainer.callback_handler.callbacks if isinstance(one, ForgetCallback))
    flips = callback.history.groupby("probe")["rescored_flips"]
    assert flips.count().to_dict() == {"all": 0, "drawn": 2, "mini": 0}
    pd.testing.assert_frame_equal(ForgetMonitor([probe, DRAWN], store).history, callback.history)
    for name, how in {"all": (True,), "low": (None, torch.bfloat16)}.items():
        assert len(run(name, *how)[0].beside("again", [probe, DRAWN])) == 2


def test_a_trainer_without_a_tokenizer_is_told_what_to_pass(make_model, probe, tokenizer, tmp_path, caplog):
    args = TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to="none", disable_tqdm=True)
    tokens = Dataset.from_list([{**tokenizer("The capital"), "labels": [1, 2]}] * 2)
    trainer = Trainer(make_model(), args, train_dataset=tokens, callbacks=[ForgetCallback(probe)])
    trainer.train()
    assert trainer.state.global_step == 1
    assert "the trainer gave no tokenizer; pass processing_class= to it" in caplog.text


def test_only_an_adapter_has_a_base_to_compare_with(make_sft, probe):
    with pytest.raises(ValueError, match="baseline='base' needs a PEFT model"):
        make_sft([ForgetCallback(probe, baseline="base", on_error="raise")]).train()


def test_attaching_twice_adds_it_once_and_an_evaluation_outside_training_is_left_alone(make_sft, probe):
    trainer = make_sft([])
    callback = ForgetCallback(probe, every=3, trainer=trainer)
    callback.attach(trainer)
    assert trainer.callback_handler.callbacks.count(callback) == 1
    trainer.train()
    assert not [name for name in trainer.evaluate() if "forget" in name]


def test_samples_are_summed_over_the_ranks_once_a_step(make_sft, probe, monkeypatch):
    """The sum is a collective, for which every rank waits; log, evaluation, best model and checkpoint share it."""
    real, summed = DataSeen.totals, []

    def totals(data, step):
        summed.append(trainer.state.global_step)
        return real(data, step)

    monkeypatch.setattr(DataSeen, "totals", totals)
    steps = {"logging_steps": 2, "eval_steps": 2, "save_steps": 2, "eval_strategy": "steps", "save_strategy": "steps"}
    trainer = make_sft([ForgetCallback(probe, on_error="raise")], load_best_model_at_end=True, **steps)
    trainer.train()
    assert summed == [0, 2, 4, 6]
