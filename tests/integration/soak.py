"""Kills runs at random moments and asks the gate after each: a pass on a record that is not whole is a fault.

    python -m tests.integration.soak DIRECTORY --kills 50

Runs of two probes in one directory: killed, resumed from a checkpoint of this run or of one before, or started anew. It
continues where it was interrupted itself, and prints what it counted.
"""

import argparse
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pandas as pd

from forget_callback import Store
from tests.forked import finish, start

SCRIPT = Path(__file__).with_name("train_script.py")
OPTIONS = ["--two-probes", "--save-steps", "2", "--slow-writes", "0.02"]


def said(out):
    """Where a process on this directory prints."""
    return out.with_name(f"{out.name}.said")


def train(out, *more):
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    said(out).unlink(missing_ok=True)
    return start(SCRIPT, out, *OPTIONS, *more, environment=environment, out=said(out), err=said(out))


def gate(out):
    """The exit status of the command line on a run."""
    question = ["compare", out, out, "--fail-if", "forgetting>0.5", "--format", "json"]
    return finish(start("-m", "forget_callback", *question, out=os.devnull, err=os.devnull))


def is_whole(out, history):
    """Whether the record is of the run that was begun last and holds all that an unkilled one does, bit by bit."""
    store = Store(out)
    if not store.exists or store.run.id != (out / "begun").read_text():
        return False
    try:
        found = store.history().table
    except ValueError:  # killed before its baseline
        return False
    return found.shape == history.shape and found.equals(history)


def checkpoints(out):
    """Whole ones, newest first: the Trainer writes its state after the weights."""
    found = out.glob("checkpoint-*/trainer_state.json")
    return sorted((path.parent for path in found), key=lambda path: -int(path.name.split("-")[1]))


def wait_for_begin(out, process, seconds):
    """Waits until a run has its directory, or so long."""

    def stamp():
        return (out / "begun").stat().st_mtime_ns if (out / "begun").exists() else None

    before, deadline = stamp(), time.monotonic() + seconds
    while stamp() == before and process.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.005)


def soak(directory, kills, seed=0):
    """Counts of kills, resumes, fresh starts, gate exits by code, and of passes on what is not whole, which is 0.

    Raises:
        AssertionError: If the record of a run that ends is not that of an unkilled run, bit by bit.
    """
    directory.mkdir(parents=True, exist_ok=True)
    whole, out, log = directory / "whole", directory / "killed", directory / "log.json"
    if not (whole / "world.json").exists():
        assert finish(train(whole)) == 0
    history = Store(whole).history().table
    # What a run takes from its first file on.
    seconds = (whole / "world.json").stat().st_mtime - (whole / "begun").stat().st_mtime
    expected = gate(whole)
    assert expected in (0, 1)
    counts = Counter(json.loads(log.read_text()) if log.exists() else {})
    ended = False
    while counts["kills"] < kills or not ended:
        rng = random.Random(f"{seed} {counts.total()}")
        usable = checkpoints(out)
        resume = None
        if usable and rng.random() < 0.85:
            resume = usable[0] if rng.random() < 0.7 else rng.choice(usable)
            for later in usable[: usable.index(resume)]:  # who goes back does not go on from there afterwards
                (later / "trainer_state.json").unlink()
        counts["resumes" if resume else "fresh starts"] += 1
        process = train(out, *(["--resume", resume] if resume else []))
        if counts["kills"] < kills:
            wait_for_begin(out, process, seconds=rng.choice([60.0] * 4 + [1.0]))
            process.join(rng.uniform(0, seconds))
            process.kill()
        process.join()
        ended = process.exitcode == 0
        if process.exitcode == -signal.SIGKILL:
            counts["kills"] += 1
        elif ended:
            counts["ended"] += 1
            assert is_whole(out, history), (
                "the record of a run that was killed and resumed is not that of one that was not"
            )
            pd.testing.assert_frame_equal(
                pd.read_parquet(out / "forget" / "history.parquet"), history, check_exact=True, check_dtype=False
            )
        else:  # a save was killed while it replaced an older checkpoint: no training starts from that
            assert "in on_train_begin" not in said(out).read_text()
            counts["checkpoints that were cut"] += 1
            (resume / "trainer_state.json").unlink()
        if not (out / "begun").exists():
            continue
        answer, is_right = gate(out), is_whole(out, history)
        counts[f"gate exits {answer}"] += 1
        counts["passes on what is not whole"] += answer in (0, 1) and not is_right
        counts["refusals of what is whole"] += ended and answer != expected
        counts["whole"] += is_right
        log.write_text(json.dumps(counts))
        print(dict(counts), flush=True)
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    soak(given.directory, given.kills, given.seed)
