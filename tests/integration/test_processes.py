"""Runs that are killed, and runs of several processes: real processes, not simulated ones."""

import contextlib
import fcntl
import json
import os
import random
import select
import signal
import struct
import termios
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from forget_callback import ForgetMonitor, Probe, Snapshot, Text, load_probe, score_probe
from forget_callback.probes.records import item_record
from forget_callback.runs.store import Store
from tests.forked import finish, start

SCRIPT = Path(__file__).with_name("train_script.py")


def launch(*arguments, script=SCRIPT, **more):
    return start(script, *arguments, environment={**os.environ, "ACCELERATE_USE_CPU": "true"}, **more)


def kill(process):
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.exitcode is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_run_killed_in_the_middle_of_a_probe_leaves_every_earlier_snapshot_readable(tmp_path):
    process = launch(tmp_path, "--slow-from", "3")
    wait_for((tmp_path / "in-the-probe-of-step-3").exists, process)
    kill(process)
    store = Store(tmp_path)
    assert store.steps("mini") == [0, 1, 2]
    for step in (0, 1, 2):
        snapshot = store.read("mini", step)
        assert len(snapshot) == 6
        assert snapshot.step == step
    history = pd.read_parquet(store.path / "history.parquet")
    assert sorted(set(history["step"])) == [0, 1, 2]
    assert not list(store.path.rglob("*.tmp"))
    # The monitor of a resumed run goes on from there.
    pd.testing.assert_frame_equal(ForgetMonitor(store.probes(), store).history, history)


def checkpoints(out):
    """Whole ones, oldest first: the Trainer writes its state after the weights."""
    return sorted(out.glob("checkpoint-*/trainer_state.json"), key=lambda path: int(path.parent.name.split("-")[1]))


def test_a_run_that_is_killed_anywhere_and_resumed_is_the_run_that_was_not(tmp_path):
    """At five moments, three of them at random, one within a probe and one within a save."""
    options = ["--save-steps", "2", "--slow-moments", "0.15"]
    assert finish(launch(tmp_path / "whole", *options)) == 0
    history = pd.read_parquet(tmp_path / "whole" / "forget" / "history.parquet")
    weights = torch.load(tmp_path / "whole" / "weights.pt")
    # What a run takes from its first checkpoint on: a kill falls into the first half of that, on any machine.
    first, last = checkpoints(tmp_path / "whole")[0], tmp_path / "whole" / "weights.pt"
    left = last.stat().st_mtime - first.stat().st_mtime
    moments = [("a probe", 0.0), ("a save", 0.0)]
    moments += [("anything", random.Random(i).uniform(0, left / 2)) for i in range(3)]
    for number, (moment, later) in enumerate(moments):
        out = tmp_path / f"{number}"
        process = launch(out, *options)
        wait_for(lambda: len(checkpoints(out)) > 0, process)  # noqa: B023 - called at once
        if moment != "anything":
            wait_for((out / f"in {moment}").exists, process)
        time.sleep(later)
        kill(process)
        resumed = launch(out, "--resume", random.Random(number).choice(checkpoints(out)).parent, *options)
        assert finish(resumed) == 0
        pd.testing.assert_frame_equal(pd.read_parquet(out / "forget" / "history.parquet"), history)
        now = torch.load(out / "weights.pt")
        assert all(torch.equal(now[name], value) for name, value in weights.items())


@pytest.mark.parametrize("method, variants", [("sft", "ends"), ("sft", "changed"), ("packed", "all")])
def test_two_processes_count_what_one_would_and_write_once(tmp_path, method, variants):
    """The same 24 samples on one process and on two; only rank 0 writes, and decides where all prompts are asked."""
    options = ["--method", method, "--variants", variants]
    assert finish(launch(tmp_path / "one", *options)) == 0
    assert finish(launch(tmp_path / "two", *options, "--batch-size", "2", processes=2)) == 0
    one, two = (pd.read_parquet(tmp_path / name / "forget" / "history.parquet") for name in ("one", "two"))
    world = json.loads((tmp_path / "two" / "world.json").read_text())
    assert world == {"processes": 2}
    assert one["samples_seen"].max() == two["samples_seen"].max() == 24
    assert one["tokens_seen"].max() == two["tokens_seen"].max()
    files = sorted((tmp_path / "two" / "forget" / "snapshots" / "mini").iterdir())
    assert len(files) == len(set(two["step"]))
    assert all(len(Snapshot.load(file)) == 6 for file in files)
    # The rule is triggered at every step from the second one on.
    snapshots = [Snapshot.load(file) for file in files]
    asked = [one.n_variants for one in snapshots]
    if variants == "changed":
        skipped = [one.skipped_2.sum() for one in snapshots]
        assert skipped[0] == skipped[-1] == 0 < max(skipped)
    assert asked == [2, 1 if variants == "ends" else 2, *[2] * (len(files) - 2)]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_on_a_terminal_alone_and_only_if_it_takes_long(tmp_path, terminal):
    """A pseudo-terminal is a terminal to the process; a pipe is what a log file is."""
    script = SCRIPT.with_name("slow_script.py")
    if not terminal:
        assert finish(start(script, err=tmp_path / "said")) == 0
        assert "probe" not in (tmp_path / "said").read_text()
        return
    reader, writer = os.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = start(script, err=os.ttyname(writer))
    wait_for(lambda: select.select([reader], [], [], 0)[0], process)
    os.close(writer)
    said = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end was closed
        while part := os.read(reader, 4096):
            said += part
    os.close(reader)
    assert finish(process) == 0
    assert b"probe slow" in said and b"probe quick" not in said


