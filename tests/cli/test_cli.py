"""The command line: what it prints, where, and with which exit status."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from forget_callback import MultipleChoice, Probe, Recall, Snapshot, Store, load_probe, score_probe, transitions

PROBE = Probe(
    "facts-mini",
    [MultipleChoice(f"c{i}", f"{i} is", [" odd", " even", " prime", " none"], i % 4, "numbers") for i in range(40)]
    + [Recall(f"r{i}", f"{i} and", f" {i + 1}", "counting") for i in range(20)],
)


def taken(step, seed, probe=PROBE):
    """A snapshot with random answers."""
    rng = np.random.default_rng(seed)
    choice = np.where(np.isfinite(probe.n_choices), rng.integers(0, 4, len(probe)), -1)
    correct = np.where(choice >= 0, choice == probe.answer, rng.integers(0, 2, len(probe))).astype(float)
    category = np.array([item.category for item in probe.items], object)
    columns = {"n_choices": probe.n_choices, "answer": probe.answer, "category": category}
    return Snapshot(probe.name, probe.fingerprint, step, np.array(probe.ids), correct, choice=choice, **columns)


@pytest.fixture
def run_directory(tmp_path):
    store = Store(tmp_path / "run")
    store.begin([PROBE])
    for step in (0, 10, 20):
        store.write(taken(step, step))
    return tmp_path / "run"


def test_compare_run_with_itself_is_its_first_with_its_last_step(run_cli, run_directory):
    code, out, err = run_cli("compare", run_directory, run_directory, "--format", "json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    before, after = taken(0, 0), taken(20, 20)
    expected = transitions(
        before.correct,
        after.correct,
        n_choices=PROBE.n_choices,
        before_choice=before.choice,
        after_choice=after.choice,
        answer=PROBE.answer,
    ).as_dict()
    mine = result["probes"]["facts-mini"]
    for name, value in expected.items():
        if name != "knowledge_method" and not name.startswith("recall_"):  # arrays do not say which are recalled
            assert mine[name] == (None if value != value else pytest.approx(value, abs=1e-12)), name
    assert set(mine["categories"]) == {"numbers", "counting"}
    assert mine["categories"]["counting"]["n"] == 20
    assert result["all"] == {name: value for name, value in mine.items() if name != "categories"}
    assert result["format_version"] == 1
    assert (mine["k"], mine["metric"]) == (None, None), "items with four options and open-ended ones have no one k"
    assert mine["categories"]["numbers"]["verdict"] in ("lost", "moved", "none", "unclear")
    assert result["gate"] == {"passed": True, "failed": []}
    run = Store(run_directory).run.id
    assert (result["before"], result["after"]) == ({"run": run, "step": 0}, {"run": run, "step": 20})
    assert mine["drift"] is None, "a number that does not exist is null, never NaN, which is not JSON"


def test_compare_at_steps_and_with_files(run_cli, run_directory):
    file = run_directory / "forget" / "snapshots" / "facts-mini" / "step-00000010.parquet"
    by_step = run_cli("compare", f"{run_directory}@0", f"{run_directory}@10", "--format", "json")
    by_file = run_cli("compare", run_directory / "forget", file, "--format", "json")
    assert by_step[1] == by_file[1]


def test_compare_prints_tables_for_people(run_cli, run_directory):
    code, out, _ = run_cli("compare", run_directory, run_directory)
    assert code == 0
    assert "facts-mini" in out
    assert "counting" in out
    code, out, _ = run_cli("compare", run_directory, run_directory, "--format", "markdown")
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert len(lines) == 5 and out.startswith("- facts-mini: ")
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_a_narrow_terminal_folds_names_and_cuts_no_number(run_cli, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    long = Probe("narrow", [replace(item, category=f"{item.category} {'very ' * 7}long") for item in PROBE.items])
    store = Store(tmp_path / "run")
    store.begin([long])
    for step in (0, 10):
        store.write(taken(step, step, long))
    _, out, _ = run_cli("compare", tmp_path / "run", tmp_path / "run")
    result = json.loads(run_cli("compare", tmp_path / "run", tmp_path / "run", "--format", "json")[1])
    assert "…" not in out and max(map(len, out.splitlines())) <= 80
    whole = result["probes"]["narrow"]
    for row in (whole, *whole["categories"].values()):
        if row["knowledge_n"] < 30:
            assert "too few" in out
            continue
        low, now, high = (100 * max(row[f"knowledge_lost{end}"], 0) for end in ("_low", "", "_high"))
        assert f"{now:.1f}% [{low:.1f}, {high:.1f}]" in out
    assert whole["knowledge_n"] >= 30


@pytest.mark.parametrize(
    "gate, code",
    [
        ("forgetting>0.9", 0),
        ("forgetting>0.01", 1),
        ("facts-mini/forgetting>0.01", 1),
        ("facts-mini/counting/forgetting>0.01", 1),
        ("accuracy_after<0.01", 0),
        ("accuracy_after<=0.99", 1),
        ("drift>100", 1),  # there is no drift here: a gate without a number fails
        ("forgeting>0.1", 2),
        ("nothing/forgetting>0.1", 2),
        ("forgetting=0.1", 2),
    ],
)
def test_gates_fail_closed(run_cli, run_directory, gate, code):
    status, out, err = run_cli("compare", run_directory, run_directory, "--format", "json", "--fail-if", gate)
    assert status == code
    if code == 2:
        assert out == ""
        assert gate in err
    else:
        assert json.loads(out)["gate"] == {"passed": code == 0, "failed": [gate] * code}


def test_nothing_to_compare_is_an_error_and_never_a_pass(run_cli, run_directory, tmp_path):
    other = Store(tmp_path / "other")
    changed = Probe("facts-mini", PROBE.items[:-1])
    other.begin([changed])
    other.write(taken(0, 0, changed))
    empty = Store(tmp_path / "empty")
    empty.begin([PROBE])
    wrong = tmp_path / "wrong.parquet"
    wrong.write_text("not a parquet file")
    for after, message in (
        (tmp_path / "other", changed.fingerprint[:12]),
        (tmp_path / "empty", "has no snapshot"),
        (tmp_path / "nowhere", "is not a run"),
        (f"{run_directory}@7", "no snapshot of probe 'facts-mini' at step 7"),
        (wrong, "arquet"),
    ):
        status, out, err = run_cli("compare", run_directory, after, "--fail-if", "forgetting>0.9")
        assert (status, out) == (2, "")
        assert message in err
        assert err.startswith("error: ")
        assert "Traceback" not in err
        assert len(err.strip().splitlines()) <= 2


@pytest.mark.parametrize(
    "line, error",
    [
        ("compare RUN nowhere --debug", "ValueError: nowhere is not a run"),
        ("--debug report nowhere --format json", "ValueError: nowhere is not a run"),
        ("run --every 0 --debug -- true", "ValueError: every must be"),
        ("compare RUN --debug", "Missing"),
    ],
)
def test_debug_shows_the_traceback_and_then_the_error(run_cli, run_directory, line, error):
    """With the status of any error: 1 is that of a gate."""
    status, out, err = run_cli(*line.replace("RUN", str(run_directory)).split())
    assert (status, out) == (2, "")
    assert err.startswith("Traceback") and error in err
    without = run_cli(*line.replace("RUN", str(run_directory)).replace("--debug", "").split())
    assert without[0] == 2 and without[2].startswith("error: ") and err.endswith(f"\n{without[2]}")


def test_the_command_line_starts_without_torch():
    code = "import sys, forget_callback.cli; assert not {'torch', 'transformers', 'wandb'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_probes_prints_what_is_in_a_probe(run_cli, tmp_path):
    code, out, _ = run_cli("probes", "builtin:facts?category=capitals", "--show", "2")
    probe = load_probe("builtin:facts?category=capitals")
    assert code == 0
    assert f"facts-capitals: {len(probe)} items, fingerprint {probe.fingerprint}" in out
    assert json.loads(out.splitlines()[-1])["id"] == probe.ids[1]
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "a", "prompt": "p", "choices": ["x", "y"], "answer": 2}\n')
    code, out, err = run_cli("probes", bad)
    assert (code, out) == (2, "")
    assert f"{bad}, line 1: item 'a', field 'answer'" in err


@pytest.mark.parametrize("n, said", [(10, "10 items are fewer than 30: nothing can be claimed"), (200, "")])
def test_probes_says_that_so_few_items_can_show_nothing(run_cli, tmp_path, n, said):
    rows = [{"id": f"{i}", "prompt": f"{i}?", "choices": [" a", " b", " c"], "answer": i % 3} for i in range(n)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = run_cli("probes", tmp_path / "own.jsonl")
    assert code == 0 and (said in err) and (err == "") == (not said)
    notes = json.loads(run_cli("probes", tmp_path / "own.jsonl", "--format", "json")[1])["notes"]
    assert [said in note for note in notes] == [True] * bool(said)


@pytest.mark.parametrize("words", ["snapshot m --out o", "watch m", "dial m n --task t.jsonl"])
def test_probes_may_be_spelled_as_run_does(run_cli, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    theirs, *others = [run_cli(*words.split(), *way) for way in (["--probe", "no.jsonl"], ["--probes", "no.jsonl"])]
    others.append(run_cli(*words.split(), "--probes=no.jsonl"))
    assert others == [theirs] * 2 and theirs[0] == 2 and "usage" not in theirs[2]
    assert "--probes" not in run_cli(words.split()[0], "--help")[1]


def test_unknown_commands_and_options_exit_with_2(run_cli):
    assert run_cli("compare", "only-one")[0] == 2
    assert run_cli("nothing")[0] == 2
    assert run_cli("compare", "a", "b", "--format", "xml")[0] == 2


def test_snapshot_scores_a_saved_model_as_in_memory(run_cli, make_model, tokenizer, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")  # AutoTokenizer would load another one beside a Qwen2 config
    spec = "builtin:facts?category=planets"
    for step in (0, 5):
        code, _, err = run_cli(
            "snapshot", tmp_path / "model", "--probe", spec, "--out", tmp_path / "out", "--step", step
        )
        assert code == 0, err
    expected = score_probe(model, tokenizer, load_probe(spec))
    stored = Store(tmp_path / "out").read("facts-planets", 5)
    np.testing.assert_allclose(stored.margin, expected.margin, atol=1e-5)
    assert stored.prediction.tolist() == expected.prediction.tolist()
    assert stored.metadata["model"] == str(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()  # refused before there is a model to score
    code, _, err = run_cli("snapshot", tmp_path / "model", "--probe", spec, "--out", tmp_path / "out")
    assert code == 2
    assert "at step 0 already; give another --out or --step" in err
    same = run_cli("compare", tmp_path / "out@0", tmp_path / "out@5", "--format", "json")  # one model, scored twice
    assert json.loads(same[1])["all"]["n10"] == 0


def test_two_probes_are_paired_by_name_and_pooled(run_cli, tmp_path):
    second = Probe("second", PROBE.items[:10])
    for name, seed in (("a", 1), ("b", 2)):
        store = Store(tmp_path / name)
        store.begin([PROBE, second])
        store.write(taken(0, seed))
        store.write(replace(taken(0, seed, second)))
    code, out, _ = run_cli("compare", tmp_path / "a", tmp_path / "b", "--format", "json")
    result = json.loads(out)
    assert code == 0
    assert set(result["probes"]) == {"facts-mini", "second"}
    assert result["all"]["n"] == 70
    assert result["all"]["n10"] == sum(probe["n10"] for probe in result["probes"].values())


@pytest.mark.parametrize("format", ["table", "json", "markdown"])
def test_a_directory_whose_name_is_not_utf8_is_read(run_cli, run_directory, tmp_path, format):
    """Its files are whole: to say that they are damaged, and may be removed, would lose a record."""
    try:
        odd = run_directory.rename(os.fsdecode(os.fsencode(tmp_path) + b"/r\xe9"))
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    code, out, err = run_cli("compare", odd, odd, "--format", format)
    assert code == 0, err
    assert "facts-mini" in out
    assert run_cli("report", odd, "--out", tmp_path / "page.html")[0] == 0
    assert r"r\udce9" in (tmp_path / "page.html").read_text(encoding="utf-8")
    for name, scores in (("a", [1.0, 1.0]), ("b", [1.0, 0.0])):
        pd.DataFrame({"id": ["x", "y"], "score": scores}).to_parquet(tmp_path / name)
        (tmp_path / name).rename(odd / f"{name}.parquet")
    code, out, err = run_cli("compare", odd / "a.parquet", odd / "b.parquet", "--format", format)
    assert code == 0, err
