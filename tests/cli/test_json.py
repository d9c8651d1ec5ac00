"""`--format json` of every command: the examples of docs/json.md run and print what docs/schema.json says."""

import inspect
import json
import re
import shlex
import typing
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from forget_callback import Probe, Snapshot, Store, load_probe, transitions
from forget_callback.cli.app import app
from forget_callback.metrics.intervals import wilson
from forget_callback.runs.results import snapshot_result
from tests.schema import SCHEMA, checked
from tests.test_docs import DOCS, commands, ours, table
from tests.tools.test_replay import ITEMS, POOL

EXEMPT = {"run": "what it prints is the output of the command that it starts"}
# Examples that are not run here: their own tests check their objects.
ELSEWHERE = {"demo": "integration/test_demo.py", "watch": "integration/test_watch.py", "card": "cli/test_card.py"}
NAMES = {command.name: command.callback for command in app.registered_commands}
EXAMPLES = [words for words in commands(DOCS / "json.md") if ours(words) and words[-2:] == ["--format", "json"]]
RUN_HERE = [words for words in EXAMPLES if words[1] not in ELSEWHERE]


def formats(callback):
    """What the --format of a command takes; None if it has none."""
    hint = typing.get_type_hints(callback).get("format")
    return None if hint is None else typing.get_args(hint)


def test_every_command_that_prints_results_prints_json_and_is_documented():
    for name, callback in NAMES.items():
        if name in EXEMPT:
            assert formats(callback) is None, f"{name} is exempt, and has the option"
            continue
        assert "json" in (formats(callback) or ()), f"{name}: give it `format: Format` of cli/output.py"
        default = inspect.signature(callback).parameters["format"].default
        assert default == ("table" if name == "compare" else "text")
    with_json = set(NAMES) - set(EXEMPT)
    assert set(SCHEMA["properties"]["command"]["enum"]) == with_json
    assert {one["$ref"].rpartition("/")[2] for one in SCHEMA["oneOf"]} == with_json
    assert {words[1] for words in EXAMPLES} == with_json
    assert set(table(DOCS / "json.md", "results")) == with_json
    for name, test in ELSEWHERE.items():
        assert f'checked(out, "{name}")' in (DOCS.parent / "tests" / test).read_text(encoding="utf-8"), test


def test_the_schema_is_one_and_knows_the_keys_that_the_page_names():
    Draft202012Validator.check_schema(SCHEMA)
    known = set()

    def walk(part):
        if isinstance(part, dict):
            known.update(part.get("properties", {}))
            for value in part.values():
                walk(value)
        elif isinstance(part, list):
            for value in part:
                walk(value)

    walk(SCHEMA)
    rows = [line for line in (DOCS / "json.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[2])}
    assert {name for name in named if not name.startswith("--")} - set(NAMES) <= known
    broken = {"format_version": 1, "command": "workspace", "url": 3, "path": "/x"}
    assert not Draft202012Validator(SCHEMA).is_valid(broken), "a schema that takes anything shows nothing"


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_model, make_tokenizer):
    """A directory with what the examples of docs/json.md name: a run, two models, a recipe, a pool, a task."""
    root, tokenizer = tmp_path_factory.mktemp("json"), make_tokenizer()
    for seed, name in enumerate(("demo-run/model", "tuned")):
        make_model(seed).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    probe, store = Probe("facts-recall", ITEMS), Store(root / "demo-run")
    store.begin([probe])
    for step, wrong in ((0, set()), (10, {"r/France", "c/Italy", "r/Japan"})):
        correct = np.array([float(item.id not in wrong) for item in ITEMS])
        store.write(Snapshot(probe.name, probe.fingerprint, step, np.array(probe.ids, object), correct))
    rows = [{"prompt": f"Who is {i}?", "completion": f" The fox {i}."} for i in range(8)]
    task = [{"id": f"{i}", "prompt": f"{i} is", "choices": [" odd", " even"], "answer": i % 2} for i in range(6)]
    for name, lines in (("pool", POOL), ("data", rows), ("train", rows), ("my_task", task)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    recipe = {
        "model_name_or_path": str(root / "tuned"), "dtype": "float32", "dataset_name": str(root / "data.jsonl"),
        "probes": [str(root / "my_task.jsonl")], "use_cpu": True, "bf16": False, "per_device_train_batch_size": 2,
        "max_length": 64, "output_dir": str(root / "out"),
    }  # fmt: skip
    config = root / "recipes" / "sft-from-base" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in recipe.items()), encoding="utf-8")
    return root


