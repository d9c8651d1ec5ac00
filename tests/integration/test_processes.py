"""Runs that are killed, and runs of several processes: real processes, not simulated ones."""

import contextlib
import fcntl
import json
import multiprocessing
import os
import random
import runpy
import signal
import struct
import subprocess
import sys
import termios
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from forget_callback import ForgetMonitor, Probe, Snapshot, load_probe, score_probe
from forget_callback.probes import item_record
from forget_callback.store import Store

SCRIPT = Path(__file__).with_name("train_script.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def environment(**more):
    return {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more}


def run_script(arguments):
    """The script in this process, which a server forked that has imported everything already."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sys.argv = [str(SCRIPT), *map(str, arguments)]
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.fixture(scope="module")
def launch():
    """launch(*arguments) -> a process that runs the script, a second after and not twelve."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trl.trainer.sft_trainer", "forget_callback.callback", __name__])

    def start(*arguments):
        process = context.Process(target=run_script, args=(arguments,), daemon=True)
        process.start()
        return process

    return start


def finish(process):
    process.join(120)
    assert process.exitcode == 0


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


def test_a_run_killed_in_the_middle_of_a_probe_leaves_every_earlier_snapshot_readable(tmp_path, launch):
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


def test_a_run_that_is_killed_anywhere_and_resumed_is_the_run_that_was_not(tmp_path, launch):
    """At five moments, three of them at random, one within a probe and one within a save."""
    options = ["--save-steps", "2", "--slow-moments", "0.15"]
    finish(launch(tmp_path / "whole", *options))
    history = pd.read_parquet(tmp_path / "whole" / "forget" / "history.parquet")
    weights = torch.load(tmp_path / "whole" / "weights.pt")
    moments = [("a probe", 0.0), ("a save", 0.0), *(("anything", random.Random(i).uniform(0, 1)) for i in range(3))]
    for number, (moment, later) in enumerate(moments):
        out = tmp_path / f"{number}"
        process = launch(out, *options)
        wait_for(lambda: len(checkpoints(out)) > 0, process)  # noqa: B023 - called at once
        if moment != "anything":
            wait_for((out / f"in {moment}").exists, process)
        time.sleep(later)
        kill(process)
        finish(launch(out, "--resume", random.Random(number).choice(checkpoints(out)).parent, *options))
        pd.testing.assert_frame_equal(pd.read_parquet(out / "forget" / "history.parquet"), history)
        now = torch.load(out / "weights.pt")
        assert all(torch.equal(now[name], value) for name, value in weights.items())


@pytest.mark.parametrize("method", ["sft", "packed"])
def test_two_processes_count_what_one_would_and_write_once(tmp_path, method, launch):
    """The same 24 samples on one process and on two; only rank 0 writes."""
    finish(launch(tmp_path / "one", "--method", method))
    command = [*TORCHRUN, SCRIPT, tmp_path / "two", "--method", method, "--batch-size", "2"]
    subprocess.run(command, env=environment(), check=True, timeout=120)
    one, two = (pd.read_parquet(tmp_path / name / "forget" / "history.parquet") for name in ("one", "two"))
    world = json.loads((tmp_path / "two" / "world.json").read_text())
    assert world == {"processes": 2}
    assert one["samples_seen"].max() == two["samples_seen"].max() == 24
    assert one["tokens_seen"].max() == two["tokens_seen"].max()
    files = sorted((tmp_path / "two" / "forget" / "snapshots" / "mini").iterdir())
    assert len(files) == len(set(two["step"]))
    assert all(len(Snapshot.load(file)) == 6 for file in files)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_on_a_terminal_alone_and_only_if_it_takes_long(tmp_path, terminal):
    """A pseudo-terminal is a terminal to the process; a pipe is what a log file is."""
    command = [sys.executable, SCRIPT.with_name("slow_script.py")]
    if not terminal:
        said = subprocess.run(command, env=environment(), check=True, timeout=120, stderr=subprocess.PIPE).stderr
        assert b"probe" not in said
        return
    reader, writer = os.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(command, env=environment(), stderr=writer)
    os.close(writer)
    said = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end was closed
        while part := os.read(reader, 4096):
            said += part
    os.close(reader)
    assert process.wait(timeout=120) == 0
    assert b"probe slow" in said and b"probe quick" not in said


def several(probe, name, n):
    """`n` items, in turn of all kinds."""
    items = [replace(probe.items[i % len(probe)], id=f"{i}") for i in range(n)]
    return Probe(name, [replace(item, prompt=f"{i}. {item.prompt}") for i, item in enumerate(items)])


@pytest.mark.parametrize("options", [(), ("--sharded",)], ids=["copies", "FSDP 2"])
def test_two_processes_share_the_items_find_what_one_finds_and_fail_together(
    tmp_path, make_model, tokenizer, probe, options
):
    """One item leaves the second process nothing to do; under FSDP 2 it must keep step all the same."""
    model, paths, begun = make_model(seed=3), [], time.monotonic()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name, n in (("one", 1), ("many", 601)):
        paths.append(tmp_path / f"{name}.jsonl")
        items = several(probe, name, n).items
        paths[-1].write_text("".join(json.dumps(item_record(item)) + "\n" for item in items))
    command = [*TORCHRUN, SCRIPT.with_name("score_script.py"), tmp_path / "model", tmp_path, *options, "--", *paths]
    subprocess.run(command, env=environment(), check=True, timeout=120)
    assert time.monotonic() - begun < 60
    one, many = (score_probe(model, tokenizer, load_probe(str(path))) for path in paths)
    for rank in range(2):
        for name, expected in (("one", one), ("many", many), ("after", many), ("memory", many)):
            found = Snapshot.load(tmp_path / f"{name}-{rank}.parquet")
            assert found.metadata["likelihood"] == "tree, tiles" and found.metadata["processes"] == 2
            assert found.metadata["batch_tokens"] == (1024 if name == "memory" else 2048)
            for column in ("ids", "correct", "outcome", "choice", "prediction", "text"):
                np.testing.assert_array_equal(getattr(found, column), getattr(expected, column))
            np.testing.assert_allclose(found.margin, expected.margin, atol=1e-4)
    assert (tmp_path / "error-0.txt").read_text() == "RuntimeError: process 1: ValueError: broken on purpose"
    assert (tmp_path / "error-1.txt").read_text() == "ValueError: broken on purpose"
    # Each does its share, and under FSDP 2 as many forwards as the other.
    forwards = [int((tmp_path / f"after-{rank}.forwards").read_text()) for rank in range(2)]
    assert min(forwards) > 1
    assert not options or forwards[0] == forwards[1]


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_probe_that_fails_on_one_process_of_a_run(tmp_path, on_error):
    """Training goes on, or ends on all processes; either way within a minute, and earlier snapshots are there."""
    begun = time.monotonic()
    command = [*TORCHRUN, SCRIPT, tmp_path, "--batch-size", "2", "--fail-at", "2", "--on-error", on_error]
    run = subprocess.run(command, env=environment(), timeout=120, capture_output=True, text=True)
    assert time.monotonic() - begun < 60
    said = "the snapshot of step 2 could not be taken: "
    if on_error == "warn":
        assert run.returncode == 0, run.stderr
        assert f"{said}RuntimeError: process 1: ValueError: broken on purpose" in run.stderr
        assert f"{said}ValueError: broken on purpose" in run.stderr
        assert Store(tmp_path).steps("mini") == [0, 1, 3, 4, 5, 6]
    else:
        assert run.returncode != 0 and "broken on purpose" in run.stderr
        assert Store(tmp_path).steps("mini") == [0, 1]
