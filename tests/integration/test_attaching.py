"""What `forget-callback run` does within a command: a trainer gets the callback that its script does not name.

The placeholder is put where the import hook puts it, in this process; test_run.py does all of it for real.
"""

import contextlib
import json

import pandas as pd
import pytest
import torch
import transformers.trainer
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    BertConfig,
    BertForMaskedLM,
    EarlyStoppingCallback,
    Qwen2ForSequenceClassification,
    Qwen2Model,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback
from trl import RewardConfig, RewardTrainer

from forget_callback import ForgetCallback
from forget_callback.probes.records import item_record
from forget_callback.tools import attach
from forget_callback.tools.hook import sitecustomize
from forget_callback.training.baseline import Baseline
from tests.integration.conftest import COMMON, weights_hash

pytestmark = pytest.mark.in_turn(1)

EARLY = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3}
EARLY |= {"metric_for_best_model": "forget_mini_drift", "greater_is_better": False}


@pytest.fixture
def arguments(probe, tmp_path):
    """Of the callback, with the probe as a file."""
    file = tmp_path / "mini.jsonl"
    file.write_text("".join(json.dumps(item_record(item)) + "\n" for item in probe.items))
    return {"probes": [str(file)], "every": 3, "on_error": "raise"}


@pytest.fixture
def below_run(arguments, tmp_path, monkeypatch):
    """As in a process below `forget-callback run`; gives what was reported, in order."""
    reports = tmp_path / "reports"
    reports.mkdir()
    monkeypatch.setenv("FORGET_CALLBACK", json.dumps(arguments))
    monkeypatch.setenv("FORGET_CALLBACK_REPORTS", str(reports))
    monkeypatch.setattr(transformers.trainer, "DEFAULT_CALLBACKS", [*transformers.trainer.DEFAULT_CALLBACKS])
    # as they were, afterwards
    monkeypatch.setattr(transformers.Trainer, "__init__", transformers.Trainer.__init__)
    monkeypatch.setattr(CallbackHandler, "on_train_begin", CallbackHandler.on_train_begin)
    monkeypatch.setattr(CallbackHandler, "on_train_end", CallbackHandler.on_train_end)
    for _ in range(2):
        sitecustomize.add_to(transformers.trainer)
    return lambda: [json.loads(path.read_text()) for path in sorted(reports.iterdir())]


def watching(trainer):
    return [one for one in trainer.callback_handler.callbacks if isinstance(one, ForgetCallback)]


def kinds(trainer):
    return [type(one).__name__ for one in trainer.callback_handler.callbacks]


def trained(make, way, out, others=(), **config):
    trainer = make([*others], output_dir=str(out / way), **config)
    trainer.train()
    return trainer


@pytest.mark.every_day
@pytest.mark.parametrize("method", ["SFT with early stopping", "GRPO"])
def test_it_is_what_callbacks_would_make_of_it(make_sft, make_grpo, arguments, tmp_path, request, capsys, method):
    """Same place, snapshots, history and log, and the weights of neither."""
    make, config = (make_grpo, {}) if method == "GRPO" else (make_sft, EARLY if "early" in method else {})
    others = [EarlyStoppingCallback(early_stopping_patience=5)] * ("early" in method)
    bare = {name: value for name, value in config.items() if name != "metric_for_best_model"}
    found = {"neither": trained(make, "neither", tmp_path, **bare)}
    own = ForgetCallback(arguments["probes"], every=3, on_error="raise")
    found["code"] = trained(make, "code", tmp_path, [*others, own], **config)
    reports = request.getfixturevalue("below_run")
    found["run"] = trained(make, "run", tmp_path, others, **config)
    assert kinds(found["code"]) == kinds(found["run"])
    assert len({weights_hash(trainer.model) for trainer in found.values()}) == 1
    files = sorted((tmp_path / "code" / "forget" / "snapshots").rglob("*.parquet"))
    assert len(files) > 1
    for file in files:
        other = tmp_path / "run" / file.relative_to(tmp_path / "code")
        pd.testing.assert_frame_equal(pd.read_parquet(file), pd.read_parquet(other))
    code, run = found["code"], found["run"]
    pd.testing.assert_frame_equal(watching(run)[0].history, own.history)
    assert [sorted(row) for row in run.state.log_history] == [sorted(row) for row in code.state.log_history]
    name = type(run).__name__
    assert [(one["found"], one["trainer"]) for one in reports()] == [("attached", name), ("watched", name)]
    assert capsys.readouterr().err.count(f"forget-callback run: watches {type(run).__name__}") == 1


def test_every_other_callback_gets_its_events_once(make_sft, below_run):
    events = []

    class Counting(TrainerCallback):
        def on_init_end(self, *args, **kwargs):
            events.append("init")

        def on_train_begin(self, *args, **kwargs):
            events.append("begin")

    make_sft([Counting(), Counting()], max_steps=1).train()
    assert events == ["init"] * 2 + ["begin"] * 2


