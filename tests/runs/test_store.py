"""What the store promises: files whole or not at all, nothing overwritten, another probe refused."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from math import nan

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from forget_callback.cli import main
from forget_callback.probes.items import Generation, MultipleChoice, Recall
from forget_callback.probes.probe import Probe
from forget_callback.runs.files import write_whole
from forget_callback.runs.history import History
from forget_callback.runs.run_at import open_run
from forget_callback.runs.store import Store
from forget_callback.snapshots.snapshot import Snapshot

PROBE = Probe("facts", [MultipleChoice("m", "Q", [" a", " ü"], 1, "geo"), Recall("r", "Q", "A")], temperature=0.5)
OTHER = Probe("facts", [MultipleChoice("m", "Q", [" a", " ü"], 0, "geo"), Recall("r", "Q", "A")], temperature=0.5)
SECOND = Probe("more.facts-2", [Generation("g", "Q", ["1", "2"], "number")])


def snapshot(step=0, correct=(1, 0), probe=PROBE):
    return Snapshot(probe.name, probe.fingerprint, step, ids=list(probe.ids), correct=list(correct[: len(probe)]))


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def content(folder):
    return {name: (folder / name).read_bytes() for name in files(folder)}


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    store.begin([PROBE])
    return store


def test_the_folder_is_laid_out_as_promised(tmp_path):
    store = Store(tmp_path)
    assert not store.exists
    store.begin([PROBE, SECOND])
    for step in (0, 12, 123456789):
        store.write(snapshot(step))
    store.write(snapshot(12, probe=SECOND))
    history = History()
    history.append([snapshot()])
    store.write_history(history.arrow)
    assert store.exists and files(tmp_path) == [
        "forget/history.parquet",
        "forget/manifest.json",
        "forget/probes/facts.jsonl",
        "forget/probes/more.facts-2.jsonl",
        "forget/snapshots/facts/step-00000000.parquet",
        "forget/snapshots/facts/step-00000012.parquet",
        "forget/snapshots/facts/step-123456789.parquet",
        "forget/snapshots/more.facts-2/step-00000012.parquet",
    ]
    assert store.steps("facts") == [0, 12, 123456789] and store.steps("more.facts-2") == [12] and store.steps("x") == []
    assert store.read("facts", 12).ids.tolist() == ["m", "r"]
    pd.testing.assert_frame_equal(pd.read_parquet(store.path / "history.parquet"), history.table, check_dtype=False)


def test_the_folder_itself_is_a_run_too(store):
    assert Store(store.path).path == store.path and Store(str(store.path)).exists


def test_the_probes_come_back_with_their_settings(tmp_path):
    store = Store(tmp_path)
    store.begin([PROBE])
    store.begin([PROBE, SECOND])
    assert store.probes() == [PROBE, SECOND]
    manifest = json.loads((store.path / "manifest.json").read_text())
    assert manifest["probes"]["facts"]["fingerprint"] == PROBE.fingerprint and manifest["probes"]["facts"]["items"] == 2
    assert manifest["versions"]["torch"] and manifest["format"] == 1


def test_the_same_probes_again_change_nothing(store):
    before = content(store.path)
    Store(store.path.parent).begin([PROBE])
    assert content(store.path) == before


def test_another_probe_under_the_same_name_is_refused_once_something_was_measured(store):
    store.begin([OTHER])
    store.begin([PROBE])
    store.write(snapshot(0))
    before = content(store.path)
    with pytest.raises(ValueError, match=f"named 'facts'.*{PROBE.fingerprint[:12]} .*{OTHER.fingerprint[:12]} "):
        store.begin([SECOND, OTHER])
    assert content(store.path) == before


def test_a_changed_probe_file_is_found(store):
    path = store.path / "probes" / "facts.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"answer": 1', '"answer": 0'), encoding="utf-8")
    with pytest.raises(ValueError, match=f"facts.jsonl was changed.*{OTHER.fingerprint}.*{PROBE.fingerprint}"):
        store.probes()


def test_items_left_by_a_run_that_died_before_its_manifest_are_replaced(store):
    (store.path / "manifest.json").unlink()
    store.begin([OTHER])
    assert store.probes() == [OTHER]


def test_a_snapshot_is_never_overwritten(store):
    store.write(snapshot(0, [1, 1]))
    before = content(store.path)
    with pytest.raises(ValueError, match=r"step-00000000.parquet exists and is not overwritten; use another output"):
        store.write(snapshot(0, [0, 0]))
    assert content(store.path) == before


def test_a_missing_snapshot_or_run_says_what_there_is(store, tmp_path):
    store.write(snapshot(3))
    with pytest.raises(ValueError, match=r"no snapshot of probe 'facts' at step 4; has \[3\]"):
        store.read("facts", 4)
    with pytest.raises(ValueError, match=r"no run at .*nowhere"):
        Store(tmp_path / "nowhere").probes()


def test_a_store_that_may_not_write_reads_and_writes_nothing(store, tmp_path):
    store.write(snapshot(0))
    before = content(tmp_path)
    reader = Store(tmp_path, writable=False)
    reader.begin([PROBE, SECOND])
    reader.write(snapshot(1))
    reader.write_history(pa.table({"step": [1]}))
    assert reader.set_aside() is None
    assert content(tmp_path) == before
    assert reader.steps("facts") == [0] and reader.probes() == [PROBE] and reader.read("facts", 0).step == 0
    Store(tmp_path / "new", writable=False).begin([PROBE])
    assert not (tmp_path / "new").exists()


def cut(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def rewrite(path, change):
    change(Snapshot.load(path)).save(path)


STEP_0, STEP_5 = (f"snapshots/facts/step-0000000{step}.parquet" for step in (0, 5))


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("manifest.json", cut, "manifest.json is damaged: "),
        ("manifest.json", lambda path: path.write_text("{}"), "manifest.json is damaged: 'format' must be 1, got None"),
        ("probes/facts.jsonl", cut, "facts.jsonl, line "),
        ("probes/facts.jsonl", lambda path: cut(path, 0), "facts.jsonl holds no items"),
        ("probes/facts.jsonl", lambda path: path.write_text(path.read_text().split("\n")[0]), "was changed or cut: "),
        ("probes/facts.jsonl", lambda path: path.unlink(), "no probe file at .*facts.jsonl"),
        (STEP_0, cut, "step-00000000.parquet is damaged, or no Parquet file: "),
        (STEP_5, lambda path: cut(path, 0), "step-00000005.parquet is damaged, or no Parquet file: "),
        (STEP_5, lambda path: path.write_text("PAR1 and no more PAR1"), "step-00000005.parquet is damaged"),
        (STEP_5, lambda path: pd.DataFrame({"x": [1]}).to_parquet(path), "step-00000005.parquet is not a snapshot"),
        (STEP_5, lambda path: rewrite(path, lambda one: one.at(4)), "00000005.parquet is of probe 'facts' at step 4"),
        (STEP_5, lambda path: rewrite(path, lambda one: one.with_metadata(run="x")), "is of another run: 'x', where "),
        (STEP_5, lambda path: rewrite(path, lambda one: replace(one, fingerprint="f")), "is of another probe: 'f', wh"),
        ("baseline/facts.parquet", cut, "baseline/facts.parquet is damaged, or no Parquet file: "),
    ],
)
def test_what_is_damaged_or_of_another_run_is_named(tmp_path, monkeypatch, capsys, name, damage, said):
    """By whoever reads it, in Python and on the command line."""
    store = Store(tmp_path)
    store.begin([PROBE])
    for step in (0, 5):
        store.write(snapshot(step))
    store.write_beside("baseline", snapshot(0))
    store.set_run(status="ended", steps=5)
    damage(store.path / name)
    with pytest.raises(ValueError, match=said):
        Store(tmp_path).history()
    commands = [["report", tmp_path, "--out", tmp_path / "page.html"]]
    if "baseline" not in name:
        commands.append(["compare", tmp_path, tmp_path, "--fail-if", "forgetting>0.5"])
    for command in commands:
        monkeypatch.setattr(sys, "argv", ["forget-callback", *map(str, command)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code == 2 and printed.out == "" and re.search(said, printed.err)
        assert printed.err.startswith("error: ") and len(printed.err.splitlines()) <= 2
    assert not (tmp_path / "page.html").exists()


def half(path):
    path.write_text("half")
    raise OSError("disk full")


def test_a_write_that_fails_halfway_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    with pytest.raises(OSError, match="disk full"):
        write_whole(target, half)
    assert files(tmp_path) == []
    write_whole(target, lambda path: path.write_text("whole"))
    with pytest.raises(OSError, match="disk full"):
        write_whole(target, half)
    assert files(tmp_path) == ["deep/file.txt"] and target.read_text() == "whole"


@pytest.mark.filterwarnings("ignore:Could not serialize")
def test_a_snapshot_that_cannot_be_written_leaves_no_file(store):
    bad = Snapshot("facts", PROBE.fingerprint, 0, ids=["m", "r"], correct=[1, 0], metadata={"model": object()})
    with pytest.raises(TypeError, match="not JSON serializable"):
        store.write(bad)
    assert store.steps("facts") == [] and not list(store.path.rglob("*.tmp"))
    store.write(snapshot(0))
    assert store.steps("facts") == [0]


WRITER = """
import sys
import pyarrow as pa
from forget_callback.snapshots.snapshot import Snapshot
from forget_callback.runs.store import Store
store, n = Store(sys.argv[1]), 3000
step = max(store.steps("facts"), default=-1) + 1
while True:
    snapshot = Snapshot("facts", "f", step, ids=[str(i) for i in range(n)], correct=[step % 2] * n)
    store.write(snapshot)
    step += 1
    store.write_history(pa.table({"step": list(range(step))}))
