"""What the monitor promises: a run's history in memory and on disk, whatever trackers and disks do. No model here."""

import json
import logging
import re
import subprocess
import sys
from dataclasses import replace
from math import inf, isnan, nan
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from forget_callback.probes.items import Generation, MultipleChoice, Recall, Variant
from forget_callback.probes.probe import Probe
from forget_callback.report import report_data
from forget_callback.runs.history import History
from forget_callback.runs.rows import ALL_METRICS, Stage
from forget_callback.runs.stop_rules import StopRule
from forget_callback.runs.store import Store
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.snapshot import Snapshot
from forget_callback.training.monitor import ForgetMonitor
from forget_callback.training.trackers import AXES, evaluation_metrics, scalars
from tests.helpers import Recorder
from tests.recorded import page_data

N = 40
FACTS = Probe("facts", [Recall(f"r{i}", "Q", "A", "geo" if i % 2 else "art") for i in range(N)])
OTHER = Probe("other", FACTS.items)
SUMS = Probe("sums", [MultipleChoice(f"m{i}", "Q", [" 1", " 2", " 3"], 1) for i in range(N)])


def knows(n_right, *probes):
    """Snapshots in which the first `n_right` items of each probe are right."""
    return [answers(probe, np.arange(len(probe)) < n_right) for probe in probes or [FACTS]]


def answers(probe, right, **columns):
    """A snapshot of a probe, right or wrong item by item."""
    right = np.array(right, float)
    choice = np.where(right == 1, 1, 2) if probe is SUMS else None
    return Snapshot(probe.name, probe.fingerprint, 0, ids=list(probe.ids), correct=right, choice=choice, **columns)


class Broken:
    """A tracker that is down."""

    def log(self, *given):
        raise ConnectionError("no network")

    alert = log


def run(monitor, *n_right, start=0, by=10):
    steps = range(start, start + by * len(n_right), by)
    return [monitor.observe(t, knows(n, *monitor.probes), samples_seen=80.0 * t) for t, n in zip(steps, n_right)]


def test_the_first_snapshot_is_the_baseline(tmp_path):
    monitor = ForgetMonitor(FACTS, tmp_path, stop=[StopRule("forgetting", -1, confidence=None, patience=1)])
    assert monitor.last_step is None and monitor.history.empty and monitor.last_rows == []
    seen = monitor.observe(0, knows(30)[0])
    assert seen.decisions == () and not seen.stop and isnan(seen.seconds)
    assert [row.transitions.forgetting for row in seen.rows] == [0, 0, 0] and monitor.last_step == 0
    assert Store(tmp_path).steps("facts") == [0]


def test_each_row_compares_with_the_baseline(tmp_path):
    monitor = ForgetMonitor([FACTS, SUMS], tmp_path)
    seen = run(monitor, 30, 20, 36)
    table = monitor.history
    assert (
        list(zip(table["probe"], table["category"]))
        == [*[("facts", ""), ("facts", "art"), ("facts", "geo"), ("sums", ""), ("all", "")]] * 3
    )
    whole = table[table["category"] == ""]
    assert whole["forgetting"].tolist() == [0, 0, 0, 0.25, 0.25, 0.25, 0, 0, 0]
    assert whole["backward_transfer"].tolist()[-3:] == [0.15, 0.15, 0.15]
    assert whole["churn"].tolist()[-3:] == [0.4, 0.4, 0.4]
    assert seen[1].rows == tuple(row for row in monitor.rows if row.step == 10)
    assert [row.step for row in monitor.last_rows] == [20] * 5
    assert table["samples_seen"].unique().tolist() == [0, 800, 1600] and table["tokens_seen"].isna().all()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "forget" / "history.parquet"), table, check_dtype=False)


@pytest.mark.parametrize(
    "rule, n_right, stops",
    [
        (StopRule("forgetting", 0.10, confidence=None), [40, 30, 38, 30, 30, 30], [0, 0, 0, 0, 1, 1]),
        (StopRule("forgetting", 0.10, confidence=None, patience=1), [40, 30, 36, 35], [0, 1, 0, 1]),
        (StopRule("forgetting", 0.10), [40, 33, 33, 32, 31, 33], [0, 0, 0, 0, 1, 0]),
        (StopRule("knowledge_lost", 0.5), [40, 10, 10], [0, 0, 1]),
        (StopRule("forgetting", 0.10, confidence=None, category="geo", patience=1), [40, 33, 20], [0, 1, 1]),
        (StopRule("forgetting", 0.10, confidence=None, patience=1, action="warn"), [40, 10], [0, 0]),
    ],
)
def test_stop_rules(tmp_path, rule, n_right, stops):
    seen = run(ForgetMonitor(FACTS, tmp_path, stop=[rule]), *n_right)
    assert [observation.stop for observation in seen] == [bool(stop) for stop in stops]


@pytest.mark.parametrize("action, title", [("stop", "Forgetting: stopping"), ("warn", "Forgetting: warning")])
def test_a_rule_that_fires_is_said_everywhere(tmp_path, caplog, action, title):
    recorder = Recorder()
    rule = StopRule("forgetting", 0.1, confidence=None, patience=1, action=action)
    with caplog.at_level(logging.WARNING):
        _, seen = run(ForgetMonitor(FACTS, tmp_path, [recorder], [rule]), 40, 30)
    reason = seen.decisions[0].reason
    assert seen.decisions[0].fired and recorder.alerts == [(title, reason)]
    assert [message for message in caplog.messages if message.startswith("Forgetting")] == [f"{title}: {reason}"]