def several(probe, name, n):
    """`n` items, in turn of all kinds, the first and every fifth in two prompts; to more than one also documents."""
    items = [replace(probe.items[i % len(probe)], id=f"{i}") for i in range(n)]
    prompts = [(f"{i}. {item.prompt}", [f"Item {i}: {item.prompt}"] * (i % 5 == 0)) for i, item in enumerate(items)]
    asked = [replace(item, prompt=one, variants=more) for item, (one, more) in zip(items, prompts)]
    return Probe(name, [*asked, *(Text(f"t{i}", "The fox ran over a hill. " * (i + 1)) for i in range(20 * (n > 1)))])


@pytest.mark.parametrize("options", [(), ("--sharded",)], ids=["copies", "FSDP 2"])
def test_two_processes_share_the_items_find_what_one_finds_and_fail_together(
    tmp_path, make_model, tokenizer, probe, options
):
    """One item leaves the second process nothing to do; under FSDP 2 it must keep step all the same."""
    model, paths = make_model(seed=3), []
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name, n in (("one", 1), ("many", 601)):
        paths.append(tmp_path / f"{name}.jsonl")
        items = several(probe, name, n).items
        paths[-1].write_text("".join(json.dumps(item_record(item)) + "\n" for item in items))
    arguments = [tmp_path / "model", tmp_path, *options, "--", *paths]
    assert finish(launch(*arguments, script=SCRIPT.with_name("score_script.py"), processes=2)) == 0
    one, many = (score_probe(model, tokenizer, load_probe(str(path))) for path in paths)
    for rank in range(2):
        for name, expected in (("one", one), ("many", many), ("after", many), ("memory", many)):
            found = Snapshot.load(tmp_path / f"{name}-{rank}.parquet")
            assert found.metadata["likelihood"] == "tree, tiles" and found.metadata["processes"] == 2
            assert found.metadata["batch_tokens"] == (1024 if name == "memory" else 2048)
            columns = ("correct", "outcome", "choice", "prediction", "text")
            for column in ("ids", *columns, "asked_2", *(f"{column}_2" for column in columns)):
                np.testing.assert_array_equal(getattr(found, column), getattr(expected, column))
            np.testing.assert_allclose(found.margin, expected.margin, atol=1e-4)
            np.testing.assert_allclose(found.bits_per_byte, expected.bits_per_byte, atol=1e-5)
            assert np.isfinite(found.bits_per_byte).sum() == (0 if name == "one" else 20)
            np.testing.assert_allclose(found.margin_2, expected.margin_2, atol=1e-4)
    assert (tmp_path / "error-0.txt").read_text() == "RuntimeError: rank 1: ValueError: broken on purpose"
    assert (tmp_path / "error-1.txt").read_text() == "ValueError: broken on purpose"
    # Each does its share, and under FSDP 2 as many forwards as the other.
    forwards = [int((tmp_path / f"after-{rank}.forwards").read_text()) for rank in range(2)]
    assert min(forwards) > 1
    assert not options or forwards[0] == forwards[1]


@pytest.mark.parametrize("on_error, at", [("warn", 2), ("raise", 2), ("refuse", 0)])
def test_a_probe_that_fails_on_one_process_of_a_run(tmp_path, on_error, at):
    """Training goes on, or ends on all processes, and none waits for another; earlier snapshots are there."""
    err = tmp_path / "err.txt"
    arguments = [tmp_path, "--batch-size", "2", "--fail-at", str(at), "--on-error", on_error]
    status = finish(launch(*arguments, err=err, processes=2))
    heard = err.read_text()
    if on_error == "warn":
        assert status == 0, heard
        said = (
            "NOT MEASURED: the snapshot of step 2 could not be taken: RuntimeError: rank 1: ValueError: broken on purp"
        )
        assert heard.count(said) == heard.count("NOT MEASURED: ") == 1  # the main process speaks
        assert Store(tmp_path).steps("mini") == [0, 1, 3, 4, 5, 6]
    else:
        assert status != 0 and "broken on purpose" in heard
        assert Store(tmp_path).steps("mini") == list(range(at))
