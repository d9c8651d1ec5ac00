"""What the history promises: every number of the table equals its definition, one item and one step at a time."""

from itertools import pairwise
from math import isnan, log, nan

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from forget_callback.metrics.transitions import transitions
from forget_callback.runs.history import ALL_METRICS, KEYS, History
from forget_callback.runs.series import OVER_TIME
from forget_callback.snapshots.snapshot import Snapshot

OUTCOMES = {1.0: ["correct"], 0.0: ["wrong", "unparsed", "truncated"]}


def bare(correct, step=0, probe="p", **columns):
    ids = [f"i{i}" for i in range(len(correct))]
    return Snapshot(probe, f"fingerprint of {probe}", step, ids=ids, correct=correct, **columns)


def random_series(rng, probe, n_items, n_steps):
    """A probe's snapshots on one random path; half of the items have three or five options."""
    k = rng.choice([0, 0, 3, 5], n_items)
    category = rng.choice(["", "geo", "art"], n_items)
    found = []
    for step in range(n_steps):
        correct = rng.choice([1.0, 0.0, nan], n_items, p=[0.5, 0.35, 0.15])
        found.append(
            bare(
                correct,
                10 * step,
                probe,
                outcome=[None if isnan(c) else rng.choice(OUTCOMES[c]) for c in correct],
                margin=np.where(rng.random(n_items) < 0.2, nan, rng.normal(size=n_items)),
                scores=[rng.normal(size=size) * 2 for size in k],
                n_choices=np.where(k > 0, k, np.inf),
                category=category,
                samples_seen=80.0 * step,
            )
        )
    return found


def mean(values):
    return np.mean(values) if values else nan


def slow_over_time(path):
    """Each metric of `OVER_TIME` from all snapshots so far, item by item, as its name says."""
    first, now, n = path[0], path[-1], len(path[0])
    c = [snapshot.correct.tolist() for snapshot in path]
    values = {name: [] for name in OVER_TIME}
    for i in range(n):
        lost = c[0][i] == 1 and any(row[i] == 0 for row in c[1:])
        watched = not all(isnan(row[i]) for row in c[1:] or c)
        if c[0][i] == 1 and watched:
            values["ever_forgotten"].append(lost)
        if lost and not isnan(c[-1][i]):
            values["recovered"].append(c[-1][i])
        if not isnan(c[0][i]) and watched:
            values["forgetting_events"].append(sum(a[i] == 1 and b[i] == 0 for a, b in pairwise(c)))
        if len(c) > 1 and not isnan(c[-2][i]) and not isnan(c[-1][i]):
            values["churn"].append(c[-2][i] != c[-1][i])
        if not isnan(c[-1][i]):
            values["unparsed"].append(now.outcome[i] == "unparsed")
            if not isnan(c[0][i]):
                values["format_loss"].append(c[0][i] == 1 and now.outcome[i] == "unparsed")
            if not isnan(now.margin[i]):
                values["margin"].append(now.margin[i])
            if not isnan(c[0][i]) and len(now.scores[i]):
                values["drift"].append(entropy(softmax(now.scores[i]), softmax(first.scores[i])))
    return {name: mean(kept) for name, kept in values.items()}


def rows_where(path, keep):
    return [snapshot.select(np.flatnonzero(keep)) for snapshot in path]


@pytest.mark.parametrize("seed", range(3))
def test_every_row_of_two_probes_matches_the_definitions(seed):
    rng = np.random.default_rng(seed)
    paths = {"x": random_series(rng, "x", 60, 6), "y": random_series(rng, "y", 25, 6)}
    history = History()
    for step, snapshots in enumerate(zip(*paths.values())):
        history.append([snapshots[0], snapshots[1].select(rng.permutation(25))])
        groups = {(name, ""): path for name, path in paths.items()}
        for name, path in paths.items():
            for category in ("art", "geo"):
                groups[name, category] = rows_where(path, path[0].category == category)
        for (probe, category), path in groups.items():
            row = history.select(probe, category)[-1]
            assert row.step == 10 * step and row.samples_seen == 80 * step
            assert row.over_time == pytest.approx(slow_over_time(path[: step + 1]), abs=1e-12, nan_ok=True)
            expected = transitions(path[0].correct, path[step].correct, n_choices=path[0].n_choices)
            found = row.transitions
            assert (found.n, found.n10, found.n01, found.n00) == (expected.n, expected.n10, expected.n01, expected.n00)
        joined = [
            bare(
                np.concatenate([s.correct for s in pair]),
                **{name: [v for s in pair for v in getattr(s, name)] for name in ("outcome", "margin", "scores")},
            )
            for pair in zip(*paths.values())
        ]
        pooled = history.select("all")[-1]
        assert pooled.over_time == pytest.approx(slow_over_time(joined[: step + 1]), abs=1e-12, nan_ok=True)
        assert pooled.transitions.n + pooled.transitions.n_unscored == 85
    assert not history.select("all", "geo")


