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
PLAIN, REPLAY = (line for line in COMMANDS if line.startswith("forget-callback demo"))
OTHERS = [
    pytest.param(line, marks=[pytest.mark.in_turn(2)] if "demo-replay" in line else [])
    for line in COMMANDS
    if line not in (PLAIN, REPLAY)
]


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
def demo(tmp_path_factory):
    """(directory, output) after the first demo of the tour, which CI has run with the wheel it built."""
    directory = tmp_path_factory.mktemp("demos")
    if "FORGET_DEMO_RUN" not in os.environ:
        return directory, run(PLAIN, directory, 900, before=partial(teach_once, directory / "taught.pt"))
    done = Path(os.environ["FORGET_DEMO_RUN"])
    shutil.copytree(done / "demo-run", directory / "demo-run", symlinks=True)
    return directory, (done / "out.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def both(demo):
    """The directory after the second one, too."""
    directory, _ = demo
    run(REPLAY, directory, 900, before=partial(teach_once, directory / "taught.pt"))
    return directory


def last(directory, probe):
    history = pd.read_parquet(directory / "forget" / "history.parquet")
    return history[(history["probe"] == probe) & (history["category"] == "")].iloc[-1]


def test_it_forgets(demo):
    plain = last(demo[0] / "demo-run", "facts-recall")
    assert plain["samples_seen"] == 1600
    assert plain["accuracy_before"] > 0.95
    assert plain["forgetting"] >= 0.2


@pytest.mark.in_turn(2)
def test_with_replay_it_forgets_less_than_half_of_that(both):
    plain, replay = (last(both / name, "facts-recall") for name in ("demo-run", "demo-replay"))
    assert replay["samples_seen"] == 1600
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


def test_it_prints_the_curve_the_facts_that_went_first_and_where_everything_is(demo):
    directory, out = demo
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


def test_the_wandb_run_of_the_demo_ends_on_the_numbers_of_the_table(demo):
    directory, _ = demo
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


@pytest.mark.parametrize("command", OTHERS)
def test_every_other_command_of_the_tour_runs(demo, command, request):
    directory = request.getfixturevalue("both") if "demo-replay" in command else demo[0]
    assert run(command, directory).strip()


def test_the_docs_show_output_in_the_form_that_the_demo_prints(demo):
    _, out = demo
    page = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
    shown = next(block for block in re.findall(r"```text\n(.*?)```", page, re.DOTALL) if "lost first" in block)
    for line in shown.splitlines():
        words = re.findall(r"[A-Za-z&]{4,}", line.split("  ")[0])
        if line and not line.startswith(" "):
            assert all(word in out for word in words), line
