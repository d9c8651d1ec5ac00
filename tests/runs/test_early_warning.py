"""What followed in the study: counts against the table itself, and where a warning is said."""

import csv
from pathlib import Path

import numpy as np
import pytest

import forget_callback
from forget_callback import Probe, Snapshot, Store, Text
from forget_callback.report.data import report_data
from forget_callback.runs.early_warning import NUMBERS, early_warning, followed, forecast, text_worse
from forget_callback.runs.history import History

TABLE = Path(forget_callback.__file__).parent / "runs" / "early_warnings.tsv"
N = 60


@pytest.fixture(scope="module")
def table():
    with TABLE.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


@pytest.mark.parametrize("number", NUMBERS)
def test_followed_counts_the_runs_of_the_table(table, number):
    values = sorted(float(run[number]) for run in table)
    for value in (values[0] - 1, values[len(values) // 2], values[-1], values[-1] + 1):
        high = [run for run in table if float(run[number]) >= value]
        low = [run for run in table if float(run[number]) < value]
        found = followed(number, value)
        assert (found.runs, found.runs_below) == (len(high), len(low))
        assert (found.lost, found.lost_below) == tuple(sum(bool(run["lost"]) for run in own) for own in (high, low))


def test_a_forecast_is_between_the_least_and_the_most_that_a_rise_became(table):
    rises = [run for run in table if float(run["text_worse_low"]) > 0]
    times = [float(run["text_worse_last"]) / float(run["text_worse"]) for run in rises]
    assert forecast(0.02) == pytest.approx((0.02 * min(times), 0.02 * max(times)))
    most = max(float(run["text_worse"]) for run in rises)
    assert forecast(most) is not None and forecast(1.001 * most) is None, "what no run had is not forecast from"


def documents(step, rise, *, ability="text", fingerprint="text"):
    rng = np.random.default_rng(0)
    before = rng.normal(1.0, 0.2, N)
    bits = before + (rise + rng.normal(0, 0.004, N) if step else 0)
    kinds = {"kind": ["text"] * N, "ability": [ability] * N}
    return Snapshot("text", fingerprint, step, [f"d{i}" for i in range(N)], np.ones(N), bits_per_byte=bits, **kinds)


def row(step, rise, **kinds):
    history = History()
    for at in (0, step):
        history.append([documents(at, rise, **kinds)])
    return history.select("text")[-1]


def test_a_rise_is_a_share_of_the_bits_before():
    change, interval = text_worse(row(10, 0.05))
    before = documents(0, 0).bits_per_byte.mean()
    assert change == pytest.approx((documents(10, 0.05).bits_per_byte.mean() - before) / before)
    assert interval.low < change < interval.high


def test_texts_that_got_worse_in_the_first_eighth_are_a_warning():
    (said,) = early_warning(row(50, 0.05), planned_steps=400)
    assert (said.key, said.probe) == ("early_warning", "text")
    change = text_worse(row(50, 0.05))[0]
    assert f"within the first 50 of 400 steps: {followed('text_worse', change)}" in said.text
    assert "of the study of SmolLM2-135M" in said.text


@pytest.mark.parametrize(
    ("step", "rise", "planned", "kinds"),
    [
        (51, 0.05, 400, {}),
        (50, 0.05, None, {}),
        (50, 0.0, 400, {}),
        (50, -0.05, 400, {}),
        (50, 0.05, 400, {"ability": "training"}),
    ],
    ids=["later", "length not known", "noise", "better", "training data"],
)
def test_nothing_is_said_where_the_study_says_nothing(step, rise, planned, kinds):
    assert early_warning(row(step, rise, **kinds), planned_steps=planned) == ()


@pytest.mark.parametrize(("planned", "said"), [(400, True), (100, False)])
def test_the_page_has_it_among_its_warnings(tmp_path, planned, said):
    probe, store = Probe("text", [Text(f"d{i}", f"document {i}") for i in range(N)]), Store(tmp_path)
    store.begin([probe])
    store.set_run(status="training", planned_steps=planned, steps=None)
    for step in (0, 50):
        store.write(documents(step, 0.05, fingerprint=probe.fingerprint))
    (run,) = report_data([tmp_path])["runs"]
    keys = [one["key"] for one in run["probes"][0]["advice"]]
    assert ("early_warning" in keys) == said