def test_one_attachment_where_a_trainer_is_built_twice_over(make_sft, below_run, monkeypatch):
    """Some subclasses call `super().__init__` again, and the second call makes new callbacks."""
    build = Trainer.__init__

    def twice(self, *args, **kwargs):
        build(self, *args, **kwargs)
        build(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "__init__", twice)
    trainer = make_sft([], max_steps=1)
    assert len(watching(trainer)) == 1
    trainer.train()
    assert watching(trainer)[0].last_step == 1
    assert [one["found"] for one in below_run()] == ["attached", "watched"]


def test_trainers_one_after_another_are_runs_of_their_own(make_sft, below_run, tmp_path):
    """Also in the same place: what the first one left there is set aside."""
    for _ in range(2):
        trainer = make_sft([], output_dir=str(tmp_path / "out"), max_steps=3)
        trainer.train()
        assert watching(trainer)[0].history["step"].unique().tolist() == [0, 3]
    assert [path.name for path in (tmp_path / "out" / "forget" / "set-aside").iterdir()] == ["1"]
    assert [one["found"] for one in below_run()] == ["attached", "watched"] * 2


WAYS = {
    "callbacks": lambda make, own: make([own], max_steps=2),
    "add_callback": lambda make, own: _added(make([], max_steps=2), own),
    "attach": lambda make, own: _attached(make([], max_steps=2), own),
}


def _added(trainer, callback):
    trainer.add_callback(callback)
    return trainer


def _attached(trainer, callback):
    callback.attach(trainer)
    return trainer


@pytest.mark.parametrize("way", WAYS)
def test_a_callback_of_the_scripts_own_stays_alone(make_sft, probe, below_run, capsys, caplog, way):
    """Whenever it comes: the one of `run` gives way, and neither training nor the script's callback notices."""
    own = ForgetCallback(probe, every=1, on_error="raise")
    trainer = WAYS[way](make_sft, own)
    trainer.train()
    assert watching(trainer) == [own]
    assert own.history["step"].unique().tolist() == [0, 1, 2]
    assert "NOT WATCHED" not in caplog.text
    said = capsys.readouterr().err
    assert below_run()[-1]["found"] == "watched"
    if way == "callbacks":
        assert "leaves out SFTTrainer: it has a ForgetCallback of its own, which stays" in said
        assert [one["found"] for one in below_run()] == ["left out", "watched"]


OTHERS = {
    "a reward model or classifier": lambda config: Qwen2ForSequenceClassification(config),
    "a masked language model": lambda config: BertForMaskedLM(BertConfig(vocab_size=config.vocab_size, **SMALL)),
    "an encoder-decoder model": lambda config: T5ForConditionalGeneration(T5Config(vocab_size=config.vocab_size, **T5)),
    "Qwen2Model, which does not generate": lambda config: Qwen2Model(config),
}
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


@pytest.mark.parametrize("what", OTHERS)
def test_a_model_that_is_no_causal_language_model_is_left_out(
    make_model, below_run, tmp_path, capsys, monkeypatch, what
):
    """Also where watching is required: that is about trainers that can be watched."""
    monkeypatch.setenv("FORGET_CALLBACK_REQUIRE", "1")
    args = TrainingArguments(output_dir=str(tmp_path), **COMMON)
    trainer = Trainer(OTHERS[what](make_model().config), args)
    assert watching(trainer) == []
    assert "Placeholder" not in "".join(kinds(trainer))
    assert "forget-callback run: leaves out Trainer: it trains no causal language model but" in capsys.readouterr().err
    assert [(one["found"], what in one["why"]) for one in below_run()] == [("left out", True)]


def test_a_reward_trainer_trains_as_ever(make_model, tokenizer, below_run, tmp_path, monkeypatch):
    monkeypatch.setenv("FORGET_CALLBACK_REQUIRE", "1")
    pairs = Dataset.from_list([{"chosen": f"{i} is the fox", "rejected": f"{i} is not"} for i in range(8)])
    model = Qwen2ForSequenceClassification(make_model().config)
    model.config.num_labels = 1
    model.score = torch.nn.Linear(model.config.hidden_size, 1, bias=False)
    args = RewardConfig(output_dir=str(tmp_path), max_steps=1, **COMMON)
    trainer = RewardTrainer(model=model, processing_class=tokenizer, args=args, train_dataset=pairs)
    trainer.train()
    assert (trainer.state.global_step, watching(trainer)) == (1, [])
    assert [one["found"] for one in below_run()] == ["left out"]


def test_a_model_with_an_adapter_is_what_is_inside(make_grpo, below_run):
    trainer = make_grpo([], peft_config=LoraConfig(target_modules=["q_proj"]))
    assert len(watching(trainer)) == 1


