"""What goes wrong on other people's machines: training goes on, and what was measured is kept."""

import logging
import sys

import pandas as pd
import pytest
from transformers import TrainerCallback

from forget_callback import ForgetCallback, StopRule
from forget_callback.runs.store import Store
from forget_callback.scoring.engine import Scorer

from .conftest import weights_hash


def steps_of(callback):
    history = callback.history
    return history[history["category"] == ""]["step"].tolist()


def test_a_directory_that_cannot_be_written_costs_no_number(make_sft, probe, tmp_path, caplog):
    """A file stands where the folder should be: refused to root as well, unlike a mode."""
    (tmp_path / "occupied").write_text("")
    callback = ForgetCallback(probe, every=2, output_dir=tmp_path / "occupied")
    trainer = make_sft([callback])
    trainer.train()
    assert trainer.state.global_step == 6 and steps_of(callback) == [0, 2, 4, 6]
    assert "cannot be written, so nothing is kept on disk for now" in caplog.text
    assert "it is kept and written with the next one" in caplog.text


def test_a_disk_that_is_full_for_a_while_loses_nothing(make_sft, probe, tmp_path, caplog):
    """The folder of the snapshots is a file while steps 2 and 4 are taken."""
    folder = tmp_path / "forget" / "snapshots" / "mini"

    class Full(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 1:
                folder.rename(folder.with_name("aside"))
                folder.write_text("")
            if state.global_step == 5:
                folder.unlink()
                folder.with_name("aside").rename(folder)

    callback = ForgetCallback(probe, every=2, stop=StopRule("forgetting", 0.99, action="warn"))
    make_sft([Full(), callback]).train()
    assert steps_of(callback) == Store(tmp_path).steps("mini") == [0, 2, 4, 6]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "forget" / "history.parquet"), callback.history)
    assert caplog.text.count("could not be written") == 2


def test_a_disk_that_is_full_ends_the_run_if_that_was_asked_for(make_sft, probe, tmp_path):
    (tmp_path / "occupied").write_text("")
    with pytest.raises(OSError, match="occupied"):
        make_sft([ForgetCallback(probe, output_dir=tmp_path / "occupied", on_error="raise")]).train()


def test_an_interrupt_within_a_probe_ends_the_run_and_keeps_all_before(make_sft, probe, tmp_path, monkeypatch):
    """Ctrl-C is the user's, and no error of the probe."""
    model_modes, score, calls = [], Scorer.score, []

    def interrupted(scorer, model, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            handle = model.register_forward_pre_hook(_interrupt)
            try:
                return score(scorer, model, **kwargs)
            finally:
                handle.remove()
                model_modes.append(model.training)
        return score(scorer, model, **kwargs)

    monkeypatch.setattr(Scorer, "score", interrupted)
    callback = ForgetCallback(probe, every=2)
    trainer = make_sft([callback])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.state.global_step == 4 and model_modes == [True]
    assert Store(tmp_path).steps("mini") == [0, 2]
    assert not list((tmp_path / "forget").rglob("*.tmp"))


def _interrupt(*args):
    raise KeyboardInterrupt


@pytest.mark.parametrize("whose", ["scorer", "tokenizer"])
def test_other_peoples_code_that_would_end_the_process_costs_a_look_and_not_the_run(
    make_sft, probe, tokenizer, caplog, monkeypatch, whose
):
    looks = []

    def scorer(prompts, completions, **columns):
        if len(looks) == 2 and whose == "scorer":
            sys.exit(1)
        return [1.0] * len(prompts)

    def decode(*args, **kwargs):
        if len(looks) == 2 and whose == "tokenizer":
            sys.exit(1)
        return usual(*args, **kwargs)

    class Looks(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            looks[:] = range(state.global_step // 2 + 1)

    trainer = make_sft([Looks(), callback := ForgetCallback(probe, every=2, scorer=scorer)])
    usual = trainer.processing_class.decode
    monkeypatch.setattr(trainer.processing_class, "decode", decode)
    trainer.train()
    assert trainer.state.global_step == 6 and steps_of(callback) == [0, 2, 6]
    assert "(SystemExit: 1)" in caplog.text


@pytest.mark.parametrize("broken", [True, False])
def test_weights_that_become_nan_unscore_the_items_and_say_so_once(make_sft, probe, tmp_path, caplog, broken):
    class Breaks(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if broken and state.global_step == 3:
                model.lm_head.weight.data.fill_(float("nan"))

    callback = ForgetCallback(probe, every=2)
    with caplog.at_level(logging.WARNING, logger="forget_callback"):
        make_sft([Breaks(), callback]).train()
    assert steps_of(callback) == [0, 2, 4, 6]
    last = Store(tmp_path).read("mini", 6)
    assert (last.correct != last.correct).all() == broken
    said = [
        r.getMessage()
        for r in caplog.records
        if "6 of 6 items are not scored: " in r.getMessage() and "NaN" in r.getMessage()
    ]
    assert len(said) == (1 if broken else 0)


def test_the_same_weights_whatever_went_wrong(make_sft, probe, tmp_path):
    (tmp_path / "occupied").write_text("")
    models = []
    for callbacks in ([], [ForgetCallback(probe, every=1, output_dir=tmp_path / "occupied")]):
        trainer = make_sft(callbacks)
        trainer.train()
        models.append(weights_hash(trainer.model))
    assert models[0] == models[1]
