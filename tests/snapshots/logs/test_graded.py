"""Logs and files whose metric is a number: right from one half on, and the number is kept."""

import json

import numpy as np
import pytest

SCORES = ([0.9, 0.8, 0.55, 1.0], [0.4, 0.8, 0.5, 0.25])
CHANGE = float(np.mean(SCORES[1]) - np.mean(SCORES[0]))


def compared(run_cli, *arguments):
    code, out, err = run_cli("compare", *arguments, "--format", "json")
    assert code == 0, err
    return json.loads(out)["all"], err


def per_item(folder, scores, **more):
    file = folder.with_suffix(".jsonl")
    rows = [{"id": i, "score": one} | {key: value(one) for key, value in more.items()} for i, one in enumerate(scores)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def lm_eval(folder, scores, *, metric="rougeL", others=()):
    folder.mkdir()
    rows = []
    for i, score in enumerate(scores):
        rows.append(
            {
                "doc_id": i, "doc": {"q": i}, "target": "yes", "filter": "none", "metrics": [metric, *others],
                "arguments": {"gen_args_0": {"arg_0": f"Q{i}", "arg_1": {"until": []}}},
                "resps": [["yes"]], "filtered_resps": ["yes"], metric: score, **dict.fromkeys(others, 1.0),
            }
        )  # fmt: skip
    file = folder / "samples_task_2026-01-01T00-00-00.000000.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("write", [per_item, lm_eval], ids=["per item", "lm-eval"])
def test_transitions_are_at_one_half_and_the_mean_change_stands_beside(run_cli, tmp_path, write):
    numbers, err = compared(run_cli, *(write(tmp_path / name, s) for name, s in zip("ab", SCORES)))
    assert (numbers["n"], numbers["n10"], numbers["n01"], numbers["n11"]) == (4, 2, 0, 2)
    assert numbers["score_before"] == pytest.approx(np.mean(SCORES[0]))
    assert numbers["score_change"] == pytest.approx(CHANGE) == pytest.approx(-numbers["score_lost"])
    assert numbers["score_change_low"] < CHANGE < numbers["score_change_high"]
    assert "0.5 or more is taken as right" in err


def test_a_column_of_scores_is_read_where_another_one_decides(run_cli, tmp_path):
    files = [per_item(tmp_path / name, s, correct=lambda score: score > 0.7) for name, s in zip("ab", SCORES)]
    numbers, _ = compared(run_cli, *files)
    assert (numbers["n10"], numbers["n11"]) == (2, 1) and numbers["metric"] == "correct"
    assert numbers["score_change"] == pytest.approx(CHANGE)
    wrong = [
        per_item(tmp_path / name, [7 * one for one in s], correct=lambda s: s > 5) for name, s in zip("cd", SCORES)
    ]
    assert compared(run_cli, *wrong)[0]["score_change"] is None, "no scores from 0 to 1"


def test_right_and_wrong_alone_are_no_scores(run_cli, tmp_path):
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for file, right in zip(files, (1, 0)):
        file.write_text(f"id,correct\n1,1\n2,{right}\n")
    assert compared(run_cli, *files)[0]["score_change"] is None


def test_of_several_numbers_the_user_chooses_and_one_that_is_right_or_wrong_comes_first(run_cli, tmp_path):
    a, b = (lm_eval(tmp_path / name, s, metric="f1", others=("exact_match",)) for name, s in zip("ab", SCORES))
    numbers, _ = compared(run_cli, a, b)
    assert numbers["metric"] == "exact_match" and numbers["score_change"] is None
    numbers, _ = compared(run_cli, a, b, "--metric", "f1")
    assert numbers["metric"] == "f1" and numbers["score_change"] == pytest.approx(CHANGE)


@pytest.mark.parametrize("bad", [1.5, -0.1, "x"])
def test_what_is_no_number_from_0_to_1_still_decides_nothing(run_cli, tmp_path, bad):
    a, b = (lm_eval(tmp_path / name, [0.5, bad]) for name in "ab")
    code, out, err = run_cli("compare", a, b)
    assert (code, out) == (2, "") and "no metric is 0 or 1 for all items" in err


def test_a_gate_on_scores(run_cli, tmp_path):
    files = [per_item(tmp_path / name, s * 10) for name, s in zip("ab", SCORES)]
    assert run_cli("compare", *files, "--fail-if", "score_lost>0.3")[0] == 1
    assert run_cli("compare", *files, "--fail-if", "score_lost>0.4")[0] == 0
    assert run_cli("compare", *files, "--fail-if", "bits_per_byte_change>9")[0] == 1, "no texts: it fails closed"
