"""One run at a time in a directory: locks of real processes, killed and forked."""

import errno
import fcntl
import gc
import os
import subprocess
import sys

import pytest

from forget_callback import Store
from forget_callback.runs.lock import take

HOLDER = """
import os, sys, time
from pathlib import Path
from forget_callback.runs.lock import take
class Owner: pass
owner = Owner()
assert take(Path(sys.argv[1]), owner) is not None
if sys.argv[2] == "fork" and os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(600)
print("held", flush=True)
time.sleep(600)
"""


class Owner:
    """What a lock is given back with."""


def holder(path, *, fork):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path, "fork" if fork else "alone"], stdout=subprocess.PIPE, text=True
    )
    said = [process.stdout.readline().strip() for _ in range(1 + fork)]
    return process, [int(line) for line in said if line.isdigit()]


@pytest.mark.parametrize("fork", [False, True], ids=["alone", "with a child that outlives it"])
def test_a_lock_is_held_while_its_process_lives_and_no_longer(tmp_path, fork):
    path, owner = tmp_path / "forget" / ".lock", Owner()
    process, children = holder(path, fork=fork)
    try:
        assert take(path, owner) is None and not Store(tmp_path).lock()
        process.kill()
        process.wait()
        lock = take(path, owner)  # the file is there, and blocks nobody
        assert lock is not None and lock.held
        lock.release()
        assert not lock.held
    finally:
        process.stdout.close()
        process.kill()
        process.wait()
        for child in children:
            os.kill(child, 9)


def test_a_run_of_this_process_gives_way_to_the_next_unless_it_is_alive(tmp_path):
    path, owners = tmp_path / ".lock", [Owner() for _ in range(3)]
    first = take(path, owners[0], alive=lambda: True)
    assert take(path, owners[1]) is None and first.held
    first.release()
    second = take(path, owners[1])
    third = take(path, owners[2])
    assert third.held and not second.held
    second.release()
    assert third.held


def test_a_lock_goes_with_its_owner(tmp_path):
    path, owner = tmp_path / ".lock", Owner()
    lock = take(path, owner, alive=lambda: True)
    del owner
    gc.collect()
    assert not lock.held


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, caplog):
    def refuses(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuses)
    store = Store(tmp_path)
    assert store.lock() and not store.locked
    assert "cannot be locked, so no other run may be started in it until this one ends" in caplog.text
    store.begin([])
    assert store.exists


def test_a_store_that_was_taken_over_writes_nothing_more(tmp_path):
    first, second = Store(tmp_path), Store(tmp_path)
    assert first.lock() and second.lock() and second.locked and not first.locked
    for write in (lambda: first.begin([]), first.set_aside, lambda: first.set_run(steps=1)):
        with pytest.raises(PermissionError, match="a later run of this process records in"):
            write()
    second.begin([])
    second.close()
    assert first.lock() and first.locked
