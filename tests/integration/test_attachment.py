"""How the callback gets into a trainer: every way gives the same, and every odd use works or is refused in one line.

What each tracker gets is in test_wandb.py, what vLLM generates in test_vllm.py.
"""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
from transformers import EarlyStoppingCallback, TrainerCallback

from forget_callback import ForgetCallback, Probe
from forget_callback.runs.store import Store

pytestmark = pytest.mark.in_turn(0)


def steps(callback):
    history = callback.history
    return history[history["category"] == ""]["step"].tolist()


class At(TrainerCallback):
    """Does something once, at the end of a step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.act()


class Around(TrainerCallback):
    """Passes the events of a trainer on, so that the trainer does not have the callback inside."""

    def __init__(self, inside):
        self.inside = inside

    def on_train_begin(self, *args, **kwargs):
        self.inside.on_train_begin(*args, **kwargs)

    def on_step_end(self, *args, **kwargs):
        self.inside.on_step_end(*args, **kwargs)

    def on_train_end(self, *args, **kwargs):
        self.inside.on_train_end(*args, **kwargs)


def early():
    return EarlyStoppingCallback(early_stopping_patience=1)


EARLY = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3}
EARLY |= {"load_best_model_at_end": True, "metric_for_best_model": "forget_mini_drift", "greater_is_better": False}

WAYS = {
    "callbacks": lambda make, callback, **config: make([early(), callback], **config),
    "add_callback": lambda make, callback, **config: _added(make([early()], **config), callback),
    "attach": lambda make, callback, **config: _attached(make([early()], **config), callback),
    "both": lambda make, callback, **config: _attached(make([early(), callback, callback], **config), callback),
}


def _added(trainer, callback):
    trainer.add_callback(callback)
    return trainer


def _attached(trainer, callback):
    callback.attach(trainer)
    return trainer


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same(make_sft, probe, way):
    """Every event once, before early stopping, in the log history, and the trainer's own callbacks in their order."""
    callback = ForgetCallback(probe, on_error="raise")
    trainer = WAYS[way](make_sft, callback, **EARLY)
    before = [type(one) for one in make_sft([early()], **EARLY).callback_handler.callbacks]
    trainer.train()
    assert steps(callback) == [0, 3, 6]
    callbacks = trainer.callback_handler.callbacks
    assert callbacks.count(callback) == 1
    assert callbacks.index(callback) < [type(one) for one in callbacks].index(EarlyStoppingCallback)
    assert [type(one) for one in callbacks if type(one) in before] == before
    assert [row["step"] for row in trainer.state.log_history if "forget/mini/knowledge_lost" in row] == [0, 3, 6]
    assert trainer.state.best_metric is not None


@pytest.mark.every_day
def test_every_other_callback_gets_each_event_once(make_sft, probe):
    events = []

    class Counting(TrainerCallback):
        def on_init_end(self, *args, **kwargs):
            events.append("init")

        def on_train_begin(self, *args, **kwargs):
            events.append("begin")

    trainer = make_sft([Counting(), early(), ForgetCallback(probe), Counting()], **EARLY)
    trainer.add_callback(Counting())
    trainer.train()
    assert events == ["init"] * 2 + ["begin"] * 3


def test_one_callback_in_two_trainers_that_are_both_there(make_sft, probe, tmp_path):
    """Each training is a run of its own, whichever trainer was made last."""
    callback = ForgetCallback(probe, every=3, on_error="raise")
    outs = [tmp_path / "one", tmp_path / "two"]
    trainers = [make_sft([callback], output_dir=str(out)) for out in outs]
    for trainer, out in zip(trainers, outs):
        trainer.train()
        assert Store(out).steps("mini") == steps(callback) == [0, 3, 6]
    for trainer in trainers:
        assert sum("forget/step" in row for row in trainer.state.log_history) == 3


def test_one_callback_in_a_trainer_that_trains_inside_another(make_sft, probe, tmp_path, caplog):
    callback = ForgetCallback(probe, every=2)
    inner = make_sft([callback], output_dir=str(tmp_path / "inner"))
    outer = make_sft([At(3, inner.train), callback], output_dir=str(tmp_path / "outer"))
    outer.train()
    assert steps(callback) == Store(tmp_path / "outer").steps("mini") == [0, 2, 4, 6]
    assert inner.state.global_step == 6 and Store(tmp_path / "inner").run.status == "unwatched"
    assert caplog.text.count("no forgetting will be measured in this run: ValueError") == 1
    assert "give each trainer a ForgetCallback of its own" in caplog.text


def test_a_crashed_training_does_not_keep_the_callback(make_sft, probe):
    def crash():
        raise KeyboardInterrupt

    callback = ForgetCallback(probe, every=3, on_error="raise")
    with pytest.raises(KeyboardInterrupt):
        make_sft([callback, At(4, crash)]).train()
    assert steps(callback) == [0, 3]
    make_sft([callback]).train()
    assert steps(callback) == [0, 3, 6]


