"""What the history promises: every number of the table equals its definition, one item and one step at a time."""

from itertools import pairwise
from math import isnan, log, nan

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from forget_callback.metrics.transitions import transitions
from forget_callback.runs.history import History
from forget_callback.runs.rows import ALL_METRICS, KEYS, OF_ALL_PROMPTS
from forget_callback.runs.series import OVER_TIME
from forget_callback.snapshots.answers import Answers
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
    found = {name: mean(kept) for name, kept in values.items()}
    return {**found, "ever_forgotten_chance": slow_ever_chance(c), "churn_chance": slow_churn_chance(c)}


def slow_ever_chance(c):
    """Of the items right at the baseline, as many lost now as gained: the share of these that were wrong once."""
    items = [[row[i] for row in c] for i in range(len(c[0])) if not isnan(c[0][i]) and not isnan(c[-1][i])]
    lost, gained = (sum((own[0], own[-1]) == ends for own in items) for ends in ((1, 0), (0, 1)))
    back = [own for own in items if own[0] == own[-1] == 1]
    wavered = sum(0 in own for own in back)
    drawn = len(back) + min(lost, gained)
    return (wavered + min(lost, gained)) / drawn if drawn else nan


def slow_churn_chance(c):
    moved = [(a, b) for a, b in zip(*c[-2:]) if not isnan(a) and not isnan(b)] if len(c) > 1 else []
    return 2 * min(moved.count((1, 0)), moved.count((0, 1))) / len(moved) if moved else nan


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
        expected = slow_over_time(joined[: step + 1])
        expected["macro_knowledge_lost"] = mean([history.select(name)[-1].value("knowledge_lost") for name in paths])
        assert pooled.over_time == pytest.approx(expected, abs=1e-12, nan_ok=True)
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
        history.append([bare(correct, step)], again=[bare(correct)] if step == 0 else ())
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


ENDS = ["knowledge_method", "verdict", "stage", "total_samples_seen"]


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


def waver(rng, n_items, n_looks, *, lost=0.0, gained=0.0, hover=0.3):
    """A model that knows half of the items, and answers a share of all anew at each look: right as often as not.

    Shares of the steadily known are lost, and of the steadily unknown gained, for good at one of the looks.
    """
    kind = rng.random(n_items)
    known, wavers = kind < (1 - hover) / 2, kind >= 1 - hover
    fate = rng.random(n_items)
    when = rng.integers(1, n_looks + 1, n_items)
    for step in range(n_looks + 1):
        steady = np.where(known, ~((fate < lost) & (step >= when)), (fate < gained) & (step >= when))
        yield bare(np.where(wavers, rng.random(n_items) < 0.5, steady).astype(float), step)


@pytest.mark.parametrize("hover, looks", [(0.05, 50), (0.3, 50), (0.3, 5)])
def test_without_a_lasting_loss_what_chance_brings_is_what_is_seen(hover, looks):
    """At 50 looks nothing was lost for good, and `ever_forgotten` is up to half of what was right."""
    history, rng = History(), np.random.default_rng(0)
    for snapshot in waver(rng, 3000, looks, hover=hover):
        history.append([snapshot])
    row = history.rows[-1]
    assert row.value("ever_forgotten") == pytest.approx(hover / 2 / 0.5, abs=0.06)
    for metric in ("ever_forgotten", "churn"):
        assert row.value(f"{metric}_chance") == pytest.approx(row.value(metric), abs=0.02)
        assert row.value(f"{metric}_chance") <= row.value(metric)


@pytest.mark.parametrize("gained", [0.0, 0.1])
def test_a_lasting_loss_stands_out_of_what_chance_brings_unless_as_much_is_gained(gained):
    history, rng = History(), np.random.default_rng(1)
    for snapshot in waver(rng, 3000, 50, lost=0.4, gained=gained):
        history.append([snapshot])
    seen, chance = (history.rows[-1].value(name) for name in ("ever_forgotten", "ever_forgotten_chance"))
    assert seen == pytest.approx(0.15 / 0.5 + 0.35 * 0.4 / 0.5, abs=0.04)
    # Gained items stand in for as many lost ones: 0.035 of the 0.14 of all items that were lost.
    assert chance == pytest.approx(0.15 / 0.36 if gained == 0 else (0.15 + 0.035) / 0.395, abs=0.04)
    assert chance < seen - 0.05


