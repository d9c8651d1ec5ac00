"""Which metrics and which texts trackers get, whoever wrote them. No model here."""

from dataclasses import replace

import numpy as np
import pytest

from forget_callback.probes.items import Generation, MultipleChoice, Recall
from forget_callback.probes.probe import Probe
from forget_callback.probes.text_items import Text
from forget_callback.snapshots.snapshot import Snapshot
from forget_callback.training.monitor import ForgetMonitor
from forget_callback.training.trackers import evaluation_metrics

FACTS = Probe("facts", [Recall(f"r{i}", "a prompt", "an answer", "geo" if i % 2 else "art") for i in range(40)])
SUMS = Probe("sums", [MultipleChoice(f"m{i}", "a prompt", [" 1", " 2", " 3"], 1) for i in range(40)])
WHOLE = ["knowledge_lost", "knowledge_lost_low", "knowledge_lost_high", "knowledge_gained", "forgetting"]
WHOLE += ["backward_transfer", "accuracy_after"]
RECALLED = [*WHOLE, "recall_lost"]
CATEGORY = ["knowledge_lost", "forgetting", "accuracy_after"]


class Everything:
    """A tracker of a user's own that keeps all that it gets."""

    def __init__(self):
        self.rows, self.alerts, self.changes, self.files = [], [], [], []

    def log(self, row):
        self.rows.append(dict(row))

    def alert(self, title, text):
        self.alerts.append((title, text))

    def show(self, rows, changes):
        self.changes.append(changes)

    def finish(self, rows, files):
        self.files.append(dict(files))


def knows(n, probes):
    """Snapshots in which the first `n` items of each probe are right."""
    found = []
    for probe in probes:
        correct = np.arange(len(probe)) < n
        choice = np.where(correct, 1, 2) if probe is SUMS else None
        taken = Snapshot(probe.name, probe.fingerprint, 0, ids=list(probe.ids), correct=correct, choice=choice)
        found.append(replace(taken, prediction=np.array(["what it said"] * len(probe), object)))
    return found


def observed(tmp_path, probes, *n_right, **options):
    tracker = Everything()
    monitor = ForgetMonitor(probes, tmp_path, tracker, "churn>-1", **options)
    for step, n in enumerate(n_right):
        monitor.observe(step, knows(n, monitor.probes))
    monitor.finish()
    return tracker, monitor


def metrics(row, place):
    """The metrics of a probe or category, in the order in which they come."""
    return [name.rpartition("/")[2] for name in row if name.rpartition("/")[0] == f"forget/{place}"]


def test_by_default_a_probe_has_the_main_metrics_and_a_category_three_headline_first(tmp_path):
    tracker, monitor = observed(tmp_path, [FACTS, SUMS], 30, 20)
    row = tracker.rows[1]
    assert [metrics(row, place) for place in ("all", "facts", "sums")] == [RECALLED, RECALLED, WHOLE]
    assert [metrics(row, place) for place in ("facts/art", "facts/geo")] == [CATEGORY] * 2
    assert next(iter(row)) == "forget/all/knowledge_lost"
    assert row["forget/facts/geo/forgetting"] == row["forget/all/forgetting"] == 0.25
    assert {"churn", "n10", "ever_forgotten"} <= set(monitor.history)  # what trackers do not get is kept all the same


def test_text_has_metrics_of_its_own_and_nothing_that_is_nan(tmp_path):
    documents = Probe("text", [Text(f"t{i}", "a text", "prose" if i % 2 else "code") for i in range(40)])
    tracker = Everything()
    monitor = ForgetMonitor([documents, FACTS], tmp_path, tracker)
    for step in range(2):
        bits = np.full(40, 1.0 + step / 10)
        read = Snapshot("text", documents.fingerprint, 0, list(documents.ids), np.ones(40), bits_per_byte=bits, kl=bits)
        rows = monitor.observe(step, [read, *knows(30 - step, [FACTS])]).rows
    row = tracker.rows[1]
    change = ["bits_per_byte_change", "bits_per_byte_change_low", "bits_per_byte_change_high", "bits_per_byte_after"]
    assert metrics(row, "text") == [*change, "forgetting", "kl"]
    assert metrics(row, "text/code") == ["bits_per_byte_change", "forgetting", "bits_per_byte_after"]
    assert metrics(row, "facts") == RECALLED and not any(np.isnan(list(row.values())))
    assert row["forget/text/bits_per_byte_change"] == pytest.approx(0.1) and row["forget/text/forgetting"] == 1.0
    places = [name.split("/")[1] for name in row if name.startswith("forget/") and name.count("/") == 2]
    assert list(dict.fromkeys(places)) == ["all", "facts", "text"], "abilities in one order"
    found = evaluation_metrics(rows)
    assert [name for name in found if "_text_" in name] == ["eval_forget_text_bits_per_byte_change"]
    assert not any(np.isnan(value) for value in found.values())


