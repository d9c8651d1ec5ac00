"""What the data-scale fit promises: known curves come back, the band holds, and it says when it draws nothing."""

from math import isnan, log, nan

import numpy as np
import pytest
from scipy.optimize import curve_fit

from forget_callback import History, Snapshot, fit_data_scale
from forget_callback.snapshots.answers import Answers

EIGHT = np.arange(1, 9) * 800.0
DOUBLING = 50.0 * 2.0 ** np.arange(8)


def power(a, b):
    return lambda d: a * np.asarray(d) ** b


def exponential(a, c):
    return lambda d: a * (1 - np.exp(-np.asarray(d) / c))


def sigmoid(a, m, s):
    """0 at D = 0, as nothing is lost before training."""
    return lambda d: a / (1 + np.exp(-(np.asarray(d, float) - m) / s)) - a / (1 + np.exp(m / s))


def log_sigmoid(a, m, h):
    return lambda d: a * np.asarray(d, float) ** h / (np.asarray(d, float) ** h + m**h)


def from_then_on(onset, curve):
    return lambda d: curve(np.maximum(np.asarray(d, float) - onset, 0.0))


def history_of(correct, samples_seen, probe="p", **columns):
    """A history from right and wrong, ``(n_snapshots, n_items)``; columns are lists with an entry a snapshot."""
    history = History()
    ids = [f"i{i}" for i in range(len(correct[0]))]
    for step, (row, seen) in enumerate(zip(correct, samples_seen)):
        own = {name: values[step] for name, values in columns.items()}
        history.append([Snapshot(probe, "f", step, ids=ids, correct=row, samples_seen=seen, **own)])
    return history


def simulated(rng, curve, checkpoints, n_items, *, known=0.8, k=4, rho=0.5):
    """Items drawn at random, lost for good when the curve of what is lost reaches their turn; the rest is guessed."""
    turn = rng.random(n_items)
    answer, guess = rng.integers(k, size=(2, n_items))
    correct, choices = [], []
    for lost in [0.0, *curve(checkpoints)]:
        guess = np.where(rng.random(n_items) < rho, guess, rng.integers(k, size=n_items))
        choices.append(np.where((turn >= lost) & (turn < known), answer, guess))
        correct.append((choices[-1] == answer).astype(float))
    n = len(correct)
    given = {"choice": choices, "answer": [answer] * n, "n_choices": [np.full(n_items, float(k))] * n}
    return history_of(correct, [0.0, *checkpoints], **given)


def exact(curve, checkpoints, n_items=2000):
    """Open-ended items, all known, lost in order: the estimates lie on the curve to 1 / n_items."""
    turn = (np.arange(n_items) + 0.5) / n_items
    return history_of([(turn >= lost).astype(float) for lost in [0.0, *curve(checkpoints)]], [0.0, *checkpoints])


