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
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forget_callback import ForgetMonitor, Snapshot, score_probe
from forget_callback.probes import item_record
from forget_callback.store import Store

SCRIPT = Path(__file__).with_name("train_script.py")


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
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, SCRIPT, tmp_path / "two", "--method", method, "--batch-size", "2"]
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


def test_weights_that_are_sharded_over_two_processes_score_as_in_one(tmp_path, make_model, tokenizer, probe):
    """FSDP 2: every forward goes through the root module, and both processes do the same ones."""
    model = make_model(seed=3)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "mini.jsonl").write_text("".join(json.dumps(item_record(item)) + "\n" for item in probe.items))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, SCRIPT.with_name("score_script.py"), tmp_path / "model", tmp_path / "mini.jsonl", tmp_path]
    subprocess.run(command, env=environment(), check=True, timeout=120)
    expected = score_probe(model, tokenizer, probe)
    for rank in range(2):
        found = Snapshot.load(tmp_path / f"rank-{rank}.parquet")
        assert found.metadata["likelihood"] == "tree, tiles" and found.metadata["generation"] == "loop"
        for name in ("ids", "correct", "outcome", "choice", "prediction", "text"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        np.testing.assert_allclose(found.margin, expected.margin, atol=1e-4)
