"""`ForgetCallback(remote=True)`: real trainers that obey decisions which are written while they train."""

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import TrainerCallback

from forget_callback import ForgetCallback, StopRule
from forget_callback.runs.manifest import RunState
from forget_callback.runs.recorded import Recorded
from forget_callback.runs.remote import Decision, read_decision, read_training, write_decision
from forget_callback.runs.store import Store
from tests.forked import finish, start
from tests.helpers import Recorder

from .conftest import weights_hash

pytestmark = pytest.mark.in_turn(2)


class Watcher(TrainerCallback):
    """Writes decisions as a watcher would, each at the end of a step, for the run that trains there."""

    def __init__(self, folder, **at_step):
        self.folder, self.at_step = folder, {int(name[1:]): value for name, value in at_step.items()}

    def on_step_end(self, args, state, control, **kwargs):
        found = self.at_step.get(state.global_step)
        if isinstance(found, str):
            (self.folder / "forget" / "decision.json").write_text(found)
        elif found is not None:
            write_decision(self.folder, replace(found, run=read_training(self.folder).run))


def decided(step, **what):
    return Decision(None, step, **what)


def files(folder):
    return sorted(path.relative_to(folder / "forget").as_posix() for path in (folder / "forget").rglob("*"))


def checkpoints(folder):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


def heard(caplog, text):
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


@pytest.mark.every_day
def test_a_stop_ends_training_with_a_checkpoint_and_the_record_is_left_to_the_watcher(make_sft, tmp_path, caplog):
    tracker = Recorder()
    stop = decided(1, action="stop", alerts=["knowledge_lost 12%"], reason="knowledge_lost > 0.05")
    callback = ForgetCallback(
        "no-such-probe.jsonl", stop="knowledge_lost>0.05", trackers=tracker, on_error="raise", remote=True
    )
    trainer = make_sft([Watcher(tmp_path, s2=stop), callback], save_strategy="steps", save_steps=100, logging_steps=2)
    trainer.train()
    assert trainer.state.global_step == 2 and checkpoints(tmp_path) == [2]
    assert files(tmp_path) == ["decision.json", "training.json"]
    told = read_training(tmp_path)
    assert (told.status, told.step, told.max_steps, told.first_step) == ("stopped", 2, 6, 0)
    assert told.probes == (os.path.abspath("no-such-probe.jsonl"),) and told.stop == (StopRule("knowledge_lost", 0.05),)
    assert told.training.trainer == "SFTTrainer" and told.training.learning_rate == 1e-2
    assert tracker.alerts == [
        ("Forgetting: stopping", "knowledge_lost > 0.05"),
        ("Forgetting: warning", "knowledge_lost 12%"),
    ]
    assert tracker.rows == [] and callback.history.empty and callback.monitor is None and callback.last_step is None
    assert len(heard(caplog, "Forgetting: stopping: knowledge_lost > 0.05")) == 1


def test_checkpoints_are_saved_once_a_decision_and_alerts_are_passed_on_once_each(make_sft, tmp_path, caplog):
    tracker = Recorder()
    first = decided(1, checkpoint=True, alerts=["one", "two", "one"])
    later = decided(3, checkpoint=True, alerts=["two", "three\x1b[2J"])
    again = decided(3, checkpoint=True, alerts=["two"])
    watcher = Watcher(tmp_path, s1=first, s4=later, s5=again)
    make_sft([watcher, ForgetCallback(trackers=tracker, remote=True)]).train()
    assert checkpoints(tmp_path) == [1, 4]
    assert [text for _, text in tracker.alerts] == ["one", "two", "three\\x1b[2J"]
    assert len(heard(caplog, "Forgetting: warning")) == 3
    assert read_training(tmp_path).status == "ended"


@pytest.mark.parametrize("run", ["another0run", None])
def test_what_was_decided_for_another_run_is_never_obeyed_and_said_once(make_sft, tmp_path, caplog, run):
    write_decision(tmp_path, Decision(run, 0, "stop", True, ("lost",), "of an earlier run"))
    tracker = Recorder()
    trainer = make_sft([ForgetCallback(trackers=tracker, remote=True, on_error="raise")])
    trainer.train()
    assert trainer.state.global_step == 6 and checkpoints(tmp_path) == [] and tracker.alerts == []
    assert len(heard(caplog, "is not obeyed in this one")) == 1
    assert read_decision(tmp_path).run == run  # the file is the watcher's


@pytest.mark.parametrize("text", ["", '{"format_version": 1, "run":', "[]", '{"format_version": 1, "action": "stop"}'])
def test_a_damaged_decision_is_said_once_and_is_no_stop(make_sft, tmp_path, caplog, text):
    trainer = make_sft([Watcher(tmp_path, s1=text, s4=decided(3, action="stop")), ForgetCallback(remote=True)])
    trainer.train()
    assert trainer.state.global_step == 4  # the next one that is whole is obeyed
    (said,) = heard(caplog, "no decision of the watcher is obeyed")
    assert "decision.json is damaged: " in said


