"""The log of the task's metrics: what it takes, what it drops, what it writes."""

import math

import pytest

from forget_callback import ForgetMonitor, MultipleChoice, Probe, Snapshot, Store
from forget_callback.training.task_log import TaskLog

PROBE = Probe("p", [MultipleChoice("m", "p?", [" a", " b"], 0)])


class Tracker:
    """Keeps its rows."""

    def __init__(self):
        self.rows = []

    def log(self, row):
        self.rows.append(row)

    def alert(self, title, text):
        raise AssertionError(title)


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path)
    found.begin([PROBE])
    return found


def of(store, metric="loss"):
    curve = Store(store.path).task_curves()[metric]
    return dict(zip(curve.steps.tolist(), curve.values.tolist()))


def test_what_is_logged_once_more_or_of_a_training_that_went_back_is_dropped(store):
    log = TaskLog(store)
    for step, value in ((1, 5.0), (2, 4.0), (3, 3.0), (3, 2.9)):
        log.add(step, {"loss": value, "acc": step}, samples_seen=4 * step)
    log.add(3, {"eval_loss": 7.0})
    log.add(2, {"loss": 4.5})
    log.write()
    assert of(store) == {1: 5.0, 2: 4.5} and of(store, "acc") == {1: 1.0, 2: 2.0}
    assert set(store.task_curves()) == {"loss", "acc"}
    again = TaskLog(Store(store.path))
    again.add(3, {"loss": 3.5})
    again.write()
    assert of(store) == {1: 5.0, 2: 4.5, 3: 3.5}


@pytest.mark.parametrize(
    "step, metrics, said",
    [(1.5, {"loss": 1.0}, "step must be a whole number"), (1, {"loss": "low"}, "'loss' must be a number, got 'low'")],
)
def test_what_is_no_number_is_refused(store, step, metrics, said):
    with pytest.raises(ValueError, match=said):
        TaskLog(store).add(step, metrics)


def test_a_disk_that_refuses_costs_nothing_and_is_tried_again(store, monkeypatch):
    log = TaskLog(store)
    log.add(1, {"loss": 5.0})
    with monkeypatch.context() as full:
        full.setattr("forget_callback.runs.store.write_whole", _refuse)
        log.write_soon(now=True)
        with pytest.raises(OSError, match="No space"):
            log.write()
    assert not Store(store.path).task_curves()
    log.write()
    assert of(store) == {1: 5.0}


def _refuse(*args):
    raise OSError(28, "No space left on device")


def test_ones_own_loop_logs_its_loss_and_trackers_get_it_beside_the_snapshots(tmp_path):
    tracker = Tracker()
    monitor = ForgetMonitor(PROBE, tmp_path, tracker)

    def observe(step):
        taken = Snapshot("p", PROBE.fingerprint, step, ids=["m"], correct=[1.0])
        monitor.observe(step, taken, samples_seen=4 * step)

    observe(0)
    for step in range(1, 7):
        monitor.task.add(step, {"loss": 5.0 - step, "acc": 0.5}, samples_seen=4 * step)
        if step % 3 == 0:
            observe(step)
    assert [row.get("forget/task/loss") for row in tracker.rows] == [None, 2.0, -1.0]
    assert not any(name.startswith("forget/task/acc") for row in tracker.rows for name in row)
    assert [row["forget/samples_seen"] for row in tracker.rows] == [0, 12, 24]
    assert of(monitor.store) == {step: 5.0 - step for step in range(1, 7)}
    again = Tracker()
    monitor.relog(again)
    assert [row.get("forget/task/loss") for row in again.rows] == [None, 2.0, -1.0]
    assert math.isnan(monitor.store.task_curves()["loss"].tokens_seen[0])


def test_a_store_that_may_not_write_keeps_it_in_memory(tmp_path):
    log = TaskLog(Store(tmp_path, writable=False))
    log.add(1, {"loss": 1.0})
    log.write()
    assert log.curves["loss"].values.tolist() == [1.0] and not (tmp_path / "forget").exists()
