"""Training that starts again: it keeps its baseline where it had not ended, and is new with other weights."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from forget_callback import ForgetCallback, score_probe
from forget_callback.runs.store import Store

from .conftest import COMMON

pytestmark = pytest.mark.in_turn(2)


class Breaks(TrainerCallback):
    """Ends training by an error, once, before a step."""

    def __init__(self, step, error, times=1):
        self.step, self.error, self.times = step, error, times

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step and self.times:
            self.times -= 1
            raise self.error


def no_memory():
    return torch.OutOfMemoryError("CUDA out of memory.")


def table(callback):
    history = callback.history[callback.history["category"] == ""]
    return history[["step", "samples_seen"]].values.tolist()


def same(one, other):
    np.testing.assert_array_equal(one.margin, other.margin)


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize("times", [1, 2])
def test_a_smaller_batch_after_out_of_memory_keeps_the_baseline_and_the_samples(
    make_sft, tokenizer, probe, tmp_path, caplog, step, times
):
    """The Trainer starts again at step 0 with the weights as they are by then."""
    callback = ForgetCallback(probe, every=2, on_error="raise")
    trainer = make_sft([Breaks(step, no_memory(), times), callback], auto_find_batch_size=True)
    truth = score_probe(trainer.model, tokenizer, probe)
    trainer.train()
    rows, store = table(callback), Store(tmp_path)
    same(store.read("mini", 0), truth)
    before = 4 * step  # in batches of four
    before += 3 * step * (times - 1)  # then of three
    assert rows[0] == [0, 0] and rows[-1] == [trainer.state.global_step, before + 24]
    assert [at for at, _ in rows] == store.steps("mini")
    assert caplog.text.count("training starts again without having ended") == (times if step else 0)
    assert json.loads((tmp_path / "forget" / "manifest.json").read_text())["run"]["status"] == "ended"
    assert len(list((tmp_path / "forget").glob("set-aside/*"))) == (times if step else 0)


@pytest.mark.every_day
def test_train_that_is_called_again_after_an_interrupt_keeps_the_first_baseline(
    make_sft, tokenizer, probe, tmp_path, caplog
):
    callback = ForgetCallback(probe, every=2, on_error="raise")
    trainer = make_sft([Breaks(4, KeyboardInterrupt()), callback])
    truth = score_probe(trainer.model, tokenizer, probe)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert table(callback) == [[0, 0], [2, 8], [4, 16]]
    trainer.train()
    assert table(callback) == [[0, 0], [2, 24], [4, 32], [6, 40]]
    same(Store(tmp_path).read("mini", 0), truth)
    assert "for a new run, make a new trainer with the model as it was" in caplog.text
    after = score_probe(trainer.model, tokenizer, probe)
    trainer.train()  # that one ended: this is a run of its own
    assert table(callback) == [[0, 0], [2, 8], [4, 16], [6, 24]]
    same(Store(tmp_path).read("mini", 0), after)


@pytest.mark.parametrize("half_trained", [True, False])
def test_another_trainer_is_a_new_run(make_sft, make_model, tokenizer, probe, tmp_path, caplog, half_trained):
    callback = ForgetCallback(probe, every=3, on_error="raise")
    trainer = make_sft([Breaks(3, KeyboardInterrupt()), callback])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    model = trainer.model if half_trained else make_model(seed=2)
    start = score_probe(model, tokenizer, probe)
    make_sft([callback], model=model).train()
    assert table(callback) == [[0, 0], [3, 12], [6, 24]]
    same(Store(tmp_path).read("mini", 0), start)
    assert ("the model as it is now, and what was lost by then does not show" in caplog.text) == half_trained


@pytest.mark.parametrize("interrupted", [True, False])
def test_each_trial_of_a_search_is_a_run_of_its_own(make_model, tokenizer, probe, tmp_path, interrupted):
    """`model_init` makes new weights for each, also where a trial before was pruned."""
    callback, seeds = ForgetCallback(probe, every=3, on_error="raise"), iter([1, 1, 2])
    ids = [tokenizer.encode(f"{i} is the fox")[:4] for i in range(24)]
    trainer = Trainer(
        model_init=lambda trial=None: make_model(seed=next(seeds)),
        processing_class=tokenizer,
        args=TrainingArguments(str(tmp_path), per_device_train_batch_size=4, num_train_epochs=1, **COMMON),
        train_dataset=Dataset.from_list([{"input_ids": row, "labels": row} for row in ids]),
        callbacks=[Breaks(3, KeyboardInterrupt(), interrupted), callback],
    )
    with pytest.raises(KeyboardInterrupt) if interrupted else nullcontext():
        trainer.train()
    trainer.train()
    assert table(callback) == [[0, 0], [3, 12], [6, 24]]
    same(Store(tmp_path).read("mini", 0), score_probe(make_model(seed=2), tokenizer, probe))


@pytest.mark.every_day
def test_a_checkpoint_that_is_resumed_after_a_crash_counts_as_the_checkpoint_does(make_sft, probe, tmp_path):
    callback = ForgetCallback(probe, every=1, on_error="raise")
    trainer = make_sft([Breaks(3, KeyboardInterrupt()), callback], save_strategy="steps", save_steps=2)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train(resume_from_checkpoint=True)
    assert table(callback) == [[step, 4 * step] for step in range(7)]


def test_a_resumed_run_that_runs_out_of_memory_keeps_its_baseline_and_what_came_before(make_sft, probe, tmp_path):
    config = {"save_strategy": "steps", "save_steps": 2}
    make_sft([ForgetCallback(probe, every=1)], **config).train()
    start = Store(tmp_path).read("mini", 0)
    callback = ForgetCallback(probe, every=1, on_error="raise")
    trainer = make_sft([Breaks(4, no_memory()), callback], auto_find_batch_size=True, **config)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    rows = table(callback)
    assert rows[:3] == [[0, 0], [1, 4], [2, 8]]
    assert rows[3] == [3, 8 + 2 * 4 + 3]  # two steps of four before it broke off, then one of three
    same(Store(tmp_path).read("mini", 0), start)


def test_half_trained_weights_are_no_baseline_where_the_first_start_had_none(
    make_sft, make_model, tokenizer, probe, tmp_path, caplog
):
    """Its probe had no chat template at first: a baseline that is taken later would hide what was lost by then."""
    template, tokenizer.chat_template = tokenizer.chat_template, None
    chat = type(probe)("mini", probe.items, chat=True)

    class Mend(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            tokenizer.chat_template = template

    rows = [{"prompt": f"{i} is", "completion": f" {i}."} for i in range(24)]
    callback = ForgetCallback(chat, every=1)
    trainer = make_sft([Breaks(2, no_memory(), 2), Mend(), callback], rows=rows, auto_find_batch_size=True)
    trainer.train()
    assert callback.history.empty
    assert caplog.text.count("weights that an earlier start of it had trained") >= 2


@pytest.mark.parametrize("found", [True, False])
def test_the_trainer_is_known_again_by_its_arguments_where_it_cannot_be_found(make_sft, probe, found):
    class Around(TrainerCallback):
        def on_train_begin(self, *args, **kwargs):
            callback.on_train_begin(*args, **kwargs)

        def on_step_end(self, *args, **kwargs):
            callback.on_step_end(*args, **kwargs)

        def on_train_end(self, *args, **kwargs):
            callback.on_train_end(*args, **kwargs)

    callback = ForgetCallback(probe, every=3, on_error="raise")
    trainer = make_sft([Breaks(3, no_memory()), callback if found else Around()], auto_find_batch_size=True)
    trainer.train()
    assert table(callback)[0] == [0, 0] and table(callback)[-1][1] == 12 + 24


def test_a_stretch_that_was_trained_without_the_callback_is_estimated_and_said(make_sft, probe, tmp_path, caplog):
    """Steps 2 to 4 of a run that is watched before and after; its checkpoint keeps the counts of step 2."""
    config = {"save_strategy": "steps", "save_steps": 2}
    first = make_sft([Breaks(2, KeyboardInterrupt()), ForgetCallback(probe, every=2)], **config)
    with pytest.raises(KeyboardInterrupt):
        first.train()
    without = make_sft([Breaks(4, KeyboardInterrupt())], **config)
    with pytest.raises(KeyboardInterrupt):
        without.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    callback = ForgetCallback(probe, every=2, on_error="raise")
    make_sft([callback], **config).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert table(callback) == [[0, 0], [2, 8], [6, 24]]
    assert "steps 3 to 4 were trained without ForgetCallback" in caplog.text
    assert "estimated as 16, at 4 a step" in caplog.text


def test_a_training_whose_forward_passes_are_not_seen_has_no_samples_and_says_so(make_sft, probe, caplog):
    """Something that computes with the model's weights and calls none of its modules that count."""
    callback = ForgetCallback(probe, every=2)
    trainer = make_sft([callback])

    def loss(model, inputs, **kwargs):
        hidden = model.get_input_embeddings()(inputs["input_ids"])
        return model.lm_head(hidden).square().mean()

    trainer.compute_loss = loss
    trainer.train()
    rows = table(callback)
    assert rows[0] == [0, 0] and [step for step, _ in rows] == [0, 2, 4, 6]
    assert np.isnan([samples for _, samples in rows[1:]]).all()
    assert caplog.text.count("NOT MEASURED: samples and tokens.") == 1