def test_a_rule_that_warns_does_so_once_a_run_and_not_again_when_that_is_resumed(tmp_path, caplog):
    """Also where what it warned of is over by the last snapshot before the run was resumed."""
    first, second = Recorder(), Recorder()
    rules = [StopRule("forgetting", 0.1, confidence=None, patience=1, action="warn", probe="facts")]
    rules += [replace(rules[0], above=0.3)]
    with caplog.at_level(logging.WARNING):
        seen = run(ForgetMonitor(FACTS, tmp_path, [first], rules), 40, 30, 30, 40)
        run(ForgetMonitor(FACTS, tmp_path, [second], rules), 30, 20, 20, start=40)
    assert [observation.decisions[0].fired for observation in seen[1:]] == [True, True, False]
    assert [len(tracker.alerts) for tracker in (first, second)] == [1, 1]
    assert "above 10%" in first.alerts[0][1] and "above 30%" in second.alerts[0][1]
    assert sum(message.startswith("Forgetting: warning") for message in caplog.messages) == 2


def test_a_resumed_run_does_not_say_again_what_there_is_to_know_of_its_probe(tmp_path, caplog):
    def said(*n_right, start):
        caplog.clear()
        run(ForgetMonitor(FACTS, tmp_path), *n_right, start=start)
        return [message for message in caplog.messages if message.startswith("probe 'facts'")]

    assert said(40, 30, start=0) and not said(30, 20, start=20)


def test_a_rule_without_a_probe_reads_the_pool_of_several(tmp_path):
    rule = StopRule("forgetting", 0.1, confidence=None, patience=1)
    _, seen = run(ForgetMonitor([FACTS, SUMS], tmp_path, stop=[rule]), 40, 30)
    assert (seen.decisions[0].probe, seen.decisions[0].n) == ("all", 2 * N)


def test_a_strict_rule_needs_the_number_of_planned_snapshots(tmp_path):
    rule = StopRule("forgetting", 0.1, strict=True)
    with pytest.raises(ValueError, match="a strict stop rule needs planned="):
        ForgetMonitor(FACTS, tmp_path, stop=[rule])
    _, seen = run(ForgetMonitor(FACTS, tmp_path, stop=[rule], planned=10), 40, 30)
    assert 0.995 < seen.decisions[0].confidence < 1, "little of the error rate is spent at the first looks"


@pytest.mark.parametrize(
    "probes, rule, problem",
    [
        ([], {}, "probes is empty; give at least one"),
        ([FACTS, FACTS], {}, r"got \['facts', 'facts'\]; .*'builtin:facts\?name=facts2'"),
        ([FACTS], {"probe": "fact"}, r"probe 'fact' is not among \['facts'\]"),
        ([FACTS], {"probe": "all"}, r"probe 'all' is not among \['facts'\]"),
        ([FACTS], {"category": "maths"}, r"no category 'maths'; has \['art', 'geo'\]"),
        ([FACTS, SUMS], {"category": "geo"}, r"probe 'all' has no category 'geo'"),
    ],
)
def test_what_a_rule_cannot_read_is_refused_before_anything_is_written(tmp_path, probes, rule, problem):
    with pytest.raises(ValueError, match=problem):
        ForgetMonitor(probes, tmp_path, stop=[StopRule("forgetting", 0.1, **rule)])
    assert list(tmp_path.iterdir()) == []


def test_trackers_get_finished_numbers_under_their_full_names(tmp_path):
    recorder = Recorder()
    monitor = ForgetMonitor([FACTS, SUMS], tmp_path, [recorder], log="all")
    monitor.observe(0, knows(30, FACTS, SUMS))
    facts, sums = knows(20, FACTS, SUMS)
    taken = [sums.with_metadata(seconds=1.5), facts.with_metadata(seconds=2.0)]
    seen = monitor.observe(5, taken, samples_seen=40.0, tokens_seen=900.0)
    baseline, row = recorder.rows
    assert "forget/overhead" not in baseline and "forget/samples_seen" not in baseline
    assert {*AXES[:3], "forget/probe_seconds", "forget/overhead", "train/global_step"} < set(row)
    assert (row["forget/step"], row["forget/samples_seen"], row["forget/tokens_seen"]) == (5, 40, 900)
    assert row["train/global_step"] == 5 and row["forget/probe_seconds"] == seen.seconds == 3.5
    assert row["forget/facts/forgetting"] == row["forget/all/forgetting"] == 0.25
    assert row["forget/facts/geo/n10"] == 5.0
    assert scalars(seen.rows, log="all").items() <= row.items()


def test_scalars_names_every_number_that_exists(tmp_path):
    _, seen = run(ForgetMonitor([FACTS, SUMS], tmp_path), 30, 20)
    numbers = scalars(seen.rows, log="all")
    names = set(numbers)
    places = ["facts", "facts/art", "facts/geo", "sums", "all"]
    without = {"margin", "drift"}  # the score functions above give neither
    of_some = ("spurious_forgetting", "recall_lost", "recall_still_chosen")  # two prompts, recall, or both forms
    without |= {f"{name}{end}" for name in of_some for end in ("", "_low", "_high")}
    without |= {"guess_persistence", "persistence_p_value", "no_forgetting_p_value"}  # where items can be guessed
    without |= {"rescored_flips"}  # the baseline was scored once
    without |= {"macro_knowledge_lost"}  # of the pool alone
    without |= {name for name in ALL_METRICS if name.startswith(("score_", "bits_", "kl", "top1_"))}  # graded, texts
    without |= {"stage_forgetting", "stage_backward_transfer", "stage_knowledge_lost"}  # there is one stage
    names = {name for name in names if name.rpartition("/")[2] not in without}
    assert names == {f"forget/{place}/{metric}" for place in places for metric in ALL_METRICS if metric not in without}
    assert all(isinstance(value, float) and not isnan(value) for value in numbers.values())


