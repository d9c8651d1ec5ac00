"""The two files between a training and its watcher: what was written is read back, and damage is named."""

import json
import math

import pytest

from forget_callback import StopRule
from forget_callback.runs.remote import (
    Decision,
    RemoteTraining,
    read_decision,
    read_training,
    write_decision,
    write_training,
)
from forget_callback.runs.training import Training

DECISION = Decision("a1", 30, "stop", True, ("lost: 12%\n\x1b[2J", "é"), "knowledge_lost > 0.05")
TRAINING = RemoteTraining(
    run="a1",
    status="stopped",
    step=31,
    max_steps=100,
    first_step=20,
    probes=("builtin:facts", "mine.jsonl?chat=true"),
    stop=(StopRule("knowledge_lost", 0.05), StopRule("churn", 0.5, confidence=None, patience=3, action="warn")),
    upload="none",
    wandb={"entity": "us", "project": "p", "id": "x1", "mode": "shared"},
    training=Training(model="org/small", learning_rate=1e-5),
    obeyed=DECISION,
    said=("é",),
)


def test_both_files_are_read_back_as_they_were_written(tmp_path):
    assert read_decision(tmp_path) is None and read_training(tmp_path / "none") is None
    write_decision(tmp_path, DECISION)
    write_training(tmp_path / "forget", TRAINING)
    assert read_decision(tmp_path / "forget") == read_decision(tmp_path) == DECISION
    assert read_training(tmp_path) == TRAINING
    assert sorted(path.name for path in (tmp_path / "forget").iterdir()) == ["decision.json", "training.json"]
    # What a watcher of one's own writes and reads.
    plain = json.loads((tmp_path / "forget" / "decision.json").read_text(encoding="utf-8"))
    assert plain == {
        "format_version": 1,
        "run": "a1",
        "step": 30,
        "action": "stop",
        "checkpoint": True,
        "alerts": ["lost: 12%\n\x1b[2J", "é"],
        "reason": "knowledge_lost > 0.05",
    }
    plain = json.loads((tmp_path / "forget" / "training.json").read_text(encoding="utf-8"))
    assert {key: plain[key] for key in ("format_version", "run", "status", "step", "max_steps")} == {
        "format_version": 1,
        "run": "a1",
        "status": "stopped",
        "step": 31,
        "max_steps": 100,
    }


def test_what_a_watcher_of_ones_own_leaves_out_has_its_default(tmp_path):
    (tmp_path / "forget").mkdir()
    (tmp_path / "forget" / "decision.json").write_text('{"format_version": 1, "run": null, "step": 3}')
    assert read_decision(tmp_path) == Decision(None, 3, "continue", False, (), "")


FINE = {"format_version": 1, "run": "a1", "step": 3}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        json.dumps(FINE)[:-1],
        "[" * 100_000,
        "\ufffe",
        json.dumps({"run": "a1", "step": 3}),
        json.dumps({"format_version": 1, "step": 3}),
        *(
            json.dumps({**FINE, **wrong})
            for wrong in (
                {"format_version": 2},
                {"format_version": True},
                {"run": 3},
                {"run": "../a"},
                {"step": -1},
                {"step": 1.5},
                {"step": True},
                {"action": "STOP"},
                {"action": ["stop"]},
                {"checkpoint": 1},
                {"alerts": "lost"},
                {"alerts": [1]},
                {"reason": None},
                {"stop": True},
            )
        ),
    ],
)
def test_a_damaged_decision_is_an_error_that_names_the_file(tmp_path, text):
    file = tmp_path / "forget" / "decision.json"
    file.parent.mkdir()
    file.write_text(text, encoding="utf-16" if text == "\ufffe" else "utf-8")
    with pytest.raises(ValueError, match=r"decision\.json is damaged: ") as error:
        read_decision(tmp_path)
    assert str(file) in str(error.value) and len(str(error.value)) < len(str(file)) + 400


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "paused"},
        {"step": None},
        {"wandb": {"id": 3}},
        {"wandb": []},
        {"stop": ["knowledge_lost>0.05"]},
        {"stop": [{"metric": "nothing", "above": 1}]},
        {"stop": [{"above": 1}]},
        {"training": {"model": 3}},
        {"obeyed": {"step": 3}},
        {"obeyed": []},
        {"probes": "builtin:facts"},
        {"log": math.pi},
    ],
)
def test_a_damaged_training_is_an_error_that_names_the_file(tmp_path, wrong):
    write_training(tmp_path, TRAINING)
    file = tmp_path / "forget" / "training.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **wrong}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"training\.json is damaged: "):
        read_training(tmp_path)