def test_what_flips_when_the_same_model_is_scored_again_is_a_share_of_each_group():
    history = History()
    baseline = bare([1, 1, 0, nan], category=["geo", "geo", "art", "art"])
    history.append([baseline], again=[bare([1, 0, 1, 1])])
    history.append([bare([1, 1, 0, 1], 1)])
    found = history.table.set_index(["step", "category"])["rescored_flips"]
    assert found.to_dict() == {(t, name): v for t in (0, 1) for name, v in {"": 2 / 3, "art": 1, "geo": 0.5}.items()}


def test_what_flips_is_not_known_of_a_probe_that_was_not_scored_again():
    """Nor of all items together, also where several were."""
    history, names = History(), ["p", "q", "r"]
    history.append([bare([1, 1], probe=name) for name in names], again=[bare([1, 0], probe=name) for name in "rq"])
    found = history.table.set_index("probe")["rescored_flips"]
    assert found[["q", "r"]].tolist() == [0.5, 0.5] and found[["p", "all"]].isna().all()


def in_two(n_items, step, *, lost, whole=True, probe="p"):
    """A model that knows all items, of four options; the first `lost` it knows no more, in either prompt."""
    wrong = np.arange(n_items) < lost
    further = Answers("second", ~wrong * 1.0, choice=np.where(wrong, 1, 0))
    return bare(
        ~wrong * 1.0, step, probe, choice=np.where(wrong, 1, 0), answer=np.zeros(n_items, int),
        n_choices=np.full(n_items, 4.0), further=(further,) if whole else (),
    )  # fmt: skip


def test_a_look_at_the_first_prompts_alone_has_the_raw_numbers_and_confirms_nothing():
    history = History()
    history.append([in_two(40, 0, lost=0)])
    (first,) = history.append([in_two(40, 1, lost=10, whole=False)])
    (both,) = history.append([in_two(40, 2, lost=10)])
    assert (first.confirmed, both.confirmed) == (False, True)
    assert first.value("forgetting") == both.value("forgetting") == 0.25
    assert all(isnan(first.value(metric)) for metric in OF_ALL_PROMPTS)
    assert both.value("knowledge_lost") == pytest.approx(0.25 * 4 / 3) and both.value("spurious_forgetting") == 0
    assert first.transitions.in_this_prompt and first.transitions.first_prompt_lost.mean > 0.2
    scores = history.lost_scores("p")
    assert np.isnan(scores[1]).all() and np.nanmean(scores[2]) == pytest.approx(0.25 * 4 / 3)
    assert np.nanmean(history.lost_scores("p", unconfirmed=True)[1]) == pytest.approx(0.25 * 4 / 3)


def test_the_last_look_can_be_given_more_prompts_and_then_all_is_as_if_it_had_had_them_at_once():
    path = [(0, 0), (1, 5), (2, 10), (3, 4)]
    straight, mended = History(), History()
    for step, lost in path:
        pair = [in_two(40, step, lost=lost, probe=name) for name in "pq"]
        straight.append(pair)
        if step:
            mended.append([one.without_variants() for one in pair])
            assert mended.arrow.num_rows == len(mended.rows) and not mended.last_rows[0].confirmed
            mended.replace_last(pair)
        else:
            mended.append(pair)
    pd.testing.assert_frame_equal(mended.table, straight.table)
    pd.testing.assert_frame_equal(mended.arrow.to_pandas(), straight.arrow.to_pandas())
    np.testing.assert_array_equal(mended.lost_scores("all"), straight.lost_scores("all"))
    with pytest.raises(ValueError, match=r"of the last step, 3; got steps \[2\]"):
        mended.replace_last([in_two(40, 2, lost=0)])


def test_a_preview_changes_nothing():
    history = History()
    history.append([in_two(40, 0, lost=0)])
    seen = history.preview([in_two(40, 1, lost=10)])
    assert len(history.rows) == 1 and history.last_step == 0 and len(history.lost_scores("p")) == 1
    history.append([in_two(40, 1, lost=10)])
    pd.testing.assert_frame_equal(seen.table, history.table)
    np.testing.assert_array_equal(seen.lost_scores("p"), history.lost_scores("p"))


def test_a_probe_counts_once_in_the_mean_over_probes_and_by_its_items_in_the_pool():
    history = History()
    for step, lost in ((0, 0), (1, 12)):
        history.append([in_two(40, step, lost=lost, probe="few"), in_two(360, step, lost=0, probe="many")])
    few, many, pooled = (history.select(name)[-1] for name in ("few", "many", "all"))
    assert pooled.value("macro_knowledge_lost") == pytest.approx(12 / 40 * 4 / 3 / 2)
    assert pooled.value("knowledge_lost") == pytest.approx(12 / 400 * 4 / 3)
    assert isnan(few.value("macro_knowledge_lost")) and isnan(many.value("macro_knowledge_lost"))
