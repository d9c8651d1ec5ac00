"""A slow test runs on one of three days, or of N, on any day where its file is named, and on any with --every-turn."""

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
TAIL = """
    import pytest

    def test_quick(): pass

    @pytest.mark.in_turn(0)
    def test_tail(): pass
"""
MODULE = """
    import pytest

    pytestmark = pytest.mark.in_turn({})

    @pytest.mark.every_day
    def test_core(): pass

    def test_slow_{}(): pass
"""
MIDNIGHT = """
    import os
    from datetime import datetime
    from tests import in_turn

    class Clock(datetime):
        def now(zone):
            return datetime(2027, 1, 1 if "PYTEST_XDIST_WORKER" in os.environ else 2, tzinfo=zone)

    in_turn.datetime = Clock
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """run(*arguments) -> the names of the tests that ran, and all that was printed."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))  # of workers
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # of the suite that this is a test of
    pytester.makeini("[pytest]\naddopts = -p xdist -p tests.in_turn -v -rs --strict-markers")
    pytester.makepyfile(test_tail=TAIL, test_a=MODULE.format(1, "a"), test_b=MODULE.format(2, "b"))

    def run(*arguments):
        done = pytester.runpytest(*arguments)
        passed = [line for line in done.outlines if "PASSED" in line]
        return {re.search(r"::test_(\w+)", line)[1] for line in passed}, "\n".join(done.outlines + done.errlines)

    return run


def test_each_slow_test_runs_on_one_day_of_three(run):
    found = [run("--day", day)[0] for day in ("2026-12-31", "2027-01-01", "2027-01-02", "2027-01-03")]
    assert all({"quick", "core"} <= names for names in found)
    slow = [sorted(names - {"quick", "core"}) for names in found]
    assert sorted(slow[:3]) == [["slow_a"], ["slow_b"], ["tail"]] and slow[3] == slow[0]


def test_one_of_five_runs_on_every_fifth_day(run, pytester):
    pytester.makepyfile(
        test_tail="""
            import pytest

            @pytest.mark.parametrize("part", [pytest.param(i, marks=pytest.mark.in_turn(i, of=5)) for i in range(5)])
            def test_part(part): pass
        """
    )
    found = [run("--day", f"2027-01-0{day}", "-k", "part")[1] for day in range(1, 7)]
    assert all("in turn: 1 of 5 slow tests ran" in printed for printed in found)
    parts = [re.search(r"test_part\[(\d)\] PASSED", printed)[1] for printed in found]
    assert sorted(parts[:5]) == list("01234") and parts[5] == parts[0]


def test_what_waits_says_when_it_is_its_turn_and_how_to_run_it_now(run):
    ran, printed = run("--day", "2026-12-31")
    assert "in turn: 1 of 3 slow tests ran (2026-12-31); all: pytest --every-turn" in printed
    days = re.findall(r"SKIPPED.* in turn: next on (\S+); now: name its file, or --every-turn", printed)
    assert sorted(days) == ["2027-01-01", "2027-01-02"]
    waiting = {"tail", "slow_a", "slow_b"} - ran
    assert set.union(*(run("--day", day)[0] for day in days)) == {"quick", "core", *waiting}


def test_all_run_when_they_are_asked_for(run):
    ran, printed = run("--day", "2026-12-31", "--every-turn")
    assert ran == {"quick", "core", "tail", "slow_a", "slow_b"}
    assert "in turn: 3 of 3 slow tests ran" in printed
    assert "in turn: 1 of 1 slow tests ran" in run("--every-turn", "-k", "tail")[1]


@pytest.mark.parametrize("day", ["2026-12-31", "2027-01-01"])
@pytest.mark.parametrize(
    "named, expected",
    [
        (["test_tail.py::test_tail", "test_b.py"], {"tail", "slow_b", "core"}),
        (["./test_a.py", "test_tail.py", "-n", "2"], {"slow_a", "quick", "tail", "core"}),
    ],
)
def test_a_file_or_a_test_that_is_named_runs_on_any_day(run, day, named, expected):
    assert run("--day", day, *named)[0] == expected


def test_workers_take_the_day_of_the_process_that_starts_them(run, pytester):
    """On 1 January, by their clocks, and on 2 January, by its own."""
    pytester.makeconftest(MIDNIGHT)
    ran, printed = run("-n", "2")
    assert "ran (2027-01-02)" in printed
    assert ran == run("--day", "2027-01-02")[0] != run("--day", "2027-01-01")[0]


@pytest.mark.parametrize("given", ["", "3", "'monday'", "3, of=3"])
def test_a_mark_without_a_day_is_an_error(run, pytester, given):
    pytester.makepyfile(test_a=MODULE.format(given, "a"))
    ran, printed = run()
    assert not ran and "expected one day from 0 to 2" in printed
