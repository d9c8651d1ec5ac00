"""Logs that inspect_ai itself writes, of a model that answers from a list."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from forget_callback import transitions
from forget_callback.probes.conversation import asked
from forget_callback.probes.installed import FOR_COMPARE
from forget_callback.snapshots.logs import LogOptions, read_logs
from tests.cli.few_packages import modules
from tests.cli.test_few_packages import TRAINING, few

pytest.importorskip("inspect_ai")
SCRIPT = Path(__file__).resolve().parents[2] / "data" / "logs" / "make_inspect.py"
LETTERS = "ABCD"
N = 12
BEFORE = "ABCDABCDABCA"
AFTER = ["A", "B", "C", "C", "B", "", "D", "D", "A", "B", "A", "D"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("inspect")
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, SCRIPT, directory], capture_output=True, text=True, timeout=300, env=quiet)
    assert done.returncode == 0, done.stderr
    return directory


def test_counts_and_choices(run_cli, logs):
    code, out, err = run_cli("compare", logs / "before", logs / "after", "--format", "json")
    assert code == 0, err
    found = json.loads(out)["probes"]["quiz"]
    answer = [i % 4 for i in range(N)]
    before, after = ([LETTERS.find(one) if one else -1 for one in said] for said in (BEFORE, AFTER))
    right = [[int(c == t) for c, t in zip(one, answer)] for one in (before, after)]
    expected = transitions(*right, n_choices=4, before_choice=before, after_choice=after, answer=answer)
    assert expected.knowledge_method == "choice"
    for name in ("n", "n11", "n10", "n01", "n00", "knowledge_lost", "knowledge_gained", "forgetting_adjusted"):
        assert found[name] == pytest.approx(expected.as_dict()[name], abs=1e-12), name
    assert found["unparsed"] == pytest.approx(1 / N)


def test_beside_inspect_itself_four_packages_suffice(run_cli, logs):
    command = ("compare", logs / "before", logs / "after", "--format", "json")
    (found, (_, _, error)), loaded = few((*FOR_COMPARE, "inspect-ai"), [command, ("report", logs / "before")])
    assert tuple(found) == run_cli(*command)
    assert not loaded & (TRAINING - modules(["inspect-ai"]))
    assert error.startswith("error: ")
    ((code, out, error),), _ = few(FOR_COMPARE, [command])
    assert (code, out) == (2, "")
    assert error.endswith("inspect_ai reads: pip install inspect-ai\n")


def test_inputs_that_are_conversations_are_shown_as_such(logs):
    (log,) = read_logs(logs / "talk", LogOptions(note=str)).values()
    first, second = log.to_probe().items
    assert asked(first) == "system: Be brief.\n\nuser: Who?"
    assert asked(second) == 'user: Add.\n\nassistant: add({"a": 1})\n\ntool: 2'
    (log,) = read_logs(logs / "before", LogOptions(note=str)).values()
    assert not log.to_probe().items[0].messages, "one question is a prompt"


def test_a_report(run_cli, logs, tmp_path):
    code, _, err = run_cli("report", logs / "before", logs / "after", "--out", tmp_path / "page.html")
    assert code == 0, err


def test_other_prompts_are_refused(run_cli, logs):
    code, out, err = run_cli("compare", logs / "before", logs / "other")
    assert (code, out) == (2, "")
    assert f"items with another prompt: {N} ('q00', 'q01', 'q02', ...)" in err


@pytest.mark.parametrize(
    "kind, option, message",
    [
        ("scorers", "--metric=choice", "2 scorers: choice, match; choose one: --metric"),
        ("epochs", "--epoch=2", "every sample 2 times, epochs [1, 2]; choose one: --epoch"),
    ],
)
def test_a_log_that_needs_a_choice(run_cli, logs, kind, option, message):
    paths = (logs / kind / "before", logs / kind / "after")
    code, out, err = run_cli("compare", *paths)
    assert (code, out) == (2, "")
    assert message in err
    code, out, err = run_cli("compare", *paths, option, "--format", "json")
    assert code == 0, err
    plain = json.loads(run_cli("compare", logs / "before", logs / "after", "--format", "json")[1])
    assert json.loads(out) | {"notes": plain["notes"]} == plain


def test_samples_without_a_score_are_not_wrong(run_cli, logs, tmp_path):
    (file,) = (logs / "after").glob("*.json")
    log = json.loads(file.read_text())
    log["samples"][0]["scores"]["choice"]["value"] = float("nan")
    (tmp_path / file.name).write_text(json.dumps(log))
    code, out, _ = run_cli("compare", logs / "before", tmp_path, "--format", "json")
    assert code == 0
    assert json.loads(out)["all"]["n_unscored"] == 1
    assert json.loads(out)["all"]["n"] == N - 1


def test_empty_answers_are_unparsed(run_cli, logs, tmp_path):
    """Of a scorer that says no more than right or wrong."""
    files = []
    for name, said in (("a", "x"), ("b", "")):
        (file,) = (logs / "after").glob("*.json")
        log = json.loads(file.read_text())
        for sample in log["samples"]:
            sample["choices"], sample["output"]["choices"][0]["message"]["content"] = [], said
            sample["output"]["completion"] = said
            sample["scores"]["choice"] |= {"value": "C" if said else "I", "answer": None}
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(log))
    code, out, err = run_cli("compare", *files, "--format", "json")
    assert code == 0, err
    assert json.loads(out)["all"]["unparsed"] == 1.0


def test_damaged_and_unfinished_logs_are_refused(run_cli, logs, tmp_path):
    (file,), (packed,) = (logs / "after").glob("*.json"), (logs / "before").glob("*.eval")
    text = file.read_text()
    log = json.loads(text)
    twice = {**log, "samples": [*log["samples"], log["samples"][0]]}
    fewer = {**log, "samples": log["samples"][1:], "results": {**log["results"], "total_samples": N - 1}}
    fewer["eval"] = {**log["eval"], "dataset": {**log["eval"]["dataset"], "sample_ids": None}}
    cases = {
        "cut.json": (text[:-200], "was cut off"),
        "twice.json": (json.dumps(twice), f"id 'q00' occurs 2 times (sample 1, sample {N + 1})"),
        "less.json": (json.dumps({**log, "samples": log["samples"][1:]}), f"'success' with {N - 1} samples of {N}"),
        "fewer.json": (json.dumps(fewer), "items missing in"),
        "error.json": (json.dumps({**log, "status": "error"}), "did not finish, its status is 'error'"),
        "partial.json": (text.replace('"value": "I"', '"value": "P"', 1), "no metric is 0 or 1"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_text(content)
        code, out, err = run_cli("compare", packed, tmp_path / name)
        assert (code, out) == (2, ""), name
        assert message in err
        assert len(err.splitlines()) <= 2
    code, out, _ = run_cli("compare", tmp_path / "less.json", packed, "--allow-partial", "--format", "json")
    assert code == 0
    assert (json.loads(out)["all"]["n"], json.loads(out)["all"]["n_unscored"]) == (N - 1, 1), "it stays, unscored"
    cut = tmp_path / "cut.eval"
    cut.write_bytes(packed.read_bytes()[:-100])
    code, out, err = run_cli("compare", packed, cut)
    assert (code, out) == (2, "")
    assert f"{cut} is damaged" in err
