"""A watcher that stops a live training, killed twice on the way, and its curve in W&B."""

import re
from functools import partial

import pandas as pd
import pytest

from forget_callback import Store
from forget_callback.runs.remote import read_decision, read_training
from tests.forked import finish

from .test_wandb import records
from .test_watch import kill, probes, recorded, stay, train, wait_for, watch, world  # noqa: F401 - world is a fixture


@pytest.mark.in_turn(2)
def test_a_decision_of_a_watcher_that_was_killed_twice_ends_the_training(world, tmp_path, monkeypatch):  # noqa: F811
    for name in ("WANDB_DIR", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    words = ("--baseline", world / "in" / "start", "--stop", "churn>-1", "--patience", 60, "--wandb")
    training = train(tmp_path, world, "--callback", "remote", "--paused")
    first = watch(run, world, *words, before=partial(stay, "loads", tmp_path / "first", 2))
    wait_for((tmp_path / "first").exists)
    kill(first)
    second = watch(run, world, *words, before=partial(stay, "decides", tmp_path / "second", 1))
    wait_for((tmp_path / "second").exists)
    kill(second)  # it has the snapshot of step 2, and told nobody
    third = watch(run, world, *words)
    wait_for(recorded(run, 2))
    (tmp_path / "pass-2").touch()
    wait_for(lambda: (found := read_decision(run)) is not None and found.action == "stop")
    for step in (4, 5, 6):
        (tmp_path / f"pass-{step}").touch()
    assert finish(training) == 0, (tmp_path / "training.log").read_text()
    assert finish(third) == 0, (tmp_path / "watch.log").read_text()
    told, decision = read_training(run), read_decision(run)
    assert (told.status, told.step, told.max_steps) == ("stopped", 5, 6)
    assert (told.obeyed.step, decision.run, decision.step) == (4, told.run, 5)
    said = (tmp_path / "training.log").read_text()
    assert said.count("Forgetting: stopping") == 1 and "churn" in said
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4", "checkpoint-5"]
    store = Store(run)
    assert store.run.id == told.run and store.incomplete() == []
    history = pd.read_parquet(store.path / "history.parquet")
    assert sorted(set(history["step"])) == [0, 2, 4, 5]
    # Up to the stop it is the run of the callback that did not stop.
    own = pd.read_parquet(world / "in" / "own" / "forget" / "history.parquet")
    pd.testing.assert_frame_equal(*(one[one["step"] <= 4].reset_index(drop=True) for one in (history, own)))
    # The directory that is said last holds the whole curve.
    said = re.findall("the whole curve is in (.*);", (tmp_path / "watch.log").read_text())
    assert len(said) == len(set(said)) == len(list(run.glob("wandb/offline-run-*"))) == 3
    rows = [record["history"]["item"] for record in records(said[-1]) if record["type"] == "history"]
    curve = {row["forget/step"]: row["forget/all/accuracy_after"] for row in rows}
    whole = history[(history["probe"] == "all") & (history["category"] == "")]
    assert curve == pytest.approx(dict(zip(whole["step"], whole["accuracy_after"])))
