"""`compare` never passes without evidence: what it refuses and what it says it compared; and text that is not ours."""

import gzip
import json
import os
import re
import shutil
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from markdown_it import MarkdownIt

from forget_callback import MultipleChoice, Probe, Recall, Snapshot, Store, Text
from forget_callback.probes.quoting import code, markdown
from forget_callback.runs.gate import GateResult, junit

N = 100
PROBE = Probe("p", [MultipleChoice(f"i{i}", f"{i} is", list("abcd"), i % 4, f"c{i % 2}") for i in range(N)])
OTHER = Probe("q", [Recall(f"r{i}", f"{i} and", f" {i + 1}") for i in range(N)])


def taken(step, wrong=0, *, unscored=0, probe=PROBE, **columns):
    """80 of 100 right, less the first `wrong` ones; the last `unscored` ones were not scored."""
    correct = (np.arange(len(probe)) < 80).astype(float)
    correct[:wrong] = 0
    correct[len(probe) - unscored :] = np.nan
    return Snapshot(probe.name, probe.fingerprint, step, list(probe.ids), correct, n_choices=probe.n_choices, **columns)


def record(path, steps, probes=(PROBE,), **how):
    """A run with these snapshots, (step, wrong) each, of every probe."""
    store = Store(path)
    store.begin(probes)
    for step, wrong in steps:
        for probe in probes:
            store.write(taken(step, wrong, probe=probe, **how))
    return store


GATE = ("--fail-if", "forgetting>0.5")


def refused(run_cli, *arguments):
    """The error of a comparison that is none, with a gate and without."""
    for gate in ((), GATE):
        code, out, err = run_cli("compare", *arguments, *gate)
        assert (code, out) == (2, ""), err
        assert err.startswith("error: ") and len(err.splitlines()) <= 2
    return err


# ---- what leaves the machine


