"""Runs that are killed, and runs of several processes: real processes, not simulated ones."""

import contextlib
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forget_callback import ForgetMonitor, Probe, Snapshot, load_probe, score_probe
from forget_callback.probes import item_record
from forget_callback.store import Store

SCRIPT = Path(__file__).with_name("train_script.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def environment(**more):
    return {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more}


def test_a_run_killed_in_the_middle_of_a_probe_leaves_every_earlier_snapshot_readable(tmp_path):
    process = subprocess.Popen([sys.executable, SCRIPT, tmp_path, "--slow-from", "3"], env=environment())
    store = Store(tmp_path)
    deadline = time.monotonic() + 120
    while not (tmp_path / "in-the-probe-of-step-3").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
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


@pytest.mark.parametrize("method", ["sft", "packed"])
def test_two_processes_count_what_one_would_and_write_once(tmp_path, method):
    """The same 24 samples on one process and on two; only rank 0 writes."""
    single = [sys.executable, SCRIPT, tmp_path / "one", "--method", method]
    subprocess.run(single, env=environment(), check=True, timeout=120)
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


@pytest.fixture
def score_on_two(tmp_path, make_model, tokenizer):
    """score_on_two(probe, *options) -> the snapshot of one process, and those of two that share the items."""
    model = make_model(seed=3)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    def score(probe, *options):
        (tmp_path / "mini.jsonl").write_text("".join(json.dumps(item_record(item)) + "\n" for item in probe.items))
        paths = [tmp_path / "model", tmp_path / "mini.jsonl", tmp_path]
        command = [*TORCHRUN, SCRIPT.with_name("score_script.py"), *paths, *options]
        subprocess.run(command, env=environment(), check=True, timeout=120)
        found = [Snapshot.load(tmp_path / f"rank-{rank}.parquet") for rank in range(2)]
        return score_probe(model, tokenizer, load_probe(str(tmp_path / "mini.jsonl"))), found

    return score


def several(probe, n):
    """`n` items, in turn of all kinds."""
    items = [replace(probe.items[i % len(probe)], id=f"{i}") for i in range(n)]
    return Probe("mini", [replace(item, prompt=f"{i}. {item.prompt}") for i, item in enumerate(items)])


def same(found, expected):
    assert found.metadata["likelihood"] == "tree, tiles" and found.metadata["processes"] == 2
    for name in ("ids", "correct", "outcome", "choice", "prediction", "text"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_allclose(found.margin, expected.margin, atol=1e-4)


@pytest.mark.parametrize("n", [1, 600])
@pytest.mark.parametrize("options", [(), ("--sharded",)], ids=["copies", "FSDP 2"])
def test_two_processes_share_the_items_and_find_what_one_finds(tmp_path, probe, score_on_two, options, n):
    """One item leaves the second process nothing to do; under FSDP 2 it must keep step all the same."""
    expected, found = score_on_two(several(probe, n), *options)
    for snapshot in found:
        same(snapshot, expected)
    if n == 600:
        counts = [int((tmp_path / f"forwards-{rank}.txt").read_text()) for rank in range(2)]
        assert min(counts) > 1


@pytest.mark.parametrize("options", [(), ("--sharded",)], ids=["copies", "FSDP 2"])
def test_what_fails_on_one_process_fails_on_all_and_nobody_waits(tmp_path, probe, score_on_two, options):
    begun = time.monotonic()
    expected, found = score_on_two(several(probe, 50), *options, "--fail", "error")
    assert time.monotonic() - begun < 60
    assert (tmp_path / "heard-0.txt").read_text() == "RuntimeError: process 1: ValueError: broken on purpose"
    assert (tmp_path / "heard-1.txt").read_text() == "ValueError: broken on purpose"
    for snapshot in found:  # and then it works again
        same(snapshot, expected)


def test_memory_that_ends_on_one_process_halves_the_batch_on_all(tmp_path, probe, score_on_two):
    expected, found = score_on_two(several(probe, 50), "--fail", "memory")
    assert not (tmp_path / "heard-0.txt").exists() and not (tmp_path / "heard-1.txt").exists()
    for snapshot in found:
        same(snapshot, expected)
        assert snapshot.metadata["batch_tokens"] == 1024


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