def test_evaluation_metrics_are_three_of_each_whole_probe_and_what_is_asked_for(tmp_path):
    _, seen = run(ForgetMonitor([FACTS, SUMS], tmp_path), 30, 20)
    three = ("knowledge_lost", "forgetting", "accuracy_after")
    names = [f"eval_forget_{probe}_{name}" for probe in ("facts", "sums") for name in three]
    assert list(evaluation_metrics(seen.rows)) == names
    assert list(evaluation_metrics(seen.rows, wanted="eval_forget_sums_churn")) == [*names, "eval_forget_sums_churn"]
    pooled = evaluation_metrics(seen.rows, wanted="eval_forget_all_drift")
    assert list(pooled) == [*names, "eval_forget_all_drift"] and isnan(pooled["eval_forget_all_drift"])
    more = evaluation_metrics(seen.rows, more=("drift", "forgetting"))
    assert list(more) == [f"eval_forget_{probe}_{name}" for probe in ("facts", "sums") for name in (*three, "drift")]
    assert more["eval_forget_sums_forgetting"] == 0.25


def test_a_tracker_that_fails_costs_nothing_but_its_own_row(tmp_path, caplog):
    recorder = Recorder()
    rule = StopRule("forgetting", 0.1, confidence=None, patience=1)
    monitor = ForgetMonitor(FACTS, tmp_path, [Broken(), recorder], [rule])
    with caplog.at_level(logging.WARNING):
        seen = run(monitor, 40, 30)
    assert seen[1].stop and len(recorder.rows) == 2 and len(recorder.alerts) == 1
    assert sum(message.startswith("Broken failed") for message in caplog.messages) == 3
    assert Store(tmp_path).steps("facts") == [0, 10]


class Shows(Recorder):
    """A tracker that also shows what no single number says."""

    def __init__(self):
        super().__init__()
        self.shown, self.finished = [], []

    def show(self, rows, changes):
        self.shown.append((len(rows), sorted(changes["id"])))

    def finish(self, rows, files):
        self.finished.append((len(rows), sorted(files)))


class Fails(Shows):
    """One whose every method raises."""

    def __getattribute__(self, name):
        if name in ("log", "show", "finish", "alert"):
            raise ConnectionError("no network")
        return super().__getattribute__(name)


def test_a_tracker_that_shows_more_gets_the_history_and_the_items_that_changed(tmp_path):
    shows, plain = Shows(), Recorder()
    monitor = ForgetMonitor(FACTS, tmp_path, [Fails(), plain, shows])
    run(monitor, 40, 38)
    monitor.finish()
    assert shows.shown == [(3, []), (6, ["r38", "r39"])] and [n for n, _ in shows.finished] == [6]
    assert shows.rows == plain.rows


def test_what_cannot_be_shown_costs_no_step_and_no_stop(tmp_path, caplog):
    """An item without an answer to show, which the table of changed items needs; and trackers that are all down."""
    probe = Probe("facts", [Recall(f"r{i}", "Q", "A") for i in range(N)])
    assert probe.fingerprint  # kept from here on: without an answer there would be none
    object.__setattr__(probe.items[-1], "answer", None)
    rule = StopRule("forgetting", 0.1, confidence=None, patience=1)
    recorder, shows = Recorder(), Shows()
    monitor = ForgetMonitor(probe, tmp_path, [Fails(), recorder, shows], [rule])
    with caplog.at_level(logging.WARNING):
        _, seen = run(monitor, 40, 30)
    assert seen.stop and [title for title, _ in recorder.alerts] == ["Forgetting: stopping"]
    assert monitor.last_step == 10 and Store(tmp_path).steps("facts") == [0, 10] and len(recorder.rows) == 2
    assert [shown for shown, _ in shows.shown] == [1] and "showing what changed failed" in caplog.text


def test_what_the_disk_refused_is_kept_and_written_later(tmp_path, monkeypatch, caplog):
    store, recorder, calls = Store(tmp_path), Recorder(), []
    rule = StopRule("forgetting", 0.1, patience=1)
    write = store.write

    def fails_once(snapshot):
        calls.append(snapshot.probe)
        if calls == ["facts", "sums"]:
            raise OSError("no space left")
        write(snapshot)

    monitor = ForgetMonitor([FACTS, SUMS], store, [recorder], [rule])
    monitor.observe(0, knows(40, FACTS, SUMS))
    monkeypatch.setattr(store, "write", fails_once)
    seen = monitor.observe(10, knows(30, FACTS, SUMS))
    assert isinstance(seen.error, OSError) and "no space left" in caplog.text and str(store.path) in caplog.text
    assert store.steps("facts") == [0, 10] and store.steps("sums") == [0]
    # The numbers reach trackers and rules all the same.
    assert monitor.last_step == 10 and len(recorder.rows) == 2 and seen.stop
    assert monitor.observe(20, knows(20, FACTS, SUMS)).error is None
    assert store.steps("facts") == store.steps("sums") == [0, 10, 20]
    assert calls == ["facts", "sums", "sums", "facts", "sums"]
    pd.testing.assert_frame_equal(ForgetMonitor([FACTS, SUMS], tmp_path).history, monitor.history)


