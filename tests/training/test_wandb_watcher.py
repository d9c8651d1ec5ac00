"""The W&B run of a watcher: offline read back from its files; the shared one by what W&B is asked for."""

import json
import logging
from pathlib import Path

import pytest
import wandb
from wandb.sdk.data_types._private import MEDIA_TMP

from forget_callback import ForgetMonitor, Probe, Recall, Snapshot
from forget_callback.runs.remote import RemoteTraining, write_training
from forget_callback.training.wandb_watcher import lacks_curves, open_for_watcher
from tests.integration.conftest import wandb_offline  # noqa: F401 - a fixture
from tests.integration.test_wandb import records

PROBE = Probe("facts", [Recall(f"{i}", f"The secret {i} is", " umbra") for i in range(20)])


def taken(step):
    return Snapshot("facts", PROBE.fingerprint, 0, list(PROBE.ids), [float(i >= step) for i in range(20)])


def curve(folder):
    rows = [record["history"]["item"] for record in records(folder) if record["type"] == "history"]
    return {row["forget/step"]: row["forget/facts/forgetting"] for row in rows}


@pytest.mark.parametrize("address", [{}, {"entity": "us", "project": "p", "id": "x1", "mode": "offline"}])
def test_offline_the_last_directory_holds_the_whole_curve_whatever_became_of_the_first(
    tmp_path,
    wandb_offline,  # noqa: F811
    monkeypatch,
    capsys,
    address,
):
    monkeypatch.delenv("WANDB_DIR")
    monkeypatch.setenv("WANDB_RUN_ID", "x1")  # of the training, in a batch job that starts both
    store = tmp_path / "run"
    first = open_for_watcher(address, directory=store)
    monitor = ForgetMonitor(PROBE, store, first)
    for step in (0, 3):
        monitor.observe(step, taken(step), samples_seen=step * 4)
    monitor.store.close()  # as a kill does
    second = open_for_watcher(address, directory=store)
    monitor = ForgetMonitor(PROBE, store, second)
    assert lacks_curves(second)
    monitor.relog(second)
    monitor.observe(7, taken(7), samples_seen=28)
    monitor.finish()
    folders = sorted(store.glob("wandb/offline-run-*"), key=lambda path: path.stat().st_mtime)
    assert len(folders) == 2 and not any(folder.name.endswith("-x1") for folder in folders)
    (folder,) = [path for path in folders if path.name.endswith(second.run.id)]
    table = monitor.history[monitor.history["category"] == ""]
    assert curve(folder) == pytest.approx(dict(zip(table["step"], table["forgetting"]))) and len(table) == 3
    (began,) = [record["run"] for record in records(folder) if record["type"] == "run"]
    assert began.get("run_group", "") == address.get("id", "")
    assert began["project"] == address.get("project", began["project"])
    said = capsys.readouterr().err
    assert str(folder) in said and said.count("W&B is offline") == 2
    first.run.finish()


class Run:
    """What W&B gives for a shared run, as far as it is asked here."""

    def __init__(self, **asked):
        self.asked, self.id, self.settings = asked, asked["id"], asked["settings"]
        self.rows, self.alerts = [], []

    def define_metric(self, name, **how):
        pass

    def log(self, row, commit=True):
        self.rows.append((row["forget/step"], commit))

    def alert(self, title, text, level):
        self.alerts.append(text)


def test_the_training_that_is_in_shared_mode_shares_its_run(tmp_path, monkeypatch):
    """W&B's server is needed for that, so this is only what it would be asked for."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "init", lambda **asked: Run(**asked))
    address = {"entity": "us", "project": "p", "id": "x1", "mode": "shared"}
    write_training(tmp_path, RemoteTraining("a1", wandb=address))
    tracker = open_for_watcher(address, directory=tmp_path)
    asked, settings = tracker.run.asked, tracker.run.settings
    assert (asked["entity"], asked["project"], asked["id"]) == ("us", "p", "x1")
    assert (settings.mode, settings.x_primary, settings.x_update_finish_state) == ("shared", False, False)
    assert settings.x_label and lacks_curves(tracker)
    for step in (0, 3):
        tracker.log({"forget/step": float(step), "train/global_step": float(step)})
    assert tracker.run.rows == [(0, True), (3, True)]  # those of a shared run have no order to keep
    tracker.alert("Forgetting: warning", "lost")  # the training passes it on itself
    assert tracker.run.alerts == []
    write_training(tmp_path, RemoteTraining("a1", status="ended", wandb=address))
    tracker.alert("Forgetting: warning", "lost at the end")
    assert tracker.run.alerts == ["lost at the end"]
    # Started again: that run has the rows so far.
    assert not lacks_curves(open_for_watcher(address, directory=tmp_path))


@pytest.mark.parametrize("mode", ["shared", "online"])
def test_without_a_server_the_curves_are_kept_offline(tmp_path, wandb_offline, monkeypatch, caplog, mode):  # noqa: F811
    monkeypatch.delenv("WANDB_MODE")
    real = wandb.init

    def refused(**asked):
        if asked.get("mode") == "offline":
            return real(**asked)
        raise wandb.errors.CommError("no server")

    monkeypatch.setattr(wandb, "init", refused)
    address = {"entity": "us", "project": "p", "id": "x1", "mode": mode}
    tracker = open_for_watcher(address, directory=tmp_path)
    tracker.log({"forget/step": 0.0, "forget/facts/forgetting": 0.25})
    tracker.run.finish()
    (folder,) = wandb_offline.glob("wandb/offline-run-*")
    assert curve(folder) == {0: 0.25}
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("W&B cannot be reached, so the curves are kept offline: no server" in one for one in said)
    assert any("is not in shared mode" in one for one in said) == (mode == "online")
    assert json.dumps(records(folder)).count("x1")  # its group


def test_where_the_folder_for_media_is_gone_the_numbers_are_logged(tmp_path, wandb_offline, caplog):  # noqa: F811
    """As after days of training, where something cleans up what is old in the directory for temporary files."""
    tracker = open_for_watcher({}, directory=tmp_path)
    monitor = ForgetMonitor(PROBE, tmp_path, tracker)
    monitor.observe(0, taken(0), samples_seen=0)
    media = Path(MEDIA_TMP.name)
    media.rename(tmp_path / "gone")
    for step in (3, 7):
        monitor.observe(step, taken(step), samples_seen=step)
    media.mkdir(exist_ok=True)
    monitor.finish()
    (folder,) = wandb_offline.glob("wandb/offline-run-*")
    assert curve(folder) == {0: 0.0, 3: 0.15, 7: 0.35}
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sum("W&B gets numbers and neither tables nor charts" in one for one in said) == 1
