"""Validation dumps of RL trainers, written here as their writers do.

The writers' code is quoted by file and name in `forget_callback/snapshots/logs/rollouts.py`; the lines here have the
fields that it gives them.
"""

import json
import random

import pytest

from tests.snapshots.logs.test_per_item import compared, lines, refused

N = 12


def verl(step, scores, *, prompts=None, extra=None):
    """`_dump_generations`: one object a line, keys in this order."""
    prompts = prompts or [f"user\n{i} + {i} =\nassistant\n" for i in range(len(scores))]
    return [
        {"input": prompt, "output": f"#### {i}", "gts": str(2 * i), "score": score, "step": step}
        | {name: values[i] for name, values in (extra or {}).items()}
        for i, (prompt, score) in enumerate(zip(prompts, scores))
    ]


def nemo(scores):
    """`log_batched_dict_as_jsonl`: slices of one, so that every value is a list of one."""
    return [
        {
            "content": [[{"role": "user", "content": f"Q{i}"}, {"role": "assistant", "content": f"A{i}"}]],
            "rewards": [score],
            "idx": i,
        }
        for i, score in enumerate(scores)
    ]


def nemo_evaluation(scores):
    return [
        {"prompt": f"Q{i}", "response": f"A{i}", "reward": score, "message_log": "[]", "extra_env_info": "{}",
         "sample_index": i}
        for i, score in enumerate(scores)
    ]  # fmt: skip


def episode(i, score, **more):
    """`Episode.to_record` with `exclude_none`."""
    trace = {
        "id": f"{random.random()}",
        "task": {"type": "Task", "data": {"idx": i}},
        "agent": {"config": {}, "name": "agent", "trainable": True},
        "nodes": [
            {"message": {"role": "user", "content": f"Q{i}"}, "sampled": False},
            {"message": {"role": "assistant", "content": f"A{i}"}, "sampled": True},
        ],
        "rewards": {"right": {"score": score, "weight": 1.0}, "style": {"score": 0.3, "weight": 0.0}},
        "metrics": {"length": 7.0},
        "ok": True,
    }
    return {
        "id": f"{random.random()}",
        "env": {"id": "gsm8k"},
        "task": {"type": "Task", "data": {"idx": i, "prompt": f"Q{i}"}, "key": f"key{i}", "hash": f"hash{i}"},
        "ok": True,
        "errors": [],
        "traces": [trace],
    } | more


def rollout(i, score, **more):
    return {
        "example_id": i, "prompt": [{"role": "user", "content": f"Q{i}"}],
        "completion": [{"role": "assistant", "content": f"A{i}"}], "reward": score, "timing": {}, "is_completed": True,
        "is_truncated": False, "metrics": {"right": score}, "answer": str(i), "error": None,
    } | more  # fmt: skip


def batch_inference(scores):
    return [{"input": f"Q{i}", "output": f"A{i}", "reward": score} for i, score in enumerate(scores)]


WRITERS = {
    "verl": (lambda scores: verl(0, scores), "score"),
    "NeMo-RL": (nemo, "reward"),
    "prime-rl": (lambda scores: [episode(i, score) for i, score in enumerate(scores)], "reward"),
    "verifiers": (lambda scores: [rollout(i, score) for i, score in enumerate(scores)], "reward"),
    "OpenRLHF": (batch_inference, "reward"),
}


@pytest.mark.parametrize("tool", WRITERS)
def test_items_are_joined_by_prompt_or_id_in_any_order(run_cli, tmp_path, tool):
    dump, metric = WRITERS[tool]
    before, after = [1.0] * 9 + [0.0] * 3, [1.0] * 6 + [0.0] * 5 + [1.0]
    rows = dump(after)
    random.Random(0).shuffle(rows)
    found, err = compared(run_cli, lines(tmp_path / "0.jsonl", *dump(before)), lines(tmp_path / "50.jsonl", *rows))
    numbers = found["probes"]["validation"]
    assert [numbers[cell] for cell in ("n11", "n10", "n01", "n00")] == [6, 3, 1, 2]
    assert numbers["metric"] == metric
    assert f"{metric!r} decides what is right" in err


def test_nemo_rls_evaluation_data(run_cli, tmp_path):
    for name, scores in (("a", [1.0, 1.0]), ("b", [1.0, 0.0])):
        (tmp_path / f"{name}.json").write_text(json.dumps({"evaluation_data": nemo_evaluation(scores)}, indent=2))
    assert compared(run_cli, tmp_path / "a.json", tmp_path / "b.json")[0]["all"]["n10"] == 1
    for content, message in (([], "holds no answers of"), ([1], "expected a list of answers"), ({}, "expected a list")):
        (tmp_path / "b.json").write_text(json.dumps({"evaluation_data": content}))
        assert message in refused(run_cli, tmp_path / "a.json", tmp_path / "b.json")


