"""Rows in which anything may stand anywhere: read, or refused in words, and never more than that."""

import copy
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forget_callback.snapshots.logs import LogOptions, match, read_logs
from forget_callback.snapshots.logs.log import Log, LoggedItem
from tests.snapshots.logs.test_lighteval import answered
from tests.snapshots.logs.test_lm_eval import row, said, two_readings
from tests.snapshots.logs.test_rollouts import episode, nemo, rollout, verl

TIME = "2024-08-01T10-00-00.000000"
ODD = [
    *(None, 5, -1, 1.5, True, float("nan"), 10**400),
    *("x", "", "9" * 5000, "[1,2", "(A)", "\x1b[2J", "\ud800", "(" * 500),
    *([], {}, [1], {"a": 1}, [[]], [None], {"": None}),
]
RESULTS = {
    "n-samples": {"task": {"original": 3, "effective": 3}},
    "configs": {"task": {"filter_list": [{"name": "a"}, {"name": "b"}], "target_delimiter": " "}},
    "n-shot": {"task": 0},
    "group_subtasks": {"group": ["task"]},
    "results": {"task": {"acc,none": 1.0}},
}
ANY = {"id": 1, "score": 1, "k": 4, "choice": 1, "answer": 1, "category": "c", "cluster": "x", "variant": "v"}
ROWS = {
    "lm-eval": [row(i) for i in range(3)],
    "lm-eval, generated": [said(i, "A", "A", 1.0) for i in range(3)],
    "lm-eval before 0.4.7": two_readings(3),
    "anyone": [{**ANY, "id": i, "prompt": "p", "prediction": "q", "outcome": "wrong"} for i in range(3)],
    "verl": verl(0, [1.0, 0.0, 1.0]),
    "NeMo-RL": nemo([1.0, 0.0, 1.0]),
    "prime-rl": [episode(i, 1.0) for i in range(3)],
    "verifiers": [rollout(i, 1.0) for i in range(3)],
    "lighteval": [answered(i, "x", 1.0) for i in range(3)],
}


def places(value, path=()):
    """Every place in a JSON value."""
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def spoiled(value, rng):
    """The value with something odd, or nothing, at one of its places."""
    value = copy.deepcopy(value)
    *path, last = rng.choice(list(places(value)))
    owner = value
    for key in path:
        owner = owner[key]
    if rng.random() < 0.2:
        del owner[last]
    else:
        owner[last] = rng.choice(ODD)
    return value


def write(folder, kind, rows, rng):
    """A file with these rows; None if the form cannot hold them."""
    if kind == "lighteval":
        file = folder / f"details_suite|task|0_{TIME}.parquet"
        try:
            pq.write_table(pa.Table.from_pylist(rows), file)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return None
        return file
    (folder / f"results_{TIME}.json").write_text(json.dumps(spoiled(RESULTS, rng) if rng.random() < 0.5 else RESULTS))
    file = folder / (f"samples_task_{TIME}.jsonl" if "lm-eval" in kind else "x.jsonl")
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return file


@pytest.mark.parametrize("kind", ROWS)
def test_odd_values_are_read_or_refused_in_words(tmp_path, kind):
    rng, read, refused = random.Random(kind), 0, []
    for number in range(120):
        rows = [spoiled(one, rng) if not i or number % 3 == 0 else one for i, one in enumerate(ROWS[kind])]
        file = write(tmp_path, kind, rows, rng)
        for more in ({}, {"allow_partial": True, "n_choices": 4, "filter": "a"}) if file else ():
            try:
                logs = read_logs(file, LogOptions(**more, note=str))
                for log in match([logs, logs], LogOptions(**more, note=str))[1].values():
                    log.snapshot()
                    log.to_probe()
                read += 1
            except ValueError as error:
                refused.append(str(error))
    assert read > 10
    assert all(0 < len(text) < 2500 and "\x1b" not in text for text in refused)


@pytest.mark.parametrize("task", ["all", "con", "NUL", "a" * 300, "com1.x", "..", "tâche | <img>", "."])
def test_a_task_of_any_name_becomes_a_probe_that_every_file_system_takes(task):
    log = Log(task, {"tool": "lm-eval"}, (LoggedItem("1", 1.0, {}, "Q", ("a",)),), "log")
    assert log.to_probe().name == log.probe
    other = Log(task + "b", log.how, log.items, "log")
    assert other.probe != log.probe
