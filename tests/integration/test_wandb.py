"""An offline W&B run, read back with W&B's own inspector."""

import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import wandb
from transformers import TrainerCallback

from forget_callback import (
    ForgetCallback,
    ForgetMonitor,
    Generation,
    MultipleChoice,
    Probe,
    Recall,
    Snapshot,
    StopRule,
    compare,
)
from forget_callback.runs.comparison import overall
from forget_callback.runs.headline import headline
from forget_callback.runs.rows import ALL_METRICS
from forget_callback.runs.store import Store
from forget_callback.snapshots.answers import Answers
from forget_callback.training.trackers import AXES, scalars
from forget_callback.training.wandb_tracker import SHARES, WandbTracker

pytestmark = pytest.mark.in_turn(0)

# What a probe of some kinds of items, or a run that lost nothing, has no number for.
MAY_BE_MISSING = {"recovered", "guess_persistence", "ever_forgotten_chance", "rescored_flips", "macro_knowledge_lost"}
OF_SOME = ("spurious_forgetting", "recall_lost", "recall_still_chosen", "known_lost")
MAY_BE_MISSING |= {f"{name}{end}" for name in OF_SOME for end in ("", "_low", "_high")}
MAY_BE_MISSING |= {"persistence_p_value", "no_forgetting_p_value"}
MAY_BE_MISSING |= {f"{name}{end}" for name in ("score_change", "score_lost") for end in ("", "_low", "_high")}
MAY_BE_MISSING |= {"score_before", "score_after", *(name for name in ALL_METRICS if name.startswith("bits_per_byte_"))}
MAY_BE_MISSING |= {"kl", "kl_error", "top1_agreement"}  # of documents
MAY_BE_MISSING |= {"stage_forgetting", "stage_backward_transfer", "stage_knowledge_lost"}  # of a later stage


