"""Records that are set aside and taken back, also where that is killed in the middle."""

import os
from pathlib import Path

import pytest

from forget_callback import MultipleChoice, Probe, Snapshot, Store
from forget_callback.runs.manifest import RunState
from tests.forked import CONTEXT

PROBE = Probe("p", [MultipleChoice("m", "p?", [" a", " b"], 0)])


def record(store, run_id, steps=(0, 5)):
    store.start_run(RunState(id=run_id))
    store.begin([PROBE])
    for step in steps:
        store.write(Snapshot("p", PROBE.fingerprint, step, ids=["m"], correct=[1]))
    store.write_beside("again", store.read("p", 0))
    store.write_history(store.history().arrow)
    return store


def content(folder):
    found = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith((".", "set-aside"))}


def test_a_record_is_taken_back_and_what_took_its_place_is_set_aside(tmp_path):
    store = record(Store(tmp_path), "first")
    before = content(store.path)
    store.set_aside()
    other = content(record(store, "second").path)
    assert not store.take_back("third") and content(store.path) == other
    assert store.take_back("first") and content(store.path) == before
    assert content(store.path / "set-aside" / "2") == other and not content(store.path / "set-aside" / "1")
    assert store.take_back("second") and content(store.path) == other


def killed_at(number, path, act):
    """Does `act` in a process that is gone at its rename of this number, as a kill leaves it."""
    renames, rename = 0, Path.rename

    def counted(source, target):
        nonlocal renames
        if "set-aside" in f"{source}{target}":
            if renames == number:
                os._exit(9)
            renames += 1
        return rename(source, target)

    Path.rename = counted
    store = Store(path)
    store.take_back("first") if act == "take back" else store.set_aside()


@pytest.mark.parametrize("act", ["set aside", "take back"])
def test_a_move_that_is_killed_is_finished_by_the_next_run(tmp_path, act):
    for number in range(5):
        store = record(Store(tmp_path / f"{number}"), "first")
        before = content(store.path)
        if act == "take back":
            store.set_aside()
            assert not content(store.path)
        process = CONTEXT.Process(target=killed_at, args=(number, store.path, act))
        process.start()
        process.join()
        assert process.exitcode == 9
        # Nobody reads half of a run as a run.
        assert not store.exists or content(store.path) == before
        again = Store(store.path)
        assert again.lock()
        moved = content(store.path if act == "take back" else store.path / "set-aside" / "1")
        assert moved == before and store.exists == (act == "take back")