"""


def test_a_process_that_is_killed_leaves_only_whole_files(tmp_path):
    store, rng = Store(tmp_path), np.random.default_rng(0)
    for _ in range(2):
        known = len(store.steps("facts"))
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) as process:
            started = time.monotonic()
            while len(store.steps("facts")) < known + 4 and process.poll() is None and time.monotonic() < started + 120:
                time.sleep(0.002)
            time.sleep(0.02 * rng.random())
            process.kill()
        steps = store.steps("facts")
        assert len(steps) >= known + 4 and steps == list(range(len(steps)))
        for step in steps[known:]:
            found = store.read("facts", step)
            assert len(found) == 3000 and found.accuracy == step % 2
        assert len(pd.read_parquet(store.path / "history.parquet")) >= len(steps) - known - 1


def test_set_aside_moves_later_snapshots_and_keeps_the_run(tmp_path):
    store = Store(tmp_path)
    store.begin([PROBE, SECOND])
    (store.path / "report.html").write_text("of step 20")
    for step in (0, 10, 20):
        store.write(snapshot(step))
        store.write(snapshot(step, probe=SECOND))
    before = content(store.path)
    aside = store.set_aside(after=10)
    assert aside == store.path / "set-aside" / "1"
    assert store.steps("facts") == store.steps("more.facts-2") == [0, 10] and store.exists
    moved = "snapshots/facts/step-00000020.parquet"
    assert (aside / moved).read_bytes() == before[moved]
    assert (aside / "report.html").exists() and not (store.path / "report.html").exists()
    assert store.set_aside(after=10) is None
    store.write(snapshot(20))
    assert store.set_aside(after=10) == store.path / "set-aside" / "2"


def test_set_aside_of_everything_makes_room_for_another_run(store):
    store.write(snapshot(0))
    store.write_history(pa.table({"step": [0]}))
    before = content(store.path)
    aside = store.set_aside()
    assert content(aside) == before
    assert not store.exists and store.steps("facts") == []
    store.begin([OTHER])
    store.write(snapshot(0, probe=OTHER))
    assert store.probes() == [OTHER] and store.set_aside() == store.path / "set-aside" / "2"


def test_set_aside_where_nothing_was_measured_moves_what_was_begun(store, tmp_path):
    """It may say why nothing was measured, and its probes are not those of the next run."""
    before = content(store.path)
    assert content(store.set_aside()) == before and not store.exists
    assert store.set_aside() is None and Store(tmp_path / "new").set_aside() is None


@pytest.mark.parametrize("name", ["run", "run@home", "run@7"])
@pytest.mark.parametrize("inside", ["", "forget"])
def test_open_run_finds_the_run_and_the_step(tmp_path, name, inside):
    directory = tmp_path / name
    store = Store(directory)
    store.begin([PROBE])
    for step in (0, 5, 9):
        store.write(snapshot(step, [nan, 1]))
    run = open_run(directory / inside)
    assert run.step is None and run.store.path == store.path
    assert run.read("facts", default="first").step == 0 and run.read("facts", default="last").step == 9
    at = open_run(f"{directory / inside}@5")
    assert at.step == 5 and at.store.path == store.path
    assert at.read("facts", default="first").step == at.read("facts", default="last").step == 5
    with pytest.raises(ValueError, match=r"no snapshot of probe 'facts' at step 6; has \[0, 5, 9\]"):
        open_run(f"{directory / inside}@6").read("facts", default="last")
    with pytest.raises(ValueError, match="has no snapshot of probe 'more'"):
        run.read("more", default="first")


@pytest.mark.parametrize("name", ["none", "none@3", "@3", "run@", "run@-1", "run@x"])
def test_what_is_no_run_is_named(tmp_path, name):
    Store(tmp_path / "run").begin([PROBE])
    with pytest.raises(ValueError, match=rf"{name} is not a run: (no such file or directory.*; )?expected a directory"):
        open_run(os.path.join(tmp_path, name))
