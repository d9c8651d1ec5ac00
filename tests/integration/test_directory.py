"""What a run finds in its directory: other runs, alive, over or killed, and files that are damaged."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
from transformers import TrainerCallback

from forget_callback import ForgetCallback, Snapshot, Store
from forget_callback.cli import main
from forget_callback.runs.manifest import RunState

pytestmark = pytest.mark.in_turn(2)

HOLDER = """
import sys, time
from forget_callback import Store

store = Store(sys.argv[1])
assert store.lock()
print("held", flush=True)
time.sleep(600)
"""


def left_by_another_run(directory, probe):
    """A record of one snapshot in which everything is right."""
    store = Store(directory)
    store.start_run(RunState(status="ended", steps=0))
    store.begin([probe])
    store.write(Snapshot(probe.name, probe.fingerprint, 0, ids=probe.ids, correct=[1] * len(probe)))
    return store


def files(folder):
    found = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def run(*arguments, monkeypatch):
    """The exit status of our command line."""
    monkeypatch.setattr(sys, "argv", ["forget-callback", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


def edited(probe):
    return replace(probe, items=(replace(probe.items[0], prompt="The capital of France was"), *probe.items[1:]))


def cut(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def damage_file(folder, name, share):
    cut(folder / name, share)


OTHERS = {
    "the same": lambda store, probe: None,
    "an edited item": lambda store, probe: None,
    "other settings": lambda store, probe: None,
    "another name": lambda store, probe: None,
    "a cut manifest": lambda store, probe: cut(store.path / "manifest.json"),
    "an empty manifest": lambda store, probe: cut(store.path / "manifest.json", 0),
    "no manifest": lambda store, probe: (store.path / "manifest.json").unlink(),
    "a cut snapshot": lambda store, probe: cut(next(store.path.glob("snapshots/*/*"))),
    "a cut probe": lambda store, probe: cut(next(store.path.glob("probes/*"))),
    "no snapshot": lambda store, probe: next(store.path.glob("snapshots/*/*")).unlink(),
    "a history that is none": lambda store, probe: (store.path / "history.parquet").write_text("x"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_run_sets_aside_whatever_another_left(make_sft, probe, tmp_path, caplog, what):
    change = {
        "an edited item": edited,
        "other settings": lambda probe: replace(probe, normalization="length"),
        "another name": lambda probe: replace(probe, name="else"),
    }
    store = left_by_another_run(tmp_path, change.get(what, lambda probe: probe)(probe))
    OTHERS[what](store, probe)
    before = files(store.path)
    callback = ForgetCallback(probe, every=1)
    make_sft([callback], max_steps=2).train()
    assert files(store.path / "set-aside" / "1") == before
    assert "held an earlier or longer run; its snapshots were moved to" in caplog.text
    new = Store(tmp_path)
    assert [one.fingerprint for one in new.probes()] == [probe.fingerprint] and new.steps("mini") == [0, 1, 2]
    assert new.run.status == "ended" and new.run.steps == 2 and new.incomplete() == []
    assert new.history().table.equals(callback.history)


@pytest.mark.parametrize("why", ["no tokenizer", "resumed without a baseline"])
def test_a_run_that_is_not_watched_leaves_no_older_one_in_its_place(
    make_sft, probe, tmp_path, monkeypatch, capsys, why
):
    store = left_by_another_run(tmp_path, probe)
    before = files(store.path)
    if why == "no tokenizer":
        trainer, resume = make_sft([ForgetCallback(probe, every=3)]), None
        trainer.callback_handler.processing_class = None
    else:
        make_sft([], output_dir=str(tmp_path / "out"), save_strategy="steps", save_steps=3).train()
        checkpoint = tmp_path / "out" / "checkpoint-3"
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        state["stateful_callbacks"]["forget_callback"] = {"run_id": "another"}
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))
        trainer, resume = make_sft([ForgetCallback(probe, every=3)]), str(checkpoint)
    trainer.train(resume_from_checkpoint=resume)
    assert files(store.path / "set-aside" / "1") == before and store.run.status == "unwatched"
    capsys.readouterr()
    for command in (["compare", tmp_path, tmp_path], ["report", tmp_path, "--out", tmp_path / "page.html"]):
        assert run(*command, monkeypatch=monkeypatch) == 2
        said = capsys.readouterr().err
        assert "the run was not measured: " in said and ("tokenizer" in said or "no baseline of its start" in said)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.every_day
def test_a_run_gives_way_to_one_that_is_alive_in_another_process(make_sft, probe, tmp_path, caplog):
    store = left_by_another_run(tmp_path, probe)
    before = files(store.path)
    other = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        make_sft([ForgetCallback(probe, every=3)], save_strategy="steps", save_steps=3).train()
        assert files(store.path) == before
        (beside,) = tmp_path.glob("run-*")
        assert (
            f"so this one is recorded beside it, in {beside / 'forget'}; give each run its own output_dir"
            in caplog.text
        )
        mine = Store(beside)
        assert mine.steps("mini") == [0, 3, 6] and mine.run.status == "ended"
        assert beside.name == f"run-{mine.run.id[:8]}"
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    # It is resumed where it was recorded, although the place is free now.
    resumed = ForgetCallback(probe, every=1)
    make_sft([resumed]).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert mine.steps("mini") == [0, 3, 4, 5, 6] == sorted(set(resumed.history["step"]))
    assert files(store.path) == before


class At(TrainerCallback):
    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.act()


def test_two_runs_of_one_process_do_not_mix(make_sft, probe, tmp_path):
    """One trains inside the other, in the same directory."""
    inner, outer = ForgetCallback(probe, every=1), ForgetCallback(probe, every=2)
    make_sft([At(3, make_sft([inner]).train), outer]).train()
    assert Store(tmp_path).steps("mini") == sorted(set(outer.history["step"])) == [0, 2, 4, 6]
    (beside,) = tmp_path.glob("run-*")
    assert Store(beside).steps("mini") == sorted(set(inner.history["step"])) == [0, 1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "forget" / "set-aside").exists()


def test_a_run_that_an_error_ended_gives_way_to_the_next(make_sft, probe, tmp_path):
    def crash():
        raise KeyboardInterrupt

    crashed = ForgetCallback(probe, every=2)
    with pytest.raises(KeyboardInterrupt):
        make_sft([crashed, At(5, crash)]).train()
    assert Store(tmp_path).incomplete() == ["training has not ended: its last snapshot is of step 4 of 6 planned"]
    before = files(tmp_path / "forget")
    make_sft([ForgetCallback(probe, every=3)]).train()
    assert Store(tmp_path).steps("mini") == [0, 3, 6] and not list(tmp_path.glob("run-*"))
    assert files(tmp_path / "forget" / "set-aside" / "1") == before
    # What is left of the first writes nowhere any more.
    assert crashed.monitor.observe(6, Store(tmp_path).read("mini", 6)).error is not None
    assert Store(tmp_path).steps("mini") == [0, 3, 6] and Store(tmp_path).history().table["step"].max() == 6


SAVED = {"save_strategy": "steps", "save_steps": 2}


@pytest.mark.every_day
def test_a_resumed_run_takes_its_own_record_back(make_sft, probe, tmp_path, caplog):
    first, second = ({"output_dir": str(tmp_path / name), **SAVED} for name in ("a", "b"))
    make_sft([whole := ForgetCallback(probe, every=1, output_dir=tmp_path)], **first).train()
    make_sft([ForgetCallback(probe, every=3, output_dir=tmp_path)], **second).train()
    later = Store(tmp_path).run.id
    make_sft([resumed := ForgetCallback(probe, every=1, output_dir=tmp_path)], **first).train(
        resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4")
    )
    pd.testing.assert_frame_equal(resumed.history, whole.history)
    assert "is the record of the resumed run again; it had been set aside" in caplog.text
    store = Store(tmp_path)
    assert store.steps("mini") == [0, 1, 2, 3, 4, 5, 6] and store.run.id != later
    kept = [path for path in store.path.glob("set-aside/*/manifest.json") if later in path.read_text()]
    assert len(kept) == 1 and len(list(kept[0].parent.glob("snapshots/mini/*"))) == 3


def test_who_goes_back_and_then_on_from_a_later_checkpoint_is_told_what_is_missing(make_sft, probe, tmp_path, caplog):
    make_sft([ForgetCallback(probe, every=1)], **SAVED).train()
    shutil.copytree(tmp_path / "checkpoint-6", tmp_path / "kept")

    def crash():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_sft([ForgetCallback(probe, every=1), At(4, crash)]).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-2")
        )
    assert "and are missing" not in caplog.text
    make_sft([ForgetCallback(probe, every=1)]).train(resume_from_checkpoint=str(tmp_path / "kept"))
    assert Store(tmp_path).steps("mini") == [0, 1, 2, 3, 4, 6]
    assert "its last snapshot is of step 4: those of steps [5, 6] were set aside" in caplog.text


DAMAGES = {
    "manifest.json": "manifest.json is damaged: .*; restore it from a copy.*; it was moved to .* and is written anew",
    "snapshots/mini/step-00000002.parquet": "step-00000002.parquet is damaged, or no Parquet.*; step 2 was moved to",
    "history.parquet": None,
    "again/mini.parquet": "again/mini.parquet is damaged.*; it was moved to .*, and there is no rescored_flips",
    "probes/mini.jsonl": None,
    "report.html": None,
}


@pytest.fixture
def resume_in_copies(make_sft, probe, tmp_path):
    """resume_in_copies(damages) -> for each name of a damage, the directory that it was done to and the resumed run."""

    def resume(damages):
        whole = ForgetCallback(probe, every=1, rescore=True)
        make_sft([whole], output_dir=str(tmp_path / "whole"), **SAVED).train()
        for name, damage in damages.items():
            out = tmp_path / name.replace("/", "-")
            shutil.copytree(tmp_path / "whole", out)
            damage(out / "forget")
            before = files(out / "forget")
            resumed = ForgetCallback(probe, every=1)
            make_sft([resumed], output_dir=str(out)).train(resume_from_checkpoint=str(out / "checkpoint-4"))
            yield name, out, before, resumed.history, whole.history

    return resume


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_resumed_run_goes_on_without_what_is_damaged(resume_in_copies, caplog, share):
    damages = {name: partial(damage_file, name=name, share=share) for name in DAMAGES}
    for name, out, before, table, whole in resume_in_copies(damages):
        steps = [step for step in range(7) if f"step-{step:08}" not in name]
        assert sorted(set(table["step"])) == steps == Store(out).steps("mini")
        columns = ["step", "accuracy_after", "forgetting", "samples_seen"]
        expected = whole[whole["step"].isin(steps)]
        pd.testing.assert_frame_equal(table[columns].reset_index(drop=True), expected[columns].reset_index(drop=True))
        pd.testing.assert_frame_equal(pd.read_parquet(out / "forget" / "history.parquet"), table, check_dtype=False)
        assert Store(out).incomplete() == [] and len(Store(out).probes()) == 1
        if DAMAGES[name] is not None:
            assert re.search(DAMAGES[name], caplog.text)
            assert before[name] in [kept.read_bytes() for kept in out.glob(f"forget/set-aside/*/{name}")]
        caplog.clear()


FIRST = "snapshots/mini/step-00000000.parquet"


@pytest.mark.every_day
def test_a_damaged_baseline_is_refused_in_words_and_kept(resume_in_copies, caplog, monkeypatch, capsys):
    def rewritten(change):
        return lambda folder: change(Snapshot.load(folder / FIRST)).save(folder / FIRST)

    damages = {
        "cut": partial(damage_file, name=FIRST, share=0.5),
        "empty": partial(damage_file, name=FIRST, share=0.0),
        "of another step": rewritten(lambda snapshot: snapshot.at(7)),
        "of another run": rewritten(lambda snapshot: snapshot.with_metadata(run="other")),
    }
    for _, out, before, _, _ in resume_in_copies(damages):
        assert "there is no baseline: " in caplog.text and "step-00000000.parquet is " in caplog.text
        store = Store(out)
        assert (store.path / FIRST).read_bytes() == before[FIRST] and store.run.status == "unwatched"
        for command in (["compare", out, out], ["report", out, "--out", out / "page.html"]):
            capsys.readouterr()
            assert run(*command, monkeypatch=monkeypatch) == 2
            said = capsys.readouterr().err
            assert "step-00000000.parquet is " in said and "Traceback" not in said
        caplog.clear()
