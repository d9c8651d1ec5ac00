"""What is said before something takes long: measured, once, and only where it does; by a clock of its own."""

import io
import re
import sys

import pytest
import tqdm.std

from forget_callback import score_probe
from forget_callback.probes.items import Generation, Recall
from forget_callback.probes.load import load_probe
from forget_callback.probes.probe import Probe
from forget_callback.scoring import progress
from forget_callback.scoring.progress import (
    ANSWERS,
    PROMPTS,
    ROWS,
    SPARED,
    TEXTS,
    Pace,
    about,
    progress_of,
    what_is_scored,
)


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
    assert second == "generating answers: at most 4 minutes"
    do(clock, {ROWS: 1000.0, TEXTS: 800.0}, seconds, pace=pace)
    assert capsys.readouterr().err.splitlines()[0] == "scoring X: about 6 minutes"


def generate(clock, *, limit=100, length=100, n=40, per_token=0.1, pace=None, probes=None, wanted="lines"):
    """Generates answers in batches of four, which take so many seconds a token together, after prompts of ten."""
    work = {PROMPTS: 10.0 * n, TEXTS: float(limit * n), ANSWERS: float(n)}
    of = {"behaviour": work} | {name: {ROWS: rows} for name, rows in (probes or {}).items()}
    rows = sum((probes or {}).values())
    with progress_of("scoring X", {ROWS: rows, **work}, wanted, probes=of, pace=pace) as advance:
        advance(ROWS, 0)
        for _ in range(10):
            clock[0] += rows / 10
            advance(ROWS, rows / 10)
        for _ in range(n // 4):
            clock[0] += 0.1
            advance(PROMPTS, 40)
            for token in range(length):
                clock[0] += per_token
                if token == length - 1:
                    advance(ANSWERS, 4)
                    advance(SPARED, 4 * (limit - length))
                    advance(TEXTS, 4 * (1 + limit - length))
                else:
                    advance(TEXTS, 4)


def of_answers(err):
    """What the lines say: answers that have ended, and the time left."""
    return [(int(n), left) for n, left in re.findall(r"^generating answers: (\d+) of 40, (.*) left$", err, re.M)]


@pytest.mark.parametrize("per_token, most", [(0.2, 4), (1.0, 10), (20.0, 10)])
def test_answers_are_counted_while_they_are_generated_but_not_too_often(clock, capsys, per_token, most):
    generate(clock, per_token=per_token)
    err = capsys.readouterr().err
    assert err.splitlines()[0] == f"scoring X: at most {about(1000 * per_token).removeprefix('about ')}"
    lines = of_answers(err)
    assert 2 <= len(lines) <= most
    counts = [n for n, _ in lines]
    assert counts == sorted(counts) and all(left.startswith("at most ") for _, left in lines)
    n, left = lines[-1]
    assert left == about((40 - n) * 25 * per_token).replace("about", "at most") or per_token == 20.0 or n % 4


def test_where_short_answers_end_first_the_time_of_the_rest_is_not_below_what_it_takes(clock, capsys):
    """In one batch of 40, an answer at a time ends: a step takes as long with few as with many."""
    with progress_of("scoring X", {PROMPTS: 1.0, TEXTS: 40 * 80.0, ANSWERS: 40.0}, "lines") as advance:
        advance(PROMPTS, 1)
        for step in range(1, 81):
            going, ends = 40 - (step - 1) // 2, step % 2 == 0
            clock[0] += 5.0
            advance(ANSWERS, ends)
            advance(SPARED, ends * (80 - step))
            advance(TEXTS, going + ends * (80 - step))
    lines = of_answers(capsys.readouterr().err)
    for n, left in lines:
        number, unit = left.removeprefix("at most ").replace("a minute", "1 minutes").split()
        seconds = int(number) * {"minutes": 60, "seconds": 1}[unit]
        assert 0.9 * (40 - n) * 10 - 30 <= seconds <= 4 * (40 - n) * 10 + 30
    assert len(lines) > 4


def test_within_one_long_batch_lines_come_as_well(clock, capsys):
    """All answers may be in one batch, and end together."""
    with progress_of("scoring X", {PROMPTS: 1.0, TEXTS: 40 * 64.0, ANSWERS: 40.0}, "lines") as advance:
        advance(PROMPTS, 1)
        for _ in range(64):
            clock[0] += 5.0
            advance(TEXTS, 40)
    lines = of_answers(capsys.readouterr().err)
    assert [left.removeprefix("at most ") for _, left in lines] == [
        "4 minutes",
        "3 minutes",
        "2 minutes",
        "a minute",
        "15 seconds",
    ]


def test_answers_that_end_early_are_not_timed_by_their_limit_the_next_time(clock, capsys):
    pace = Pace()
    generate(clock, length=25, per_token=0.4, pace=pace)
    assert capsys.readouterr().err.startswith("scoring X: at most 7 minutes\n")
    generate(clock, length=25, per_token=0.4, pace=pace)
    assert capsys.readouterr().err.startswith("scoring X: about 2 minutes\n")


@pytest.mark.parametrize("repeated", [True, False])
def test_the_probe_whose_answers_take_long_is_named_once_with_what_makes_it_shorter(clock, capsys, repeated):
    pace = Pace(repeated=repeated)
    for _ in range(2):
        generate(clock, per_token=0.54, pace=pace, probes={"facts": 60.0, "own": 60.0})
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if "shorter" in line]
    assert line.startswith("'behaviour' takes about 9 of the 11 minutes: it generates answers; ")
    assert "?limit=" in line and ("every=" in line) == ("max_overhead=" in line) == repeated


