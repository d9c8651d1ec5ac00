"""One run has one number and one sentence: console, tables, gates, rules, alerts, trackers, page."""

import html
import io
import json
import re

import pytest
from rich.console import Console

from forget_callback import ForgetMonitor, StopRule
from forget_callback.report.terminal import changes_table, snapshot_line
from forget_callback.runs.formatting import percent
from forget_callback.runs.gate import Gate
from forget_callback.runs.headline import headline
from tests.helpers import Recorder
from tests.recorded import make_probe, make_snapshots, page_data


def observed(directory, lose, *, variants=True, kinds=("choice",)):
    """A run of four looks with a rule on it: (monitor, tracker, the last observation)."""
    probe, tracker = make_probe("facts", 600, kinds=kinds, variants=variants), Recorder()
    rule = StopRule("knowledge_lost", 0.01, patience=3, action="warn")  # fires at the last look; alerts once
    monitor = ForgetMonitor(probe, directory, tracker, rule)
    for step, taken in zip((0, 10, 20, 30), make_snapshots(probe, lose=lose)):
        seen = monitor.observe(step, taken, samples_seen=16.0 * step)
    monitor.finish()
    return monitor, tracker, seen


def printed(*tables):
    console = Console(file=io.StringIO(), width=400)
    console.print(*tables)
    return console.file.getvalue()


@pytest.mark.parametrize("lose", [0.4, 0.0])
@pytest.mark.parametrize("variants", [True, False])
def test_every_place_says_the_same(tmp_path, run_cli, lose, variants):
    _, tracker, seen = observed(tmp_path / "run", lose, variants=variants)
    whole = next(row for row in seen.rows if not row.category)
    said, number = headline(whole), percent(whole.value("knowledge_lost"))
    assert (said.verdict == "lost") == (lose > 0)
    line = snapshot_line(seen.rows, 1.0, first=False)
    table = printed(changes_table(seen.rows, title=""))
    gate = Gate.parse("knowledge_lost>0.01").judge(seen.rows).message
    status, out, err = run_cli("compare", tmp_path / "run", tmp_path / "run", "--format", "markdown")
    assert status == 0, err
    page = tmp_path / "run" / "forget" / "report.html"
    verdict = re.search(r'<p class="verdict.*?</p>', page.read_text(encoding="utf-8"), re.DOTALL)[0]
    places = {"console": line, "table": table, "gate": gate, "markdown": out, "page": html.unescape(verdict)}
    if lose:
        ((_, alert),) = tracker.alerts
        places |= {"rule": seen.decisions[0].reason, "alert": alert}
    for place, text in places.items():
        assert said.sentence in text, place
        assert number in text or place == "console", place  # which has room for the counts alone
    _, printed_json, _ = run_cli("compare", tmp_path / "run", tmp_path / "run", "--format", "json")
    result = json.loads(printed_json)
    assert result["format_version"] == 1
    for numbers in (result["probes"]["facts"], result["all"]):
        assert numbers["knowledge_lost"] == said.number and numbers["verdict"] == said.verdict
        assert numbers["k"] == 4 and numbers["metric"] is None
        assert numbers["knowledge_lost_range_low"] == said.range.low
    assert tracker.rows[-1]["forget/facts/knowledge_lost"] == said.number
    own = page_data(page)["runs"][0]["probes"][0]
    assert own["headline"]["sentence"] == said.sentence
    assert own["series"][""]["knowledge_lost"][-1] == said.number


def test_an_alert_of_one_category_names_no_other(tmp_path):
    probe, tracker = make_probe("facts", 600, kinds=("choice",)), Recorder()
    rules = [StopRule("knowledge_lost", 0.01, category=name, patience=1) for name in (None, "topic-1")]
    monitor = ForgetMonitor(probe, tmp_path / "run", tracker, rules)
    for step, taken in zip((0, 10), make_snapshots(probe, steps=(0, 10), lose=0.6)):
        monitor.observe(step, taken, samples_seen=16.0 * step)
    monitor.finish()
    (_, whole), (_, one) = tracker.alerts
    assert ", most in topic-" in whole
    assert one.startswith("facts/topic-1/knowledge_lost ") and "most in" not in one
