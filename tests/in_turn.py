"""Slow tests run in turn: `@pytest.mark.in_turn(DAY)`, with DAY from 0 to 2, on every third day, by UTC.

With `of=N` on every N-th day, DAY from 0 to N - 1. Those of a file that is named on the command line run on any day,
and all of them with --every-turn. `@pytest.mark.every_day` excepts a test of a module that is marked. Where one of
several cases a day is enough, `of_the_day` gives it.
"""

from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest

DAYS = 3
WAITS = "in turn: next on"
_days = []  # that of the run


def of_the_day(cases):
    """One of several cases, another one every day: the same in all workers, for the parameters of a test."""
    day = _days[-1] if _days else _today()  # a process that a test starts imports its module, too
    return cases[day.toordinal() % len(cases)]


def _today():
    return datetime.now(timezone.utc).date()


def pytest_addoption(parser):
    group = parser.getgroup("slow tests in turn")
    group.addoption("--every-turn", action="store_true", help="run the slow tests of every day")
    group.addoption("--day", type=date.fromisoformat, help="run the slow tests of this day; today by UTC if not given")


def pytest_configure(config):
    config.addinivalue_line("markers", f"in_turn(day, of={DAYS}): is slow, and runs on one of so many days")
    config.addinivalue_line("markers", "every_day: of a slow module, and runs every day")
    if hasattr(config, "workerinput"):  # midnight may come before the last worker
        config.option.day = date.fromisoformat(config.workerinput["day"])
    elif config.option.day is None:
        config.option.day = _today()
    _days.append(config.option.day)


def pytest_unconfigure(config):
    _days.pop()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["day"] = node.config.option.day.isoformat()


def pytest_collection_modifyitems(config, items):
    today = config.option.day
    named = {Path(config.invocation_params.dir, words.split("::")[0]).resolve() for words in config.args}
    for item in items:
        mark = item.get_closest_marker("in_turn")
        if mark is None or item.get_closest_marker("every_day"):
            continue
        days = mark.kwargs.get("of", DAYS)
        if len(mark.args) != 1 or mark.args[0] not in range(days):
            raise pytest.UsageError(f"{item.nodeid}: in_turn{mark.args}, expected one day from 0 to {days - 1}")
        wait = (mark.args[0] - today.toordinal()) % days
        if wait and not config.option.every_turn and item.path.resolve() not in named:
            reason = f"{WAITS} {today + timedelta(wait)}; now: name its file, or --every-turn"
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter, config):
    """Says how many of them ran; a skipped one is counted by its reason."""
    reports = [one for kind in terminalreporter.stats.values() for one in kind if isinstance(one, pytest.TestReport)]
    reports = [one for one in reports if "in_turn" in one.keywords and "every_day" not in one.keywords]
    slow = {one.nodeid for one in reports}
    waiting = {one.nodeid for one in reports if one.skipped and WAITS in str(one.longrepr)}
    if slow:
        ran = f"in turn: {len(slow - waiting)} of {len(slow)} slow tests ran ({config.option.day})"
        terminalreporter.write_line(f"{ran}; all: pytest --every-turn")
