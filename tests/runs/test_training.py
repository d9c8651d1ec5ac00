"""What the manifest tells of a training, and how it is said."""

import json
import math

import pytest

from forget_callback import ForgetMonitor, MultipleChoice, Probe, Snapshot, Store
from forget_callback.runs.manifest import RunState
from forget_callback.runs.training import Training, differences, short_name

PROBE = Probe("p", [MultipleChoice("m", "p?", [" a", " b"], 0)])
WHOLE = Training("org/small", "lora", 16, "org/quiz", 300, "0f", "SFTTrainer", 3e-4, "linear", 4, 3.0, "float32", 1)


def test_it_comes_back_from_disk_as_it_was_written(tmp_path):
    store = Store(tmp_path)
    assert store.training == Training()
    store.start_run(RunState(status="training"), WHOLE)
    store.begin([PROBE])
    store.set_run(status="ended")
    assert Store(tmp_path).training == WHOLE
    part = json.loads((store.path / "manifest.json").read_text())["training"]
    assert (part["model"], part["data"], part["trainer"]) == ("org/small", "org/quiz", "SFTTrainer")
    assert (part["learning_rate"], part["batch_size"], part["metric_for_best_model"]) == (3e-4, 4, None)


def test_a_run_that_continues_keeps_its_first_model_and_what_is_no_longer_known(tmp_path):
    store = Store(tmp_path)
    store.start_run(RunState(), WHOLE)
    store.write_training(Training(model="out/checkpoint-5", learning_rate=1e-4, batch_size=8))
    now = store.training
    assert (now.model, now.learning_rate, now.batch_size) == ("org/small", 1e-4, 8)
    assert (now.data, now.rows, now.trainer, now.rank) == ("org/quiz", 300, "SFTTrainer", 16)


def test_ones_own_loop_says_what_it_trains(tmp_path):
    monitor = ForgetMonitor(PROBE, tmp_path, training={"model": "org/small", "learning_rate": 1})
    monitor.observe(0, Snapshot("p", PROBE.fingerprint, 0, ids=["m"], correct=[1]))
    assert monitor.store.training == Training(model="org/small", learning_rate=1)
    with pytest.raises(ValueError, match=r"'training' must be an object of model, method, .*, got {'modle': 'x'}"):
        ForgetMonitor(PROBE, tmp_path / "other", training={"modle": "x"})


@pytest.mark.parametrize(
    "part, said",
    [
        ([], "'training' must be an object of model, "),
        ({"who": "x"}, "'training' must be an object of model, "),
        ({"model": 3}, "'training.model' must be of type str, or null, got 3"),
        ({"rows": 3.0}, "'training.rows' must be of type int, or null, got 3.0"),
        ({"rows": True}, "'training.rows' must be of type int, or null, got True"),
        ({"learning_rate": "3e-4"}, "'training.learning_rate' must be of type float, or null, got '3e-4'"),
        ({"learning_rate": math.inf}, "'training.learning_rate' must be of type float, or null, got inf"),
    ],
)
def test_a_manifest_that_was_changed_by_hand_is_named(tmp_path, part, said):
    store = Store(tmp_path)
    store.begin([PROBE])
    path = store.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "training": part}))
    with pytest.raises(ValueError, match=r"manifest\.json is damaged: ") as caught:
        Store(tmp_path).manifest()
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "training, sentence",
    [
        (Training(), ""),
        (
            WHOLE,
            "org/small with LoRA of rank 16, SFTTrainer on org/quiz (300 rows), learning rate 3e-4, 4 samples a step",
        ),
        (Training(model="/models/small-1b", method="full"), "small-1b"),
        (Training(model="small", method="partial"), "small with some weights frozen"),
        (Training(data="/data/quiz"), "on quiz"),
        (Training(trainer="GRPOTrainer"), "GRPOTrainer"),
        (Training(trainer="GRPOTrainer", rows=1200), "GRPOTrainer on 1,200 rows"),
        (Training(learning_rate=2.5e-5, batch_size=1), "learning rate 2.5e-5, 1 sample a step"),
        (Training(learning_rate=0.0), "learning rate 0"),
        (Training(model="evil\x1b[2J"), "evil\\x1b[2J"),
    ],
)
def test_it_is_said_in_one_line(training, sentence):
    assert training.sentence == sentence


@pytest.mark.parametrize(
    "name, short",
    [
        ("org/name", "org/name"),
        ("name", "name"),
        ("./name/", "name"),
        ("C:\\models\\name", "name"),
        ("/home/me/.cache/huggingface/hub/models--org--a--name/snapshots/0f0f", "org/a--name"),
        ("/runs/quiz/checkpoint-100", "quiz/checkpoint-100"),
    ],
)
def test_paths_are_shown_without_the_folders_that_say_nothing(name, short):
    assert short_name(name) == short


def test_of_several_runs_what_differs_stands_apart():
    other = Training("org/small", "full", None, "org/quiz", 300, "0f", "SFTTrainer", 1e-5, "linear", 4, 3.0, None, 1)
    differ, same = differences([WHOLE, other])
    assert differ == [
        ("method", ["LoRA of rank 16", "all weights"]),
        ("learning rate", ["3e-4", "1e-5"]),
        ("precision", ["float32", ""]),
    ]
    assert ("model", "org/small") in same and {label for label, _ in same}.isdisjoint(label for label, _ in differ)
    assert differences([Training(), Training()]) == ([], [])