@pytest.mark.filterwarnings("ignore:.*Pydantic:DeprecationWarning")
@pytest.mark.parametrize("words", RUN_HERE, ids=[words[1] for words in RUN_HERE])
def test_the_examples_print_what_the_schema_says(run_cli, place, monkeypatch, words):
    monkeypatch.chdir(place)
    code, out, err = run_cli(*words[1:])
    assert code == 0, err
    found = checked(out, words[1])
    for key in ("page", "path", "why", "run"):
        if isinstance(found.get(key), str):
            assert Path(found[key]).is_absolute() and Path(found[key]).exists(), key
    assert out.endswith("}\n") and out.count("\n}\n") == 1


def test_an_error_leaves_standard_output_empty(run_cli, place, monkeypatch):
    """Of every command: an error has no result, whatever the format."""
    monkeypatch.chdir(place)
    for words in RUN_HERE:
        for broken in (
            [*words[1:], "--no-such-option"],
            [words[1], *["nowhere" if "/" in w else w for w in words[2:]]],
        ):
            code, out, err = run_cli(*broken)
            if broken[-1] == "--no-such-option" or code:
                assert (code, out) == (2, "") and err.strip(), broken


def test_the_object_of_a_snapshot_is_what_the_snapshot_holds(run_cli, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    spec = "builtin:facts?category=planets"
    arguments = shlex.split(f"snapshot tuned --baseline demo-run/model --probe {spec} --out {tmp_path / 'run'}")
    code, out, err = run_cli(*arguments, "--step", 3, "--format", "json")
    assert (code, out) == (2, "") and "--step 3 goes with one model" in err
    (tmp_path / "checkpoint-7").symlink_to(place / "tuned")
    arguments[1] = str(tmp_path / "checkpoint-7")
    for _ in range(2):  # the second time all is there already
        code, out, err = run_cli(*arguments, "--format", "json")
        assert code == 0, err
        found = checked(out, "snapshot")
        assert [one["step"] for one in found["snapshots"]] == [0, 7]
    for one in found["snapshots"]:
        stored = Snapshot.load(one["path"])
        assert (one["n"], one["accuracy"]) == (len(stored), stored.accuracy)
        assert one["outcomes"]["correct"] == (stored.correct == 1).sum() and one["seconds"] > 0
        assert one["categories"]["planets"]["accuracy"] == one["accuracy"]
    compared = json.loads(run_cli("compare", tmp_path / "run", tmp_path / "run", "--format", "json")[1])
    assert found["all"]["forgetting"] == compared["all"]["forgetting"]
    assert found["all"]["verdict"] == compared["all"]["verdict"]


def test_the_interval_of_an_accuracy_knows_of_clusters():
    right = (np.random.default_rng(0).random(200) < 0.4).astype(float)
    ids = np.arange(200).astype(str)
    alone = snapshot_result(Snapshot("p", "f", 0, ids, right))
    low, high = wilson(right.sum(), 200)
    assert (alone["accuracy_low"], alone["accuracy_high"]) == (pytest.approx(low), pytest.approx(high))
    of_ten = np.repeat(np.random.default_rng(1).random(20) < 0.4, 10).astype(float)
    groups = np.repeat(np.arange(20), 10).astype(str).astype(object)
    told = snapshot_result(Snapshot("p", "f", 0, ids, of_ten, cluster=groups))
    expected = transitions(np.zeros(200), of_ten, cluster=groups).backward_transfer_interval
    assert (told["accuracy_low"], told["accuracy_high"]) == pytest.approx(expected)
    assert told["accuracy_high"] - told["accuracy_low"] > 1.8 * (high - low), "ten items alike are not ten"
    pairs = np.repeat(np.arange(5), 2).astype(str).astype(object)
    few = snapshot_result(Snapshot("p", "f", 0, ids[:10], (np.arange(10) < 9).astype(float), cluster=pairs))
    assert few["accuracy_low"] < 0.9 < few["accuracy_high"] == 1.0
    none = snapshot_result(Snapshot("p", "f", 0, ids, np.full(200, np.nan)))
    assert none["n"] == 0 and all(np.isnan(none[name]) for name in ("accuracy", "accuracy_low", "accuracy_high"))
    missing = np.where(np.arange(200) < 50, np.nan, right)
    part = snapshot_result(Snapshot("p", "f", 0, ids, missing))
    assert (part["n"], part["n_unscored"]) == (150, 50) and sum(part["outcomes"].values()) == 150


def test_probes_counts_what_the_probe_holds(run_cli):
    spec = "builtin:facts?category=capitals,planets"
    found = checked(run_cli("probes", spec, "--show", 3, "--format", "json")[1], "probes")
    probe = load_probe(spec)
    assert found["n"] == sum(one["n"] for one in found["categories"]) == sum(found["prompts"].values()) == len(probe)
    assert [one["id"] for one in found["shown"]] == list(probe.ids[:3])