BROKEN = {
    "a probe that is gone": ({"probes": ["gone.jsonl"]}, "gone.jsonl"),
    "an unknown key": ({"evry": 3}, "unknown key 'evry'; did you mean 'every'?"),
    "a bad value": ({"every": 0}, "every must be"),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("required", [False, True])
def test_what_cannot_be_attached_is_said_at_once(make_sft, below_run, monkeypatch, capsys, what, required):
    given, said = BROKEN[what]
    monkeypatch.setenv("FORGET_CALLBACK", json.dumps(given))
    if required:
        monkeypatch.setenv("FORGET_CALLBACK_REQUIRE", "1")
        with pytest.raises(SystemExit) as ended:
            make_sft([])
        assert ended.value.code == 2
    else:
        trainer = make_sft([], max_steps=1)
        assert (watching(trainer), "Placeholder" in "".join(kinds(trainer))) == ([], False)
        trainer.train()
        assert trainer.state.global_step == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "NOT ATTACHED" in line]
    assert len(lines) == 1
    assert lines[0].startswith("forget-callback run: NOT ATTACHED to SFTTrainer, no forgetting will be measured: ")
    assert said in lines[0]
    assert [(one["found"], one["rank"]) for one in below_run()] == [("failed", 0)]


def _in_place(trainer):
    trainer.callback_handler.callbacks = [DefaultFlowCallback()]


def _another_handler(trainer):
    before = trainer.callback_handler
    more = (trainer.model, trainer.processing_class, trainer.optimizer, trainer.lr_scheduler)
    trainer.callback_handler = CallbackHandler([one for one in before.callbacks if one not in watching(trainer)], *more)


def _removed(trainer):
    trainer.remove_callback(ForgetCallback)


class _Removing(TrainerCallback):
    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_begin(self, *args, **kwargs):
        self.trainer.remove_callback(ForgetCallback)


def _while_it_trains(trainer):
    trainer.add_callback(_Removing(trainer))


LOST = {
    "other callbacks in their place": (_in_place, "it has no ForgetCallback any more"),
    "another handler": (_another_handler, "it has no ForgetCallback any more"),
    "removed": (_removed, "it has no ForgetCallback any more"),
    "removed while it trains": (_while_it_trains, "it has no ForgetCallback any more, at the end in step 2"),
}


@pytest.mark.every_day
@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("what", LOST)
def test_a_training_that_lost_its_callback_is_not_watched(make_sft, below_run, monkeypatch, capsys, what, required):
    """Whatever the script did after the Trainer was built. It trains as ever, unless watching is required."""
    lose, why = LOST[what]
    if required:
        monkeypatch.setenv("FORGET_CALLBACK_REQUIRE", "1")
    trainer = make_sft([], max_steps=2)
    lose(trainer)
    early = "while" not in what
    with pytest.raises(SystemExit) if required and early else contextlib.nullcontext() as ended:
        trainer.train()
    assert trainer.state.global_step == (0 if required and early else 2)
    assert ended is None or ended.value.code == 2
    reports = below_run()
    assert [one["found"] for one in reports] == ["attached", *([] if early else ["watched"]), "unwatched"]
    assert reports[-1]["why"] == why
    said = f"forget-callback run: NOT WATCHED, no forgetting is measured in the training of SFTTrainer: {why}\n"
    assert capsys.readouterr().err.count(said) == 1


def test_a_training_that_listens_to_a_watcher_is_watched(make_sft, arguments, request, capsys):
    arguments |= {"remote": True}
    below_run = request.getfixturevalue("below_run")
    make_sft([], max_steps=1).train()
    assert [one["found"] for one in below_run()] == ["attached", "watched"]
    assert "forget-callback run: has SFTTrainer listen to forget-callback watch\n" in capsys.readouterr().err


def test_each_machine_of_a_training_reports_to_the_command_that_was_started_there(
    make_sft, below_run, monkeypatch, capsys
):
    """The main rank is on one of them, and `run --require` on the others would find that nothing was watched."""
    monkeypatch.setattr(attach, "rank", lambda: 8)
    trainer = make_sft([], max_steps=1)
    assert below_run() == []
    monkeypatch.setenv("LOCAL_RANK", "0")  # the first one of its machine
    trainer.train()
    assert [(one["found"], one["rank"]) for one in below_run()] == [("watched", 8)]
    assert "forget-callback run" not in capsys.readouterr().err


def test_a_baseline_that_fails_is_a_training_that_is_not_watched(make_sft, arguments, request, monkeypatch):
    """The callback says why, and training goes on; one that is only built is none that is not watched."""
    arguments |= {"on_error": "warn"}
    below_run = request.getfixturevalue("below_run")
    make_sft([], max_steps=2)
    monkeypatch.setattr(Baseline, "score", lambda *args, **more: 1 / 0)
    trainer = make_sft([], max_steps=2)
    trainer.train()
    assert trainer.state.global_step == 2
    reports = below_run()
    assert [one["found"] for one in reports] == ["attached", "attached", "unwatched"]
    assert reports[-1]["why"] == "ZeroDivisionError: division by zero"
