"""What cannot be measured costs nothing else, is said so that it stands out, said again at the end, and kept."""

import json
import logging

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from forget_callback import ForgetCallback, Generation, MultipleChoice, Probe
from forget_callback.runs.store import Store
from forget_callback.scoring.engine import Scorer

from .conftest import weights_hash

pytestmark = pytest.mark.in_turn(2)


def steps_of(callback, probe):
    history = callback.history
    return history[(history["category"] == "") & (history["probe"] == probe)]["step"].tolist()


def run_of(folder):
    return json.loads((folder / "forget" / "manifest.json").read_text())["run"]


def alarms(caplog):
    """The messages that stand out: errors, in a frame, with the words at the start of a line."""
    found = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert all("\n====" in one and "\nNOT " in one for one in found)
    return found


def no_template(tokenizer):
    tokenizer.chat_template = None


def too_long():
    return [MultipleChoice(f"l{i}", "so long " * 400, [" yes", " no", " or"], 0) for i in range(3)]


def failing_scorer(prompts, **columns):
    raise ConnectionError("the judge's server is gone")


BAD = {
    "no chat template": lambda probe: Probe("bad", probe.items, chat=True, template=""),
    "every item too long": lambda probe: Probe("bad", too_long()),
}


@pytest.fixture
def rows():
    return [{"prompt": f"{i} times {i} is", "completion": f" {i * i}."} for i in range(24)]


@pytest.mark.parametrize("kind", ["no chat template", "every item too long"])
@pytest.mark.parametrize("first", [True, False])
def test_a_probe_that_cannot_be_measured_is_dropped_and_the_others_go_on(
    make_sft, tokenizer, probe, tmp_path, caplog, kind, first
):
    if kind == "no chat template":
        no_template(tokenizer)
    bad = BAD[kind](probe)
    callback = ForgetCallback([bad, probe] if first else [probe, bad], every=3)
    make_sft([callback]).train()
    assert steps_of(callback, "mini") == Store(tmp_path).steps("mini") == [0, 3, 6]
    assert set(callback.history["probe"]) == {"mini"} and Store(tmp_path).steps("bad") == []
    start, end = alarms(caplog)
    assert "NOT WATCHED: probe 'bad' cannot be measured: " in start
    assert "NOT MEASURED in this run:\n  probe 'bad', the whole run: " in end
    run = run_of(tmp_path)
    assert (run["status"], run["steps"]) == ("ended", 6)
    assert [(one["probe"], one["step"]) for one in run["not_measured"]] == [("bad", None)]


def test_items_that_are_dropped_are_said_again_at_the_end_and_cost_no_other(make_sft, probe, tmp_path, caplog):
    callback = ForgetCallback(Probe("mini", [*probe.items, *too_long()]), every=3)
    make_sft([callback]).train()
    assert steps_of(callback, "mini") == [0, 3, 6]
    (end,) = alarms(caplog)
    why = "longer than the model's context of 256 tokens"
    assert f"NOT MEASURED in this run:\n  probe 'mini', 3 items: {why}" in end
    entry = {"probe": "mini", "step": None, "why": why, "items": 3}
    assert run_of(tmp_path)["not_measured"] == [entry] and Store(tmp_path).incomplete() == []


@pytest.mark.every_day
def test_a_dropped_probe_leaves_the_weights_as_they_are_without_it(make_sft, tokenizer, probe):
    no_template(tokenizer)
    models = []
    for callbacks in ([], [ForgetCallback([probe, Probe("bad", probe.items, chat=True)], every=1)]):
        trainer = make_sft(callbacks)
        trainer.train()
        models.append(weights_hash(trainer.model))
    assert models[0] == models[1]


def test_a_rule_on_a_probe_that_is_dropped_is_said_and_the_others_hold(make_sft, tokenizer, probe, caplog):
    no_template(tokenizer)
    bad = Probe("bad", probe.items, chat=True)
    callback = ForgetCallback([probe, bad], every=1, stop=["bad/forgetting>0.5", "mini/churn>-1"])
    trainer = make_sft([callback])
    trainer.train()
    assert trainer.state.global_step == 2  # what the rule on the other probe says, at its second snapshot
    assert "NOT WATCHED: stop rule on 'forgetting': probe 'bad' is not among ['mini']" in alarms(caplog)[0]


def test_the_best_model_by_a_probe_that_is_dropped_does_not_end_training(make_sft, tokenizer, probe):
    no_template(tokenizer)
    config = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    config |= {"load_best_model_at_end": True, "metric_for_best_model": "forget_bad_forgetting"}
    trainer = make_sft([ForgetCallback([probe, Probe("bad", probe.items, chat=True)])], **config)
    trainer.train()
    assert trainer.state.global_step == 6


