"""`plan` through the command line: numbers that a simulation of its own finds, and errors in one line."""

import json

import numpy as np
import pytest

from forget_callback import load_probe, score_probe
from tests.runs.test_power import found_afresh


@pytest.fixture
def spec(tmp_path):
    """JSONL of items in two prompts."""
    path = tmp_path / "probe.jsonl"
    item = {"choices": [" a", " b", " c", " d"], "answer": 0, "variants": ["The next letter of {i} is"]}
    lines = [json.dumps({"id": f"i{i}", "prompt": f"After {i} comes", **item}) for i in range(400)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_without_a_model_it_says_what_it_assumes(run_cli, spec):
    code, out, err = run_cli("plan", spec, "--detect", "0.035", "--format", "json")
    found = json.loads(out)
    assert (code, err) == (0, "") and (found["items"], found["variants"], found["in_this_prompt"]) == (400, 2, False)
    assert (found["known"], found["known_measured"], found["seconds"]) == (0.4, False, None)
    assert found["detect_power"] == pytest.approx(found_afresh(400, 0.4, 0.035, 120), abs=0.12)
    assert found["items_needed"] == pytest.approx(400 * (found["smallest_loss"] / 0.035) ** 2, rel=0.5)


def test_it_says_so_in_lines(run_cli, spec):
    code, out, err = run_cli("plan", spec, "--detect", "0.2", "--limit", "60")
    first, second, third = out.splitlines()
    assert (code, err) == (0, "") and first.startswith("probe: 60 items in two variants: a loss of ")
    assert first.endswith(" points is found in four of five runs")
    assert second.startswith("assumed, for want of --model: 40% of the items are known; assumed: 30% of the guesses")
    assert third.startswith("a loss of 20.0 points needs ") and "items like these; 60 find it in " in third
    assert len(run_cli("plan", spec, "--limit", 20)[1].splitlines()) == 2


def test_with_a_model_it_measures_what_is_known_and_the_time(run_cli, spec, make_model, tokenizer, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    code, out, _ = run_cli("plan", spec, "--model", tmp_path / "model", "--format", "json", "--limit", 150)
    found = json.loads(out)
    assert code == 0 and found["known_measured"] and min(found["seconds"].values()) > 0
    taken = score_probe(model, tokenizer, load_probe(str(spec), limit=150))
    right = (taken.correct == 1) & (taken.correct_2 == 1)
    same_wrong = (taken.choice == taken.choice_2) & (taken.correct == 0)
    assert found["known"] == pytest.approx(np.mean(right) - np.mean(same_wrong) / 3, abs=1e-9)
    assert "s in the first prompt and " in run_cli("plan", spec, "--model", tmp_path / "model", "--limit", 40)[1]


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (["--detect", "2"], "--detect must be a share of the items between 0 and 1, such as 0.02, got 2"),
        (["--detect", "0"], "--detect must be a share"),
        (["--model", "no/such-model-here"], "no/such-model-here"),
    ],
)
def test_bad_input_is_exit_status_2(run_cli, spec, arguments, problem):
    code, out, err = run_cli("plan", spec, *arguments)
    assert code == 2 and out == "" and problem in err
    assert run_cli("plan", "nonsense:probe")[0] == 2


def test_a_loss_that_cannot_happen(run_cli, spec):
    code, out, _ = run_cli("plan", spec, "--detect", "0.9", "--limit", 40)
    assert code == 0 and "a loss of 90.0 points cannot happen: less than that is known" in out