def records(run):
    """Every record of the offline run in a directory."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "No such command" in done.stderr:
        pytest.skip(f"wandb {wandb.__version__} has no command that reads an offline run back")
    done.check_returncode()
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.every_day
def test_the_run_holds_every_key_with_the_values_of_the_history(make_sft, probe, wandb_offline):
    other = Probe("other", probe.items[:3])
    rule = StopRule("churn", above=-1, confidence=None, patience=3)
    callback = ForgetCallback([probe, other], stop=rule, log="all")
    trainer = make_sft([callback], report_to="wandb", eval_strategy="steps", eval_steps=2)
    trainer.train()
    wandb.finish()
    found = records(next(wandb_offline.glob("wandb/offline-run-*")))
    rows = [record["history"]["item"] for record in found if record["type"] == "history"]
    ours = {row["forget/step"]: row for row in rows if "forget/step" in row}
    history = callback.history
    assert sorted(ours) == sorted(set(history["step"]))
    for row in callback.monitor.rows:
        logged = ours[row.step]
        for name, value in scalars([row], log="all").items():
            assert logged[name] == pytest.approx(value, rel=1e-12), name
        assert logged["forget/samples_seen"] == row.samples_seen
        assert logged["train/global_step"] in (row.step, row.step + 1)  # of the loss row that finished it
    # Every key of the contract that has a number for these items.
    last = ours[max(ours)]
    assert {*AXES[:3], "forget/probe_seconds", "forget/overhead"} <= set(last)
    table = history[history["step"] == history["step"].max()].set_index(["probe", "category"])
    for (name, category), values in table.iterrows():
        prefix = f"forget/{name}/{category}/" if category else f"forget/{name}/"
        present = {metric for metric in ALL_METRICS if values[metric] == values[metric]}
        assert {prefix + metric for metric in present} <= set(last)
        if not category:
            assert set(ALL_METRICS) - present <= MAY_BE_MISSING
    # Each is defined by its full name against the samples seen.
    metrics = [record["metric"] for record in found if record["type"] == "metric"]
    axes = {metric["name"]: metric.get("step_metric") for metric in metrics if "name" in metric}
    ours = [key for key in last if key.startswith("forget/") and not key.startswith(("forget/items", "forget/map"))]
    assert {axes[key] for key in ours if key in axes and key != "forget/samples_seen"} == {"forget/samples_seen"}
    assert {key.partition(".")[0] for key in ours if key not in axes} <= {"forget/shares_table", "forget/abilities"}
    # The loss rows are all still there, and the alert of the stop.
    assert sum("train/loss" in row for row in rows) == trainer.state.global_step
    assert sum("eval/loss" in row for row in rows) == 3
    alerts = [record for record in found if record["type"] == "alert"]
    assert len(alerts) == 1
    assert "mini" in json.dumps(alerts) or "all/churn" in json.dumps(alerts)
    # The sentence of the end stands in the table of runs.
    summary = {k: v for one in found if one["type"] == "summary" for k, v in one["summary"]["update"].items()}
    now = [row for row in callback.monitor.rows if row.step == trainer.state.global_step]
    assert summary["forget/headline"] == headline(overall(now), among=now).sentence


def test_the_items_the_shares_the_map_and_every_snapshot_are_there(make_sft, probe, wandb_offline):
    """What a viewer would read, read from the files of the run, and compared with the snapshots on disk."""
    hostile = Recall("h1", "<script>alert(1)</script> **Rome** is", " Tokyo", "words")
    probe = Probe("mini", [*probe.items, hostile])
    make_sft([ForgetCallback(probe)], max_steps=1).train()  # an earlier run, which is set aside
    callback = ForgetCallback(probe, every=1, upload="all")
    trainer = make_sft([callback], report_to="wandb", learning_rate=5e-2)
    trainer.train()
    run_id = wandb.run.id
    wandb.finish()
    (run,) = wandb_offline.glob("wandb/offline-run-*")
    found = records(run)
    rows = [record["history"]["item"] for record in found if record["type"] == "history"]

    store = Store(wandb_offline)
    snapshots = [store.read("mini", step) for step in store.steps("mini")]
    flips = set()
    for before, now in itertools.pairwise(snapshots):
        for i, name in enumerate(before.ids):
            if before.correct[i] != now.correct[i]:
                flips.add((now.step, name, snapshots[0].correct[i], now.correct[i], now.prediction[i]))
    assert len(flips) >= 3
    kinds = {(1, 0): "lost", (0, 0): "unlearned", (1, 1): "recovered", (0, 1): "gained"}
    shown = []
    for row in rows:
        if "forget/items.path" in row:
            table = json.loads((run / "files" / row["forget/items.path"]).read_text(encoding="utf-8"))
            shown += [dict(zip(table["columns"], values)) for values in table["data"]]
    assert {(row["step"], row["id"], row["change"], row["answer_now"]) for row in shown} == {
        (step, name, kinds[at_first, now], answer) for step, name, at_first, now, answer in flips
    }
    assert len(shown) == len(flips)  # each increment holds new rows only
    texts = {item.id: item.prompt for item in probe.items}
    assert all(row["prompt"] == texts[row["id"]] for row in shown)

    shares = [row["forget/shares_table.path"] for row in rows if "forget/shares_table.path" in row]
    lines = json.loads((run / "files" / shares[-1]).read_text(encoding="utf-8"))
    last = compare(snapshots[0], snapshots[-1])
    drawn = [dict(zip(lines["columns"], values)) for values in lines["data"]]
    final = {row["lineKey"]: row["lineVal"] for row in drawn if row["step"] == snapshots[-1].samples_seen}
    counts = dict(zip(SHARES, (last.n11, last.n10, last.n01, last.n00), strict=True))
    assert final == pytest.approx({name: n / last.n for name, n in counts.items()})

    maps = [row["forget/map.path"] for row in rows if "forget/map.path" in row]
    heat = json.loads((run / "files" / maps[-1]).read_text(encoding="utf-8"))["data"][0]
    assert heat["y"] == ["mini", "mini / capitals", "mini / words"]
    assert len(maps) == len(snapshots)

    history = callback.history[callback.history["category"] == ""]
    summary = {}
    for record in found:
        if record["type"] == "summary":
            summary.update(record["summary"]["update"])
    assert summary["forget/mini/worst_forgetting"] == pytest.approx(history["forgetting"].max())
    assert summary["forget/mini/worst_knowledge_lost"] == pytest.approx(history["knowledge_lost"].max())
    assert summary["forget/mini/backward_transfer"] == pytest.approx(history["backward_transfer"].iloc[-1])
    artifacts = [record["artifact"] for record in found if record["type"] == "artifact"]
    artifacts = [artifact for artifact in artifacts if artifact["type"] == "forgetting"]
    assert [artifact["name"] for artifact in artifacts] == [f"forgetting-{run_id}"]
    kept = {entry["path"] for entry in artifacts[0]["manifest"]["contents"]}
    assert {f"snapshots/mini/step-0000000{step}.parquet" for step in range(7)} | {
        "history.parquet",
        "report.html",
    } <= kept
    assert (store.path / "set-aside").is_dir() and not any("set-aside" in path for path in kept)


def test_a_wandb_tracker_of_the_user_replaces_ours(make_sft, probe, wandb_offline):
    with wandb.init(project="own"):
        callback = ForgetCallback(probe, every=3, trackers=WandbTracker())
        make_sft([callback]).train()
    found = records(next(wandb_offline.glob("wandb/offline-run-*")))
    rows = [record["history"]["item"] for record in found if record["type"] == "history"]
    assert [row["forget/step"] for row in rows if "forget/step" in row] == [0, 3, 6]


def test_the_table_of_items_is_capped(make_sft, probe, wandb_offline, monkeypatch):
    monkeypatch.setattr("forget_callback.training.wandb_tracker.ITEMS_AT_ONCE", 1)
    monkeypatch.setattr("forget_callback.training.wandb_tracker.ITEMS_IN_ALL", 2)
    make_sft([ForgetCallback(probe, every=1)], report_to="wandb", learning_rate=5e-2).train()
    wandb.finish()
    (run,) = wandb_offline.glob("wandb/offline-run-*")
    tables = [
        json.loads(path.read_text(encoding="utf-8"))["data"] for path in run.glob("files/media/table/forget/items*")
    ]
    assert sorted(len(table) for table in tables) == [1, 1]


@pytest.mark.every_day
@pytest.mark.parametrize("upload", ["metrics", "all", "none"])
def test_no_prompt_and_no_answer_leaves_the_machine_by_default(make_sft, wandb_offline, upload):
    """Searched for in the bytes of the offline run and of staged Artifacts; "all" shows that it would be found."""
    items = [
        MultipleChoice("c1", "The zebrine capital of Qo is", [" Vulpecula", " Quixotry"], 0, "capitals"),
        MultipleChoice("c2", "The opposite of umbrageous is", [" lucent", " gloaming"], 1, "words"),
        Recall("r1", "The syzygy of Borneo is", " Wolframite", "capitals"),
        Generation("g1", "She has 12 tamarillos and", "kumquat", "contains", "words", max_new_tokens=12),
    ]
    probe = Probe("mini", items)
    make_sft([ForgetCallback(probe)], max_steps=1).train()  # an earlier run, which is set aside
    rule = StopRule("churn", above=-1, confidence=None, patience=1, action="warn")
    callback = ForgetCallback(probe, every=1, stop=rule, upload=upload)
    make_sft([callback], report_to="wandb", learning_rate=5e-2).train()
    wandb.finish()
    (run,) = wandb_offline.glob("wandb/offline-run-*")
    found = records(run)

    store = Store(wandb_offline)
    assert (store.path / "set-aside").is_dir()
    texts = {item.prompt for item in items} | {"Vulpecula", "Quixotry", "lucent", "gloaming", "Wolframite", "kumquat"}
    generated = {str(store.read("mini", step).prediction[3]) for step in store.steps("mini")}
    generated = {text for text in generated if len(text.strip()) >= 8}
    assert generated
    places = [run, wandb_offline / "data", wandb_offline / "cache"]
    content = [path.read_bytes() for place in places for path in place.rglob("*") if path.is_file()]
    content.append(json.dumps(found, ensure_ascii=False).encode())
    leaked = {text for text in texts | generated if any(text.encode() in one for one in content)}
    artifacts = [record["artifact"] for record in found if record["type"] == "artifact"]
    listed = {entry["path"] for artifact in artifacts for entry in artifact["manifest"]["contents"]}
    assert not any("set-aside" in path for path in listed)
    sent = [record for record in found if record["type"] in ("alert", "history", "metric", "summary")]
    ours = [record for record in sent if record["type"] == "alert" or "forget/" in json.dumps(record)]
    if upload == "all":
        assert texts - {"Quixotry", "lucent"} <= leaked and leaked & generated
        assert {"report.html", "probes/mini.jsonl", "snapshots/mini/step-00000006.parquet"} <= listed
    else:
        assert leaked == set()
        assert {path for path in listed if path.endswith((".parquet", ".jsonl", ".html"))} == (
            {"history.parquet"} if upload == "metrics" else set()
        )
    if upload == "none":
        assert ours == [] and "forget" not in json.dumps(artifacts)
        assert any(record["type"] == "history" for record in found)  # the trainer's own metrics go on
    else:
        assert {record["type"] for record in ours} == {"alert", "history", "metric", "summary"}


def test_two_probes_of_fourteen_categories_hand_wandb_150_keys_at_most(wandb_offline):
    """Counted in an offline run: the keys of its history and its summary, and what `define_metric` was called for."""
    probes = [
        Probe(name, [Recall(f"{name}-{i}", "Q", " A", f"{name}{i % 14}", variants=("Q?",)) for i in range(56)])
        for name in ("facts", "sums")
    ]

    def knows(n):
        right = np.arange(56) < n
        return [
            Snapshot(
                p.name, p.fingerprint, 0, ids=list(p.ids), correct=right * 1.0,
                further=(Answers(p.variant_fingerprints[0], right * 1.0),),
            )
            for p in probes
        ]  # fmt: skip

    with wandb.init(project="keys"):
        monitor = ForgetMonitor(probes, wandb_offline, WandbTracker())
        monitor.observe(0, knows(50), samples_seen=0.0, tokens_seen=0.0)
        monitor.observe(8, knows(30), samples_seen=64.0, tokens_seen=900.0)
        monitor.finish()
    (run,) = wandb_offline.glob("wandb/offline-run-*")
    found = records(run)
    history = {key for record in found if record["type"] == "history" for key in record["history"]["item"]}
    summary = {key for record in found if record["type"] == "summary" for key in record["summary"]["update"]}
    defined = [record["metric"] for record in found if record["type"] == "metric"]
    # The fields of a table or a plot, such as forget/map.path, are one key.
    keys = {key.partition(".")[0] for key in history | summary} | {metric["name"] for metric in defined}
    whole = {f"forget/{name}/knowledge_{end}" for name in ("all", "facts", "sums") for end in ("lost", "gained")}
    assert whole | {"forget/items", "forget/map", "forget/shares_table", "forget/overhead"} <= keys
    assert {f"forget/{name}/{name}{i}/forgetting" for name in ("facts", "sums") for i in range(14)} <= keys
    assert len(keys) <= 150 and len(defined) <= 150
    # The headline is the first panel, and categories, ends of intervals and x-axes have none of their own.
    assert defined[0]["name"] == "forget/all/knowledge_lost"
    hidden = {metric["name"] for metric in defined if metric.get("options", {}).get("hidden")}
    assert {name for name in keys if name.count("/") > 2 or name.endswith(("_low", "_high"))} <= hidden
    assert {"forget/all/knowledge_lost", "forget/sums/accuracy_after", "forget/overhead"} & hidden == set()


@pytest.mark.every_day
@pytest.mark.parametrize("call", ["log", "define_metric", "alert"])
def test_wandb_that_is_down_costs_nothing_whatever_we_call(make_sft, probe, wandb_offline, monkeypatch, caplog, call):
    def down(*args, **kwargs):
        raise ConnectionError("no route to host")

    class Down(TrainerCallback):
        def on_train_begin(self, *args, **kwargs):
            monkeypatch.setattr(wandb.run, call, down)  # the reporter of transformers has its own references

    rule = StopRule("churn", above=-1, confidence=None, patience=1, action="warn")
    callback = ForgetCallback(probe, every=3, stop=rule)
    trainer = make_sft([Down(), callback], report_to="wandb")
    trainer.train()
    assert trainer.state.global_step == 6
    assert Store(wandb_offline).steps("mini") == sorted(set(callback.history["step"])) == [0, 3, 6]
    failed = caplog.text.count("WandbTracker failed, the run's own files have the numbers: no route to host")
    assert failed == 1 if call == "alert" else failed >= 2  # a rule that warns does so once
    assert caplog.text.count("Forgetting: warning") == 1


def test_tensorboard_and_the_log_history_get_the_numbers(make_sft, probe, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    plain = make_sft([], report_to="none")
    plain.train()
    callback = ForgetCallback(probe, every=3, log="all")
    trainer = make_sft([callback], report_to="tensorboard")
    trainer.train()
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    history = callback.history[callback.history["category"] == ""].set_index("samples_seen")
    assert list(history.index) == [0, 12, 24]
    read = {event.step: event.value for event in board.Scalars("train/forget/mini/margin")}
    assert read == pytest.approx(history["margin"].to_dict(), rel=1e-6)
    logged = [row for row in trainer.state.log_history if "forget/mini/margin" in row]
    assert [row["step"] for row in logged] == [0, 3, 6]
    losses = [[row["loss"] for row in t.state.log_history if "loss" in row] for t in (plain, trainer)]
    assert losses[0] == losses[1]


def test_trackio_gets_each_number_once(make_sft, probe, tmp_path, monkeypatch):
    from trackio.sqlite_storage import SQLiteStorage

    for module in ("utils", "sqlite_storage"):
        monkeypatch.setattr(f"trackio.{module}.TRACKIO_DIR", tmp_path / "trackio")
    callback = ForgetCallback(probe, every=3, log="all")
    trainer = make_sft([callback], report_to="trackio", project="forgetting", run_name="one")
    trainer.train()
    rows = SQLiteStorage.get_logs("forgetting", "one")
    ours = [row for row in rows if "train/forget/mini/margin" in row]
    history = callback.history[callback.history["category"] == ""]
    for name in ("margin", "n10", "accuracy_after"):
        assert [row[f"train/forget/mini/{name}"] for row in ours] == pytest.approx(history[name].tolist(), rel=1e-12)
    assert [row["train/forget/samples_seen"] for row in ours] == [0, 12, 24]
    assert [row["train/loss"] for row in rows if "train/loss" in row] == [
        row["loss"] for row in trainer.state.log_history if "loss" in row
    ]
    assert sum("train/loss" in row for row in rows) == 6


@pytest.mark.parametrize("way", ["callbacks", "attach", "add_callback"])
def test_a_resumed_run_continues_its_wandb_run_or_logs_it_again(make_sft, probe, wandb_offline, caplog, way):
    config = {"report_to": "wandb", "save_strategy": "steps", "save_steps": 2}
    make_sft([ForgetCallback(probe, every=2)], **config).train()
    wandb.finish()
    (own,) = wandb_offline.glob("wandb/offline-run-*")
    own = own.rename(wandb_offline / own.name)  # W&B names a directory by the second and the run's id
    callback = ForgetCallback(probe, every=2, log="all")
    trainer = make_sft([callback] if way == "callbacks" else [], **config)
    if way == "attach":
        callback.attach(trainer)
    if way == "add_callback":  # comes after the reporter, which has started another run by then
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=str(wandb_offline / "checkpoint-4"))
    wandb.finish()
    (later,) = wandb_offline.glob("wandb/offline-run-*")
    before, now = (directory.name.rpartition("-")[2] for directory in (own, later))
    rows = [record["history"]["item"] for record in records(later) if record["type"] == "history"]
    margins = {row["forget/step"]: row["forget/mini/margin"] for row in rows if "forget/step" in row}
    history = callback.history[callback.history["category"] == ""].set_index("step")["margin"].to_dict()
    assert list(history) == [0, 2, 4, 6]
    assert margins == pytest.approx(history, rel=1e-12)  # what is offline cannot be continued, and is not known to W&B
    if way != "add_callback":
        assert now == before
        assert f"W&B cannot continue run {before}" in caplog.text and str(later.name) in caplog.text
    else:
        assert now != before
        assert "pass ForgetCallback in the Trainer's callbacks=, or set " in caplog.text
        assert f"set WANDB_RUN_ID={before} and WANDB_RESUME=allow" in caplog.text


def test_training_that_is_resumed_in_the_same_process_logs_nothing_twice(make_sft, probe, wandb_offline):
    config = {"report_to": "wandb", "save_strategy": "steps", "save_steps": 2}
    callback = ForgetCallback(probe, every=2)
    trainer = make_sft([callback], **config)
    trainer.train()
    trainer.train(resume_from_checkpoint=str(wandb_offline / "checkpoint-4"))
    wandb.finish()
    (own,) = wandb_offline.glob("wandb/offline-run-*")
    rows = [record["history"]["item"] for record in records(own) if record["type"] == "history"]
    assert [row["forget/step"] for row in rows if "forget/step" in row] == [0, 2, 4, 6, 6]


@pytest.mark.parametrize(
    ("when", "every_step"), [("on_step_begin", True), ("on_step_end", False), ("on_log", False), ("on_evaluate", True)]
)
def test_rows_that_other_callbacks_log_with_a_step_are_kept(make_sft, probe, wandb_offline, when, every_step):
    """W&B drops a row whose step is below its own."""
    logged = []

    class Theirs(TrainerCallback):
        pass

    def log(self, args, state, control, **kwargs):
        if every_step or state.global_step % 6 == 0:
            logged.append(state.global_step)
            wandb.log({"theirs": len(logged)}, step=state.global_step)

    setattr(Theirs, when, log)

    def kept(callbacks):
        logged.clear()
        evaluated = {"eval_strategy": "steps", "eval_steps": 3}
        make_sft(callbacks, report_to="wandb", max_steps=12, logging_steps=5, **evaluated).train()
        wandb.finish()
        (own,) = wandb_offline.glob("wandb/offline-run-*")
        rows = [record["history"]["item"] for record in records(own) if record["type"] == "history"]
        shutil.rmtree(own)
        return rows, [row["theirs"] for row in rows if "theirs" in row]

    _, without = kept([Theirs()])
    rows, with_ours = kept([ForgetCallback(probe, every=1), Theirs()])
    assert with_ours == without and len(without) >= 2
    assert [row["forget/step"] for row in rows if "forget/step" in row] == list(range(13))


def test_a_wandb_run_that_the_user_chose_is_left_alone(make_sft, probe, wandb_offline, caplog):
    config = {"report_to": "wandb", "save_strategy": "steps", "save_steps": 2}
    make_sft([ForgetCallback(probe, every=2)], **config).train()
    wandb.finish()
    with wandb.init(project="chosen") as chosen:
        trainer = make_sft([ForgetCallback(probe, every=2)], **config)
        trainer.train(resume_from_checkpoint=str(wandb_offline / "checkpoint-4"))
        assert wandb.run is chosen
    assert f"training resumes in W&B run {chosen.id}" in caplog.text
