"""The manifest: read strictly, and what it says of a record that is not that of a whole run."""

import json

import pytest

from forget_callback import MultipleChoice, Probe, Snapshot, Store, open_run

PROBES = [Probe(name, [MultipleChoice("m", f"{name}?", [" a", " b"], 0)]) for name in ("p", "q")]


def record(directory, p=(0, 5, 10), q=(0, 5, 10), **run):
    store = Store(directory)
    store.begin(PROBES)
    for probe, steps in zip(PROBES, (p, q)):
        for step in steps:
            store.write(Snapshot(probe.name, probe.fingerprint, step, ids=["m"], correct=[1]))
    if run:
        store.set_run(**run)
    return store


def miss(probe="", step=None, why="too large for memory", **more):
    return {"probe": probe, "step": step, "why": why, **more}


@pytest.mark.parametrize(
    ("steps", "run", "said"),
    [
        ({}, {}, []),
        ({}, {"status": "ended", "planned_steps": 10, "steps": 10}, []),
        ({}, {"status": "ended", "planned_steps": 99, "steps": 10}, []),  # stopped early, by a rule
        ({"p": [0], "q": [0]}, {}, []),  # a directory of `snapshot`
        (
            {},
            {"status": "training", "planned_steps": 50},
            ["training has not ended: its last snapshot is of step 10 of 50 planned"],
        ),
        ({"p": [], "q": []}, {"status": "training"}, ["training has not ended: nothing was measured yet"]),
        ({"p": [], "q": []}, {}, ["nothing was measured"]),
        ({}, {"status": "ended", "steps": 12}, ["the model was trained to step 12 and last measured at step 10"]),
        (
            {},
            {"status": "ended", "steps": 12, "not_measured": [miss(step=12), miss(step=7), miss("q", items=3)]},
            [
                "the model was trained to step 12 and last measured at step 10",
                "the run was not measured at step 12: too large for memory",
            ],
        ),
        (
            {},
            {"status": "ended", "steps": 10, "not_measured": [miss("r", why="no chat\x1b[2J template")]},
            [r"probe 'r' was not measured: no chat\x1b[2J template"],
        ),
        (
            {"p": [], "q": []},
            {"status": "unwatched", "not_measured": [miss(why="no tokenizer")]},
            ["the run was not measured: no tokenizer"],
        ),
        ({}, {"status": "unwatched"}, ["the run is not measured, or no longer"]),
        ({"p": [0, 5, 10], "q": [0, 5]}, {}, ["the last snapshots are of different steps: 10 of 'p', 5 of 'q'"]),
        ({"p": [0, 5], "q": [5]}, {}, ["the first snapshots are of different steps: 0 of 'p', 5 of 'q'"]),
        (
            {"p": [0], "q": []},
            {},
            [
                "no step was measured in all of its probes",
                "the first snapshots are of different steps: 0 of 'p', none of 'q'",
                "the last snapshots are of different steps: 0 of 'p', none of 'q'",
            ],
        ),
    ],
)
def test_a_record_says_in_which_ways_it_is_not_that_of_a_whole_run(tmp_path, steps, run, said):
    record(tmp_path, **steps, **run)
    assert open_run(tmp_path).store.incomplete() == said


def test_a_run_has_an_id_of_its_own_and_changes_one_by_one(tmp_path):
    first, second = record(tmp_path / "1"), record(tmp_path / "2")
    assert first.run.id != second.run.id and first.run.status is None
    first.set_run(status="training", planned_steps=7)
    first.set_run(status="ended", steps=7)
    Store(tmp_path / "1", writable=False).set_run(steps=8)
    run = json.loads((tmp_path / "1" / "forget" / "manifest.json").read_text())["run"]
    assert run == {"id": first.run.id, "status": "ended", "planned_steps": 7, "steps": 7, "not_measured": []}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": "done"}, "'run.status' must be one of training, ended, unwatched, or null, got 'done'"),
        ({"steps": -1}, "'run.steps' must be a whole number or null, got -1"),
        ({"planned_steps": True}, "'run.planned_steps' must be a whole number or null, got True"),
        ({"not_measured": [{"probe": "p"}]}, "'run.not_measured' must be a list of"),
        ({"id": "../x"}, "'run.id' must be letters and digits, got '../x'"),
    ],
)
def test_what_is_wrong_of_a_run_is_refused_when_it_is_written(tmp_path, change, said):
    with pytest.raises(ValueError, match=said):
        record(tmp_path).set_run(**change)


def put(*path, value):
    def change(manifest):
        at = manifest
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        return json.dumps(manifest)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda manifest: "", "Expecting value"),
        (lambda manifest: json.dumps(manifest)[:-40], "line 1 column"),
        (lambda manifest: "\0" * 300, "Expecting value"),
        (lambda manifest: "[" * 100_000, "recursion"),
        (lambda manifest: "[1]", r"expected an object, got \[1\]"),
        (put("format", value=2), "'format' must be 1, got 2"),
        (put("format", value=True), "'format' must be 1, got True"),
        (put("probes", value=["p"]), "'probes' must be an object"),
        (put("probes", "p", value="x"), "'probes.p' must be an object, got 'x'"),
        (put("probes", "p", "fingerprint", value=1), "'probes.p.fingerprint' must be of type str, got 1"),
        (put("probes", "p", "settings", value=None), "'probes.p.settings' must be of type dict, got None"),
        (put("probes", "p", "items", value=True), "'probes.p.items' must be of type int, got True"),
        (put("stage", value={"number": "1"}), "'stage' must be an object of number and samples_before"),
        (put("run", value=None), "'run' must be an object of id, not_measured, planned_steps, status, steps, got None"),
        (put("run", value={"id": "a"}), "'run' must be an object of"),
        (put("run", "status", value=3), "'run.status' must be one of"),
        (put("run", "not_measured", value={}), "'run.not_measured' must be a list of"),
    ],
)
def test_a_damaged_manifest_is_named_with_what_is_wrong_in_it(tmp_path, change, said):
    store = record(tmp_path)
    path = store.path / "manifest.json"
    path.write_text(change(store.manifest()))
    for read in (store.manifest, store.probes, store.history, store.incomplete, lambda: store.run, lambda: store.stage):
        with pytest.raises(ValueError, match=rf"manifest.json is damaged: .*{said}.*; restore it from a copy, or "):
            read()


def test_a_manifest_that_is_no_text_is_damaged_too(tmp_path):
    store = record(tmp_path)
    (store.path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"manifest.json is damaged: 'utf-8' codec can't decode"):
        store.probes()


@pytest.mark.parametrize("gone", [[0], [5], [0, 5]])
def test_a_snapshot_that_was_taken_out_of_all_probes_is_missed(tmp_path, gone):
    """Else the first one that is left would pass for the start."""
    store = record(tmp_path, status="ended", planned_steps=10, steps=10)
    store.write_history(store.history().arrow)
    assert store.incomplete() == []
    for name in ("p", "q"):
        for step in gone:
            (store.path / "snapshots" / name / f"step-{step:08d}.parquet").unlink()
    listed = ", ".join(map(str, gone))
    assert store.incomplete() == [f"history.parquet has steps whose snapshots are gone: {listed}"]
    (store.path / "history.parquet").write_bytes(b"PAR1")  # it decides nothing: it can be computed again
    assert store.incomplete() == []