@pytest.mark.parametrize("probes", [[FACTS], [FACTS, SUMS]])
def test_a_resumed_run_goes_on_where_it_was(tmp_path, probes):
    rule = StopRule("forgetting", 0.1, confidence=None)
    straight = ForgetMonitor(probes, tmp_path / "straight", stop=[rule])
    expected = run(straight, 40, 38, 30, 32, 36)
    run(ForgetMonitor(probes, tmp_path / "resumed", stop=[rule]), 40, 38, 30)
    resumed = ForgetMonitor(probes, tmp_path / "resumed", stop=[rule])
    assert resumed.last_step == 20
    seen = run(resumed, 32, 36, start=30)
    pd.testing.assert_frame_equal(resumed.history, straight.history)
    assert [o.decisions[0].reason for o in seen] == [o.decisions[0].reason for o in expected[3:]]
    assert [o.stop for o in seen] == [o.stop for o in expected[3:]] == [True, False]
    files = [pd.read_parquet(one.store.path / "history.parquet") for one in (resumed, straight)]
    pd.testing.assert_frame_equal(*files)


@pytest.mark.parametrize("resume", [False, True])
def test_the_page_at_the_end_is_of_what_is_in_memory_and_the_one_of_the_files(tmp_path, monkeypatch, resume):
    """No row of it is computed again: only the first step is compared with the last, as `compare` does."""
    append, appended = History.append, []
    monkeypatch.setattr(History, "append", lambda own, *of, **more: [appended.append(1), append(own, *of, **more)][1])
    monitor, counts = ForgetMonitor([SUMS, FACTS], tmp_path), []
    monitor.compare_with(knows(37, SUMS, FACTS), stage=Stage(2, 100.0))
    monitor.observe(0, knows(40, SUMS, FACTS), samples_seen=0.0, again=knows(39, SUMS, FACTS))
    for start in (10, 40):
        monitor = ForgetMonitor([SUMS, FACTS], tmp_path) if resume else monitor
        run(monitor, 30, 35, 38, start=start)
        before = len(appended)
        monitor.finish()
        counts.append(len(appended) - before)
    assert counts == [2, 2]
    (mine,) = shown = page_data(monitor.store.path / "report.html")["runs"]
    assert shown == json.loads(json.dumps(report_data([tmp_path])["runs"]))
    assert mine["steps"] == [0, 10, 20, 30, 40, 50, 60] and mine["other_baseline"] and mine["stage"]["number"] == 2
    assert len(mine["probes"]) == 3 and mine["probes"][0]["path"]["columns"] == 8


def test_a_run_resumed_with_fewer_probes_has_a_page_of_all_its_steps(tmp_path):
    run(ForgetMonitor([FACTS, SUMS], tmp_path), 40, 30)
    monitor = ForgetMonitor(FACTS, tmp_path)
    run(monitor, 20, start=20)
    monitor.finish()
    (mine,) = page_data(tmp_path / "forget" / "report.html")["runs"]
    assert mine["steps"] == [0, 10, 20] and [own["name"] for own in mine["probes"]] == ["facts"]


def foreign(store, what):
    """A file in the place of step 10 of the first probe."""
    path = store.path / "snapshots" / "facts" / "step-00000010.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    other = knows(7, FACTS)[0]
    if what == "of another run":
        other.at(10).with_metadata(run="other").save(path)
    elif what == "of another step":
        other.at(3).save(path)
    elif what == "of another probe":
        replace(other.at(10), fingerprint="f").save(path)
    else:
        path.write_bytes({"empty": b"", "no table": b"x" * 99}[what])
    return path.read_bytes()


@pytest.mark.parametrize("what", ["of another run", "of another step", "of another probe", "empty", "no table"])
def test_a_file_in_the_place_of_a_snapshot_is_set_aside_and_blocks_nothing(tmp_path, caplog, what):
    monitor = ForgetMonitor([FACTS, SUMS], tmp_path)
    run(monitor, 40)
    before = foreign(monitor.store, what)
    seen = run(monitor, 30, 20, start=10)
    assert [one.error for one in seen] == [None, None]
    assert monitor.store.steps("facts") == monitor.store.steps("sums") == [0, 10, 20]
    assert monitor.store.read("facts", 10).accuracy == 30 / N
    kept = tmp_path / "forget" / "set-aside" / "1" / "snapshots" / "facts" / "step-00000010.parquet"
    assert (
        kept.read_bytes() == before and "step-00000010.parquet is " in caplog.text and "it was moved to" in caplog.text
    )
    pd.testing.assert_frame_equal(ForgetMonitor([FACTS, SUMS], tmp_path).history, monitor.history)


def test_a_snapshot_of_a_step_that_the_run_has_already_is_kept_aside_and_blocks_nothing(tmp_path, caplog):
    """As two writers leave it where there are no locks."""
    monitor = ForgetMonitor([FACTS, SUMS], tmp_path)
    run(monitor, 40)
    (first, _) = knows(7, FACTS, SUMS)
    monitor.store.write(first.at(10))
    run(monitor, 30, 20, start=10)
    assert monitor.store.steps("facts") == monitor.store.steps("sums") == [0, 10, 20]
    kept = tmp_path / "forget" / "set-aside" / "1" / "snapshots" / "facts" / "step-00000010.parquet"
    assert monitor.store.read("facts", 10).accuracy == 7 / N and Snapshot.load(kept).accuracy == 30 / N
    assert "exists and is not overwritten" in caplog.text and "; this one is kept in " in caplog.text


