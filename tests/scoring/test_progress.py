"""What is said before something takes long: measured, once, and only where it does; by a clock of its own."""

import re

import pytest

from forget_callback.probes.items import Recall
from forget_callback.probes.load import load_probe
from forget_callback.probes.probe import Probe
from forget_callback.scoring import progress
from forget_callback.scoring.progress import ROWS, TEXTS, Pace, about, progress_of, what_is_scored


@pytest.fixture
def clock(monkeypatch):
    """The seconds that have passed, to be moved on."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def do(clock, work, seconds, *, pace=None, steps=10, wanted="lines", waits=0.0):
    """Does some work in so many steps, whose units take so many seconds; `waits` before the first one."""
    with progress_of("scoring X", work, wanted, pace=pace) as advance:
        clock[0] += waits
        for kind, units in work.items():
            advance(kind, 0)
            for _ in range(steps):
                clock[0] += units / steps * seconds[kind]
                advance(kind, units / steps)


@pytest.mark.parametrize("per_row, expected", [(0.1, "about 2 minutes"), (0.4, "about 7 minutes")])
def test_what_takes_long_is_said_once_at_the_rate_that_was_measured(clock, capsys, per_row, expected):
    do(clock, {ROWS: 1000.0}, {ROWS: per_row})
    assert capsys.readouterr().err.splitlines()[0] == f"scoring X: {expected}"


def test_how_to_make_it_shorter_is_said_once_a_run_and_only_where_it_is_long(clock, capsys):
    pace = Pace()
    do(clock, {ROWS: 1000.0}, {ROWS: 0.3}, pace=pace)
    assert "shorter" not in capsys.readouterr().err
    for _ in range(2):
        do(clock, {ROWS: 4000.0}, {ROWS: 0.3}, pace=pace)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" minutes")[0] for line in lines if "about" in line] == ["scoring X: about 20"] * 2
    assert [line for line in lines if "shorter" in line] == [lines[1]]
    specs = re.findall(r'"(.*?)"', lines[1])
    few, one = map(load_probe, specs)
    assert len(few) == 300 and one.n_variants == 1, "what is advised does what it says"


def test_what_is_quick_is_not_announced_and_nothing_is_where_nothing_is_wanted(clock, capsys):
    do(clock, {ROWS: 100.0}, {ROWS: 0.1})
    do(clock, {ROWS: 1000.0}, {ROWS: 1.0}, wanted=False)
    assert capsys.readouterr().err == ""


def test_what_comes_before_the_first_batch_is_no_part_of_the_rate(clock, capsys):
    do(clock, {ROWS: 1000.0}, {ROWS: 0.1}, waits=60.0)
    assert capsys.readouterr().err == "scoring X: about 3 minutes\n"  # one of them has passed


def test_the_next_time_it_is_said_before_anything_is_done_at_the_last_rate(clock, capsys):
    pace = Pace()
    do(clock, {ROWS: 1000.0}, {ROWS: 0.1}, pace=pace)
    capsys.readouterr()
    with progress_of("scoring X", {ROWS: 3000.0}, "lines", pace=pace):
        assert capsys.readouterr().err == "scoring X: about 5 minutes\n"


def test_generated_answers_are_not_timed_by_the_rate_of_choices(clock, capsys):
    pace, seconds = Pace(), {ROWS: 0.1, TEXTS: 0.3}
    do(clock, {ROWS: 1000.0, TEXTS: 800.0}, seconds, pace=pace)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "scoring X: about 2 minutes, and then answers are generated"
    assert second == "generating answers: about 4 minutes"
    do(clock, {ROWS: 1000.0, TEXTS: 800.0}, seconds, pace=pace)
    assert capsys.readouterr().err.splitlines()[0] == "scoring X: about 6 minutes"


def test_where_nothing_is_measured_for_long_it_is_said_what_goes_on(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_PATIENCE", 0.01)
    with progress_of("scoring X", {ROWS: 10.0}, "lines"):
        for timer in [one for one in progress.threading.enumerate() if isinstance(one, progress.threading.Timer)]:
            timer.join()
    assert capsys.readouterr().err == "scoring X; how long it takes is said after the first batch\n"


def test_work_that_is_done_twice_counts_once(clock, capsys):
    """A batch is retried after OOM, or in another way."""
    with progress_of("scoring X", {ROWS: 100.0}, "lines") as advance:
        for _ in range(30):
            clock[0] += 1.0
            advance(ROWS, 10.0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "seconds, expected",
    [
        (20.1, "about 20 seconds"),
        (57.4, "about 55 seconds"),
        (58, "about a minute"),
        (100, "about 2 minutes"),
        (59 * 60, "about 59 minutes"),
        (3600, "about an hour"),
        (9000, "about 2.5 hours"),
        (7200, "about 2 hours"),
    ],
)
def test_times_for_people(seconds, expected):
    assert about(seconds) == expected


def test_what_is_scored_in_words():
    one = Probe("facts", [Recall(f"r{i}", "Q", "A", variants=("P",)) for i in range(1000)])
    other = Probe("own", [Recall("r", "Q", "A")])
    assert what_is_scored([one], [1000], variants=True) == "1,000 items of 'facts' in two variants"
    assert what_is_scored([other], [1], variants=True) == "1 item of 'own'"
    assert what_is_scored([one, other], [60, 1], variants=False) == "61 items of 'facts' and 'own'"
    assert what_is_scored([one] * 4, [1] * 4, variants=False) == "4 items of 4 probes"