def test_a_damaged_decision_is_raised_where_every_error_is(make_sft, tmp_path):
    trainer = make_sft([Watcher(tmp_path, s1="{"), ForgetCallback(remote=True, on_error="raise")])
    with pytest.raises(ValueError, match=r"decision\.json is damaged"):
        trainer.train()


@pytest.mark.every_day
@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_weights_and_losses_are_as_without_it(make_sft, make_grpo, tmp_path, kind):
    found = []
    for callbacks in ([], [ForgetCallback(every=2, remote=True, on_error="raise")]):
        trainer = (make_sft if kind == "sft" else make_grpo)(callbacks)
        trainer.train()
        losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
        found.append((weights_hash(trainer.model), losses))
    assert found[0] == found[1]
    assert checkpoints(tmp_path) == ([2, 4, 6] if kind == "sft" else [2, 4])  # which `every` has saved


def test_samples_and_tokens_in_the_checkpoints_are_those_that_the_callback_counts(make_sft, probe, tmp_path):
    callback = ForgetCallback(probe, every=3, output_dir=tmp_path / "own")
    make_sft([callback]).train()
    make_sft([ForgetCallback(every=3, remote=True)], output_dir=str(tmp_path / "out")).train()
    counted = []
    for step in (3, 6):
        state = json.loads((tmp_path / "out" / f"checkpoint-{step}" / "trainer_state.json").read_text())
        notes = state["stateful_callbacks"]["forget_callback"]
        assert notes["run_id"] == read_training(tmp_path / "out").run
        counted.append((step, notes["samples_seen"], notes["tokens_seen"]))
    rows = callback.history[callback.history["category"] == ""]
    assert counted == list(zip(rows["step"], rows["samples_seen"], rows["tokens_seen"]))[1:]


def test_a_resumed_run_keeps_its_id_and_does_not_obey_twice(make_sft, tmp_path):
    """Also not where the training was killed after it had obeyed; what it had not read by then, it obeys."""
    stop = decided(2, action="stop", alerts=["lost"], reason="enough")
    make_sft([Watcher(tmp_path, s3=stop), ForgetCallback(every=1, remote=True)]).train()
    told = read_training(tmp_path)
    assert (told.status, told.step, told.obeyed.step, told.said) == ("stopped", 3, 2, ("lost",))
    tracker = Recorder()
    trainer = make_sft([ForgetCallback(every=1, trackers=tracker, remote=True, on_error="raise")])
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    now = read_training(tmp_path)
    assert trainer.state.global_step == 6 and tracker.alerts == []
    assert (now.run, now.status, now.first_step, now.step) == (told.run, "ended", 3, 6)
    # Decided when the training was down.
    write_decision(tmp_path, Decision(told.run, 4, "stop", reason="more"))
    trainer = make_sft([ForgetCallback(trackers=tracker, remote=True)])
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert trainer.state.global_step == 5 and tracker.alerts == [("Forgetting: stopping", "more")]
    # Back before what was decided: that comes when training is there again.
    trainer = make_sft([ForgetCallback(remote=True)])
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert trainer.state.global_step == 4 and read_training(tmp_path).run == told.run


def test_every_other_start_is_a_run_of_its_own(make_sft, tmp_path):
    runs, callback = [], ForgetCallback(remote=True, on_error="raise")
    trainer = make_sft([callback])
    for _ in range(2):
        trainer.train()
        runs.append(read_training(tmp_path).run)
        write_decision(tmp_path, Decision(runs[-1], 0, "stop"))
    trainer = make_sft([callback])
    trainer.train()
    runs.append(read_training(tmp_path).run)
    assert len(set(runs)) == 3
    assert trainer.state.global_step == 6


def test_two_processes_stop_at_the_same_step_and_one_speaks(tmp_path):
    """The first process alone sees the decision, and both must end: one that trained on would wait for ever."""
    err = tmp_path / "err.txt"
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    script = Path(__file__).with_name("train_script.py")
    words = [script, tmp_path, "--batch-size", "2", "--remote", "--save-steps", "2"]
    process = start(*words, environment=environment, err=err, processes=2)
    assert finish(process) == 0, err.read_text()
    told = read_training(tmp_path)
    assert (told.status, told.step, checkpoints(tmp_path)) == ("stopped", 4, [2, 4])
    assert err.read_text().count("Forgetting: stopping") == err.read_text().count("remote: forgetting") == 1
    assert files(tmp_path) == ["decision.json", "training.json"]
    notes = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())["stateful_callbacks"]
    assert (notes["forget_callback"]["samples_seen"], notes["forget_callback"]["run_id"]) == (16, told.run)


def test_training_that_starts_again_with_smaller_batches_is_told_anew(make_sft, tmp_path):
    class Short(TrainerCallback):
        failed = ()

        def on_step_end(self, args, state, control, **kwargs):
            if not self.failed and state.global_step == 2:
                self.failed = (read_training(tmp_path).run,)
                raise RuntimeError("CUDA out of memory.")

    short = Short()
    callbacks = [ForgetCallback(every=3, remote=True, on_error="raise"), short]
    make_sft(callbacks, auto_find_batch_size=True).train()
    told = read_training(tmp_path)
    assert told.run != short.failed[0] and told.status == "ended" and told.first_step == 0