def test_two_callbacks_in_one_trainer_are_refused(make_sft, probe, caplog):
    one, two = ForgetCallback(probe, every=3), ForgetCallback(Probe("other", probe.items[:3]), every=2)
    with pytest.raises(ValueError, match=r"give one of them all probes, ForgetCallback\(\[probe, other\]\)"):
        make_sft([one, two])
    trainer = make_sft([one])
    with pytest.raises(ValueError, match="the trainer has a ForgetCallback already"):
        two.attach(trainer)
    trainer.add_callback(two)
    trainer.train()
    assert steps(one) == [0, 3, 6] and two.history.empty
    assert (
        caplog.text.count(
            "no forgetting will be measured in this run: ValueError: the trainer has a ForgetCallback already"
        )
        == 1
    )


@pytest.mark.every_day
def test_training_twice_gives_two_runs(make_sft, probe, tmp_path):
    callback = ForgetCallback(probe, every=3, on_error="raise")
    trainer = make_sft([callback], learning_rate=5e-2)
    trainer.train()
    first = Store(tmp_path).read("mini", 6)
    trainer.train()
    assert steps(callback) == [0, 3, 6]
    start = Store(tmp_path).read("mini", 0)  # the second run starts where the first ended
    np.testing.assert_array_equal(start.margin, first.margin)
    assert start.samples_seen == 0
    kept = tmp_path / "forget" / "set-aside" / "1" / "snapshots" / "mini"
    assert len(list(kept.iterdir())) == 3


@pytest.mark.parametrize("way", ["add_callback", "attach"])
def test_a_callback_that_is_added_while_training_runs_says_that_it_is_too_late(make_sft, probe, tmp_path, caplog, way):
    callback = ForgetCallback(probe, every=1)
    trainer = make_sft([], eval_strategy="steps", eval_steps=2)
    add = trainer.add_callback if way == "add_callback" else lambda callback: callback.attach(trainer)
    trainer.add_callback(At(2, lambda: add(callback)))
    trainer.train()
    assert trainer.state.global_step == 6
    assert callback.history.empty and Store(tmp_path).run.status == "unwatched"
    assert caplog.text.count("no forgetting will be measured in this run") == 1
    assert "too late for a baseline; pass it in the Trainer's callbacks=, or add it before train()" in caplog.text
    trainer.train()  # the next training has a start
    assert steps(callback) == [0, 1, 2, 3, 4, 5, 6]


def test_too_late_is_an_error_for_those_who_want_errors(make_sft, probe):
    trainer = make_sft([])
    callback = ForgetCallback(probe, every=1, on_error="raise")
    trainer.add_callback(At(2, lambda: trainer.add_callback(callback)))
    with pytest.raises(ValueError, match=r"added at step [23], after training had started"):
        trainer.train()


def test_where_the_trainer_cannot_be_found_one_line_says_what_is_missing(make_sft, probe, caplog):
    callback = ForgetCallback(probe, every=3, on_error="raise")
    trainer = make_sft([Around(callback)])
    trainer.train()
    assert steps(callback) == [0, 3, 6]
    lines = [record.getMessage() for record in caplog.records if "could not find the trainer" in record.getMessage()]
    assert len(lines) == 1
    assert "pass it to the trainer itself: callbacks=[ForgetCallback(...)]" in lines[0]
    assert not any("forget/step" in row for row in trainer.state.log_history)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_has_the_arguments_and_a_run_of_its_own(make_sft, probe, tmp_path, trained, duplicate):
    """As Ray makes them for each trial of a hyperparameter search."""
    callback = ForgetCallback(probe, every=3, stop="drift>1e9", output_dir=tmp_path / "first", on_error="raise")
    trainer = make_sft([callback])
    if trained:
        trainer.train()
    twin = duplicate(callback)
    assert twin.settings == callback.settings
    assert twin.history.empty and twin.monitor is None and twin.last_step is None
    make_sft([twin]).train()
    assert steps(twin) == [0, 3, 6]
    assert steps(callback) == ([0, 3, 6] if trained else [])


def test_a_callback_that_is_kept_does_not_keep_the_model(make_sft, probe):
    """Its history is what people keep; a model of 8B parameters must not hang on it."""
    callback = ForgetCallback(probe, every=3, on_error="raise")
    alive = []

    def train():
        trainer = make_sft([callback])
        alive.extend([weakref.ref(trainer), weakref.ref(trainer.model)])
        trainer.train()
        del trainer
        gc.collect()
        assert [one() for one in alive] == [None, None]

    train()
    assert steps(callback) == [0, 3, 6]
