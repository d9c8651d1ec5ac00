"""`watch` beside a training: item by item the history that the callback records in it, whatever happens meanwhile."""

import datetime
import importlib
import json
import shutil
import time
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forget_callback import Generation, MultipleChoice, Recall, Store
from forget_callback.probes.records import item_record
from forget_callback.runs.remote import read_decision
from tests.forked import finish, start

SCRIPT = Path(__file__).with_name("watched_script.py")
QUICK = ("--interval", 0.1, "--patience", 2)
STEPS = [0, 2, 4, 6]
ITEMS = {
    "choices": [
        MultipleChoice(f"c{i}", f"{i} is", [" odd", " even"], i % 2, variants=(f"So {i} is",)) for i in range(8)
    ],
    "answers": [Recall("r", "one two", " three"), Generation("g", "one two", "three", max_new_tokens=3)],
}
# Where a watcher is killed: a function that it calls, and whether before or after what that does.
MOMENTS = {
    "loads": ("forget_callback.tools.checkpoint_history", "load_model", "before"),
    "writes": ("forget_callback.runs.store", "write_whole", "after"),
    "decides": ("forget_callback.tools.watch", "write_decision", "before"),
}
# And at which call: of the baseline, or of a checkpoint.
KILLS = [("loads", 1), ("loads", 2), ("writes", 1), ("writes", 2), ("writes", 3), ("decides", 1)]


def wait_for(what, seconds=90):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Files of two probes; `in/run`, a training with its callback and all checkpoints, and `in/start`, its model."""
    root = tmp_path_factory.mktemp("watched")
    for name, items in ITEMS.items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(item_record(item)) + "\n" for item in items))
    assert finish(train(root / "in", root, "--callback", "in")) == 0
    return root


def train(out, world, *arguments):
    out.mkdir(exist_ok=True)
    return start(SCRIPT, out, *probes(world), *arguments, err=out / "training.log", out=out / "training.log")


def probes(world):
    return [word for name in ITEMS for word in ("--probe", world / f"{name}.jsonl")]


def watch(run, world, *arguments, before=None):
    """A watcher, in a process of its own."""
    words = ("-m", "forget_callback", "watch", run, *probes(world), *QUICK, *arguments)
    log = run.parent / "watch.log"
    run.parent.mkdir(exist_ok=True)
    return start(*words, before=before, err=log, out=log)


@pytest.fixture
def bare(world, tmp_path):
    """A run without a record: the checkpoints of the training, copied one by one by `arrive(step)`."""
    run = tmp_path / "bare"
    run.mkdir()
    return run


def arrive(world, run, *steps):
    for step in steps:
        shutil.copytree(world / "in" / "run" / f"checkpoint-{step}", run / f"checkpoint-{step}")


def same_history(found, expected, steps=STEPS):
    for name in ITEMS:
        assert found.steps(name) == [step for step in expected.steps(name) if step in steps] == steps
        for step in steps:
            mine, theirs = found.read(name, step), expected.read(name, step)
            assert (mine.fingerprint, mine.n_variants) == (theirs.fingerprint, theirs.n_variants)
            for column in ("ids", "correct", "outcome", "choice", "margin", "prediction", "text"):
                np.testing.assert_array_equal(getattr(mine, column), getattr(theirs, column), err_msg=column)
            for count in ("step", "samples_seen", "tokens_seen"):
                np.testing.assert_equal(getattr(mine, count), getattr(theirs, count))
    mine, theirs = (pd.read_parquet(one.path / "history.parquet") for one in (found, expected))
    if steps == STEPS:
        pd.testing.assert_frame_equal(mine, theirs)


def test_a_run_that_has_ended_is_scored_and_the_watcher_ends_with_it(world, bare, run_cli):
    arrive(world, bare, 2, 4, 6)
    code, said, err = run_cli("watch", bare, *probes(world), "--baseline", world / "in" / "start", *QUICK)
    assert code == 0, err
    store = Store(bare)
    same_history(store, Store(world / "in" / "own"))
    assert (store.run.status, store.run.steps, store.watched, store.incomplete()) == ("ended", 6, True, [])
    assert "the run has ended" in err and (store.path / "report.html").stat().st_size > 10_000
    first, *later = said.splitlines()
    assert first.startswith("baseline: choices ")
    assert [line.split(" | ")[0] for line in later] == [f"forgetting at step {s}, {4 * s} samples" for s in STEPS[1:]]
    # Once more: nothing is left to do.
    code, said, err = run_cli("watch", bare, *probes(world), *QUICK, "--format", "json")
    assert code == 0 and json.loads(said)["steps"] == STEPS and json.loads(said)["ended"] is True
    assert json.loads(said)["probes"].keys() == ITEMS.keys()


def kill(process):
    """SIGKILL: nothing in it gets to say a word."""
    process.kill()
    process.join()


def stay(moment, file, nth):
    """In a watcher: stays where it calls that function for the nth time, before or after what it does, and says so."""
    where, name, when = MOMENTS[moment]
    module = importlib.import_module(where)
    act, calls = getattr(module, name), []

    def staying(*args, **more):
        calls.append(args)
        done = act(*args, **more) if when == "after" else None
        if len(calls) == nth:
            file.touch()
            time.sleep(600)
        return done if when == "after" else act(*args, **more)

    setattr(module, name, staying)


def of_the_day(what):
    return what[datetime.date.today().toordinal() % len(what)]


def test_a_live_training_is_watched_by_three_of_which_two_are_killed(world, tmp_path):
    """Each day at two other moments."""
    (moment, nth), (other, other_nth) = of_the_day(list(combinations(KILLS, 2)))
    rules = ("--baseline", world / "in" / "start", "--stop", "forgetting>0.9", "--patience", 60)
    training = train(tmp_path, world, "--callback", "in", "--paused")
    run = tmp_path / "run"
    first = watch(run, world, *rules, before=partial(stay, moment, tmp_path / "first", nth))
    wait_for((tmp_path / "first").exists)
    kill(first)
    (tmp_path / "pass-2").touch()
    second = watch(run, world, *rules, before=partial(stay, other, tmp_path / "second", other_nth))
    (tmp_path / "pass-4").touch()
    wait_for((tmp_path / "second").exists)
    kill(second)
    third = watch(run, world, *rules)
    (tmp_path / "pass-6").touch()
    assert finish(training) == 0
    assert finish(third) == 0, (tmp_path / "watch.log").read_text()
    same_history(Store(run), Store(tmp_path / "own"))
    assert Store(run).incomplete() == [] and (run / "forget" / "report.html").is_file()
    decision = read_decision(run)
    assert (decision.run, decision.step, decision.action) == (None, 6, "continue")