def test_no_probe_is_named_where_none_is_to_blame_and_one_alone_is_not_compared(clock, capsys):
    generate(clock, per_token=0.4, probes={"facts": 600.0})
    err = capsys.readouterr().err
    assert "'behaviour'" not in err and "builtin:facts?limit=300" in err
    generate(clock, per_token=0.4)
    assert "'behaviour' takes long because it generates answers; fewer of its items" in capsys.readouterr().err
    generate(clock, per_token=0.1)
    assert "'behaviour'" not in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_the_bar_counts_answers_and_the_time_left_and_the_advice_is_above_it(clock, monkeypatch):
    err = Terminal()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(tqdm.std, "time", lambda: clock[0])
    generate(clock, per_token=1.0, probes={"facts": 60.0}, wanted=True)
    bars = re.findall(r"(\d+)%.*?\| ([\d:]+), (?:(\d+) of 40 answers, )?(?:at most )?([\d:]+|\?) left", err.getvalue())
    assert bars[0][2:] == ("", "?") and len({n for _, _, n, _ in bars}) >= 10
    at = {left: (int(share), elapsed) for share, elapsed, n, left in bars if n}
    assert at["08:20"] == (53, "09:20"), "half of the answers: 500 of 1,000 seconds, after 60"
    assert "'behaviour' takes about 17 of the 18 minutes" in err.getvalue() and "generating" not in err.getvalue()


def test_the_answers_of_a_real_model_are_counted_as_they_end(monkeypatch, capsys, taught):
    monkeypatch.setattr(progress, "_GAP", 0.0)
    monkeypatch.setattr(progress, "LONG", 0.0)
    monkeypatch.setattr(progress, "_LINES", 1e9)
    items = [Generation(f"g{i}", "Once upon", "x", max_new_tokens=3 + i, variants=("There was",)) for i in range(6)]
    score_probe(taught.model, taught.tokenizer, Probe("p", items), progress="lines")
    counts = [int(n) for n in re.findall(r"generating answers: (\d+) of 12\b", capsys.readouterr().err)]
    assert counts == sorted(counts) and counts[0] < 6 < counts[-1] and len(set(counts)) > 3


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
