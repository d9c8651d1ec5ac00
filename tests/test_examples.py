"""The examples run as their own text says; `plot_run.py` runs with the README's commands in `test_demo.py`."""

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import typer

from forget_callback import load_probe
from forget_callback.cli.app import app
from forget_callback.demo.tiny import make_model, make_tokenizer
from forget_callback.runs.store import Store
from forget_callback.tools.arguments import CallbackArguments
from tests.forked import finish, start
from tests.recorded import make_probe, make_run

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
INTEGRATIONS = [f"integrations/{name}" for name in ("[alm]*.yaml", "unsloth*.py")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A directory with a tiny model that knows nothing."""
    directory = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer([item.prompt for item in load_probe("builtin:facts", limit=100).items])
    torch.manual_seed(0)
    make_model(tokenizer).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_the_page_has_every_example_and_no_other():
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"examples/(\w+\.py)", page) + re.findall(r"\]\((?!\.\.)([\w/-]+\.\w+)\)", page)
    files = [
        path for kind in ("*.py", "*.ipynb", "github-actions/*.yml", *INTEGRATIONS) for path in EXAMPLES.glob(kind)
    ]
    assert sorted(named) == sorted(str(path.relative_to(EXAMPLES)) for path in files)


@pytest.mark.parametrize("name", ["submit.sh", "train.sbatch", "watch.sbatch"])
def test_the_jobs_of_a_cluster_are_shell(name):
    subprocess.run(["bash", "-n", EXAMPLES / "slurm" / name], check=True)


def test_a_training_and_its_watcher_are_submitted_one_after_the_other(tmp_path):
    """With a stand-in for SLURM, which runs what each job would, up to the program."""
    (tmp_path / "sbatch").write_text('#!/bin/sh\nfor w; do echo "$w"; done >> "$SEEN/submitted"; echo 7\n')
    (tmp_path / "srun").write_text('#!/bin/sh\nfor w; do echo "$w"; done > "$SEEN/run"\n')
    for name in ("sbatch", "srun"):
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "SEEN": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    run = partial(subprocess.run, env=environment, check=True, capture_output=True, cwd=EXAMPLES.parent, text=True)
    run(["bash", EXAMPLES / "slurm" / "submit.sh", "runs/it"])
    submitted = (tmp_path / "submitted").read_text().split()
    assert submitted[-1] == "runs/it" and "--dependency=after:7" in submitted
    for job, command in (("train", "run"), ("watch", "watch")):
        run(["bash", EXAMPLES / "slurm" / f"{job}.sbatch", "runs/it"])
        program, *words = (tmp_path / "run").read_text().split("\n")[:-1]
        assert (program, words[0]) == ("forget-callback", command) and "runs/it" in words
        if job == "watch":
            parsed = typer.main.get_command(app).commands["watch"].make_context("watch", words[1:])
            assert parsed.params["wandb"] is True
    told = CallbackArguments.read(str(EXAMPLES / "slurm" / "forget.yaml"))
    assert told.remote and told.probes and told.stop


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_use_public_names_alone(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    ours = {module for module in modules if module and module.startswith("forget_callback")}
    assert ours <= {"forget_callback", *(["forget_callback.demo.tiny"] if path.name == "known_truth.py" else [])}


@pytest.mark.in_turn(1)
def test_an_accelerate_loop_on_two_processes(model, tmp_path):
    words = [EXAMPLES / "accelerate_loop.py", model, "--out", tmp_path / "out", "--steps", 10]
    environment, printed = {**os.environ, "ACCELERATE_USE_CPU": "true"}, tmp_path / "printed"
    assert finish(start(*words, environment=environment, out=printed, processes=2)) == 0
    lines = [line.split()[:2] for line in printed.read_text().splitlines()[-3:]]
    assert lines == [["0", "0.0"], ["5", "40.0"], ["10", "80.0"]]
    store = Store(tmp_path / "out")
    assert store.steps("facts-choice") == [0, 5, 10]
    last = store.read("facts-choice", 10)
    assert len(last) == 200
    assert last.metadata["processes"] == 2
    assert (last.margin != store.read("facts-choice", 0).margin).all()


SHORT = {
    "own_loop.py": (["MODEL", "--steps", "5"], ["forget/history.parquet"]),
    "first_steps.py": (["MODEL", "--steps", "5"], ["forget/report.html"]),
    "abilities.py": (
        ["MODEL", "--steps", "2", "--facts", "8", "--behaviour", "5", "--text", "4"],
        ["forget/snapshots/text", "forget/report.html"],
    ),
    "grpo.py": (["MODEL", "--steps", "2"], ["forget/history.parquet"]),
    "early_stop.py": (["MODEL", "--above", "0.01"], []),
    "own_probe.py": (["MODEL"], ["mine.jsonl", "snapshot.parquet"]),
    "best_checkpoint.py": (["MODEL"], ["checkpoint-5"]),
}


IN_TURN = {"early_stop.py": 0, "abilities.py": 1, "best_checkpoint.py": 2, "grpo.py": 2}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.in_turn(IN_TURN[name])] if name in IN_TURN else []) for name in SHORT],
)
def test_scripts_run_on_a_model(model, tmp_path, monkeypatch, capsys, name):
    arguments, left = SHORT[name]
    words = [str(model) if word == "MODEL" else word for word in arguments]
    monkeypatch.setattr(sys, "argv", [name, *words, "--out", str(tmp_path / "out")])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.strip()
    assert all((tmp_path / "out" / file).exists() for file in left)
    if name == "early_stop.py":  # a model that knows nothing has nothing to forget
        assert "stopped at step 40 of 40" in printed


@pytest.fixture
def forgot(tmp_path):
    """A run's directory."""
    store = make_run(tmp_path / "run", [make_probe()])
    store.write_history(store.history().arrow)
    return tmp_path / "run"


@pytest.mark.parametrize("name, said", [("compare_checkpoints.py", "knowledge lost"), ("read_snapshots.py", "lost_at")])
def test_scripts_read_a_run(forgot, monkeypatch, capsys, name, said):
    monkeypatch.setattr(sys, "argv", [name, str(forgot)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("begun", [True, False])
def test_the_picture_of_a_run_that_did_not_end_is_an_error_in_words(forgot, tmp_path, monkeypatch, begun):
    run = forgot if begun else tmp_path / "nosuch"
    monkeypatch.setattr(sys, "argv", ["forgetting.py", str(run), "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=re.escape(f"{run} is no finished run of the demo: it has no ")):
        runpy.run_path(str(EXAMPLES / "forgetting.py"), run_name="__main__")
    assert not (tmp_path / "forgetting.json").exists()


def test_the_notebook_runs_from_top_to_bottom(forgot):
    cells = json.loads((EXAMPLES / "plot_a_run.ipynb").read_text(encoding="utf-8"))["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]).replace('RUN = "demo-run"', f"RUN = {str(forgot)!r}")
            exec(compile(source, "plot_a_run.ipynb", "exec"), names)
    assert len(names["figure"].data) == 1 and names["map_of"].notna().all().all()


@pytest.mark.in_turn(0)
def test_known_truth_writes_its_table_and_figure(tmp_path):
    words = ["--out", tmp_path / "study", "--seeds", 1, "--facts", 60, "--steps", 5, 15]
    assert finish(start(EXAMPLES / "known_truth.py", *words)) == 0
    table = (tmp_path / "study.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1
    assert (tmp_path / "study.png").read_bytes()[:4] == b"\x89PNG"
