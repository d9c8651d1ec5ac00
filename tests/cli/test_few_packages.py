"""What the command line does where only a few packages are installed, as in a gate in CI: no torch, nothing large."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from forget_callback.probes.installed import FOR_COMPARE, FOR_PAGES
from tests.cli.few_packages import closure, modules
from tests.cli.test_compare import record
from tests.snapshots.logs.test_lm_eval import row
from tests.snapshots.logs.test_rollouts import verl

ROOT = Path(__file__).resolve().parents[2]
TRAINING = {"accelerate", "datasets", "huggingface_hub", "peft", "safetensors", "tokenizers", "torch", "tqdm",
            "transformers", "trl", "wandb", "yaml"}  # fmt: skip


def few(packages, commands):
    """(status, output, errors) of each command where only these packages are, and the modules that they loaded."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.few_packages", *packages],
        input=json.dumps([[str(word) for word in command] for command in commands]),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found["results"], set(found["loaded"])


def write_lines(file, rows):
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Kind of what is compared -> BEFORE and AFTER."""
    directory = tmp_path_factory.mktemp("few")
    right = [[int(i % 5 > 0) for i in range(40)], [int(i % 3 > 0) for i in range(40)]]
    found = {}
    for place, scores in enumerate(right):
        rows = [{"id": f"q{i}", "score": score, "category": f"c{i % 2}"} for i, score in enumerate(scores)]
        write_lines(directory / f"own{place}.jsonl", rows)
        pd.DataFrame(rows).to_csv(directory / f"own{place}.csv", index=False)
        pd.DataFrame(rows).to_parquet(directory / f"own{place}.parquet")
        found["verl"] = [*found.get("verl", ()), write_lines(directory / f"{place + 1}.jsonl", verl(place, scores))]
        logged = [row(i, right=float(s), scores=(-2.0 + s, -1.5, -3.0)) for i, s in enumerate(scores)]
        write_lines(directory / f"lm-eval{place}" / f"samples_task_2026-01-0{place + 1}T00-00-00.000000.jsonl", logged)
        record(directory / f"run{place}", [(0, 5 * place), (10, 20)])
    zipfile.ZipFile(ROOT / "tests" / "data" / "logs" / "lighteval.zip").extractall(directory / "lighteval")
    for suffix in (".jsonl", ".csv", ".parquet"):
        found[f"own{suffix}"] = [directory / f"own{place}{suffix}" for place in (0, 1)]
    for kind in ("lm-eval", "run"):
        found[kind] = [directory / f"{kind}{place}" for place in (0, 1)]
    found["lighteval"] = [directory / "lighteval" / name for name in ("before", "after")]
    found["steps"] = [f"{directory / 'run0'}@0", f"{directory / 'run0'}@10"]
    found["snapshots"] = [directory / "run0" / "forget" / "snapshots" / "p" / f"step-{n:08}.parquet" for n in (0, 10)]
    return found


def test_compare_of_logs_runs_and_snapshots_needs_four_packages(run_cli, sides, tmp_path):
    """The same output as where everything is installed, gates and files too."""
    gate, junit = ("--fail-if", "forgetting>0.05", "--fail-if", "known_lost>0.9"), tmp_path / "gates.xml"
    commands = [("compare", *pair, "--format", "json") for pair in sides.values()]
    commands += [("compare", *sides["lm-eval"], "--format", format, *gate) for format in ("table", "markdown", "json")]
    commands += [("compare", *sides["own.csv"], "--junit", junit, *gate), ("compare", *sides["run"], *gate)]
    commands += [("probes", "builtin:facts?limit=20"), ("plan", "builtin:facts?limit=300"), ("--version",), ("--help",)]
    found, loaded = few(FOR_COMPARE, commands)
    text = junit.read_text()
    for command, (code, out, err) in zip(commands, found):
        assert code == ("forgetting>0.05" in command), (command, err)
        assert out and "Traceback" not in err
        if "json" in command or command[0] == "probes":
            assert (code, out, err) == run_cli(*command), command
    run_cli(*commands[-6])
    assert junit.read_text() == text
    assert not loaded & (TRAINING | modules(FOR_PAGES))
    assert {*FOR_COMPARE} <= loaded, "one that is listed and not needed"


def test_pages_need_two_more(sides, tmp_path):
    pairs = [pair for kind, pair in sides.items() if kind not in ("steps", "snapshots")]
    pages = [tmp_path / f"{place}.html" for place in range(len(pairs))]
    found, loaded = few(FOR_COMPARE + FOR_PAGES, [("report", *pair, "--out", page) for pair, page in zip(pairs, pages)])
    assert [code for code, _, _ in found] == [0] * len(pairs), found
    assert all(page.stat().st_size > 100_000 for page in pages)
    assert not loaded & TRAINING
    found, _ = few(FOR_COMPARE, [("report", *sides["lm-eval"], "--out", tmp_path / "page.html")])
    code, _, err = found[0]
    install = "pip install " + " ".join(FOR_PAGES)
    assert (code, err.splitlines()[-1]) == (2, f"error: this needs jinja2, which is not installed: {install}")


def test_watch_refuses_the_record_of_another_before_it_loads_what_scores(sides):
    ((code, out, err),), loaded = few(FOR_COMPARE, [("watch", sides["run"][0])])
    assert (code, out) == (2, "") and "is a record that the training itself or another command keeps" in err
    assert not loaded & TRAINING


def test_none_of_the_few_comes_with_the_others():
    for name in FOR_COMPARE + FOR_PAGES:
        assert name not in closure({*FOR_COMPARE, *FOR_PAGES} - {name})


@pytest.mark.parametrize("name", FOR_COMPARE)
def test_one_of_the_few_that_is_missing_is_said_with_all_of_them(name):
    ((code, out, err),), _ = few({*FOR_COMPARE} - {name}, [("compare", "a", "b")])
    install = "pip install " + " ".join(FOR_COMPARE)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"error: this needs [a-z]+, which is not installed: {install}\n", err)


def test_what_needs_more_says_what_to_install(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    commands = {
        "demo": ["--out", tmp_path / "demo"],
        "snapshot": [model, "--probe", "builtin:facts?limit=5", "--out", tmp_path / "out"],
        "verify": [ROOT / "recipes" / "sft-from-base" / "config.yaml"],
        "preflight": [ROOT / "recipes" / "sft-from-base" / "config.yaml", "--out", tmp_path / "preflight"],
        "dial": [model, model, "--probe", "builtin:facts?limit=5", "--task", "builtin:facts?limit=5"],
        "plan": ["builtin:facts?limit=300", "--model", model],
        "probes": ["hub:mmlu"],
    }
    found, _ = few(FOR_COMPARE + FOR_PAGES, [(name, *words) for name, words in commands.items()])
    for name, (code, out, err) in zip(commands, found):
        assert (code, out) == (2, ""), name
        assert re.fullmatch(
            r"error: this needs [a-z]+, which is not installed: "
            r"pip install forget-callback, without --no-deps, brings it\n",
            err,
        ), (name, err)
    assert [*tmp_path.iterdir()] == [model], "nothing was begun"


def test_docs_name_the_few():
    page = (ROOT / "docs" / "stopping-and-gates.md").read_text(encoding="utf-8")
    installs = [line.partition("#")[0].split()[2:] for line in page.splitlines() if line.startswith("pip install ")]
    assert installs == [[*FOR_COMPARE], [*FOR_PAGES], ["inspect-ai"], ["--no-deps", "forget-callback"]]