def test_one_write_that_fails_for_ever_keeps_no_other_from_the_disk(tmp_path, caplog):
    monitor = ForgetMonitor([FACTS, SUMS], tmp_path)
    run(monitor, 40)
    blocked = tmp_path / "forget" / "snapshots" / "facts"
    blocked.rename(blocked.with_name("aside"))
    blocked.write_text("")
    seen = run(monitor, 30, 20, start=10)
    assert all(isinstance(one.error, OSError) for one in seen)
    assert monitor.store.steps("sums") == [0, 10, 20] and caplog.text.count("could not be written to") == 2
    assert sorted(set(pd.read_parquet(tmp_path / "forget" / "history.parquet")["step"])) == [0]
    assert monitor.store.incomplete() != []
    blocked.unlink()
    blocked.with_name("aside").rename(blocked)
    run(monitor, 10, start=30)
    assert monitor.store.steps("facts", "sums") == [0, 10, 20, 30] and monitor.store.incomplete() == []
    files = pd.read_parquet(tmp_path / "forget" / "history.parquet")
    pd.testing.assert_frame_equal(files, monitor.history, check_dtype=False)


def test_a_monitor_gives_way_to_a_process_that_records_there(tmp_path):
    held = "import sys; from forget_callback import Store; s = Store(sys.argv[1]); print(s.lock(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", held, tmp_path], stdin=-1, stdout=-1) as other:
        assert other.stdout.readline() == b"True\n"
        with pytest.raises(ValueError, match="is being written by another process; use another directory, or end that"):
            ForgetMonitor(FACTS, tmp_path)
        other.communicate(b"\n")
    run(ForgetMonitor(FACTS, tmp_path), 40)


@pytest.mark.parametrize("room", [True, False], ids=["there is room again", "still full"])
@pytest.mark.parametrize("method", ["write", "write_history"])
def test_at_the_end_the_disk_gets_what_it_refused_and_the_page_shows_what_is_there(
    tmp_path, monkeypatch, caplog, room, method
):
    store = Store(tmp_path)
    monitor, write, full = ForgetMonitor([FACTS, SUMS], store), getattr(store, method), []

    def refuses(given):
        if full:
            raise OSError("no space left")
        write(given)

    monkeypatch.setattr(store, method, refuses)
    run(monitor, 40, 30)
    full.append(True)
    run(monitor, 20, start=20)
    if room:
        full.clear()
    caplog.clear()
    monitor.finish()
    (mine,) = page_data(tmp_path / "forget" / "report.html")["runs"]
    steps = [0, 10, 20] if room or method == "write_history" else [0, 10]
    assert mine["steps"] == steps and store.steps("facts", "sums") == steps and len(mine["seconds"]) == len(steps)
    told = "the snapshot of step 20 could not be written to .*; report.html shows what is there: OSError: no space left"
    assert [bool(re.match(told, message)) for message in caplog.messages] == [True] * (not room)
    assert len(pd.read_parquet(store.path / "history.parquet")) == (15 if room else 10)


def test_a_step_that_was_cut_off_between_two_probes_is_not_in_the_history(tmp_path):
    monitor = ForgetMonitor([FACTS, SUMS], tmp_path)
    run(monitor, 40, 30)
    (monitor.store.path / "snapshots" / "sums" / "step-00000010.parquet").unlink()
    resumed = ForgetMonitor([FACTS, SUMS], tmp_path)
    assert resumed.last_step == 0
    run(resumed, 20, start=20)
    assert resumed.history["step"].unique().tolist() == [0, 20]
    assert resumed.store.steps("sums") == [0, 20]


def test_another_probe_of_that_name_cannot_take_over_a_run(tmp_path):
    run(ForgetMonitor(FACTS, tmp_path), 40)
    with pytest.raises(ValueError, match="holds another probe named 'facts'"):
        ForgetMonitor(Probe("facts", SUMS.items), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": SUMS.fingerprint},
        {"ids": [f"x{i}" for i in range(N)]},
        {"ids": FACTS.ids[:-1], "correct": [1] * (N - 1)},
    ],
    ids=["fingerprint", "ids", "missing item"],
)
def test_a_snapshot_of_another_probe_is_refused_and_leaves_no_trace(tmp_path, change):
    monitor = ForgetMonitor(FACTS, tmp_path)
    given = {
        "probe": "facts",
        "fingerprint": FACTS.fingerprint,
        "step": 0,
        "ids": FACTS.ids,
        "correct": [1] * N,
        **change,
    }
    with pytest.raises(ValueError, match="probe 'facts'"):
        monitor.observe(0, Snapshot(**{**given, "ids": list(given["ids"])}))
    assert monitor.last_step is None and Store(tmp_path).steps("facts") == []
    run(monitor, 40)
    assert monitor.last_step == 0


@pytest.mark.parametrize(
    "given, problem",
    [
        ([FACTS], r"missing \['sums'\], more than one of \[\], of other probes \[\]"),
        ([], r"missing \['facts', 'sums'\]"),
        ([FACTS, SUMS, FACTS], r"more than one of \['facts'\]"),
        ([FACTS, SUMS, OTHER], r"of other probes \['other'\]"),
        ([FACTS, OTHER], r"missing \['sums'\], more than one of \[\], of other probes \['other'\]"),
    ],
)
def test_snapshots_that_are_not_one_of_each_probe_are_refused_and_leave_no_trace(tmp_path, given, problem):
    monitor = ForgetMonitor([FACTS, SUMS], tmp_path)
    given = [snapshot for probe in given for snapshot in knows(30, probe)]
    with pytest.raises(ValueError, match=r"one of each probe, \['facts', 'sums'\]: .*" + problem):
        monitor.compare_with(given)
    run(monitor, 40)
    with pytest.raises(ValueError, match=problem):
        monitor.observe(10, given)
    assert monitor.last_step == 0 and Store(tmp_path).steps("facts") == [0]
    assert monitor.observe(10, knows(30, SUMS, FACTS)).rows[0].transitions.n10 == 10