@pytest.mark.parametrize("format", ["table", "markdown", "json"])
def test_no_texts_names_no_item_and_quotes_no_answer_or_error(run_cli, tmp_path, format):
    """Nothing that a user wrote into an item, and no answer, wherever it would be: console, notes, files."""
    answers = [f"secret {i}" for i in range(N)], ["secret"] * N
    store = Store(tmp_path / "run")
    store.begin([PROBE])
    for step, said in enumerate(answers):
        store.write(taken(step, 80 * step, prediction=said))
    missed = [("", None), ("", 9), ("q", None)]
    store.set_run(
        status="ended",
        steps=9,
        not_measured=[{"probe": name, "step": step, "why": "ValueError: secret prompt"} for name, step in missed],
    )
    rows = [{"id": f"secret {i % 90}", "correct": 1, "prompt": f"{i}"} for i in range(N)]
    for name, own in (("a", rows), ("b", [*rows[:40], *({**row, "prompt": "secret"} for row in rows[40:80])])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    logs = (tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--allow-partial")
    for sides, said in (((store.path.parent, store.path.parent), "not measured"), (logs, "an id occurs 2 times")):
        arguments = ["compare", *sides, "--format", format, "--markdown", tmp_path / "shown.md"]
        assert "secret" in "".join(run_cli(*arguments)[1:])
        code, out, err = run_cli(*arguments, "--no-texts")
        assert code == 0 and "secret" not in out + err + (tmp_path / "shown.md").read_text()
        assert said in err and ("have collapsed" in out or sides is logs)
    code, _, err = run_cli(*arguments, "--no-texts", "--items", 3)
    assert code == 2 and "--items" in err


# ---- both sides are one


def test_a_run_of_one_snapshot_is_not_compared_with_itself(run_cli, tmp_path):
    record(tmp_path / "run", [(0, 0)])
    assert "are the same snapshot" in refused(run_cli, tmp_path / "run", tmp_path / "run")


def test_one_snapshot_is_one_however_it_is_named(run_cli, tmp_path, monkeypatch):
    record(tmp_path / "run", [(0, 0), (10, 0)])
    run, file = tmp_path / "run", tmp_path / "run" / "forget" / "snapshots" / "p" / "step-00000010.parquet"
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "file.parquet").symlink_to(file)
    os.link(file, tmp_path / "hard.parquet")
    monkeypatch.chdir(tmp_path)
    spelled = [
        f"{run}@10",
        "run@10",
        "./run/../run@10",
        "run/forget@10",
        "link@10",
        file,
        "file.parquet",
        "hard.parquet",
    ]
    for other in spelled:
        assert "are the same snapshot" in refused(run_cli, f"{run}@10", other)
    assert "are the same snapshot" in refused(run_cli, file, "file.parquet")


def test_a_copied_run_is_the_same_run(run_cli, tmp_path):
    record(tmp_path / "run", [(0, 0), (10, 30)])
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert "are the same snapshot" in refused(run_cli, tmp_path / "run@10", tmp_path / "copy")
    assert "backwards" in refused(run_cli, tmp_path / "copy@10", tmp_path / "run@0")
    code, out, _ = run_cli("compare", tmp_path / "run", tmp_path / "copy", "--format", "json")
    assert code == 0 and json.loads(out)["all"]["n10"] == 30


def test_a_copied_file_is_told_by_the_time_that_scoring_took(run_cli, tmp_path):
    for name, seconds in (("a", 1.234567), ("b", 1.234567), ("again", 1.234999)):
        taken(0, metadata={"seconds": seconds}).save(tmp_path / f"{name}.parquet")
    assert "are the same snapshot" in refused(run_cli, tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert run_cli("compare", tmp_path / "a.parquet", tmp_path / "again.parquet", *GATE)[0] == 0


def test_an_unchanged_model_that_was_scored_twice_passes(run_cli, tmp_path):
    for name in ("a", "b"):
        record(tmp_path / name, [(0, 0)])
    code, out, _ = run_cli("compare", tmp_path / "a", tmp_path / "b", "--format", "json", *GATE)
    assert code == 0 and json.loads(out)["all"]["n10"] == 0


def test_a_run_that_is_continued_in_two_ways_from_a_copy_compares(run_cli, tmp_path):
    record(tmp_path / "run", [(0, 0)])
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    Store(tmp_path / "run").write(taken(10, 10))
    Store(tmp_path / "copy").write(taken(10, 40))
    code, out, _ = run_cli("compare", tmp_path / "run@10", tmp_path / "copy@10", "--format", "json")
    assert code == 0 and json.loads(out)["all"]["n10"] == 30


@pytest.mark.parametrize("form", ["run", "file", "copied file"])
def test_a_run_is_not_read_backwards(run_cli, tmp_path, form):
    store = Store(tmp_path / "run")
    store.begin([PROBE])
    store.set_run(status="ended", steps=50)  # the snapshots of a training say which one it was
    for step, wrong in ((0, 0), (50, 30)):
        store.write(taken(step, wrong))
    if form == "run":
        sides = (f"{tmp_path}/run@50", f"{tmp_path}/run@0")
    else:
        folder = tmp_path / "run" / "forget" / "snapshots" / "p"
        sides = (folder / "step-00000050.parquet", folder / "step-00000000.parquet")
    if form == "copied file":
        sides = [shutil.copy(file, tmp_path / f"{i}.parquet") for i, file in enumerate(sides)]
    assert "backwards" in refused(run_cli, *sides)


def test_of_two_runs_the_later_step_may_come_first(run_cli, tmp_path):
    record(tmp_path / "a", [(50, 0)])
    record(tmp_path / "b", [(10, 30)])
    code, out, _ = run_cli("compare", tmp_path / "a", tmp_path / "b", "--format", "json")
    assert code == 0 and [json.loads(out)[side]["step"] for side in ("before", "after")] == [50, 10]


def test_two_probes_killed_between_them(run_cli, tmp_path):
    store = record(tmp_path / "run", [(0, 0)], [PROBE, OTHER])
    store.write(taken(10, 30))
    assert "are the same snapshot" in refused(run_cli, tmp_path / "run", tmp_path / "run")
    store.write(taken(10, 30, probe=OTHER))
    store.write(taken(20, 60))
    code, out, err = run_cli("compare", tmp_path / "run", tmp_path / "run", "--format", "json")
    assert code == 0 and json.loads(out)["after"]["step"] == 10, "the last step of both"
    assert {name: one["n10"] for name, one in json.loads(out)["probes"].items()} == {"p": 30, "q": 30}
    assert "20 of 'p', 10 of 'q'" in err
    assert run_cli("compare", tmp_path / "run", tmp_path / "run", *GATE)[0] == 2


def test_probes_without_a_common_step_are_an_error_that_shows_the_steps(run_cli, tmp_path):
    store = record(tmp_path / "run", [], [PROBE, OTHER])
    store.write(taken(0))
    assert "has no snapshot of probe 'q'" in refused(run_cli, tmp_path / "run", tmp_path / "run")
    store.write(taken(5, probe=OTHER))
    assert "'p' has [0], 'q' has [5]" in refused(run_cli, tmp_path / "run", tmp_path / "run")


# ---- records of runs that are not whole


def test_a_run_that_has_not_ended_passes_no_gate(run_cli, tmp_path):
    store = record(tmp_path / "run", [(0, 0), (4, 0)])
    store.set_run(status="training", planned_steps=10)
    run = tmp_path / "run"
    code, out, err = run_cli("compare", run, run, *GATE)
    assert (code, out) == (2, "")
    assert "training has not ended" in err and "RUN@STEP" in err
    code, _, err = run_cli("compare", run, run)
    assert code == 0 and "training has not ended" in err
    assert run_cli("compare", f"{run}@0", f"{run}@4", *GATE)[0] == 0, "as told"
    store.set_run(status="ended", steps=4)
    assert run_cli("compare", run, run, *GATE)[0] == 0


@pytest.mark.parametrize("gate, code", [("forgetting>0.5", 1), ("all/forgetting>0.5", 2), ("p/forgetting>0.5", 0)])
def test_a_probe_that_was_dropped_fails_what_is_said_of_all(run_cli, tmp_path, gate, code):
    store = record(tmp_path / "run", [(0, 0), (4, 0)])
    store.set_run(status="ended", steps=4, not_measured=[{"probe": "q", "step": None, "why": "no chat template"}])
    run = tmp_path / "run"
    for sides in ((f"{run}@0", f"{run}@4"), (run, run)):
        status, _, err = run_cli("compare", *sides, "--fail-if", gate)
        assert status == code
        assert "probe 'q' was not measured: no chat template" in err or code == 2


@pytest.mark.parametrize("more", ["before", "after", "both"])
def test_the_probes_of_both_are_compared_and_the_others_named(run_cli, tmp_path, more):
    third = Probe("r", OTHER.items)
    own = {"before": [PROBE, OTHER], "after": [PROBE, third] if more == "both" else [PROBE]}
    sides = ["before", "after"] if more != "after" else ["after", "before"]
    for name, side in zip(("a", "b"), sides):
        record(tmp_path / name, [(0, 10 * (name == "b"))], own[side])
    both, alone = (tmp_path / "a", tmp_path / "b"), {"a": [], "b": []}
    alone.update({"before": {"a": ["q"]}, "after": {"b": ["q"]}, "both": {"a": ["q"], "b": ["r"]}}[more])
    code, out, err = run_cli("compare", *both, "--format", "json")
    found = json.loads(out)
    assert code == 0 and list(found["probes"]) == ["p"] and found["all"]["n10"] == 10
    assert found["left_out"] == {"before": alone["a"], "after": alone["b"]}
    for name in ("a", "b"):
        line = f"left out, for only {tmp_path / name} at step 0 has it: {''.join(alone[name])}"
        assert (line in err) == bool(alone[name])
    assert "left out, for only" in run_cli("compare", *both, "--format", "markdown")[1]
    for gate, status in (("p/forgetting>0.5", 0), ("p/forgetting>0.05", 1), ("forgetting>0.5", 2)):
        assert run_cli("compare", *both, "--fail-if", gate)[0] == status, "what is not measured passes no gate"
    for gate in ("all/n10>50", "n10>50", "q/n10>50"):
        code, out, err = run_cli("compare", *both, "--fail-if", "p/n10>50", "--fail-if", gate)
        assert (code, out) == (2, "") and gate in err and len(err.splitlines()) == 1
    assert "name a probe that both have: 'p/n10>50'" in run_cli("compare", *both, "--fail-if", "n10>50")[2]


def test_two_runs_without_a_probe_in_common_are_an_error(run_cli, tmp_path):
    record(tmp_path / "a", [(0, 0)], [PROBE])
    record(tmp_path / "b", [(0, 0)], [OTHER])
    assert "the probes differ: " in refused(run_cli, tmp_path / "a", tmp_path / "b")


# ---- gates that say the opposite


@pytest.mark.parametrize(
    "gate, meant",
    [
        ("knowledge_lost<0.05", "knowledge_lost>0.05"),
        ("p/c0/forgetting<=0.1", "p/c0/forgetting>0.1"),
        ("known_lost<.2", "known_lost>0.2"),
    ],
)
def test_a_gate_that_would_fail_what_loses_little_is_refused(run_cli, tmp_path, gate, meant):
    record(tmp_path / "run", [(0, 0), (10, 30)])
    code, out, err = run_cli("compare", tmp_path / "run", tmp_path / "run", "--fail-if", gate)
    assert (code, out) == (2, "") and f"--fail-if '{gate}' " in err and f"'{meant}'" in err
    assert "a gate fails where its condition holds" in err


def test_a_gate_on_what_should_be_high_says_how_it_is_read(run_cli, tmp_path):
    record(tmp_path / "run", [(0, 0), (10, 5)])
    both = (tmp_path / "run", tmp_path / "run")
    code, _, err = run_cli("compare", *both, "--fail-if", "accuracy_after>0.6")
    assert code == 1 and "to demand more than that, write 'accuracy_after<0.6'" in err
    assert run_cli("compare", *both, "--fail-if", "accuracy_after<0.6")[0] == 0
    code, _, err = run_cli("compare", *both, "--fail-if", "churn<0.5")
    assert code == 1 and "demand" not in err, "change is neither good nor bad"


def test_why_a_gate_failed_is_said_once(run_cli, tmp_path):
    record(tmp_path / "run", [(0, 0), (10, 30)])
    asked = ("compare", tmp_path / "run", tmp_path / "run", "--fail-if", "forgetting>0.1", "--fail-if", "churn>0.9")
    code, out, err = run_cli(*asked)
    said = " ".join(out.split()) + err
    assert code == 1 and "failed: forgetting>0.1" in out and "passed: churn>0.9: churn is" in " ".join(out.split())
    assert said.count("forgetting is 30.0%") == 1 and said.count("churn is 30.0%") == 1


# ---- names that are misspelled, numbers in percent


@pytest.mark.parametrize(
    "gate, meant",
    [
        ("knowlege_lost>0.05", "did you mean knowledge_lost?"),
        ("p/Forgeting>0.05", "did you mean forgetting?"),
        ("knowledge_lost>5%", "did you mean 'knowledge_lost>0.05'?"),
        ("p/c0/forgetting > 12.5 %", "did you mean 'p/c0/forgetting>0.125'?"),
        ("knowlege_lost>5%", "did you mean 'knowledge_lost>0.05'?"),
        ("n10>5%", "did you mean 'n10>5'?"),
        ("forgetting>0,05", "did you mean 'forgetting>0.05'?"),
        ("forgetting=0.05", "did you mean 'forgetting>0.05'?"),
        ("forgetting=>0.05", "did you mean 'forgetting>=0.05'?"),
        ("forgetting>5", "did you mean 0.05?"),
        ("P/forgetting>0.05", "did you mean 'p'?"),
        ("c1/forgetting>0.05", "did you mean 'p/c1'?"),
        ("p/c_0/forgetting>0.05", "did you mean 'p/c0'?"),
        ("forgetting", "was it without quotes, so that the shell took > for the name of a file"),
    ],
)
def test_a_gate_that_is_nearly_one_says_what_was_meant(run_cli, tmp_path, gate, meant):
    record(tmp_path / "run", [(0, 0), (10, 0)])
    code, out, err = run_cli("compare", tmp_path / "run", tmp_path / "run", "--fail-if", gate)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1
    assert err.startswith(f"error: --fail-if '{gate}'") and meant in err


# ---- logs of other tools


def lm_eval_log(directory, right, *, time="2026-01-01T00-00-00.000000", task="quiz"):
    """A log of lm-eval with one line an item, of which `acc` is this."""
    directory.mkdir(exist_ok=True, parents=True)
    options = {f"gen_args_{j}": {"arg_0": "Q", "arg_1": f" {text}"} for j, text in enumerate("abcd")}
    lines = [
        {
            "doc_id": i,
            "doc": {"q": i},
            "target": "0",
            "arguments": options,
            "resps": [[["-1.0", "False"]]] * 4,
            "filtered_resps": [[str(-1.0 if j == (0 if acc else 1) else -2.0), "False"] for j in range(4)],
            "filter": "none",
            "metrics": ["acc", "acc_norm"],
            "doc_hash": f"d{i}",
            "prompt_hash": f"p{i}",
            "target_hash": f"t{i}",
            "acc": acc,
            "acc_norm": acc,
        }
        for i, acc in enumerate(right)
    ]
    file = directory / f"samples_{task}_{time}.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_items_that_a_log_lost_are_not_kept(run_cli, tmp_path):
    """49 of 50 items that were right have `acc: null` after: nothing of 1 item is lost."""
    lm_eval_log(tmp_path / "base", [1.0] * 50)
    lm_eval_log(tmp_path / "tuned", [None] * 49 + [1.0])
    sides = (tmp_path / "base", tmp_path / "tuned")
    code, out, err = run_cli("compare", *sides, "--format", "json")
    assert code == 0 and json.loads(out)["all"]["scored"] == 0.02
    assert "quiz: only 1 of 50 items was scored both times" in err
    for metric in ("forgetting", "knowledge_lost", "n10"):
        code, _, err = run_cli("compare", *sides, "--fail-if", f"{metric}>0.05")
        assert code == 1 and "only 0.02 of the items of quiz were scored both times, below --min-scored 0.95" in err


def test_one_log_twice_is_refused(run_cli, tmp_path, monkeypatch):
    file = lm_eval_log(tmp_path / "base", [1.0] * 50)
    lm_eval_log(tmp_path / "base", [1.0] * 50, task="other")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "base")
    for other in ("base", "./base/", "link", tmp_path / "base"):
        assert "same snapshot" in refused(run_cli, "base", other)
    assert "same snapshot" in refused(run_cli, file, f"link/{file.name}")
    (tmp_path / "a.jsonl").write_text('{"id": 1, "score": 1}\n')
    assert "same snapshot" in refused(run_cli, "a.jsonl", "./a.jsonl")


@pytest.mark.parametrize("how", ["directory", "file", "packed"])
def test_a_log_that_was_copied_by_mistake_passes_no_gate(run_cli, tmp_path, how):
    if how == "directory":
        lm_eval_log(tmp_path / "a", [1.0] * 50)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        sides = (tmp_path / "a", tmp_path / "b")
    else:
        sides = (tmp_path / "a.jsonl", tmp_path / ("b.jsonl" if how == "file" else "b.jsonl.gz"))
        text = "".join(f'{{"id": {i}, "score": 1}}\n' for i in range(50)).encode()
        sides[0].write_bytes(text)
        sides[1].write_bytes(text if how == "file" else gzip.compress(text))
    code, _, err = run_cli("compare", *sides)
    assert code == 0 and "is one a copy?" in err
    code, out, err = run_cli("compare", *sides, *GATE)
    assert (code, out) == (2, "") and "--allow-identical" in err
    assert run_cli("compare", *sides, *GATE, "--allow-identical")[0] == 0


def test_two_evaluations_that_gave_the_same_pass(run_cli, tmp_path):
    lm_eval_log(tmp_path / "a", [1.0] * 50)
    lm_eval_log(tmp_path / "b", [1.0] * 50, time="2026-01-02T00-00-00.000000")
    code, _, err = run_cli("compare", tmp_path / "a", tmp_path / "b", *GATE)
    assert code == 0 and "is one a copy?" in err


def test_the_metric_that_decided_is_in_every_format(run_cli, tmp_path):
    lm_eval_log(tmp_path / "a", [1.0] * 50)
    lm_eval_log(tmp_path / "b", [1.0] * 40 + [0.0] * 10)
    asked = ("compare", tmp_path / "a", tmp_path / "b", "--metric", "acc_norm", *GATE, "--junit", tmp_path / "g.xml")
    for form in ("table", "markdown"):
        assert "quiz: decided by acc_norm, 4 options" in run_cli(*asked, "--format", form)[1]
    assert "quiz: decided by acc_norm, 4 options" in (tmp_path / "g.xml").read_text()
    result = json.loads(run_cli(*asked, "--format", "json")[1])
    for numbers in (result["all"], result["probes"]["quiz"]):
        assert (numbers["metric"], numbers["k"]) == ("acc_norm", 4)
    assert result["before"] == result["after"] == {"run": None, "step": None}


def test_a_task_or_category_of_one_side_is_no_pass(run_cli, tmp_path):
    for task in ("quiz", "other"):
        lm_eval_log(tmp_path / "a", [1.0] * 50, task=task)
    lm_eval_log(tmp_path / "b", [1.0] * 50, time="2026-01-02T00-00-00.000000")
    gate = ("compare", tmp_path / "a", tmp_path / "b", "--fail-if")
    for text, status in (("forgetting>0.5", 2), ("other/forgetting>0.5", 2), ("quiz/forgetting>0.5", 0)):
        code, _, err = run_cli(*gate, text)
        assert code == status and "other" in err, text
    code, out, err = run_cli("compare", tmp_path / "a", tmp_path / "b", "--format", "json")
    assert code == 0 and list(json.loads(out)["probes"]) == ["quiz"] and "left out, for not all of the logs" in err
    assert json.loads(out)["left_out"] == {"before": ["other"], "after": []}
    lm_eval_log(tmp_path / "c", [1.0] * 50, task="third")
    assert "the tasks differ" in refused(run_cli, tmp_path / "a", tmp_path / "c")
    for name, last in (("x", 50), ("y", 40)):
        rows = [{"id": i, "score": 1, "category": f"c{i // 25}", "run": name} for i in range(last)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sides = (tmp_path / "x.jsonl", tmp_path / "y.jsonl")
    assert "--allow-partial" in refused(run_cli, *sides)
    for gate, status in (("forgetting>0.5", 1), ("x/c0/forgetting>0.5", 0), ("x/c1/forgetting>0.5", 1)):
        assert run_cli("compare", *sides, "--allow-partial", "--fail-if", gate)[0] == status, gate


def test_no_probe_takes_the_place_of_the_pool(run_cli, tmp_path):
    for name in ("a", "b"):
        for task in ("all", "quiz"):
            lm_eval_log(tmp_path / name, [1.0] * (40 if task == "all" else 50) + [float(name == "a")], task=task)
        Snapshot("all", "f", int(name == "b"), ["x"], [1.0]).save(tmp_path / f"{name}.parquet")
    result = json.loads(run_cli("compare", tmp_path / "a", tmp_path / "b", "--format", "json")[1])
    assert {name: one["n"] for name, one in result["probes"].items()} == {"all_": 41, "quiz": 51}
    assert result["all"]["n"] == 92 and result["all"]["n10"] == 2
    assert "called 'all'" in refused(run_cli, tmp_path / "a.parquet", tmp_path / "b.parquet")


def test_nothing_is_compared_where_there_is_no_item(run_cli, tmp_path):
    for step in (0, 1):
        Snapshot("p", "f", step, [], []).save(tmp_path / f"{step}.parquet")
    assert "has no items" in refused(run_cli, tmp_path / "0.parquet", tmp_path / "1.parquet")


def test_files_whose_categories_differ_are_compared_by_the_first(run_cli, tmp_path):
    taken(0, category=["x"] * 50 + ["y"] * 50).save(tmp_path / "a.parquet")
    taken(0, 30, category=["x"] * 40 + ["z"] * 60).save(tmp_path / "b.parquet")
    sides = (tmp_path / "a.parquet", tmp_path / "b.parquet")
    code, out, err = run_cli("compare", *sides, "--format", "json")
    assert code == 0 and set(json.loads(out)["probes"]["p"]["categories"]) == {"x", "y"}
    assert "probe 'p': 60 items are of another category after" in err
    assert run_cli("compare", *sides, "--fail-if", "p/z/forgetting>0.5")[0] == 2
    taken(0, 30).save(tmp_path / "b.parquet")
    assert "another category" not in run_cli("compare", *sides)[2], "a side without categories says nothing of them"


def test_a_gate_on_texts_is_not_told_to_name_a_probe_that_has_none(run_cli, tmp_path):
    made = {name: Probe(name, [Text(f"d{i}", f"{name} {i}") for i in range(40)]) for name in ("text", "more")}
    for side, names in (("a", ("text", "more")), ("b", ("text",))):
        store = record(tmp_path / side, [(0, 0)])
        store.begin([PROBE, *(made[name] for name in names)])
        for name in names:
            columns = {"kind": ["text"] * 40, "ability": ["text"] * 40, "bits_per_byte": np.ones(40)}
            store.write(Snapshot(name, made[name].fingerprint, 0, list(made[name].ids), np.ones(40), **columns))
    sides = (tmp_path / "a", tmp_path / "b")
    err = run_cli("compare", *sides, "--fail-if", "bits_per_byte_change>0.1")[2]
    assert "name a probe that both have: 'text/bits_per_byte_change>0.1'" in err


# ---- coverage


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize(
    "unscored, floor, code", [(5, None, 0), (6, None, 1), (95, None, 1), (95, "0.05", 0), (1, "1", 1), (100, "0", 1)]
)
def test_a_gate_fails_where_too_few_items_were_scored(run_cli, tmp_path, side, unscored, floor, code):
    n_unscored = {"before": 0, "after": 0, side: unscored}
    record(tmp_path / "a", [(0, 0)], unscored=n_unscored["before"])
    record(tmp_path / "b", [(0, 0)], unscored=n_unscored["after"])
    option = () if floor is None else ("--min-scored", floor)
    status, out, err = run_cli("compare", tmp_path / "a", tmp_path / "b", *GATE, *option, "--format", "json")
    assert status == code
    assert json.loads(out)["gate"]["passed"] is (code == 0)
    assert json.loads(out)["all"]["scored"] == pytest.approx(1 - unscored / N)
    assert ("gate failed" in err) is (code == 1)


def test_without_a_gate_a_note_says_that_few_items_were_scored(run_cli, tmp_path):
    record(tmp_path / "a", [(0, 0)])
    record(tmp_path / "b", [(0, 0)], unscored=95)
    code, out, err = run_cli("compare", tmp_path / "a", tmp_path / "b")
    assert code == 0 and "p: only 5 of 100 items were scored both times" in err
    assert "5 of 100" in out
    assert "5 of 100" in run_cli("compare", tmp_path / "a", tmp_path / "b", "--format", "markdown")[1]


@pytest.mark.parametrize("gate", ["forgetting>0.5", "n10>10", "accuracy_after<0.1", "q/n10>10"])
def test_a_pool_hides_no_probe_that_was_not_scored(run_cli, tmp_path, gate):
    many = Probe("p", [replace(PROBE.items[0], id=f"i{i}") for i in range(2000)])
    for name, unscored in (("a", 0), ("b", N)):
        store = Store(tmp_path / name)
        store.begin([many, OTHER])
        store.write(taken(0, probe=many))
        store.write(taken(0, probe=OTHER, unscored=unscored))
    code, _, err = run_cli("compare", tmp_path / "a", tmp_path / "b", "--fail-if", gate)
    assert code == 1 and "no item of q was scored both times" in err


@pytest.mark.parametrize(
    "gate, code", [("knowledge_lost>0.5", 1), ("known_lost>0.5", 1), ("forgetting>0.5", 0), ("recall_lost>0.5", 0)]
)
def test_a_number_of_a_few_items_needs_these(run_cli, tmp_path, gate, code):
    """10 choices of which 9 were not scored after, among 990 open-ended items: `knowledge_lost` is of the choices."""
    facts = [Recall(f"r{i}", f"{i} and", f" {i + 1}") for i in range(990)]
    probe = Probe("p", [*PROBE.items[:10], *facts])
    columns = {"n_choices": probe.n_choices, "kind": [item.kind for item in probe.items]}
    for name, unscored in (("a", 0), ("b", 9)):
        correct = np.where(np.arange(1000) < unscored, np.nan, 1.0)
        Snapshot("p", probe.fingerprint, 0, list(probe.ids), correct, **columns).save(tmp_path / f"{name}.parquet")
    status, _, err = run_cli("compare", tmp_path / "a.parquet", tmp_path / "b.parquet", "--fail-if", gate)
    assert status == code
    assert code == 0 or f"only 0.1 of the items of p that {gate[:-4]} is of were scored" in err


def test_a_gate_over_all_says_how_much_of_it_enters(run_cli, tmp_path):
    """All of q is lost, which is open-ended: knowledge is read from the choices of p."""
    for name, wrong in (("a", 0), ("b", 80)):
        store = Store(tmp_path / name)
        store.begin([PROBE, OTHER])
        store.write(taken(0))
        store.write(taken(0, wrong, probe=OTHER))
    asked = (
        "compare",
        tmp_path / "a",
        tmp_path / "b",
        "--fail-if",
        "knowledge_lost>0.05",
        "--junit",
        tmp_path / "g.xml",
    )
    assert run_cli(*asked)[0] == 0
    assert "100 of 200 items of all (those of other kinds do not enter" in (tmp_path / "g.xml").read_text()
    assert run_cli(*asked, "--fail-if", "q/knowledge_lost>0.05")[0] == 1


@pytest.mark.parametrize("value", ["-0.1", "1.1", "95", "nan", "much"])
def test_the_floor_is_a_share(run_cli, tmp_path, value):
    record(tmp_path / "run", [(0, 0), (10, 0)])
    code, out, err = run_cli("compare", tmp_path / "run", tmp_path / "run", *GATE, "--min-scored", value)
    assert (code, out) == (2, "") and "--min-scored" in err


# ---- neither failed nor passed


@pytest.mark.parametrize(
    "wrong, gates, code, sure, unsure",
    [
        (0, ["forgetting>0.05"], 0, [], []),  # at most 3.7%
        (3, ["forgetting>0.05"], 3, [], [0]),
        (10, ["forgetting>0.05"], 1, [0], []),
        (3, ["forgetting>0.05", "forgetting>0.02"], 1, [1], [0]),
        (3, ["forgetting>0.05", "forgetting>0.2"], 3, [], [0]),
        (3, ["net_change<-0.05"], 3, [], [0]),
        (3, ["n10>5", "accuracy_after<0.5"], 0, [], []),  # have no interval
        (3, ["drift>5"], 1, [0], []),
    ],
)
def test_inconclusive_on_request(run_cli, tmp_path, wrong, gates, code, sure, unsure):
    record(tmp_path / "run", [(0, 0), (10, wrong)])
    options = [word for gate in gates for word in ("--fail-if", gate)]
    both = (tmp_path / "run", tmp_path / "run")
    plain, out, _ = run_cli("compare", *both, *options, "--format", "json")
    assert plain == (1 if sure else 0) and set(json.loads(out)["gate"]) == {"passed", "failed"}
    asked = ("compare", *both, *options, "--inconclusive", "--junit", tmp_path / "g.xml")
    status, out, err = run_cli(*asked, "--format", "json")
    assert status == code
    wanted = {"passed": code == 0, "failed": [gates[i] for i in sure], "inconclusive": [gates[i] for i in unsure]}
    assert json.loads(out)["gate"] == wanted
    outcomes = ["failed" if i in sure else "inconclusive" if i in unsure else "passed" for i in range(len(gates))]
    suite = ElementTree.parse(tmp_path / "g.xml").getroot()[0]
    kinds = [None if (found := case.find("failure")) is None else found.get("type") for case in suite]
    assert kinds == [{"failed": "gate", "passed": None}.get(one, one) for one in outcomes]
    assert suite.get("failures") == str(len(sure) + len(unsure))
    for form in ("table", "markdown"):
        status, out, _ = run_cli(*asked, "--format", form)
        assert status == code
        found = re.findall(r"^(?:- )?(passed|failed|inconclusive): ", out, re.MULTILINE)
        assert found == outcomes, out
    for i in unsure:
        assert f"gate inconclusive: {gates[i]}: " in err and "not shown to be kept" in err


def test_where_nothing_was_known_a_loss_is_not_shown_to_be_small(run_cli, tmp_path):
    """Two models that answer nothing right: the interval is narrow, and no loss could be seen."""
    probe = Probe("p", [replace(PROBE.items[i % 4], id=f"i{i}") for i in range(1000)])
    for name in ("a", "b"):
        store = Store(tmp_path / name)
        store.begin([probe])
        store.write(Snapshot("p", probe.fingerprint, 0, list(probe.ids), np.zeros(1000), n_choices=probe.n_choices))
    gate = ("compare", tmp_path / "a", tmp_path / "b", "--fail-if", "forgetting>0.05")
    assert run_cli(*gate)[0] == 0
    code, _, err = run_cli(*gate, "--inconclusive")
    assert code == 3 and "a loss could not be seen here" in err


def test_asking_for_it_needs_a_gate(run_cli, tmp_path):
    record(tmp_path / "run", [(0, 0), (10, 0)])
    code, out, err = run_cli("compare", tmp_path / "run", tmp_path / "run", "--inconclusive")
    assert (code, out) == (2, "") and "--inconclusive needs a gate" in err
    assert run_cli("compare", tmp_path / "run", tmp_path / "run", "--fail-if", "", "--inconclusive")[0] == 2


# ---- what was compared


def test_the_steps_of_both_sides_are_in_every_format(run_cli, tmp_path, monkeypatch):
    record(tmp_path / "run", [(0, 0), (1234, 0)])
    monkeypatch.chdir(tmp_path)  # a long path is broken into lines
    arguments = ("compare", "run", "run", *GATE, "--junit", "g.xml")
    for form in ("table", "markdown"):
        out = " ".join(run_cli(*arguments, "--format", form)[1].split())
        assert re.search("run at step 0 → run at step 1234", out.replace("\\", "")), form
    result = json.loads(run_cli(*arguments, "--format", "json")[1])
    id = Store(tmp_path / "run").run.id
    assert (result["before"], result["after"]) == ({"run": id, "step": 0}, {"run": id, "step": 1234})
    suite = ElementTree.parse(tmp_path / "g.xml").getroot()[0]
    assert "at step 0 → " in suite.get("name") and suite.get("name").endswith("at step 1234")


def test_the_options_of_the_items_are_said(run_cli, tmp_path):
    record(tmp_path / "run", [(0, 0), (10, 0)], [PROBE, OTHER])
    for form in ("table", "markdown"):
        out = run_cli("compare", tmp_path / "run", tmp_path / "run", "--format", form)[1]
        assert "p: 4 options" in out and "q: open-ended" in out


# ---- text that is not ours

NASTY = [
    "a|b",
    r"a\|b",
    "line\nbreak | x |",
    "<img src=x onerror=alert(1)>",
    "@team",
    "[click](https://evil.example)",
    "https://evil.example",
    "www.evil.example",
    "`code`",
    "*bold* _it_ ~~no~~",
    "# heading",
    "1. list",
    "    indented",
    "&lt;b&gt;",
    "\x1b[31mred\x1b[0m",
    "\u202egnp.exe",
    "[red]not red[/red]",
    "\x00\x08\x0c\ufffe",
    "=1+1",
    ":smile:",
]


@pytest.fixture(params=NASTY)
def nasty(request, tmp_path):
    """(category, BEFORE, AFTER): files of a snapshot with a category of such a name."""
    category = np.array([request.param] * 60 + ["plain"] * 40, object)
    for name, wrong in (("a", 0), ("b", 50)):
        replace(taken(0, wrong), category=category).save(tmp_path / f"{name}.parquet")
    return request.param, tmp_path / "a.parquet", tmp_path / "b.parquet"


def harmless(text):
    """Whether nothing in it is obeyed by a terminal."""
    return all(c.isprintable() or c in "\n\u200b" for c in text)


def test_names_in_a_table_are_shown_as_they_are(run_cli, nasty, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    category, *sides = nasty
    _, out, err = run_cli("compare", *sides)
    assert harmless(out) and harmless(err)
    if category.isprintable():
        assert category.strip() in out


def test_names_in_markdown_make_no_cell_link_mention_or_markup(run_cli, nasty):
    _, *sides = nasty
    gate = "p/forgetting>0.1"
    status, out, _ = run_cli("compare", *sides, "--format", "markdown", "--fail-if", gate)
    assert status == 1 and harmless(out)
    rows = [line for line in out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(out)
    assert len(re.findall("<tr>", html)) == 1 + 3
    assert {len(re.findall("<t[dh]", row)) for row in html.split("<tr>")[1:]} == {9}
    for tag in ("img", "a ", "em", "strong", "s>", "h1", "ol", "pre", "b>"):
        assert f"<{tag}" not in html, tag
    assert len(re.findall("<code>", html)) == 1, "the gate"
    assert not re.search(r"@\w|https?:\w*//|www\.", out)


def test_names_in_gates_are_shown_as_they_are(run_cli, nasty, tmp_path):
    category, *sides = nasty
    gate, plain = f"p/{category}/forgetting>0.1", "p/plain/forgetting>0.1"
    if "\n" in category or "\x00" in category:
        gate = f"p/{category}/forgetting>0.1".replace("\n", "")
    status, _, err = run_cli("compare", *sides, "--fail-if", gate, "--fail-if", plain, "--junit", tmp_path / "g.xml")
    assert status in (1, 2) and harmless(err)
    status, _, _ = run_cli("compare", *sides, "--fail-if", "forgetting>0.1", "--junit", tmp_path / "g.xml")
    assert status == 1
    ElementTree.parse(tmp_path / "g.xml")


@pytest.mark.parametrize("text", [*NASTY, "\ud800", "\r", "]]>"])
def test_any_gate_text_makes_well_formed_xml_and_harmless_lines(run_cli, text):
    result = GateResult(f"p/{text}/forgetting>0.1", "failed", f"100 items of {text}")
    parsed = ElementTree.fromstring(junit([result], title=text, about=[text]).encode("utf-8"))
    assert len(list(parsed.iter("testcase"))) == 1
    line = f"- {code(result.text)}: {markdown(result.message)}"
    assert harmless(line)
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(line)
    assert html.count("<li>") == 1 and not re.search("<(?!/?(ul|li|code)>)", html)


def test_a_path_with_markup_is_a_title_as_it_is(run_cli, tmp_path):
    record(tmp_path / "[red]run[/]", [(0, 0), (10, 0)])
    _, out, _ = run_cli("compare", tmp_path / "[red]run[/]", tmp_path / "[red]run[/]")
    assert out.replace("\n", "").count("[red]run[/]") == 2


def test_of_a_thousand_categories_an_error_shows_a_few(run_cli, tmp_path):
    for name, wrong in (("a", 0), ("b", 50)):
        one = taken(0, wrong)
        replace(one, category=[f"{i}{'x' * 5_000}\x1b[2J" for i in range(N)]).save(tmp_path / f"{name}.parquet")
    paths = (tmp_path / "a.parquet", tmp_path / "b.parquet")
    code, _, err = run_cli("compare", *paths, "--fail-if", f"p/{'y' * 200_000}/forgetting>0.1")
    assert code == 2 and len(err) < 5000 and harmless(err)


# ---- items that cannot fail a gate


@pytest.mark.parametrize("format", ["table", "json", "markdown"])
def test_a_gate_that_can_never_fail_is_said_loudly_and_changes_no_status(run_cli, tmp_path, format):
    ids, before = [f"i{i}" for i in range(40)], np.array([1.0, 1.0] + [0.0] * 38)
    for name, correct in (("a", before), ("b", np.array([1.0, 0.0] + [0.0] * 38))):
        Snapshot("p", "f", 0, ids, correct).save(tmp_path / f"{name}.parquet")
    gate = ("--fail-if", "knowledge_lost>0.05", "--bound", "lower", "--format", format)
    code, out, err = run_cli("compare", tmp_path / "a.parquet", tmp_path / "b.parquet", *gate)
    told = " ".join(err.split())
    assert code == 0 and "gate knowledge_lost>0.05 can never fail: even if all 2 of 40 items of p" in told
    if format == "json":
        found = json.loads(out)
        assert found["gate"] == {"passed": True, "failed": []}
        assert found["gates_too_few"]["knowledge_lost>0.05"].startswith("can never fail: ")
    elif format == "markdown":
        assert "can never fail" in out