@pytest.mark.parametrize("checkpoints", [EIGHT, DOUBLING], ids=["even", "doubling"])
@pytest.mark.parametrize(
    "family, curve, parameters",
    [
        ("power", power(0.002, 0.5), {"a": 0.002, "b": 0.5}),
        ("power", power(0.00005, 0.9), {"a": 0.00005, "b": 0.9}),
        ("exponential", exponential(0.3, 2000.0), {"a": 0.3, "c": 2000.0}),
        ("exponential", exponential(0.4, 5000.0), {"a": 0.4, "c": 5000.0}),
        ("sigmoid", sigmoid(0.4, 2500.0, 500.0), {"a": 0.4, "m": 2500.0, "s": 500.0}),
        ("log-sigmoid", log_sigmoid(0.4, 1800.0, 3.0), {"a": 0.4, "m": 1800.0, "h": 3.0}),
    ],
)
def test_a_curve_without_noise_comes_back(family, curve, parameters, checkpoints):
    fit = fit_data_scale(exact(curve, checkpoints), n_draws=100)
    assert fit.fitted and fit.reason == "" and fit.family == family
    assert fit.parameters == pytest.approx(parameters, rel=0.06)
    assert fit.limit == 2 * checkpoints[-1]
    ahead = fit.forecast([0, checkpoints[2], fit.limit])
    assert ahead.knowledge_lost == pytest.approx(curve(ahead.samples_seen), abs=0.004)
    assert (ahead.low <= ahead.knowledge_lost).all() and (ahead.knowledge_lost <= ahead.high).all()
    assert ahead.low[0] == ahead.high[0] == 0


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_least_squares_fit_of_scipy(seed):
    rng = np.random.default_rng(seed)
    fit = fit_data_scale(simulated(rng, exponential(0.3, 4000.0), EIGHT, 300), n_draws=50)
    d, y = fit.samples_seen / 1000, fit.knowledge_lost
    models = {
        "power": (lambda d, a, b: a * d**b, [(0.1, 0.5)]),
        "exponential": (lambda d, a, c: a * (1 - np.exp(-d / c)), [(0.3, 4.0)]),
        "sigmoid": (lambda d, a, m, s: sigmoid(a, m, s)(d), [(0.3, m, 1.0) for m in (0.8, 2.0, 3.5)]),
        "log-sigmoid": (lambda d, a, m, h: a / (1 + (m / d) ** h), [(0.3, 2.0, h) for h in (1.5, 4.0)]),
    }
    curves, aicc = {}, {}
    for family, (model, starts) in models.items():
        low, high = ([0, 0.4, 0.16], [9, 9.6, 6.4]) if "sigmoid" in family else ([0, 0.02], [9, 999])
        high = [9, 9.6, 20.0] if family == "log-sigmoid" else high
        low = [0, 0.4, 1.0] if family == "log-sigmoid" else low
        found = [curve_fit(model, d, y, p0=start, bounds=(low, high), xtol=1e-12, ftol=1e-12)[0] for start in starts]
        curves[family] = min((model(d, *best) for best in found), key=lambda curve: ((y - curve) ** 2).sum())
        n, k = len(d), len(starts[0]) + 1
        residual = ((y - curves[family]) ** 2).sum()
        aicc[family] = n * log(residual / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    assert fit.family == min(aicc, key=aicc.__getitem__)
    found = fit.forecast(EIGHT).knowledge_lost
    assert found == pytest.approx(curves[fit.family], abs=1e-4)
    assert ((y - found) ** 2).sum() == pytest.approx(((y - curves[fit.family]) ** 2).sum(), rel=1e-4)


@pytest.mark.parametrize("curve", [power(0.0018, 0.5), exponential(0.25, 3000.0)], ids=["power", "exponential"])
def test_the_band_covers_the_truth_at_twice_the_data(curve):
    """90% bands on 50 simulated probes: fewer than 41 hits would come once in 40 times at exactly .90."""
    rng, hits, refused = np.random.default_rng(7), 0, 0
    for seed in range(50):
        fit = fit_data_scale(simulated(rng, curve, EIGHT, 300), n_draws=200, seed=seed)
        if not fit.fitted:
            refused += 1
            continue
        ahead = fit.forecast(fit.limit)
        hits += ahead.low[0] <= curve(fit.limit) <= ahead.high[0]
    assert refused <= 5 and hits >= 0.82 * (50 - refused)


SHAPES = {
    "S, flat since half of the data": (sigmoid(0.4, 2500.0, 400.0), 12),
    "S, flat since two thirds": (sigmoid(0.4, 3000.0, 400.0), 12),
    "S, not yet flat": (sigmoid(0.4, 3200.0, 800.0), 12),
    "S, midpoint at the end": (sigmoid(0.4, 6400.0, 1000.0), 0),
    "onset at .4": (from_then_on(2560.0, exponential(0.4, 1500.0)), 0),
    "onset at .6": (from_then_on(3840.0, exponential(0.4, 1500.0)), 0),
    "onset at .75, straight on": (from_then_on(4800.0, power(0.00008, 1.0)), 0),
    "onset after the end": (from_then_on(6400.0, exponential(0.4, 1500.0)), 0),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_s_and_a_late_onset_are_covered_or_refused(shape):
    """20 runs of 400 items: at 90%, fewer than 15 would come once in 90 times."""
    curve, fitted_at_least = SHAPES[shape]
    rng, right, fitted = np.random.default_rng(1), 0, 0
    for seed in range(20):
        fit = fit_data_scale(simulated(rng, curve, EIGHT, 400), n_draws=200, seed=seed)
        fitted += fit.fitted
        ahead = fit.forecast(fit.limit) if fit.fitted else None
        right += ahead is None or bool(ahead.low[0] <= curve(fit.limit) <= ahead.high[0])
        if ahead:
            assert max(ahead.knowledge_lost[0], ahead.high[0]) <= fit.known_before
    assert right >= 15 and fitted >= fitted_at_least


def test_no_curve_goes_above_what_was_known():
    history = simulated(np.random.default_rng(3), power(0.00009, 1.0), EIGHT, 400, known=0.6)
    fit = fit_data_scale(history, n_draws=100)
    ahead = fit.forecast(np.linspace(0, fit.limit, 50))
    assert fit.known_before == pytest.approx(0.6, abs=0.05)
    assert ahead.high.max() == fit.known_before and ahead.knowledge_lost.max() <= fit.known_before
    assert min(ahead.low.min(), ahead.knowledge_lost.min()) >= 0


def test_the_errors_of_the_points_are_those_of_whole_items():
    """The spread of the bootstrap curve at a checkpoint is near the standard error of the estimate there."""
    history = simulated(np.random.default_rng(0), power(0.002, 0.5), EIGHT, 1000)
    fit = fit_data_scale(history, confidence=0.95)
    band = fit.forecast(EIGHT[-1])
    width, own = band.high[0] - band.low[0], fit.high[-1] - fit.low[-1]
    assert 0.6 * own < width < 1.3 * own


def test_points_and_their_intervals_are_the_historys_own():
    history = simulated(np.random.default_rng(1), power(0.002, 0.5), EIGHT, 200)
    fit, rows = fit_data_scale(history, n_draws=50), history.rows[1:]
    assert fit.samples_seen.tolist() == EIGHT.tolist() and (fit.probe, fit.category, fit.n_items) == ("p", "", 200)
    assert fit.knowledge_lost.tolist() == [row.transitions.knowledge_lost for row in rows]
    assert list(zip(fit.low, fit.high)) == [row.transitions.knowledge_lost_interval for row in rows]


def test_a_seed_or_generator_decides_and_nothing_else():
    history = simulated(np.random.default_rng(2), power(0.002, 0.5), EIGHT, 150)
    before = np.random.get_state()[1].tolist()
    bands = [
        fit_data_scale(history, n_draws=50, seed=seed).forecast(fit_limit).high[0]
        for fit_limit, seed in zip([1e4] * 3, [3, np.random.default_rng(3), 4])
    ]
    assert bands[0] == bands[1] != bands[2] and np.random.get_state()[1].tolist() == before


def test_one_probe_of_several_one_category_and_the_pool():
    rng, history = np.random.default_rng(3), History()
    turn, category = rng.random(300), ["a", "b", ""] * 100
    for step, (seen, lost) in enumerate(zip([0, *EIGHT], [0, *power(0.002, 0.5)(EIGHT)])):
        correct = (turn >= lost).astype(float)
        ids = [f"i{i}" for i in range(300)]
        x = Snapshot("x", "f", step, ids=ids, correct=correct, category=category, samples_seen=seen)
        y = Snapshot("y", "g", step, ids=ids[:50], correct=correct[:50], samples_seen=seen)
        history.append([x, y])
    fits = [fit_data_scale(history, probe=probe, n_draws=50) for probe in (None, "x", "y")]
    assert [(fit.probe, fit.n_items) for fit in fits] == [("all", 350), ("x", 300), ("y", 50)]
    part = fit_data_scale(history, probe="x", category="b", n_draws=50)
    assert (part.n_items, part.category) == (100, "b")
    expected = [row.transitions.knowledge_lost for row in history.select("x", "b")[1:]]
    assert part.knowledge_lost.tolist() == expected
    with pytest.raises(ValueError, match=r"no probe 'z' with category ''; it has probes \['x', 'y', 'all'\]"):
        fit_data_scale(history, probe="z")


def test_samples_count_from_the_baseline():
    late = [(turn_row, seen) for turn_row, seen in zip(range(9), [1000.0, *(EIGHT + 1000.0)])]
    curve, turn = power(0.002, 0.5), (np.arange(500) + 0.5) / 500
    lost = [0.0, *curve(EIGHT)]
    history = history_of([(turn >= lost[i]).astype(float) for i, _ in late], [seen for _, seen in late])
    fit = fit_data_scale(history, n_draws=50)
    assert fit.samples_seen.tolist() == EIGHT.tolist() and fit.parameters["b"] == pytest.approx(0.5, rel=0.05)


def test_a_baseline_that_nobody_counted_is_at_zero():
    turn = (np.arange(500) + 0.5) / 500
    rows = [(turn >= lost).astype(float) for lost in [0.0, *power(0.002, 0.5)(EIGHT)]]
    assert fit_data_scale(history_of(rows, [nan, *EIGHT]), n_draws=50).fitted


# Refusals: the points are there, a curve is not, and the reason says why.


def refused(history, reason, **options):
    fit = fit_data_scale(history, n_draws=200, **options)
    assert not fit.fitted and reason in fit.reason
    assert fit.family == "" and not fit.parameters and isnan(fit.limit)
    with pytest.raises(ValueError, match="there is no curve to forecast from"):
        fit.forecast(1.0)
    return fit


@pytest.mark.parametrize("n", range(6))
def test_fewer_than_six_checkpoints_are_points_and_intervals(n):
    fit = refused(exact(power(0.002, 0.5), EIGHT[:n]), f"a curve needs 6 checkpoints after the baseline, there are {n}")
    assert len(fit.knowledge_lost) == len(fit.low) == n and (fit.low <= fit.high).all()
    assert fit_data_scale(exact(power(0.002, 0.5), EIGHT[:6]), n_draws=50).fitted


def test_looks_at_the_first_prompts_alone_are_no_points_of_the_curve():
    """As with variants="ends": what one prompt shows is no part of a curve of what all show."""
    rng = np.random.default_rng(0)
    history, ids = History(), [f"i{i}" for i in range(200)]
    for step in range(9):
        right = (rng.random(200) > 0.05 * step).astype(float)
        further = (Answers("v", right),) if step in (0, 8) else ()
        history.append([Snapshot("p", "f", step, ids=ids, correct=right, samples_seen=8.0 * step, further=further)])
    fit = refused(history, "a curve needs 6 checkpoints after the baseline, there are 1")
    assert fit.samples_seen.tolist() == [64.0] and "ask all of them each time" in fit.reason


def test_checkpoints_at_one_place_count_once():
    turn = (np.arange(100) + 0.5) / 100
    rows = [(turn >= lost).astype(float) for lost in np.linspace(0, 0.5, 9)]
    refused(history_of(rows, [0.0, *([800.0] * 4), *([1600.0] * 4)]), "there are 2")
    assert fit_data_scale(history_of(rows, [0.0, 8, 8, 16, 24, 32, 40, 48, 48]), n_draws=50).fitted


def test_forgetting_that_falls_gets_no_curve():
    turn = (np.arange(400) + 0.5) / 400
    lost = [0, 0.05, 0.1, 0.2, 0.25, 0.2, 0.1, 0.05]
    rows = [(turn >= share).astype(float) for share in lost]
    fit = refused(
        history_of(rows, [0.0, *EIGHT[:7]]), "knowledge_lost fell from 0.250 at 3200 samples to 0.050 at 5600"
    )
    assert fit.knowledge_lost.tolist() == pytest.approx(lost[1:], abs=1e-12)


def test_a_fall_without_any_sampling_error_is_a_fall():
    rows = [[1.0] * 30] + [[0.0] * 30] * 4 + [[1.0] * 30] * 4
    refused(history_of(rows, [0.0, *EIGHT]), "knowledge_lost fell from 1.000")


def test_a_staircase_is_none_of_the_curves():
    turn = (np.arange(400) + 0.5) / 400
    rows = [(turn >= lost).astype(float) for lost in [0, 0.05, 0.2, 0.21, 0.22, 0.23, 0.4, 0.42, 0.6]]
    fit = refused(history_of(rows, [0.0, *EIGHT]), "knowledge_lost follows no curve: ")
    assert fit.reason.endswith("read the points")


def test_residuals_with_a_trend_refuse_the_curve():
    """Every point is within its interval of a line, and the rest swings slowly to and fro."""
    checkpoints = np.arange(1, 25) * 250.0
    wave = exact(lambda d: 0.00006 * d + 0.02 * np.sin(d / 800), checkpoints, n_items=600)
    refused(wave, "what the best one leaves over has a trend")


@pytest.mark.parametrize("onset", [2600.0, 4000.0, 6300.0])
def test_a_loss_that_shows_late_gets_no_curve(onset):
    fit = refused(exact(from_then_on(onset, exponential(0.4, 1500.0)), EIGHT, 400), "nothing was lost beyond the sampl")
    assert "up to 2400 of 6400 samples" in fit.reason


def test_where_nothing_was_known_there_is_nothing_to_lose():
    rng, rows = np.random.default_rng(0), []
    answer = np.zeros(200, int)
    choices = [rng.integers(1, 4, 200) for _ in range(9)]
    rows = [np.zeros(200) for _ in range(9)]
    given = {"choice": choices, "answer": [answer] * 9, "n_choices": [np.full(200, 4.0)] * 9}
    refused(history_of(rows, [0.0, *EIGHT], **given), "-0.333 of the items were known at the baseline")


def test_noise_around_a_plateau_is_seldom_taken_for_a_fall():
    rng = np.random.default_rng(5)
    falls = 0
    for seed in range(40):
        history = simulated(rng, exponential(0.1, 300.0), EIGHT, 200, rho=0.0)
        falls += not fit_data_scale(history, n_draws=200, seed=seed).fitted
    assert falls <= 7  # 5% of 40 are 2; more than 7 would come once in 800 times


@pytest.mark.parametrize("seen", [[nan] * 9, [0.0, *EIGHT[:7], nan], [0.0, *EIGHT[:7], 1.0]])
def test_samples_seen_must_be_known_and_grow(seen):
    turn = (np.arange(50) + 0.5) / 50
    rows = [(turn >= lost).astype(float) for lost in np.linspace(0, 0.5, 9)]
    refused(history_of(rows, seen), "samples_seen is not known at every checkpoint, or falls")


@pytest.mark.parametrize("row", [[1.0] * 20, [0.0] * 20])
def test_where_nothing_happened_there_is_nothing_to_fit(row):
    fit = refused(history_of([row] * 9, [0.0, *EIGHT]), "there is nothing to fit")
    assert fit.knowledge_lost.tolist() == [0] * 8


@pytest.mark.parametrize("row, n", [([1.0], 1), ([1.0, nan], 1)])
def test_one_item_has_no_band(row, n):
    later = [0.0, *row[1:]]
    fit = refused(history_of([row, *[later] * 8], [0.0, *EIGHT]), "a band needs 2 items or more, there is 1")
    assert fit.n_items == n


def test_nothing_scored_is_no_checkpoint():
    fit = refused(history_of([[nan] * 5] * 9, [0.0, *EIGHT]), "there are 0")
    assert fit.n_items == 0 and len(fit.samples_seen) == 0


def test_checkpoints_and_items_that_were_not_scored_are_left_out():
    turn = (np.arange(300) + 0.5) / 300
    rows = [(turn >= lost).astype(float) for lost in [0.0, *power(0.002, 0.5)(EIGHT)]]
    rows[3][:] = nan
    for row in rows:
        row[-20:] = nan
    rng = np.random.default_rng(0)
    for row in rows[1:]:
        row[rng.random(300) < 0.1] = nan
    fit = fit_data_scale(history_of(rows, [0.0, *EIGHT]), n_draws=100)
    assert fit.fitted and fit.n_items == 280 and len(fit.samples_seen) == 7
    assert fit.forecast(fit.limit).high[0] > fit.forecast(fit.limit).low[0]


def test_all_items_lost_at_once_is_a_step():
    fit = fit_data_scale(history_of([[1.0] * 30] + [[0.0] * 30] * 8, [0.0, *EIGHT]), n_draws=50)
    assert fit.fitted and fit.forecast(EIGHT[-1]).knowledge_lost[0] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("asked", [-1.0, 12_801.0, nan, [0.0, 1e9], [[1.0]]])
def test_a_forecast_stays_within_twice_the_data(asked):
    fit = fit_data_scale(exact(power(0.002, 0.5), EIGHT), n_draws=50)
    with pytest.raises(ValueError, match="must lie between 0 and 12800, twice the data seen"):
        fit.forecast(asked)
    assert len(fit.forecast(12_800.0).low) == 1


@pytest.mark.parametrize("options", [{"confidence": 0.0}, {"confidence": 1.0}, {"n_draws": 1}])
def test_what_cannot_be_asked(options):
    with pytest.raises(ValueError, match="confidence must lie in"):
        fit_data_scale(exact(power(0.002, 0.5), EIGHT), **options)


def test_an_empty_history_has_no_probe():
    with pytest.raises(ValueError, match="has no probe"):
        fit_data_scale(History())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["choice", "open", "mixed", "two", "not stored"])
def test_the_items_scores_add_up_to_the_estimate(kind, seed):
    """All kinds of items, with answers that could not be read and items that were not scored."""
    rng = np.random.default_rng(seed)
    n, options = 120, {"choice": [3, 4, 7], "open": [np.inf], "mixed": [2, 4, np.inf], "two": [2], "not stored": [4]}
    k = rng.choice(np.array(options[kind], float), n)
    closed = np.isfinite(k)
    answer = np.where(closed, 0, -1)
    category = rng.choice(["a", "b"], n)
    history = History()
    for step in range(4):
        choice = np.where(closed, rng.integers(np.where(closed, k, 2)), -1)
        correct = np.where(closed, choice == answer, rng.random(n) < 0.5).astype(float)
        lost_format = closed & (correct == 0) & (rng.random(n) < 0.2)
        choice = np.where(lost_format | (kind == "not stored"), -1, choice)
        correct[rng.random(n) < 0.1] = nan
        ids = [f"i{i}" for i in range(n)]
        given = {"choice": choice, "n_choices": k, "answer": answer, "category": category}
        (whole, *_) = history.append([Snapshot("p", "f", step, ids=ids, correct=correct, **given)])
        scores = history.lost_scores("p")[-1]
        assert (~np.isnan(scores)).sum() == whole.transitions.knowledge_n
        assert np.nanmean(scores.astype(float)) == pytest.approx(whole.transitions.knowledge_lost, abs=1e-7)
    assert history.lost_scores("p").shape == (4, n) and history.lost_scores("p").dtype == np.float32
    assert history.lost_scores("p", "a").shape == (4, (category == "a").sum())