@pytest.mark.parametrize("alone", [True, False])
def test_sampled_answers_lead_with_what_was_lost_on_balance(tmp_path, alone):
    essays, more = (
        Probe(name, [Generation(f"g{i}", "Q", "A", "exact", "one", samples=4) for i in range(40)], temperature=1.0)
        for name in ("essays", "more")
    )
    tracker, _ = observed(tmp_path, [essays, more if alone else FACTS], 30, 20)
    row = tracker.rows[1]
    for place in ("essays", "essays/one", *(["all", "more"] if alone else [])):
        assert metrics(row, place)[0] == "knowledge_lost_net" and "knowledge_lost" not in metrics(row, place)
    if not alone:
        assert metrics(row, "facts") == RECALLED and metrics(row, "all")[0] == "knowledge_lost"
    assert row["forget/essays/knowledge_lost_net"] == pytest.approx(0.25)


def test_log_all_adds_every_metric_after_the_main_ones(tmp_path):
    tracker, monitor = observed(tmp_path, FACTS, 30, 20, log="all")
    found = metrics(tracker.rows[1], "facts")
    assert found[: len(RECALLED)] == RECALLED
    row = monitor.history.query("step == 1 and category == ''").iloc[0]
    assert {"n10", "churn", "ever_forgotten"} <= set(found) and len(found) == len(set(found)) > 20
    assert {name: row[name] for name in found} == {name: tracker.rows[1][f"forget/facts/{name}"] for name in found}


@pytest.mark.parametrize("upload", ["metrics", "all"])
def test_a_tracker_gets_texts_and_files_only_with_upload_all(tmp_path, upload):
    observed(tmp_path, [FACTS, SUMS], 10)
    ForgetMonitor([FACTS, SUMS], tmp_path).store.set_aside()
    tracker, monitor = observed(tmp_path, [FACTS, SUMS], 30, 20, upload=upload)
    (files,), changes = tracker.files, tracker.changes[1]
    assert len(changes) == 20 and {"id", "category", "change", "margin_now", "first_lost_at"} <= set(changes)
    texts = {"a prompt", "an answer", " 2", "what it said"}
    values = set(changes.astype(str).to_numpy().ravel())
    assert files["history.parquet"] == monitor.store.path / "history.parquet"
    assert (monitor.store.path / "set-aside").is_dir() and not any("set-aside" in name for name in files)
    if upload == "metrics":
        assert not texts & values and list(files) == ["history.parquet"]
        assert not {"prompt", "expected", "answer_at_baseline", "answer_now"} & set(changes)
    else:
        assert texts <= values
        assert {"probes/facts.jsonl", "snapshots/sums/step-00000001.parquet", "report.html"} <= set(files)


def test_upload_none_gives_trackers_nothing(tmp_path):
    tracker, monitor = observed(tmp_path, [FACTS, SUMS], 30, 20, upload="none")
    assert (tracker.rows, tracker.alerts, tracker.changes, tracker.files) == ([], [], [], [])
    assert monitor.history["step"].nunique() == 2 and monitor.store.steps("facts") == [0, 1]


@pytest.mark.parametrize("show, log, said", [(1, 1, "no disk; no route"), (1, 0, "no disk"), (0, 1, "no route")])
def test_a_tracker_that_fails_is_said_in_one_line_a_snapshot_and_the_others_get_theirs(
    tmp_path, caplog, show, log, said
):
    class Down(Everything):
        def show(self, rows, changes):
            if show:
                raise OSError("no disk")

        def log(self, row):
            if log:
                raise ConnectionError("no route")
            super().log(row)

    down, other = Down(), Everything()
    monitor = ForgetMonitor(FACTS, tmp_path, [down, other])
    for step in range(3):
        monitor.observe(step, knows(30 - step, [FACTS]))
    failed = [text for text in caplog.messages if "failed, the run's own files have the numbers" in text]
    assert failed == [f"Down failed, the run's own files have the numbers: {said}"] * 3
    assert len(other.rows) == len(other.changes) == 3 and len(down.rows) == 3 * (not log)
