"""`watch` beside a training: item by item the history that the callback records in it, whatever happens meanwhile."""

import importlib
import json
import os
import shutil
import signal
import threading
import time
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model

import forget_callback
from forget_callback import Generation, MultipleChoice, Recall, Store, Text
from forget_callback.probes.records import item_record
from forget_callback.runs.remote import RemoteTraining, read_decision, read_training, write_training
from forget_callback.runs.stop_rules import stop_rules
from forget_callback.scoring.loading import load_model, load_tokenizer
from tests.forked import finish, start
from tests.in_turn import of_the_day
from tests.schema import checked

pytestmark = pytest.mark.in_turn(1)

PROGRAM = Path(forget_callback.__file__).with_name("__main__.py")
SCRIPT = Path(__file__).with_name("watched_script.py")
QUICK = ("--interval", 0.1, "--patience", 2)
STEPS = [0, 2, 4, 6]
ITEMS = {
    "choices": [
        MultipleChoice(f"c{i}", f"{i} is", [" odd", " even"], i % 2, variants=(f"So {i} is",)) for i in range(8)
    ],
    "answers": [Recall("r", "one two", " three"), Generation("g", "one two", "three", max_new_tokens=3)],
    "documents": [Text("t", "one two three " * 3), Text("u", "7 times 7 is 49. 8 times 8 is 64.")],
}
OF_TEXTS = ("bits_per_byte", "kl", "kl_error", "top1")
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


def watch(run, world, *arguments, before=None, processes=1):
    """A watcher, in a process of its own, or in several under torchrun."""
    program = ("-m", "forget_callback") if processes == 1 else (PROGRAM,)
    log = run.parent / "watch.log"
    words = (*program, "watch", run, *probes(world), *QUICK, *arguments)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    return start(*words, before=before, err=log, out=log, processes=processes, environment=environment)


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
            for column in ("ids", "correct", "outcome", "choice", "margin", "prediction", "text", *OF_TEXTS):
                np.testing.assert_array_equal(getattr(mine, column), getattr(theirs, column), err_msg=column)
            for count in ("step", "samples_seen", "tokens_seen"):
                np.testing.assert_equal(getattr(mine, count), getattr(theirs, count))
    mine, theirs = (pd.read_parquet(one.path / "history.parquet") for one in (found, expected))
    if steps == STEPS:
        pd.testing.assert_frame_equal(mine, theirs)


@pytest.mark.every_day
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


OTHERS = ["items", "name", "fewer", "wording", "baseline", "no baseline"]


