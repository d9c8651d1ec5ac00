"""What retention and time to first loss promise: the definition one item at a time, and statsmodels' Kaplan-Meier."""

from math import isnan, nan

import numpy as np
import pytest
from scipy.stats import norm
from statsmodels.duration.survfunc import SurvfuncRight
from statsmodels.stats.proportion import proportion_confint

from forget_callback import retention
from forget_callback.runs.history import History
from forget_callback.runs.retention import first_loss
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.snapshot import Snapshot


def path_of(rows, times=None, **columns):
    """A snapshot per row of `rows`, 8 samples apart unless told."""
    times = [8.0 * step for step in range(len(rows))] if times is None else times
    ids = [f"i{i}" for i in range(len(rows[0]))]
    return [
        Snapshot("p", "f", step, ids=ids, correct=row, samples_seen=times[step], **columns)
        for step, row in enumerate(rows)
    ]


def random_path(seed, n_items, n_steps):
    """Items come and go, some are unscored for a while and some to the end."""
    rng = np.random.default_rng(seed)
    rows = rng.choice([1.0, 0.0, nan], (n_steps, n_items), p=[0.8, 0.1, 0.1])
    for i, left in enumerate(rng.integers(1, 2 * n_steps, n_items)):
        rows[left:, i] = nan
    return path_of(rows, times=np.cumsum(rng.integers(1, 50, n_steps)) - 1.0)


def slow_first_loss(path):
    """By item id: samples at the first wrong answer or the last scored one, and whether it was wrong."""
    found = {}
    for i, name in enumerate(path[0].ids):
        if path[0].correct[i] != 1:
            continue
        rows = [(s.samples_seen, s.correct[list(s.ids).index(name)]) for s in path]
        wrong = [time for time, correct in rows if correct == 0]
        found[name] = (wrong[0], 1) if wrong else (max(time for time, correct in rows if not isnan(correct)), 0)
    return found


@pytest.mark.parametrize("seed, n_items, n_steps", [(0, 60, 8), (1, 7, 3), (2, 200, 2), (3, 1, 5), (4, 30, 1)])
def test_time_to_first_loss_matches_the_definition(seed, n_items, n_steps):
    path = random_path(seed, n_items, n_steps)
    shuffled = [path[0], *(s.select(np.random.default_rng(seed).permutation(n_items)) for s in path[1:])]
    found = first_loss(shuffled)
    assert dict(zip(found.ids, zip(found.samples_seen, found.lost))) == slow_first_loss(path)


@pytest.mark.parametrize("seed", range(5))
def test_retention_is_the_kaplan_meier_estimate(seed):
    path = random_path(seed, 150, 9)
    time, lost = np.array(list(slow_first_loss(path).values())).T
    reference = SurvfuncRight(time, lost)
    found = retention(path)
    assert found.samples_seen.tolist() == [s.samples_seen for s in path]
    assert found.at_risk.tolist() == [(time >= s.samples_seen).sum() for s in path]
    at = np.searchsorted(found.samples_seen, reference.surv_times)
    np.testing.assert_allclose(found.survival[at], reference.surv_prob, atol=1e-12)
    assert found.lost[at].tolist() == reference.n_events.tolist()
    assert found.at_risk[at].tolist() == reference.n_risk.tolist()
    assert found.lost.sum() == lost.sum()
    s, z = reference.surv_prob, norm.ppf(0.975)
    inside = s < 1
    reach = z * (reference.surv_prob_se / (s * np.log(s)))[inside]
    np.testing.assert_allclose(found.low[at][inside], s[inside] ** np.exp(-reach), atol=1e-12)
    np.testing.assert_allclose(found.high[at][inside], s[inside] ** np.exp(reach), atol=1e-12)


def test_the_band_is_the_one_that_statsmodels_inverts_for_quantiles():
    path = random_path(11, 300, 12)
    reference = SurvfuncRight(*np.array(list(slow_first_loss(path).values())).T)
    found = retention(path)
    event = found.lost > 0
    times, low, high = found.samples_seen[event], found.low[event], found.high[event]
    for p in (0.2, 0.35, 0.5):
        (kept,) = np.nonzero((low <= 1 - p) & (1 - p <= high))
        # Theirs ends where the next step begins.
        assert (times[kept[0]], times[kept[-1] + 1]) == reference.quantile_ci(p, method="cloglog")


def test_without_unscored_items_it_is_one_minus_ever_forgotten():
    rng = np.random.default_rng(0)
    path = path_of(rng.choice([1.0, 0.0], (6, 80), p=[0.8, 0.2]))
    known = path[0].correct == 1
    expected = [1 - np.any([s.correct[known] == 0 for s in path[: t + 1]], axis=0).mean() for t in range(6)]
    np.testing.assert_allclose(retention(path).survival, expected, atol=1e-12)


def test_a_curve_by_hand():
    """Five items: lost at 8 (one, which comes back), censored after 8 (one), lost at 16 and at 24, kept."""
    rows = [[1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0], [1, nan, 0, 1, 1, 1], [1, nan, 1, 0, 1, 0]]
    found = retention(path_of(rows))
    assert found.survival == pytest.approx([1, 4 / 5, 4 / 5 * 2 / 3, 4 / 5 * 2 / 3 * 1 / 2])
    assert found.at_risk.tolist() == [5, 5, 3, 2] and found.lost.tolist() == [0, 1, 1, 1]
    assert ((found.low <= found.survival) & (found.survival <= found.high)).all()