def test_one_probe_has_no_pool_and_its_categories_come_in_order():
    history = History()
    rows = history.append([bare([1, 0, 1], category=["b", "", "a"])])
    assert [(row.probe, row.category) for row in rows] == [("p", ""), ("p", "a"), ("p", "b")]


def test_a_path_by_hand():
    """Item 0 is lost and comes back, item 1 is lost for good, item 2 goes unscored, item 3 was never known."""
    history = History()
    path = [[1, 1, 1, 0], [0, 1, nan, 0], [1, 0, nan, 1], [0, 0, 1, 0]]
    for step, correct in enumerate(path):
        history.append([bare(correct, step)])
    over_time = [row.over_time for row in history.rows]
    assert [o["ever_forgotten"] for o in over_time] == pytest.approx(
        [0, 1 / 2, 2 / 2, 2 / 3]
    )  # item 2 is not seen again until then
    assert [o["recovered"] for o in over_time] == pytest.approx([nan, 0, 0.5, 0], nan_ok=True)
    assert [o["forgetting_events"] for o in over_time] == pytest.approx([0, 1 / 3, 2 / 3, 4 / 4])
    assert [o["churn"] for o in over_time] == pytest.approx([nan, 1 / 3, 1.0, 2 / 3], nan_ok=True)


@pytest.mark.parametrize("correct", [[nan], [nan, nan]])
def test_nothing_scored_is_nan(correct):
    history = History()
    for step in (0, 1):
        history.append([bare(correct, step)])
    assert all(isnan(value) for value in history.rows[-1].over_time.values())
    assert history.rows[-1].transitions.n == 0 and isnan(history.rows[-1].value("forgetting"))


@pytest.mark.parametrize("correct", [[1], [0], [1, 1, 1]])
def test_nothing_changed_is_zero(correct):
    history = History()
    for step in (0, 1):
        history.append([bare(correct, step, scores=[[0.0, 1.0]] * len(correct))])
    row = history.rows[-1]
    assert row.value("churn") == row.value("forgetting_events") == row.value("drift") == row.value("forgetting") == 0.0
    assert row.value("ever_forgotten") == pytest.approx(0.0 if correct[0] else nan, nan_ok=True)


def test_drift_is_the_divergence_of_now_from_the_baseline():
    history = History()
    history.append([bare([1], 0, scores=[[log(0.5), log(0.5)]])])
    history.append([bare([1], 1, scores=[[log(0.9) + 3, log(0.1) + 3]])])  # only differences of scores matter
    expected = 0.9 * log(0.9 / 0.5) + 0.1 * log(0.1 / 0.5)
    assert history.rows[-1].value("drift") == pytest.approx(expected, abs=1e-12)


ENDS = ["knowledge_method", "stage", "total_samples_seen"]


def test_the_table_has_a_row_per_step_probe_and_category():
    history = History()
    assert history.table.empty and list(history.table.columns) == [*KEYS, *ALL_METRICS, *ENDS]
    for step in (0, 5):
        history.append([bare([1, 0], step, "x", category=["geo", ""]), bare([1], step, "y", tokens_seen=7)])
    table = history.table
    assert list(zip(table["step"], table["probe"], table["category"])) == [
        (step, probe, category)
        for step in (0, 5)
        for probe, category in [("x", ""), ("x", "geo"), ("y", ""), ("all", "")]
    ]
    assert list(table.columns) == [*KEYS, *ALL_METRICS, *ENDS]
    for row, (_, numbers) in zip(history.rows, table.iterrows()):
        assert numbers["accuracy_after"] == row.value("accuracy_after") == row.transitions.accuracy_after
        assert (numbers["forgetting_low"], numbers["forgetting_high"]) == row.transitions.forgetting_interval
        assert pd.isna(numbers["drift"]) and isnan(row.value("drift"))


@pytest.mark.parametrize("steps", [(5,), (4,), (6, 7), ()])
def test_steps_must_be_one_and_grow(steps):
    history = History()
    history.append([bare([1], 5)])
    with pytest.raises(ValueError, match=r"of one step after the last, 5; got steps"):
        history.append([bare([1], step, f"p{step}") for step in steps])


@pytest.mark.parametrize(
    "bad",
    [
        Snapshot("y", "another", 1, ids=["i0"], correct=[0]),
        Snapshot("y", "fingerprint of y", 1, ids=["other"], correct=[0]),
        bare([0], 1, "y", choice=[0]),  # wrong with the right option
    ],
    ids=["fingerprint", "items", "choice"],
)
def test_a_step_that_does_not_fit_leaves_no_trace(bad):
    """The step may come again, put right, and counts once."""
    baseline = [bare([1], 0, "x"), bare([1], 0, "y", choice=[0], answer=[0], n_choices=[4])]
    good = [bare([0], 1, "x"), bare([0], 1, "y", choice=[1])]
    clean, disturbed = History(), History()
    clean.append(baseline)
    disturbed.append(baseline)
    with pytest.raises(ValueError, match=r"do not|contradict"):
        disturbed.append([good[0], bad])
    clean.append(good)
    disturbed.append(good)
    pd.testing.assert_frame_equal(disturbed.table, clean.table)