@pytest.mark.parametrize("other", [of_the_day(OTHERS), of_the_day(OTHERS[::-1])])
def test_what_a_record_that_has_ended_was_not_made_with_is_an_error(world, bare, run_cli, tmp_path, other):
    start = world / "in" / "start"
    arrive(world, bare, 4, 6)
    given = () if other == "no baseline" else ("--baseline", start)
    assert run_cli("watch", bare, *probes(world), *QUICK, *given)[0] == 0
    before = {file: file.read_bytes() for file in bare.rglob("*") if file.is_file()}
    lines = (world / "choices.jsonl").read_text().splitlines()
    name = "questions" if other == "name" else "choices"
    lines = lines[:-1] if other == "items" else [line.replace("So ", "Thus ") for line in lines]
    (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    asked = {
        "baseline": (*probes(world), "--baseline", bare / "checkpoint-4"),
        "no baseline": (*probes(world), "--baseline", start),
        "fewer": probes(world)[:2],
    }.get(other, ("--probe", tmp_path / f"{name}.jsonl", *probes(world)[2:]))
    code, out, err = run_cli("watch", bare, *asked, *QUICK, "--format", "json")
    assert (code, out) == (2, "") and str(bare / "forget") in err and "--out" in err, err
    now = {file: file.read_bytes() for file in bare.rglob("*") if file.is_file()}
    assert before == now, "the record is what it was"


def test_rules_are_asked_of_a_record_that_has_ended(world, bare, run_cli):
    arrive(world, bare, 2, 4, 6)
    assert run_cli("watch", bare, *probes(world), *QUICK)[0] == 0 and not (bare / "forget" / "decision.json").exists()
    for rule, action in (("drift>-1", "stop"), ("drift>2", "continue")):
        code, out, err = run_cli("watch", bare, *QUICK, "--stop", rule, "--format", "json")
        assert code == 0, err
        assert checked(out, "watch")["decision"]["action"] == read_decision(bare).action == action
    # A training that begins later is not waited for: that is said.
    assert "nothing is left to score" in err and "--patience" in err and "a directory of its own" in err
    code, _, err = run_cli("watch", bare, *QUICK, "--stop", "nothing/forgetting>0.1")
    assert code == 2 and "'nothing' is not among" in err and Store(bare).run.status == "ended"


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


@pytest.mark.every_day
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


@pytest.mark.parametrize("moment", [of_the_day(["before", "after"])])
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


LACKING = ["trainer_state.json", "config.json", "model.safetensors", "half of the weights", "half of the state"]


@pytest.mark.parametrize("lacks", [of_the_day(LACKING)])
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


@pytest.mark.parametrize("at, lacks", [of_the_day([(4, "a few bytes"), (2, "config.json"), (4, "trainer_state.json")])])
def test_one_that_stays_unfinished_is_a_gap_though_later_ones_are_whole(world, bare, run_cli, at, lacks):
    arrive(world, bare, 2, 4, 6)
    weights = bare / f"checkpoint-{at}" / "model.safetensors"
    if lacks == "a few bytes":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        weights.with_name(lacks).unlink()
    for name in ("checkpoint-5", "checkpoint-own-6"):  # of step 6 there is another one
        (bare / name / "pytorch_model_fsdp_0").mkdir(parents=True)
    given = ("--baseline", world / "in" / "start")
    for _ in range(2):  # again when nothing is left to do
        code, _, err = run_cli("watch", bare, *probes(world), *QUICK, *given)
        assert code == 0 and f"checkpoint-{at} is left out: it was never finished: " in err
        found = gaps(Store(bare))
        assert set(found) == {at, 5} and "never finished" in found[at] and "shards of FSDP" in found[5]
        assert Store(bare).steps(*ITEMS) == [step for step in STEPS if step != at]


def test_a_last_one_that_is_never_finished_is_an_error(world, bare, run_cli):
    arrive(world, bare, 2, 4)
    cut(bare / "checkpoint-4" / "model.safetensors")
    code, _, err = run_cli("watch", bare, *probes(world), *QUICK)
    assert code == 2 and "the last checkpoint has no numbers: checkpoint-4: it was never finished: " in err
    assert Store(bare).steps(*ITEMS) == [2] and list(gaps(Store(bare))) == [4]


@pytest.mark.parametrize("given", [True, False])
def test_a_checkpoint_of_step_0_is_the_baseline_unless_another_is_given(world, bare, run_cli, given):
    as_step(world / "in" / "run" / "checkpoint-2", bare / "checkpoint-0")
    arrive(world, bare, 4)
    baseline = ("--baseline", world / "in" / "start") if given else ()
    code, _, err = run_cli("watch", bare, *probes(world), *QUICK, *baseline)
    store = Store(bare)
    assert code == 0 and store.steps(*ITEMS) == [0, 4] and not gaps(store), err
    assert ("checkpoint-0 is not scored: --baseline is step 0" in err) == given
    model = store.read("choices", 0).metadata["model"]
    assert Path(model) == (world / "in" / "start" if given else bare / "checkpoint-0")


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


@pytest.mark.parametrize("trainer, first_step, scored", [(True, 0, []), (True, 4, [2, 4]), (False, 0, [])])
def test_checkpoints_of_before_are_not_those_of_a_training_that_listens(
    world, bare, run_cli, trainer, first_step, scored
):
    """Of a Trainer that knew no callback, or of another loop; and the new training has only begun."""
    arrive(world, bare, 2, 4, 6)
    for state in bare.glob("checkpoint-*/trainer_state.json"):
        kept = json.loads(state.read_text())
        del kept["stateful_callbacks"]["forget_callback"]
        state.write_text(json.dumps(kept)) if trainer else state.unlink()
        (state.parent / "training_args.bin").unlink()
    rules = stop_rules("drift>-1")
    now = RemoteTraining("a1", step=first_step, first_step=first_step, max_steps=30, stop=rules)
    write_training(bare, now)
    code, _, err = run_cli("watch", bare, *probes(world), *QUICK)
    assert code == (0 if scored else 2) and "nothing new came for 2 s" in err, err
    assert "checkpoint-6 is left out: it is of another training than training.json names" in err
    store = Store(bare)
    assert (store.run.id, store.run.status, store.steps(*ITEMS)) == ("a1", "training", scored)
    assert "training has not ended" in store.incomplete()[0]
    decision = read_decision(bare)
    assert decision is None or decision.step <= first_step


def test_a_training_that_goes_on_to_more_steps_than_were_planned_has_not_ended(world, bare, run_cli):
    arrive(world, bare, 2, 4, 6)
    own = Store(world / "in" / "own").run.id
    write_training(bare, RemoteTraining(own, step=7, first_step=6, max_steps=12))
    code, _, err = run_cli("watch", bare, *probes(world), *QUICK)
    assert code == 0 and "nothing new came for 2 s" in err and Store(bare).steps(*ITEMS) == [2, 4, 6]
    assert "training has not ended" in Store(bare).incomplete()[0]


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


def test_two_processes_agree_on_what_to_score(world, bare, run_cli):
    """Checkpoints come while they wait, one of them in the middle of loading goes, and one is damaged."""
    arrive(world, bare, 2)
    watcher = watch(bare, world, "--baseline", world / "in" / "start", "--patience", 60, processes=2)
    wait_for(recorded(bare, 2))
    arrive(world, bare, 4)
    wait_for(recorded(bare, 4))
    arrive(world, bare, 6)
    assert finish(watcher) == 0, (bare.parent / "watch.log").read_text()
    store = Store(bare)
    assert store.steps(*ITEMS) == STEPS and store.run.status == "ended"
    for name in ITEMS:
        for step in STEPS:
            mine, theirs = store.read(name, step), Store(world / "in" / "own").read(name, step)
            np.testing.assert_array_equal(mine.correct, theirs.correct)
            np.testing.assert_allclose(mine.margin, theirs.margin, atol=1e-5)
            assert mine.metadata["processes"] == 2
    said = (bare.parent / "watch.log").read_text()
    assert said.count("forgetting at step 4, 16 samples") == 1, "one process speaks"


def decided(run, step):
    """Whether there is a decision on a step."""
    decision = read_decision(run) if (run / "forget" / "decision.json").exists() else None
    return decision is not None and decision.step >= step


@pytest.mark.every_day
def test_a_decision_ends_a_training_that_listens(world, tmp_path):
    """Probes, the baseline and what the run is come from the training itself."""
    training = train(tmp_path, world, "--callback", "remote", "--paused", "--steps", "40")
    run = tmp_path / "run"
    watcher = start(
        *("-m", "forget_callback", "watch", run, *QUICK, "--patience", 60, "--baseline", world / "in" / "start"),
        *("--stop", "drift>-1"),
        err=tmp_path / "watch.log",
        out=tmp_path / "watch.log",
    )
    for step in range(2, 40, 2):
        wait_for(lambda step=step: decided(run, step) or not training.is_alive())
        if not training.is_alive():
            break
        assert read_decision(run).action == ("stop" if step >= 4 else "continue")
        (tmp_path / f"pass-{step}").touch()
        (tmp_path / f"pass-{step + 1}").touch()  # where it saves because it ends
    assert finish(training) == 0, (tmp_path / "training.log").read_text()
    said = read_training(run)
    assert said.status == "stopped" and said.step < 12
    assert finish(watcher) == 0, (tmp_path / "watch.log").read_text()
    store = Store(run)
    assert store.run.id == said.run and store.run.status == "ended" and store.incomplete() == []
    assert store.steps(*ITEMS)[-1] == said.step == store.run.steps
    assert store.training.trainer == "SFTTrainer" and store.read("choices", 2).samples_seen == 8


def test_the_record_of_a_callback_is_not_touched(world, run_cli, tmp_path):
    before = {file: file.read_bytes() for file in (world / "in" / "own").rglob("*") if file.is_file()}
    code, _, err = run_cli("watch", world / "in" / "own", *probes(world), *QUICK)
    assert code == 2 and "give --out DIR" in err
    assert before == {file: file.read_bytes() for file in (world / "in" / "own").rglob("*") if file.is_file()}
    code, _, err = run_cli("watch", world / "in" / "run", *probes(world), *QUICK, "--out", tmp_path / "mine")
    assert code == 0 and Store(tmp_path / "mine").steps(*ITEMS) == [2, 4, 6]
    assert not (world / "in" / "run" / "forget").exists()


def test_another_watcher_in_the_directory_is_refused(world, bare, run_cli):
    arrive(world, bare, 2)
    first = watch(bare, world, "--patience", 60)
    wait_for(recorded(bare, 2))
    code, _, err = run_cli("watch", bare, *probes(world), *QUICK)
    assert code == 2 and "is being written by another process" in err
    kill(first)
    arrive(world, bare, 4, 6)
    assert run_cli("watch", bare, *probes(world), *QUICK)[0] == 0
    assert Store(bare).steps(*ITEMS) == [2, 4, 6]


def test_what_ends_it_early_leaves_a_whole_record(world, bare, run_cli):
    """SIGTERM as SLURM sends it, and Ctrl-C."""
    arrive(world, bare, 2)
    for at, signal_ in ((2, signal.SIGTERM), (4, signal.SIGINT)):
        watcher = watch(bare, world, "--patience", 60)
        wait_for(recorded(bare, at))
        page = bare / "forget" / "report.html"
        page.unlink(missing_ok=True)
        time.sleep(0.3)
        os.kill(watcher.pid, signal_)
        assert finish(watcher) == 130, "an end that was not the run's is no pass"
        assert "goes on where it was" in (bare.parent / "watch.log").read_text()
        assert page.is_file() and Store(bare).run.status == "training"
        arrive(world, bare, at + 2)
    assert run_cli("watch", bare, *probes(world), *QUICK)[0] == 0
    assert Store(bare).steps(*ITEMS) == [2, 4, 6]


def test_a_directory_that_is_not_there_is_waited_for_and_not_made(world, bare, run_cli, tmp_path):
    code, out, err = run_cli("watch", tmp_path / "later", *probes(world), *QUICK)
    assert (code, out) == (2, "") and "is not there yet" in err and "no checkpoint in" in err
    assert not (tmp_path / "later").exists(), "some trainers refuse a directory that is there"
    later = tmp_path / "soon"
    meanwhile = [(lambda: True, lambda: time.sleep(0.3)), (lambda: True, lambda: arrive(world, later, 2, 4, 6))]
    code, _, err = watched(run_cli, world, later, meanwhile=meanwhile)
    assert code == 0 and Store(later).steps(*ITEMS) == [2, 4, 6]


def as_step(source, target, *, keep=("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")):
    """A checkpoint as loops write it that are not the Trainer's."""
    target.mkdir(parents=True)
    for name in keep:
        shutil.copy2(source / name, target / name)


PATTERNS = [
    ("step*", "step{}-hf"),  # OLMo-core: its own checkpoint is step1000, the converted one step1000-hf
    ("checkpoint/step-*", "checkpoint/step-{}"),  # torchtitan
    ("weights/step_*", "weights/step_{}"),  # prime-rl
    ("step*/hf", "step{}/hf"),
    ("*", "epoch-1-iteration-{}"),
]


@pytest.mark.parametrize("pattern, name", [of_the_day(PATTERNS)])
def test_other_loops_by_pattern(world, bare, run_cli, pattern, name):
    for step in (2, 6):
        as_step(world / "in" / "run" / f"checkpoint-{step}", bare / name.format(1000 * step))
    own = bare / name.format(4000).removesuffix("-hf").removesuffix("/hf")  # shards that no other program reads
    (own / "model_and_optim").mkdir(parents=True)
    (own / "config.json").write_text('{"model": {"d_model": 32}}')
    as_step(
        world / "in" / "run" / "checkpoint-4",
        bare / name.format(5000).replace("step", "tmp-step").replace("epoch", "tmp-epoch"),
    )
    given = ("--baseline", world / "in" / "start", "--pattern", pattern)
    code, _, err = run_cli("watch", bare, *probes(world), *QUICK, *given)
    assert code == 0, err
    store = Store(bare)
    assert store.steps(*ITEMS) == [0, 2000, 6000]
    mine, theirs = store.read("choices", 6000), Store(world / "in" / "own").read("choices", 6)
    np.testing.assert_array_equal(mine.margin, theirs.margin)
    assert np.isnan(mine.samples_seen) and "samples_seen" in pd.read_parquet(store.path / "history.parquet")
    if "/hf" not in pattern:
        assert "is skipped: it holds a distributed checkpoint of torch (DCP)" in err
    assert "nothing new came for 2 s" in err


def test_a_mark_that_all_is_there_spares_the_wait(world, bare, run_cli):
    """prime-rl touches STABLE last; without it files must have been quiet for three looks."""
    as_step(world / "in" / "run" / "checkpoint-2", bare / "step_2")
    (bare / "step_2" / "STABLE").touch()
    slow = ("--interval", 1, "--patience", 1, "--pattern", "step_*")
    begun = time.monotonic()
    code, _, err = run_cli("watch", bare, *probes(world), *slow)
    assert code == 0 and Store(bare).steps(*ITEMS) == [2], err
    assert time.monotonic() - begun < 60


def test_adapters_are_scored_on_the_base_that_they_name(world, run_cli, tmp_path):
    """Which is also the baseline, without being asked for."""
    base, out = load_model(str(world / "in" / "start")), tmp_path / "adapters"
    for step in (1, 2):
        torch.manual_seed(step)
        model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
        model.save_pretrained(out / f"checkpoint-{step}")
        load_tokenizer(str(world / "in" / "start")).save_pretrained(out / f"checkpoint-{step}")
        base = model.unload()
    code, _, err = run_cli("watch", out, *probes(world), *QUICK)
    assert code == 0 and f"the baseline is '{world / 'in' / 'start'}', which this run started from" in err
    store = Store(out)
    assert store.steps(*ITEMS) == [0, 1, 2]
    first, expected = store.read("choices", 0), Store(world / "in" / "own").read("choices", 0)
    np.testing.assert_array_equal(first.margin, expected.margin)
    assert not np.array_equal(store.read("choices", 1).margin, store.read("choices", 2).margin)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--pattern", "../other/*"), "must name directories within the run's"),
        (("--stop", "forgetting"), "METRIC>VALUE"),
        (("--stop", "nothing/forgetting>0.1"), "'nothing' is not among"),
        (("--device", "cuda:7"), "--device 'cuda:7' is not there"),
        (("--device", "meta"), "--device 'meta' is not there"),
        (("--interval", "inf"), "'--interval': Input should be less than or equal to 86400"),
        (("--out", "bare/checkpoint-9"), "is where --pattern 'checkpoint-*' looks for checkpoints; give another --out"),
        (("--out", "bare/checkpoint-9/own"), "is where --pattern 'checkpoint-*' looks for checkpoints"),
        (("--load", "reload {checkpoint}"), "give --served URL too"),
        (("--served", "http://localhost:1/v1#m"), "would be asked the same model each time"),
        (("--served", "http://localhost:1/v1#{checkpoint}", "--device", "cpu"), "with --served the server decides"),
        (("--served", "http://localhost:1/v1#{checkpoint}", "--variants", "changed"), "give --variants all, or ends"),
        (("--baseline", "./nowhere"), "no model at './nowhere'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_waited_for(world, bare, run_cli, arguments, message):
    begun, arguments = time.monotonic(), [word.replace("bare/", f"{bare}/") for word in arguments]
    code, out, err = run_cli("watch", bare, *probes(world), "--patience", 600, *arguments)
    assert (code, out) == (2, "") and message in err and time.monotonic() - begun < 60
    assert not (bare / "forget").exists()


def test_variants_at_the_ends_alone(world, bare, run_cli):
    """The last checkpoint is asked all prompts also where its trainer did not say that it would be the last."""
    arrive(world, bare, 2, 4, 6)
    given = ("--baseline", world / "in" / "start", "--variants", "ends")
    assert run_cli("watch", bare, *probes(world), *QUICK, *given)[0] == 0
    assert [Store(bare).read("choices", step).n_variants for step in STEPS] == [2, 1, 1, 2]


def test_further_prompts_where_the_first_answer_changed_give_the_history_of_all(world, bare, run_cli):
    arrive(world, bare, 2, 4, 6)
    given = ("--baseline", world / "in" / "start", "--variants", "changed")
    assert run_cli("watch", bare, *probes(world), *QUICK, *given)[0] == 0
    same_history(Store(bare), Store(world / "in" / "own"))
    skipped = [Store(bare).read("choices", step).skipped_2.any() for step in STEPS]
    assert skipped == [False, True, True, False]


def test_no_probe_is_an_error_that_names_the_option(world, bare, run_cli):
    arrive(world, bare, 2)
    code, _, err = run_cli("watch", bare, *QUICK)
    assert code == 2 and "no --probe, and the training names none" in err


def test_the_baseline_is_scored_in_the_precision_of_the_training(world, bare, run_cli):
    """As the callback does: a trainer casts the model when it begins, whatever it was saved in."""
    model = load_model(str(world / "in" / "start")).bfloat16()
    for step in (1, 2):
        model.save_pretrained(bare / f"checkpoint-{step}")
        load_tokenizer(str(world / "in" / "start")).save_pretrained(bare / f"checkpoint-{step}")
    for command, out in (("watch", ()), ("snapshot", ("--out", bare / "after"))):
        given = ("--baseline", world / "in" / "start", *(QUICK if command == "watch" else out))
        code, _, err = run_cli(command, bare, *probes(world), *given)
        assert code == 0, err
    for store in (Store(bare), Store(bare / "after")):
        before, after = (store.read("choices", step) for step in (0, 1))
        assert before.metadata["dtype"] == after.metadata["dtype"] == "bfloat16"
        np.testing.assert_array_equal(before.margin, after.margin)