def work(act):
    """How many instructions of our own code `act` executes."""
    count, before = 0, sys.gettrace()

    def trace(frame, event, arg):
        nonlocal count
        if "forget_callback" not in Path(frame.f_code.co_filename).parts:
            return None
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


def test_an_evaluation_late_in_a_run_does_what_an_early_one_does(tmp_path):
    """Counted, not timed: a snapshot of the same two answers in turn, with rules and trackers that look at them."""
    items = [Recall(f"r{i}", "Q", "A", f"{i % 5}") for i in range(20)]
    probes = [Probe("one", items), Probe("two", items)]
    rules = [StopRule("forgetting", 0.5), StopRule("knowledge_lost", 0.9, probe="one", category="3")]
    monitor = ForgetMonitor(probes, tmp_path, [Recorder()], rules)
    run(monitor, *[14, 13] * 2, by=1)
    early = max(work(lambda: run(monitor, n, start=step)) for step, n in ((4, 14), (5, 13)))  # noqa: B023 - called at once
    run(monitor, *[14, 13] * 17, start=6, by=1)
    late = max(work(lambda: run(monitor, n, start=step)) for step, n in ((40, 14), (41, 13)))  # noqa: B023
    assert 1000 < late <= 1.02 * early


def test_a_snapshot_is_validated_once_on_its_way(tmp_path, monkeypatch):
    monitor = ForgetMonitor([FACTS, SUMS], tmp_path)
    run(monitor, 40)
    taken, validate, calls = knows(30, FACTS, SUMS), Snapshot.__post_init__, []
    monkeypatch.setattr(Snapshot, "__post_init__", lambda snapshot: [calls.append(1), validate(snapshot)])
    monitor.observe(10, taken)
    assert not calls
    knows(30)
    assert len(calls) == 1


@pytest.mark.parametrize("step", [-1, 0, 10])
def test_steps_must_grow(tmp_path, step):
    monitor = ForgetMonitor(FACTS, tmp_path)
    run(monitor, 40, 30)
    with pytest.raises(ValueError, match=rf"step must be above the last snapshot's, 10, got {step}"):
        monitor.observe(step, knows(40))
    assert len(monitor.history) == 6


@pytest.mark.parametrize(
    "step, snapshots, seen, problem",
    [
        ("6", knows(40), 6.0, "step must be a whole number of optimizer steps, got '6'"),
        (20, "x", 1600.0, "snapshots must be what score_probe returns, one of each probe, got 'x'"),
        (20, 5, 1600.0, "snapshots must be what score_probe returns, one of each probe, got 5"),
        (20, knows(40), "many", "samples_seen must be a number, got 'many'"),
        (20, knows(40), 799.0, "samples_seen must not fall: the last snapshot's is 800, got 799"),
    ],
)
def test_what_cannot_be_observed_is_refused_and_leaves_no_trace(tmp_path, step, snapshots, seen, problem):
    monitor = ForgetMonitor(FACTS, tmp_path)
    run(monitor, 40, 30)
    with pytest.raises(ValueError, match=problem):
        monitor.observe(step, snapshots, samples_seen=seen)
    assert len(monitor.history) == 6
    monitor.observe(20, knows(40), samples_seen=800.0)


def test_the_order_in_which_a_score_gives_items_does_not_matter(tmp_path):
    monitor = ForgetMonitor(SUMS, tmp_path)
    monitor.observe(0, knows(40, SUMS))
    seen = monitor.observe(1, knows(30, SUMS)[0].select(slice(None, None, -1)))
    assert seen.rows[0].transitions.n10 == 10 and seen.snapshots[0].ids.tolist() == list(SUMS.ids)
    assert seen.snapshots[0].n_choices.tolist() == [3] * N and knows(1, SUMS)[0].n_choices.tolist() == [inf] * N
    assert seen.rows[0].transitions.knowledge_method == "choice"


def test_unscored_items_are_counted_apart(tmp_path):
    monitor = ForgetMonitor(FACTS, tmp_path)
    monitor.observe(0, knows(40))
    seen = monitor.observe(1, answers(FACTS, [nan] * N))
    assert seen.rows[0].transitions.n == 0 and seen.rows[0].transitions.n_unscored == N