@pytest.mark.parametrize("on_error", ["warn", "refuse", "raise"])
def test_a_directory_that_cannot_be_written_costs_no_training(make_sft, tmp_path, caplog, on_error):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "forget").write_text("a file in its place")
    trainer = make_sft([ForgetCallback(remote=True, output_dir=tmp_path / "own", on_error=on_error)])
    if on_error != "warn":
        with pytest.raises(OSError, match="forget"):
            trainer.train()
        assert trainer.state.global_step == 0
        return
    trainer.train()
    assert trainer.state.global_step == 6
    assert len(heard(caplog, "training.json cannot be written")) == 1
    assert len(heard(caplog, "no decision of the watcher is obeyed")) <= 1


def test_a_directory_that_is_gone_for_a_while_is_told_of_when_it_is_back(make_sft, tmp_path, caplog):
    class Gone(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                os.rename(tmp_path / "forget", tmp_path / "elsewhere")

    make_sft([Gone(), ForgetCallback(remote=True)]).train()
    assert read_training(tmp_path).status == "ended"


def test_without_any_checkpoint_it_says_that_there_is_nothing_to_score(make_sft, caplog):
    make_sft([ForgetCallback(remote=True)], max_steps=1).train()
    assert len(heard(caplog, "no checkpoint will be saved that a watcher could score")) == 1
    caplog.clear()
    make_sft([ForgetCallback(every=1, remote=True)], max_steps=1).train()
    make_sft([ForgetCallback(remote=True)], max_steps=1, save_strategy="steps").train()
    assert heard(caplog, "no checkpoint will be saved") == []


@pytest.mark.parametrize("on_error", ["warn", "refuse"])
def test_the_best_model_by_what_only_the_watcher_knows(make_sft, caplog, on_error):
    config = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    config |= {"load_best_model_at_end": True, "metric_for_best_model": "forget_facts_knowledge_lost"}
    trainer = make_sft([ForgetCallback(remote=True, on_error=on_error)], **config)
    if on_error == "refuse":
        with pytest.raises(ValueError, match="is not known while a training with remote=True runs"):
            trainer.train()
        return
    trainer.train()
    assert trainer.state.global_step == 6 and trainer.state.best_model_checkpoint is None
    (said,) = [record for record in caplog.records if "is not known while a training" in record.getMessage()]
    assert said.levelno == logging.ERROR


@pytest.mark.parametrize(
    "argument", [{"baseline": "base"}, {"max_overhead": 0.1}, {"scorer": lambda prompts, **_: [1.0]}]
)
def test_arguments_of_the_watcher_are_refused_with_the_way_to_go(argument):
    (name,) = argument
    with pytest.raises(ValueError, match=f"^{name}=.* has no effect with remote=True.*forget-callback watch"):
        ForgetCallback(**argument, remote=True)


def test_a_training_whose_directory_another_one_takes_says_so_and_writes_there_no_more(make_sft, tmp_path, caplog):
    class Other(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                told = read_training(tmp_path)
                (tmp_path / "forget" / "training.json").write_text(
                    (tmp_path / "forget" / "training.json").read_text().replace(told.run, "other")
                )

    make_sft([Other(), ForgetCallback(remote=True)], save_strategy="steps", save_steps=1).train()
    assert read_training(tmp_path).run == "other" and read_training(tmp_path).status == "training"
    assert len(heard(caplog, "another training, other, has begun")) == 1


def test_what_an_earlier_training_recorded_itself_is_set_aside_and_what_a_watcher_did_is_not(
    make_sft, probe, tmp_path, caplog
):
    make_sft([ForgetCallback(probe)], max_steps=1).train()
    before = Store(tmp_path).run.id
    make_sft([ForgetCallback(remote=True, on_error="raise")], max_steps=1).train()
    assert not Store(tmp_path).exists
    assert Recorded(tmp_path / "forget" / "set-aside" / "1").run.id == before
    assert len(heard(caplog, "held an earlier run")) == 1
    watched = Store(tmp_path)
    watched.start_run(RunState(), watched=True)
    make_sft([ForgetCallback(remote=True, on_error="raise")], max_steps=1).train()
    assert Store(tmp_path).run.id == watched.run_id


def test_one_that_was_added_too_late_leaves_the_record_of_the_watcher_alone(make_sft, probe, tmp_path):
    callback = ForgetCallback(probe)
    make_sft([callback], max_steps=1).train()
    before = (tmp_path / "forget" / "manifest.json").read_bytes()

    class Late(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 1:
                trainer.add_callback(ForgetCallback(remote=True))

    trainer = make_sft([Late()])
    trainer.train()
    assert (tmp_path / "forget" / "manifest.json").read_bytes() == before
