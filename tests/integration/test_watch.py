"""`watch` beside a training: item by item the history that the callback records in it, whatever happens meanwhile."""

import datetime
import importlib
import json
import os
import shutil
import threading
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
from forget_callback.scoring.loading import load_model
from tests.forked import finish, start
from tests.schema import checked

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
    code, out, err = run_cli("watch", bare, *probes(world), *QUICK, "--format", "json")
    assert code == 0, err
    found = checked(out, "watch")
    assert (found["steps"], found["ended"], found["probes"].keys()) == (STEPS, True, ITEMS.keys())


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


class Meanwhile(threading.Thread):
    """What happens to a run while a watcher in this process watches it: (when, what) each, in order."""

    def __init__(self, *happenings):
        super().__init__(daemon=True)
        self._happenings = happenings

    def run(self):
        for when, what in self._happenings:
            wait_for(when)
            what()


def recorded(run, step):
    """When a step is in the record of a run."""
    return lambda: step in Store(run).steps(*ITEMS)


def watched(run_cli, world, run, *arguments, meanwhile=()):
    """Status, output and notes of a watcher while other things happen."""
    thread = Meanwhile(*meanwhile)
    thread.start()
    found = run_cli("watch", run, *probes(world), *QUICK, *arguments)
    thread.join(10)
    assert not thread.is_alive()
    return found


def gaps(store):
    return {one["step"]: one["why"] for one in store.run.not_measured if one["step"] is not None}


def test_one_that_comes_late_is_left_out_and_said(world, bare, run_cli):
    arrive(world, bare, 4)
    code, _, err = watched(
        run_cli,
        world,
        bare,
        meanwhile=[(recorded(bare, 4), lambda: arrive(world, bare, 2)), (time.monotonic, lambda: None)],
    )
    assert code == 0, err
    assert "checkpoint-2 is left out: it came after step 4 was scored" in err
    assert Store(bare).steps(*ITEMS) == [4] and "came after step 4" in gaps(Store(bare))[2]
    assert "no --baseline: everything is compared with step 4" in err
    # Nothing said that training ended, and the record does not either.
    assert "nothing new came for 2 s" in err and Store(bare).run.status == "training"
    assert "training has not ended" in Store(bare).incomplete()[0]


def test_what_rotation_removes_is_named(world, bare, run_cli):
    """One before it was seen, one before it was its turn, and one while it was loaded."""
    arrive(world, bare, 6)
    code, _, err = run_cli("watch", bare, *probes(world), *QUICK, "--baseline", world / "in" / "start")
    assert code == 0 and "checkpoint of" not in err
    assert Store(bare).steps(*ITEMS) == [0, 6] and Store(bare).run.status == "ended"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_one_that_is_removed_while_it_is_loaded_ends_nothing(world, bare, run_cli, monkeypatch, moment):
    arrive(world, bare, 2, 4, 6)

    def load(name, **more):
        loaded = load_model(name, **more) if moment == "after" else None
        if name.endswith("checkpoint-2"):
            shutil.rmtree(name)
        return load_model(name, **more) if loaded is None else loaded

    monkeypatch.setattr("forget_callback.tools.checkpoint_history.load_model", load)
    code, _, err = run_cli("watch", bare, *probes(world), *QUICK, "--baseline", world / "in" / "start")
    assert code == 0, err
    steps = [0, 4, 6] if moment == "before" else STEPS
    assert Store(bare).steps(*ITEMS) == steps
    assert ("checkpoint-2 is left out: it was removed while it was scored" in err) == (moment == "before")
    assert set(gaps(Store(bare))) == set(STEPS) - set(steps)


def test_one_that_is_removed_before_its_turn_is_named(world, bare, run_cli, monkeypatch):
    arrive(world, bare, 2, 4, 6)

    def load(name, **more):
        if name.endswith("checkpoint-2"):
            shutil.rmtree(bare / "checkpoint-4")
        return load_model(name, **more)

    monkeypatch.setattr("forget_callback.tools.checkpoint_history.load_model", load)
    code, _, err = run_cli("watch", bare, *probes(world), *QUICK, "--baseline", world / "in" / "start")
    assert code == 0 and "checkpoint-4 is left out: it was removed before it could be scored" in err
    assert Store(bare).steps(*ITEMS) == [0, 2, 6] and list(gaps(Store(bare))) == [4]