@pytest.mark.parametrize("several", [True, False])
def test_where_no_probe_can_be_measured_the_run_is_unwatched_and_says_so_twice(
    make_sft, tokenizer, probe, tmp_path, caplog, several
):
    no_template(tokenizer)
    bad = [Probe(name, probe.items, chat=True) for name in ("one", "two")[: 1 + several]]
    callback = ForgetCallback(bad, every=1)
    trainer = make_sft([callback])
    trainer.train()
    assert trainer.state.global_step == 6 and callback.history.empty
    start, end = alarms(caplog)
    assert "NOT WATCHED: the baseline could not be taken, so no forgetting will be measured in this run: " in start
    assert "NOT WATCHED: no forgetting was measured in this run: " in end
    run = run_of(tmp_path)
    assert run["status"] == "unwatched"
    assert [(one["probe"], one["step"]) for one in run["not_measured"]] == [("", None)]
    assert "no chat template" in run["not_measured"][0]["why"]


@pytest.mark.every_day
@pytest.mark.parametrize("several", [True, False])
def test_refuse_does_not_start_unwatched(make_sft, tokenizer, probe, tmp_path, several):
    """Also where one of several probes alone would be dropped."""
    no_template(tokenizer)
    bad = Probe("bad", probe.items, chat=True)
    trainer = make_sft([ForgetCallback([probe, bad] if several else bad, on_error="refuse")])
    with pytest.raises(RuntimeError, match=r"probe 'bad' cannot be measured: ValueError: .* no chat template"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert run_of(tmp_path)["status"] == "unwatched"


def test_refuse_lets_a_training_that_has_started_go_on(make_sft, probe, tmp_path, monkeypatch, caplog):
    fail(monkeypatch, at=2)
    callback = ForgetCallback(probe, every=2, on_error="refuse")
    make_sft([callback]).train()
    assert steps_of(callback, "mini") == [0, 4, 6]
    assert len(alarms(caplog)) == 2


ON_FIRE = RuntimeError("CUDA is on fire")


def fail(monkeypatch, *, at, probe=None, error=ON_FIRE):
    """The `at`-th look fails: once, or wherever a probe is among those that are scored."""
    score, looks = Scorer.score, []

    def failing(scorer, model, **more):
        if probe is None or len(scorer.probes) > 1:
            looks.append(1)
        if len(looks) == at and (probe is None or probe in [one.name for one in scorer.probes]):
            raise error
        return score(scorer, model, **more)

    monkeypatch.setattr(Scorer, "score", failing)


@pytest.mark.parametrize("variants", ["all", "ends"])
def test_a_probe_that_fails_at_one_look_keeps_the_others_numbers_and_is_tried_again(
    make_sft, probe_in_two, tmp_path, monkeypatch, caplog, variants
):
    """Its items are unscored there: a gap in its curve, never a number of another step."""
    other = Probe("other", probe_in_two.items[:3])
    fail(monkeypatch, at=2, probe="other", error=torch.OutOfMemoryError("CUDA out of memory"))
    callback = ForgetCallback([probe_in_two, other], every=2, variants=variants)
    make_sft([callback]).train()
    store = Store(tmp_path)
    assert store.steps("mini") == store.steps("other") == [0, 2, 4, 6]
    scored = {
        name: [not np.isnan(store.read(name, step).correct).all() for step in (0, 2, 4, 6)]
        for name in ("mini", "other")
    }
    assert scored == {"mini": [True] * 4, "other": [True, False, True, True]}
    assert store.read("other", 2).metadata["not_scored"] == {"OutOfMemoryError: CUDA out of memory": 3}
    table = callback.history[callback.history["category"] == ""].set_index(["probe", "step"])
    assert np.isnan(table.loc[("other", 2), "accuracy_after"]) and table.loc[("all", 2), "scored"] == pytest.approx(
        6 / 9
    )
    look, end = alarms(caplog)
    assert "NOT MEASURED at step 2, and tried again at the next evaluation:\n  probe 'other': OutOfMemoryError" in look
    assert "  probe 'other', step 2: OutOfMemoryError: CUDA out of memory" in end
    assert run_of(tmp_path)["not_measured"] == [
        {"probe": "other", "step": 2, "why": "OutOfMemoryError: CUDA out of memory"}
    ]


def test_a_look_that_fails_whole_is_said_once_and_again_at_the_end(make_sft, probe, tmp_path, monkeypatch, caplog):
    fail(monkeypatch, at=2)
    callback = ForgetCallback(probe, every=2)
    make_sft([callback]).train()
    assert steps_of(callback, "mini") == [0, 4, 6]
    look, end = alarms(caplog)
    assert "NOT MEASURED: the snapshot of step 2 could not be taken: RuntimeError: CUDA is on fire" in look
    assert "  all probes, step 2: RuntimeError: CUDA is on fire" in end
    run = run_of(tmp_path)
    assert run["not_measured"] == [{"probe": "", "step": 2, "why": "RuntimeError: CUDA is on fire"}]
    assert run["status"] == "ended"


def test_a_last_look_that_fails_at_first_and_not_at_the_end_is_not_missing(make_sft, probe, tmp_path, monkeypatch):
    fail(monkeypatch, at=2)
    callback = ForgetCallback(probe, every=6)
    make_sft([callback]).train()
    assert steps_of(callback, "mini") == [0, 6] and run_of(tmp_path)["not_measured"] == []


@pytest.mark.every_day
def test_a_training_that_crashes_leaves_what_was_not_measured_and_no_end(make_sft, probe, tmp_path, monkeypatch):
    class Crash(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 4:
                raise KeyboardInterrupt

    fail(monkeypatch, at=2)
    with pytest.raises(KeyboardInterrupt):
        make_sft([ForgetCallback(probe, every=2), Crash()]).train()
    run = run_of(tmp_path)
    assert (run["status"], run["steps"]) == ("training", None)
    assert [one["step"] for one in run["not_measured"]] == [2]


def test_a_resumed_run_goes_on_with_the_probes_that_have_a_baseline(make_sft, probe, tmp_path, monkeypatch, caplog):
    """One that is new, and one that was dropped at the start, are dropped; what was not measured before stays noted."""
    config = {"save_strategy": "steps", "save_steps": 4}
    fail(monkeypatch, at=2)
    make_sft([ForgetCallback(probe, every=2)], **config).train()
    caplog.clear()
    callback = ForgetCallback([probe, Probe("new", probe.items[:3])], every=2)
    make_sft([callback], **config).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert steps_of(callback, "mini") == [0, 4, 6]
    assert "probe 'new' cannot be measured: it was not measured when this run started" in alarms(caplog)[0]
    assert {(one["probe"], one["step"]) for one in run_of(tmp_path)["not_measured"]} == {("", 2), ("new", None)}


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_resumed_run_goes_on_with_the_probes_whose_baseline_is_whole(make_sft, probe, tmp_path, caplog, damage):
    probes = [probe, Probe("other", probe.items[:3])]
    config = {"save_strategy": "steps", "save_steps": 4}
    make_sft([ForgetCallback(probes, every=2)], **config).train()
    first = tmp_path / "forget/snapshots/other/step-00000000.parquet"
    first.write_bytes(first.read_bytes()[:100])
    if damage == "gone":
        first.unlink()
    caplog.clear()
    callback = ForgetCallback(probes, every=2)
    make_sft([callback], **config).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert steps_of(callback, "mini") == [0, 2, 4, 6] and steps_of(callback, "other") == []
    assert "probe 'other' cannot be measured: " in alarms(caplog)[0]
    assert [(one["probe"], one["step"]) for one in run_of(tmp_path)["not_measured"]] == [("other", None)]
    assert any("probe 'other' was not measured" in line for line in Store(tmp_path).incomplete())


def test_a_run_as_baseline_that_lacks_one_probe_costs_that_one(make_sft, probe, tmp_path, caplog):
    make_sft([ForgetCallback(probe, every=6)]).train()
    other = Probe("other", probe.items[:3])
    callback = ForgetCallback([other, probe], every=3, baseline=tmp_path, output_dir=tmp_path / "next")
    make_sft([callback]).train()
    assert set(callback.history["probe"]) == {"mini"} and steps_of(callback, "mini") == [0, 3, 6]
    assert "NOT WATCHED: probe 'other' cannot be measured: ValueError: " in alarms(caplog)[0]


def test_a_scorer_that_fails_costs_the_probes_that_it_judges(make_sft, probe, caplog):
    texts = Probe("texts", [Generation("g", "Once upon a", "time", max_new_tokens=3)])
    choices = Probe("choices", probe.items[:3])
    callback = ForgetCallback([choices, texts], every=3, scorer=failing_scorer)
    make_sft([callback]).train()
    assert set(callback.history["probe"]) == {"choices"}
    assert "probe 'texts' cannot be measured: RuntimeError: " in alarms(caplog)[0]


def test_a_callback_that_is_added_late_says_again_at_the_end_that_nothing_was_measured(make_sft, probe, caplog):
    callback = ForgetCallback(probe, every=1, on_error="refuse")  # training has started already
    trainer = make_sft([])

    class Late(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                trainer.add_callback(callback)

    trainer.add_callback(Late())
    trainer.train()
    start, end = alarms(caplog)
    assert "NOT WATCHED: no forgetting will be measured in this run: ValueError: ForgetCallback was added" in start
    assert "NOT WATCHED: no forgetting was measured in this run: ValueError: ForgetCallback was added" in end