def test_prompts_that_are_answered_several_times_are_one_cluster(run_cli, tmp_path):
    """`val_kwargs.n` repeats each prompt: what is lost is lost with its whole prompt, so the interval is wider."""
    prompts = [f"Q{i // 8}" for i in range(160)]
    before, after = [1.0] * 160, [float(i // 8 % 3 > 0) for i in range(160)]
    a, b = (
        lines(tmp_path / f"{name}.jsonl", *verl(0, own, prompts=prompts)) for name, own in (("a", before), ("b", after))
    )
    repeated = compared(run_cli, a, b)[0]["all"]
    a, b = (lines(tmp_path / f"{name}.jsonl", *verl(0, own)) for name, own in (("a", before), ("b", after)))
    single = compared(run_cli, a, b)[0]["all"]
    assert repeated["n10"] == single["n10"] == 56
    width = [numbers["forgetting_high"] - numbers["forgetting_low"] for numbers in (repeated, single)]
    assert width[0] > 1.5 * width[1]


def test_what_the_reward_function_calls_right_goes_before_a_shaped_reward(run_cli, tmp_path):
    """As of verl's DAPO reward: score is -1 or 1, acc is true or false, pred is a text."""
    files = []
    for name, right in (("a", [True, True, False]), ("b", [True, False, False])):
        extra = {"acc": right, "pred": ["1", "[INVALID]", ""], "reward": [1.0 if one else -1.0 for one in right]}
        rows = verl(0, [1.0 if one else -1.0 for one in right], extra=extra)
        files.append(lines(tmp_path / f"{name}.jsonl", *rows))
    found, err = compared(run_cli, *files)
    assert (found["all"]["n10"], found["all"]["metric"]) == (1, "acc")
    assert "validation: 'acc' decides what is right; 3 of 3 items" in err
    err = refused(run_cli, *files, "--metric", "score")
    assert (
        "'score' is -1.0; expected true or false, or a number from 0 to 1. Choose another column with --metric" in err
    )


def test_episodes_that_failed_are_not_scored(run_cli, tmp_path):
    a = lines(tmp_path / "a.jsonl", *(episode(i, 1.0) for i in range(4)))
    failed = episode(1, 1.0, ok=False, errors=[{"type": "Timeout"}])
    none = episode(2, 1.0)
    none["traces"][0]["rewards"] = {"right": None}
    empty = episode(3, 1.0, traces=[], ok=False)
    b = lines(tmp_path / "b.jsonl", episode(0, 1.0), failed, none, empty)
    numbers = compared(run_cli, a, b)[0]["all"]
    assert (numbers["n"], numbers["n_unscored"]) == (1, 3)


def test_a_reward_by_name(run_cli, tmp_path):
    rows = [episode(i, 1.0) for i in range(3)]
    for row in rows:
        row["traces"][0]["rewards"]["style"]["weight"] = 1.0
    a, b = lines(tmp_path / "a.jsonl", *rows), lines(tmp_path / "b.jsonl", *(episode(i, 0.0) for i in range(3)))
    assert "'reward' is 1.3; expected" in refused(run_cli, a, b)
    assert compared(run_cli, a, b, "--metric", "right")[0]["all"]["n10"] == 3


def test_rollouts_with_an_error_are_not_scored(run_cli, tmp_path):
    a = lines(tmp_path / "a.jsonl", *(rollout(i, 1.0) for i in range(3)))
    cut = rollout(2, 0.0, is_truncated=True)
    b = lines(tmp_path / "b.jsonl", rollout(0, 1.0), rollout(1, 0.0, error={"error": "Timeout"}), cut)
    numbers = compared(run_cli, a, b)[0]["all"]
    assert (numbers["n"], numbers["n10"], numbers["n_unscored"], numbers["unparsed"]) == (2, 1, 1, 0)


def test_another_ground_truth_or_prompt_does_not_compare(run_cli, tmp_path):
    rows = verl(0, [1.0, 1.0])
    a = lines(tmp_path / "a.jsonl", *rows)
    b = lines(tmp_path / "b.jsonl", rows[0], rows[1] | {"gts": "7"})
    assert "items with another right answer: 1" in refused(run_cli, a, b)
    b = lines(tmp_path / "b.jsonl", rows[0], rows[1] | {"input": "other"})
    assert "items missing in" in refused(run_cli, a, b)
    b = lines(tmp_path / "b.jsonl", *nemo([1.0, 1.0]))
    assert "do not compare: tool 'verl' against 'NeMo-RL'" in refused(run_cli, a, b)


def test_a_row_of_another_form_is_named(run_cli, tmp_path):
    for tool, (dump, _) in WRITERS.items():
        rows = dump([1.0, 1.0])
        a = lines(tmp_path / "a.jsonl", *rows)
        b = lines(tmp_path / "b.jsonl", rows[0], {"something": "else"})
        assert f"{b}, line 2: not a row of {tool}: expected" in refused(run_cli, a, b)