def asked_twice(first, second, *, step, whole=True):
    """A snapshot right or wrong in the first prompt and, None where an item has none, in the second."""
    asked = [value is not None for value in second]
    further = Answers("second", [nan if value is None else value for value in second], asked=asked)
    ids = [f"i{i}" for i in range(len(first))]
    return Snapshot("p", "f", step, ids, first, samples_seen=8.0 * step, further=(further,) if whole else ())


def test_an_item_is_lost_when_every_prompt_of_it_is_wrong():
    """Of six: lost in both at once; in one after the other; in the first only; has one prompt; knew one; is kept."""
    path = [
        asked_twice([1, 1, 1, 1, 1, 1], [1, 1, 1, None, 0, 1], step=0),
        asked_twice([0, 0, 0, 1, 0, 1], [0, 1, 1, None, 0, 1], step=1),
        asked_twice([0, 0, 0, 0, 0, 1], [0, 0, 1, None, 0, 1], step=2),
    ]
    found = retention(path)
    assert found.variants == 2 and found.at_risk.tolist() == [5, 5, 4] and found.lost.tolist() == [0, 1, 2]
    assert found.survival == pytest.approx([1, 4 / 5, 2 / 5])
    in_one = retention([snapshot.without_variants() for snapshot in path])
    assert in_one.variants == 1 and in_one.lost.tolist() == [0, 4, 1]


def test_a_look_at_the_first_prompts_alone_shows_who_is_kept_and_not_who_is_lost():
    """As far as anybody knows, the item that is wrong in one prompt is lost when both are."""
    path = [
        asked_twice([1, 1, 1], [1, 1, None], step=0),
        asked_twice([0, 1, 0], [0, 1, None], step=1, whole=False),
        asked_twice([0, 1, 0], [0, 0, None], step=2),
    ]
    found = first_loss(path)
    assert dict(zip(found.ids, zip(found.samples_seen, found.lost))) == {
        "i0": (16.0, True), "i1": (16.0, False), "i2": (8.0, True)
    }  # fmt: skip
    assert retention([path[0], path[1]]).variants == 1  # nobody asked again in the second prompt


def test_at_one_and_at_zero_the_interval_is_wilsons():
    n = 40
    whole = retention(path_of([[1] * n] * 3))
    assert whole.survival.tolist() == [1, 1, 1] == whole.high.tolist() and whole.low[0] == 1
    assert whole.low[1:] == pytest.approx([proportion_confint(n, n, method="wilson")[0]] * 2)
    gone = retention(path_of([[1] * n, [0] * n, [1] * n]))
    assert gone.survival.tolist() == [1, 0, 0] and gone.low.tolist() == [1, 0, 0]
    assert gone.high[1:] == pytest.approx([proportion_confint(0, n, method="wilson")[1]] * 2)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_more_confidence_is_a_wider_band(confidence):
    path = random_path(5, 100, 6)
    narrow, wide = retention(path, confidence=confidence), retention(path, confidence=confidence + 0.005)
    assert (wide.low[1:] < narrow.low[1:]).all() and (narrow.high[1:] <= wide.high[1:]).all()


@pytest.mark.parametrize("row", [[0, 0], [nan], [0, nan]])
def test_with_nothing_right_at_the_baseline_there_is_no_curve(row):
    found = retention(path_of([row, [1] * len(row)]))
    assert np.isnan([found.survival, found.low, found.high]).all()
    assert found.at_risk.tolist() == found.lost.tolist() == [0, 0] and len(first_loss(path_of([row])).ids) == 0


def test_where_nobody_is_left_to_watch_it_is_unknown():
    found = retention(path_of([[1, 1], [0, 1], [nan, nan]]))
    assert found.survival[:2].tolist() == [1, 0.5] and isnan(found.survival[2]) and isnan(found.high[2])


def test_the_baseline_needs_no_count():
    assert retention(path_of([[1], [1]], times=[nan, 8.0])).samples_seen.tolist() == [0, 8]


@pytest.mark.parametrize("times", [[0.0, nan], [0.0, 8.0, 8.0], [0.0, 8.0, 4.0], [8.0, 4.0]])
def test_samples_seen_must_be_known_and_grow(times):
    with pytest.raises(ValueError, match="samples_seen must be known and grow from snapshot to snapshot, got"):
        retention(path_of([[1]] * len(times), times=times))


def test_no_snapshot_and_another_probe_are_refused():
    with pytest.raises(ValueError, match="one or more, the baseline first"):
        retention([])
    first = path_of([[1], [0]])
    with pytest.raises(ValueError, match="different probes"):
        retention([first[0], Snapshot("q", "g", 1, ids=["i0"], correct=[0], samples_seen=8.0)])


def test_format_loss_is_the_unread_part_of_forgetting():
    outcome = ["unparsed", "wrong", "unparsed", "correct", "truncated", None]
    now = Snapshot("p", "f", 1, ids=list("abcdef"), correct=[0, 0, 0, 1, 0, nan], outcome=outcome)
    history = History()
    history.append([Snapshot("p", "f", 0, ids=list("abcdef"), correct=[1, 1, 0, 1, 1, 1])])
    (row,) = history.append([now])
    assert row.value("format_loss") == 1 / 5 and row.value("forgetting") == 3 / 5 and row.value("unparsed") == 2 / 5