def test_overhead_is_the_share_of_time_that_probing_took(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("forget_callback.training.monitor.time", SimpleNamespace(perf_counter=lambda: now[0]))
    recorder = Recorder()
    monitor = ForgetMonitor(FACTS, tmp_path, [recorder])
    slow = knows(40)[0].with_metadata(seconds=2.0)
    now[0] += 5.0
    monitor.observe(0, slow, again=slow.with_metadata(seconds=3.0))
    now[0] += 15.0
    monitor.observe(1, slow)
    assert "forget/overhead" not in recorder.rows[0] and recorder.rows[1]["forget/probe_seconds"] == 2.0
    assert recorder.rows[1]["forget/overhead"] == pytest.approx(7 / 20)
    now[0] += 8.0
    assert monitor.probe_seconds == (7.0, 2.0) and monitor.elapsed == 28.0
    monitor.observe(2, knows(40))  # nobody measured it
    assert "forget/probe_seconds" not in recorder.rows[2]
    assert recorder.rows[2]["forget/overhead"] == pytest.approx(7 / 28)


@pytest.mark.parametrize(
    "rule, idle",
    [
        (StopRule("knowledge_lost", 0.05), False),
        (StopRule("knowledge_lost", 0.9), True),
        (StopRule("knowledge_lost", 0.9, confidence=None), False),
        (StopRule("forgetting", 0.99), True),
        (StopRule("forgetting", 0.2, category="rare"), True),
        (StopRule("churn", 0.9, confidence=None), False),
        (StopRule("drift", 5.0, confidence=None), True),  # there are no options
    ],
)
def test_a_rule_that_can_never_fire_is_said_at_the_baseline(tmp_path, caplog, rule, idle):
    items = [Recall(f"r{i}", "", "x", "rare" if i < 2 else "many") for i in range(20)]
    probe = Probe("p", items)
    ForgetMonitor(probe, tmp_path, stop=[rule]).observe(0, answers(probe, [False] + [True] * 19))
    assert ("can never fire" in caplog.text) == idle


@pytest.mark.parametrize("metric, idle", [("spurious_forgetting", True), ("recall_lost", True), ("forgetting", False)])
def test_a_rule_on_a_number_that_the_items_do_not_have_is_said_at_the_baseline(tmp_path, caplog, metric, idle):
    ForgetMonitor(SUMS, tmp_path, stop=[StopRule(metric, 0.05)]).observe(0, knows(N, SUMS))
    assert ("can never fire: these items have no such number" in caplog.text) == idle


def test_what_flips_when_the_baseline_is_scored_again_is_measured_once_and_kept(tmp_path, caplog):
    probe = Probe("p", [Recall(f"r{i}", "", "x", "geo" if i < 5 else "art") for i in range(10)])
    near = np.full(10, 0.01)
    again = answers(probe, [0] + [1] * 9, margin=-near)
    monitor = ForgetMonitor(probe, tmp_path)
    monitor.observe(0, answers(probe, [1] * 10, margin=near), again=again)
    monitor.observe(1, answers(probe, [0, 0, 0] + [1] * 7), again=again)  # there is only one baseline
    table = monitor.history.set_index(["step", "category"])
    assert table["rescored_flips"].tolist() == [0.1, 0.0, 0.2] * 2
    assert "1 of 10 items flips when the same model is scored again (id and margin in nats): r0 (0.01)" in caplog.text
    pd.testing.assert_frame_equal(ForgetMonitor(probe, tmp_path).history, monitor.history)


def test_the_baseline_may_be_scored_again_on_some_of_the_probes(tmp_path, caplog):
    monitor = ForgetMonitor([FACTS, SUMS], tmp_path)
    monitor.observe(0, knows(N, FACTS, SUMS), again=knows(N - 4, SUMS))
    found = monitor.history.query("category == ''").set_index("probe")["rescored_flips"]
    assert found["sums"] == 0.1 and found[["facts", "all"]].isna().all()
    assert "probe 'sums': 4 of 40 items flip when the same model is scored again" in caplog.text
    pd.testing.assert_frame_equal(ForgetMonitor([FACTS, SUMS], tmp_path).history, monitor.history)
    monitor.finish()
    probes = page_data(monitor.store.path / "report.html")["runs"][0]["probes"]
    assert {one["flips"] for one in probes if "flips" in one} == {None, 4}


@pytest.mark.parametrize(
    "again, problem",
    [([SUMS], r"of other probes \['sums'\]"), ([FACTS, FACTS], r"more than one of \['facts'\]")],
)
def test_snapshots_of_another_probe_are_no_second_scoring(tmp_path, again, problem):
    monitor = ForgetMonitor(FACTS, tmp_path)
    with pytest.raises(ValueError, match=r"one of each probe, \['facts'\]: .*" + problem):
        monitor.observe(0, knows(N, FACTS), again=knows(N, *again))
    assert monitor.last_step is None and Store(tmp_path).steps("facts") == []


PAIRED = Probe("paired", [replace(item, variants=(Variant(f"How else? {item.id}"),)) for item in SUMS.items])


def in_both(first, second, whole=True):
    """A snapshot of `PAIRED`: the first `first` items are right in the first prompt, `second` in the second one."""
    right = [np.arange(N) < n for n in (first, second)]
    further = Answers(PAIRED.variant_fingerprints[0], right[1], choice=np.where(right[1], 1, 2))
    choice = np.where(right[0], 1, 2)
    taken = Snapshot("paired", PAIRED.fingerprint, 0, list(PAIRED.ids), right[0] * 1.0, choice=choice)
    return replace(taken, further=(further,)) if whole else taken


def loop(monitor, answers, *, variants):
    """A training loop of a user's own: asks all prompts always, or at both ends and where a rule would act."""
    asked, seen = [], None
    for step, (first, second) in enumerate(answers):
        whole, last = in_both(first, second), step == len(answers) - 1
        if variants == "all" or step in (0, len(answers) - 1) or monitor.would_act(step, whole.without_variants()):
            asked.append(step)
            seen = monitor.observe(step, whole, samples_seen=8.0 * step)
        else:
            seen = monitor.observe(step, whole.without_variants(), samples_seen=8.0 * step)
        if seen.stop and not last:
            break
    return asked, seen


LOST_IN_FORM = [(40, 40), (20, 38), (18, 39), (19, 40), (22, 36), (20, 38)]
LOST = [(40, 40), (20, 20), (20, 20), (18, 18), (15, 15), (10, 12)]


@pytest.mark.parametrize("strict", [False, True])
def test_what_one_prompt_would_stop_for_is_confirmed_in_both_and_only_a_loss_of_both_stops(tmp_path, strict):
    rule = {"stop": StopRule("knowledge_lost", 0.2, strict=strict), "planned": 5}
    for number, (path, stops, asked) in enumerate([(LOST_IN_FORM, False, [0, 2, 4, 5]), (LOST, True, [0, 2])]):
        recorder = Recorder()
        monitor = ForgetMonitor(PAIRED, tmp_path / f"{number}", recorder, **rule)
        found, seen = loop(monitor, path, variants="ends")
        assert (found, seen.stop) == (asked, stops)
        assert [title for title, _ in recorder.alerts] == ["Forgetting: stopping"] * stops
        always = ForgetMonitor(PAIRED, tmp_path / f"{number}-all", **rule)
        assert loop(always, path, variants="all")[1].stop == stops
        whole = [(row.step in asked) == row.confirmed for row in monitor.rows]
        assert all(whole) and monitor.history["knowledge_lost"].notna().sum() == len(asked)


def test_at_the_end_both_ways_of_asking_have_the_same_rows(tmp_path):
    rows = []
    for variants in ("all", "ends"):
        monitor = ForgetMonitor(PAIRED, tmp_path / variants)
        loop(monitor, LOST_IN_FORM, variants=variants)
        rows.append(monitor.history.query("step == 5"))
        files = Store(tmp_path / variants)
        assert files.read("paired", 5).n_variants == 2
    pd.testing.assert_frame_equal(*(table.reset_index(drop=True) for table in rows))


def test_a_last_snapshot_of_the_first_prompts_is_completed_where_training_ends_early(tmp_path):
    """In memory, on disk, and when the run is read back; the other steps stay as they are."""
    recorder, path = Shows(), [LOST[0], LOST[1], LOST[3]]
    monitor = ForgetMonitor(PAIRED, tmp_path, recorder)
    for step, pair in enumerate(path):
        monitor.observe(step, in_both(*pair, whole=step == 0), samples_seen=8.0 * step)
    assert not monitor.confirmed and monitor.history["knowledge_lost"].isna().tolist() == [False, True, True]
    seen = monitor.observe(2, in_both(*path[2]), samples_seen=16.0)
    assert monitor.confirmed and seen.error is None
    assert monitor.history["step"].tolist() == [0, 1, 2] and len(recorder.rows) == 4
    assert [len(changed) for _, changed in recorder.shown] == [0, 20, 2, 0]  # each changed item once
    assert [monitor.store.read("paired", step).n_variants for step in (0, 1, 2)] == [2, 1, 2]
    pd.testing.assert_frame_equal(ForgetMonitor(PAIRED, tmp_path).history, monitor.history)
    files = pd.read_parquet(monitor.store.path / "history.parquet")
    pd.testing.assert_frame_equal(files, monitor.history, check_dtype=False)
    with pytest.raises(ValueError, match="step must be above the last snapshot's, 2"):
        monitor.observe(2, in_both(*path[2]))
    with pytest.raises(ValueError, match="was asked as many prompts, and is not overwritten"):
        monitor.store.add_variants(in_both(*path[2]).at(2))


def test_a_run_that_asks_fewer_prompts_than_its_baseline_was_asked_compares_in_those_that_both_have(tmp_path, caplog):
    monitor = ForgetMonitor(PAIRED, tmp_path, stop="knowledge_lost>0.2")
    monitor.compare_with(in_both(40, 40))
    monitor.observe(0, in_both(40, 40, whole=False))
    assert "the baseline was asked in 2 prompts and this run in 1; they are compared in the 1" in caplog.text
    seen = [monitor.observe(step, in_both(20, 40, whole=False)) for step in (1, 2)]
    assert seen[-1].stop and seen[-1].rows[0].confirmed and seen[-1].rows[0].transitions.in_this_prompt


def test_a_baseline_that_skipped_prompts_is_compared_in_the_first_one_and_that_is_said(tmp_path, caplog):
    monitor = ForgetMonitor(PAIRED, tmp_path)
    (answers,), unknown = in_both(N, N).further, np.full(N, np.nan)
    less = Answers(answers.fingerprint, unknown, skipped=np.ones(N, bool))
    monitor.compare_with(replace(in_both(N, N), further=(less,)))
    assert monitor.observe(0, in_both(N, N)).rows[0].transitions.in_this_prompt
    assert "the baseline skipped further prompts" in caplog.text and "RUN@STEP" in caplog.text


def test_an_alert_names_the_category_that_lost_most_only_where_that_is_sure(tmp_path):
    items = [MultipleChoice(f"m{i}", "Q", [" 1", " 2", " 3"], 1, "abc"[i % 3]) for i in range(240)]
    probe, texts = Probe("sums", items), []
    for lost in ("b", "abc"):
        recorder = Recorder()
        monitor = ForgetMonitor(probe, tmp_path / lost, recorder, StopRule("forgetting", 0.01, patience=1))
        for step in (0, 1):
            wrong = np.array([step == 1 and item.category in lost and int(item.id[1:]) % 5 == 0 for item in items])
            choice = np.where(wrong, 2, 1)
            monitor.observe(step, Snapshot("sums", probe.fingerprint, 0, list(probe.ids), ~wrong * 1.0, choice=choice))
        texts += [text for _, text in recorder.alerts]
    assert ", most in b " in texts[0] and len(texts) == 2


@pytest.mark.parametrize("given", ["all", "list"])
def test_a_rule_on_one_sampled_draw_is_refused_before_anything_is_written(tmp_path, given):
    essays = Probe("essays", [Generation(f"g{i}", "Q", "A") for i in range(40)], temperature=1.0)
    with pytest.raises(ValueError, match=r"sampled, 1 an item.*samples=4.*temperature=0"):
        ForgetMonitor([essays, FACTS] if given == "list" else essays, tmp_path, stop="forgetting>0.05")
    assert list(tmp_path.iterdir()) == []
