"""The demo as a new user runs it, and the tour of the command line in the directory that it leaves."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from forget_callback.cli import main
from forget_callback.demo import tiny
from forget_callback.runs.store import Store
from tests.forked import finish, start
from tests.schema import checked

ROOT = Path(__file__).resolve().parents[2]
TOUR = re.search(r"## A tour.*?```bash\n(.*?)```", (ROOT / "docs" / "command-line.md").read_text("utf-8"), re.DOTALL)[1]
COMMANDS = TOUR.splitlines()
DEMOS = [line for line in COMMANDS if line.startswith("forget-callback demo")]


def run(command, directory, seconds=200, **more):
    """What a command prints, with this interpreter and one thread, in a process of its own."""
    words = shlex.split(command)
    words = ["-m", "forget_callback", *words[1:]] if words[0] == "forget-callback" else words
    words = [ROOT / words[1], *words[2:]] if words[0] == "python" else words
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment = {**kept, "HOME": str(directory), "COLUMNS": "100"}
    out, err = directory / "out.txt", directory / "err.txt"
    for file in (out, err):
        file.unlink(missing_ok=True)
    process = start(*words, environment=environment, directory=directory, out=out, err=err, **more)
    assert finish(process, seconds) == 0, err.read_text()
    assert "Traceback" not in err.read_text()
    return out.read_text()


def teach_once(file):
    """The second demo begins with the weights that the first has taught: it would teach the same, see below."""
    teach = tiny.teach

    def taught(model, *given, **more):
        if not file.exists():
            teach(model, *given, **more)
            torch.save(model.state_dict(), file)
        model.load_state_dict(torch.load(file))

    tiny.teach = taught


@pytest.fixture(scope="session")
def demos(tmp_path_factory):
    """(directory, output by command) after both demos of the tour; CI has run the first with the wheel it built."""
    directory = tmp_path_factory.mktemp("demos")
    before, outputs = partial(teach_once, directory / "taught.pt"), {}
    if "FORGET_DEMO_RUN" in os.environ:
        done = Path(os.environ["FORGET_DEMO_RUN"])
        assert DEMOS[0] == "forget-callback demo --out demo-run"
        shutil.copytree(done / "demo-run", directory / "demo-run", symlinks=True)
        outputs[DEMOS[0]] = (done / "out.txt").read_text(encoding="utf-8")
    more = {command: run(command, directory, 900, before=before) for command in DEMOS if command not in outputs}
    return directory, outputs | more


def last(directory, probe):
    history = pd.read_parquet(directory / "forget" / "history.parquet")
    return history[(history["probe"] == probe) & (history["category"] == "")].iloc[-1]


def test_without_replay_it_forgets_and_with_replay_less_than_half_of_that(demos):
    directory, _ = demos
    plain, replay = (last(directory / name, "facts-recall") for name in ("demo-run", "demo-replay"))
    assert plain["samples_seen"] == replay["samples_seen"] == 1600
    assert plain["accuracy_before"] > 0.95
    assert plain["forgetting"] >= 0.2
    assert replay["forgetting"] < plain["forgetting"] / 2


def teach_little():
    """The demo after this teaches its model for a moment."""
    tiny.teach = partial(tiny.teach, steps=15)


def small_demo():
    sys.argv = ["forget-callback", *SMALL, "--format", "json"]
    teach_little()
    main()


SMALL = ["demo", "--out", "run", "--samples", "64"]


@pytest.mark.in_turn(1)
def test_the_same_seed_gives_the_same_run_in_every_process(tmp_path):
    """Also where names have other hashes: every answer and margin, from the first snapshot to the last."""
    forked, fresh = tmp_path / "forked", tmp_path / "fresh"
    forked.mkdir()
    fresh.mkdir()
    assert finish(start("-m", "forget_callback", *SMALL, directory=forked, before=teach_little)) == 0
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # of the fresh one: not that of the other
    environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    code = "from tests.integration.test_demo import small_demo; small_demo()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=fresh, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    stores = [Store(directory / "run") for directory in (forked, fresh)]
    for probe in ("facts-choice", "facts-recall"):
        assert stores[0].steps(probe) == stores[1].steps(probe) == [0, 1, 2]
        for step in stores[0].steps(probe):
            pd.testing.assert_frame_equal(*(store.read(probe, step).to_pandas() for store in stores))
    out = done.stdout.decode("utf-8")
    found, row = checked(out, "demo"), last(fresh / "run", "facts-choice")
    assert found["probes"]["facts-choice"]["forgetting"] == row["forgetting"] and found["samples_seen"] == 64
    assert found["page"] == str(fresh / "run" / "forget" / "report.html") and Path(found["wandb"]).is_dir()


def test_it_prints_the_curve_the_facts_that_went_first_and_where_everything_is(demos):
    directory, outputs = demos
    out = outputs[DEMOS[0]]
    recall = last(directory / "demo-run", "facts-recall")
    assert f"{100 * recall['forgetting']:.1f}%" in out
    assert re.search(r"facts-recall raw 1→0 +[▁▂▃▄▅▆▇█]{11} ", out)
    store = Store(directory / "demo-run")
    before, after = (store.read("facts-recall", store.steps("facts-recall")[i]) for i in (0, -1))
    lost = {str(before.prediction[i]).strip() for i in ((before.correct == 1) & (after.correct == 0)).nonzero()[0]}
    shown = out[out.index("lost first") : out.index("run directory")]
    assert sum(answer in shown for answer in lost) >= 5
    run = Path(re.search(r"W&B run +(\S+)", out)[1])
    assert (directory / run).is_dir()
    assert "by SFT: loss" in out


@pytest.mark.in_turn(0)
def test_the_demo_by_grpo_learns_its_rule(run_cli, monkeypatch, tmp_path, wandb_offline):
    """With a model that is taught for a moment only: how well facts are taught is shown above."""
    monkeypatch.setattr(tiny, "teach", partial(tiny.teach, steps=40))
    monkeypatch.setenv("WANDB_PROJECT", "demo")  # or the demo would set it for all that comes after
    status, out, err = run_cli("demo", "--out", tmp_path / "run", "--method", "grpo", "--samples", "64")
    assert status == 0, err
    assert re.search(r"a new rule by GRPO: reward [\d.]+ → [\d.]+", out)
    assert last(tmp_path / "run", "facts-recall")["samples_seen"] == 64


def test_the_wandb_run_of_the_demo_ends_on_the_numbers_of_the_table(demos):
    directory, _ = demos
    run = next((directory / "demo-run" / "wandb").glob("offline-run-*"))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(run)]
    summary = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)[
        "summary"
    ]
    for probe in ("facts-choice", "facts-recall", "all"):
        row = last(directory / "demo-run", probe)
        for metric in ("forgetting", "knowledge_lost", "knowledge_gained"):
            assert summary[f"forget/{probe}/{metric}"] == pytest.approx(row[metric], rel=1e-9)
    assert summary["forget/samples_seen"] == 1600


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in DEMOS])
def test_every_other_command_of_the_tour_runs(demos, command):
    directory, _ = demos
    assert run(command, directory).strip()


def test_the_docs_show_output_in_the_form_that_the_demo_prints(demos):
    _, outputs = demos
    page = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
    shown = next(block for block in re.findall(r"```text\n(.*?)```", page, re.DOTALL) if "lost first" in block)
    for line in shown.splitlines():
        words = re.findall(r"[A-Za-z&]{4,}", line.split("  ")[0])
        if line and not line.startswith(" "):
            assert all(word in outputs[DEMOS[0]] for word in words), line
