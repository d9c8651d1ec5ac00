"""Slow tests run in turn: `@pytest.mark.in_turn(DAY)`, with DAY from 0 to DAYS - 1, on every DAYS-th day, by UTC.

Those of a file that is named on the command line run on any day, and all of them with --every-turn.
"""

from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest

DAYS = 3
WAITS = "in turn: next on"


def pytest_addoption(parser):
    group = parser.getgroup("slow tests in turn")
    group.addoption("--every-turn", action="store_true", help="run the slow tests of every day")
    group.addoption("--day", type=date.fromisoformat, help="run the slow tests of this day; today by UTC if not given")


def pytest_configure(config):
    config.addinivalue_line("markers", f"in_turn(day): is slow, and runs on one of {DAYS} days: see tests/in_turn.py")
    if hasattr(config, "workerinput"):  # midnight may come before the last worker
        config.option.day = date.fromisoformat(config.workerinput["day"])
    elif config.option.day is None:
        config.option.day = datetime.now(timezone.utc).date()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["day"] = node.config.option.day.isoformat()


def pytest_collection_modifyitems(config, items):
    today = config.option.day
    named = {Path(config.invocation_params.dir, words.split("::")[0]).resolve() for words in config.args}
    for item in items:
        mark = item.get_closest_marker("in_turn")
        if mark is None:
            continue
        if len(mark.args) != 1 or mark.args[0] not in range(DAYS):
            raise pytest.UsageError(f"{item.nodeid}: in_turn{mark.args}, expected one day from 0 to {DAYS - 1}")
        wait = (mark.args[0] - today.toordinal()) % DAYS
        if wait and not config.option.every_turn and item.path.resolve() not in named:
            reason = f"{WAITS} {today + timedelta(wait)}; now: name its file, or --every-turn"
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter, config):
    """Says how many of them ran; a skipped one is counted by its reason."""
    reports = [one for kind in terminalreporter.stats.values() for one in kind if isinstance(one, pytest.TestReport)]
    reports = [one for one in reports if "in_turn" in one.keywords]
    slow = {one.nodeid for one in reports}
    waiting = {one.nodeid for one in reports if one.skipped and WAITS in str(one.longrepr)}
    if slow:
        ran = f"in turn: {len(slow - waiting)} of {len(slow)} slow tests ran ({config.option.day})"
        terminalreporter.write_line(f"{ran}; all: pytest --every-turn")