def test_one_that_was_gone_before_it_was_seen_is_named_by_what_the_trainer_says(world, bare, run_cli):
    arrive(world, bare, 2, 6)
    code, _, err = run_cli("watch", bare, *probes(world), *QUICK, "--baseline", world / "in" / "start")
    assert code == 0 and "checkpoints of steps 4 were removed before they could be scored" in err
    assert list(gaps(Store(bare))) == [4]


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    "lacks", ["trainer_state.json", "config.json", "model.safetensors", "half of the weights", "half of the state"]
)
def test_a_half_written_checkpoint_is_waited_for(world, bare, run_cli, lacks):
    arrive(world, bare, 2)
    whole, half = world / "in" / "run" / "checkpoint-4", bare / "checkpoint-4"
    name = {"half of the weights": "model.safetensors", "half of the state": "trainer_state.json"}.get(lacks, lacks)

    def begin():
        shutil.copytree(whole, bare / "tmp-checkpoint-4")
        cut(bare / "tmp-checkpoint-4" / name) if "half" in lacks else (bare / "tmp-checkpoint-4" / name).unlink()
        (bare / "tmp-checkpoint-4").rename(half)

    seen = []

    def complete():
        seen.extend(Store(bare).steps(*ITEMS))
        shutil.copy(whole / name, half / name)

    later = time.monotonic()
    code, _, err = watched(
        run_cli,
        world,
        bare,
        meanwhile=[
            (recorded(bare, 2), begin),
            (lambda: time.monotonic() > later and half.exists(), lambda: time.sleep(1)),
            (half.exists, complete),
            (recorded(bare, 4), lambda: arrive(world, bare, 6)),
        ],
    )
    assert code == 0, err
    assert seen == [2] and Store(bare).steps(*ITEMS) == [2, 4, 6] and not gaps(Store(bare))


def test_one_that_is_damaged_is_a_gap_and_the_last_one_an_error(world, bare, run_cli):
    arrive(world, bare, 2, 4, 6)
    weights = bare / "checkpoint-4" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content.replace(b"embed_tokens", b"embed_tokenz"))  # whole, as far as its header says
    os.utime(weights, ns=(0, 0))
    code, _, err = run_cli("watch", bare, *probes(world), *QUICK, "--baseline", world / "in" / "start")
    assert code == 0 and "checkpoint-4 is left out: it could not be scored: " in err
    assert Store(bare).steps(*ITEMS) == [0, 2, 6] and "could not be scored" in gaps(Store(bare))[4]
    shutil.rmtree(bare / "forget")
    shutil.copy(weights, bare / "checkpoint-6" / "model.safetensors")
    os.utime(bare / "checkpoint-6" / "model.safetensors", ns=(0, 0))
    code, _, err = run_cli("watch", bare, *probes(world), *QUICK, "--baseline", world / "in" / "start")
    assert code == 2 and "the last checkpoint has no numbers: checkpoint-6: it could not be scored" in err
    assert Store(bare).steps(*ITEMS) == [0, 2] and Store(bare).incomplete()


def test_a_new_training_in_the_directory_gets_a_record_of_its_own(world, bare, run_cli, tmp_path):
    arrive(world, bare, 2, 4)
    other = tmp_path / "other"
    begun = train(other, world, "--callback", "in", "--seed", "1")
    assert finish(begun) == 0

    def begin():
        for step in (2, 4):  # over what is there, as a Trainer writes
            for file in (other / "run" / f"checkpoint-{step}").iterdir():
                shutil.copy2(file, bare / f"checkpoint-{step}" / file.name)
            wait_for(recorded(bare, step))

    code, _, err = watched(
        run_cli,
        world,
        bare,
        "--baseline",
        world / "in" / "start",
        meanwhile=[
            (recorded(bare, 4), begin),
            (recorded(bare, 4), lambda: shutil.copytree(other / "run" / "checkpoint-6", bare / "checkpoint-6")),
        ],
    )
    assert code == 0, err
    assert "checkpoint-2 was written by another training than what is recorded: a new record begins" in err
    store = Store(bare)
    assert store.steps(*ITEMS) == STEPS and store.run.status == "ended"
    for step in (2, 4, 6):
        mine, theirs = store.read("choices", step), Store(other / "own").read("choices", step)
        np.testing.assert_array_equal(mine.margin, theirs.margin)
    assert Store(bare / "forget" / "set-aside" / "1").exists or (bare / "forget" / "set-aside").is_dir()


def test_a_training_that_is_resumed_from_before_keeps_what_was_before(world, bare, run_cli, tmp_path):
    arrive(world, bare, 2, 4, 6)
    shutil.rmtree(bare / "checkpoint-6")
    code, _, err = run_cli("watch", bare, *probes(world), *QUICK, "--baseline", world / "in" / "start")
    assert code == 0 and Store(bare).steps(*ITEMS) == [0, 2, 4]
    state = bare / "checkpoint-4" / "trainer_state.json"
    state.write_text(state.read_text().replace('"total_flos": ', '"total_flos": 1'))  # trained once more
    arrive(world, bare, 6)
    code, _, err = run_cli("watch", bare, *probes(world), *QUICK)
    assert code == 0 and "training went back: snapshots from step 4 on are in" in err
    assert Store(bare).steps(*ITEMS) == STEPS and len(list((bare / "forget" / "set-aside").iterdir())) == 1
