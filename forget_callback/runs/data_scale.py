"""Forgetting against the amount of data: the best of four curves, its band, and a forecast to twice the data seen.

Takes from a history the estimates of `knowledge_lost` and the items' scores behind them. Where the data do not support
a curve, none is fitted and `reason` says why. A model that recovers after its last checkpoint is not foreseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forget_callback.runs.growth_curves import FAMILIES, Family, Fit, least_squares, on_grid
from forget_callback.runs.history import History

Floats = NDArray[np.float64]

MIN_CHECKPOINTS = 6
REACH = 2.0  # a forecast goes no further than this many times the data seen
_SURE = 0.95  # confidence of the tests that refuse a curve
_MOST_MISSED = 1 / 3  # of the checkpoints may lie off a curve that is drawn, by more than _NEAR
_NEAR = 0.01
_EARLY = 0.4  # of the data seen, by when a loss must show


@dataclass(frozen=True, eq=False)
class Forecast:
    """The curve and its band, ``(n_points,)`` each."""

    samples_seen: Floats
    knowledge_lost: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, eq=False)
class DataScaleFit:
    """Knowledge lost as a curve over samples seen, or the points alone and the reason why there is no curve.

    Attributes:
        n_items: Items behind the points.
        samples_seen: Training samples since the baseline at each checkpoint, ``(n_checkpoints,)``.
        knowledge_lost: Unclipped estimates there, ``(n_checkpoints,)``.
        low, high: Their 95% intervals.
        known_before: Share known at the baseline: no curve or band goes above it.
        fitted: Whether a curve was fitted.
        reason: Why not, and what to do; "" if it was fitted.
        family: "power", a D^b; "exponential", a (1 - exp(-D/c)); "sigmoid", a (F((D - m)/s) - F(-m/s)) with the
            logistic function F; or "log-sigmoid", a F(h log(D/m)), which flattens more slowly. The one with the
            smallest AICc.
        parameters: "a" and these shapes by name, with D in samples.
        confidence: Of the band.
        draws: Bootstrap parameters of the families that the points do not contradict, "a" and the shape with D in
            units of the last checkpoint's, ``(n_draws, n_parameters)``.
    """

    probe: str
    category: str
    n_items: int
    samples_seen: Floats
    knowledge_lost: Floats
    low: Floats
    high: Floats
    known_before: float
    fitted: bool = False
    reason: str = ""
    family: str = ""
    parameters: Mapping[str, float] = field(default_factory=dict)
    confidence: float = float("nan")
    draws: Mapping[str, Floats] = field(default_factory=dict, repr=False)

    @property
    def limit(self) -> float:
        """Largest number of samples to forecast for: twice that of the last checkpoint; NaN without a curve."""
        return REACH * float(self.samples_seen[-1]) if self.fitted else float("nan")

    def forecast(self, samples_seen: ArrayLike) -> Forecast:
        """The curve at these numbers of samples since the baseline, with its band; both within [0, `known_before`].

        The band is the envelope of the families in `draws`.

        Raises:
            ValueError: If no curve was fitted, or a number lies outside [0, `limit`].
        """
        if not self.fitted:
            raise ValueError(f"there is no curve to forecast from: {self.reason}")
        at = np.atleast_1d(np.asarray(samples_seen, float))
        if at.ndim != 1 or not ((at >= 0) & (at <= self.limit)).all():
            raise ValueError(
                f"samples_seen must lie between 0 and {self.limit:g}, twice the data seen, got {samples_seen!r}; "
                "beyond that the coverage of the band is unknown"
            )
        a, *shapes = self.parameters.values()
        value = a * FAMILIES[self.family].curve(at, np.array([shapes]))[0]
        tail = (1 - self.confidence) / 2
        u = at / self.samples_seen[-1]
        drawn = [draws[:, :1] * FAMILIES[family].curve(u, draws[:, 1:]) for family, draws in self.draws.items()]
        ends = np.array([np.quantile(curves, [tail, 1 - tail], axis=0) for curves in drawn])
        low, high = ends[:, 0].min(axis=0), ends[:, 1].max(axis=0)
        return Forecast(at, *(np.clip(line, 0.0, self.known_before) for line in (value, low, high)))


def fit_data_scale(
    history: History,
    *,
    probe: str | None = None,
    category: str = "",
    confidence: float = 0.90,
    n_draws: int = 1000,
    seed: int | np.random.Generator = 0,
) -> DataScaleFit:
    """Fits a power law, an exponential and two sigmoids to knowledge lost over samples seen.

    Least squares on the unclipped estimates after the baseline, where all curves are 0 (the power law: Kalajdzievski
    2024, arXiv 2401.05605). The band is a bootstrap over items, each with its scores at all checkpoints, because an
    item's errors are correlated over time. It covers the sampling of items, not the variation between training runs.

    Args:
        history: With `samples_seen` at every snapshot.
        probe: Its name; None is the only probe, or the pool "all" of several.
        category: Category within the probe; "" is the whole probe.
        confidence: Of the band.
        n_draws: Bootstrap samples.
        seed: A seed or generator of the bootstrap.

    Raises:
        ValueError: If the history has no such probe or category, or `confidence` or `n_draws` is out of range.
    """
    if not 0 < confidence < 1 or n_draws < 2:
        raise ValueError(f"confidence must lie in (0, 1) and n_draws be 2 or more, got {confidence} and {n_draws}")
    points, scores = _points(history, probe, category)
    if points.reason:
        return points
    errors = _bootstrap(scores, n_draws, np.random.default_rng(seed))
    reason = _why_no_curve(points, errors)
    if reason:
        return replace(points, reason=reason)
    last = float(points.samples_seen[-1])
    u = points.samples_seen / last
    fits = {name: least_squares(family, u, points.knowledge_lost) for name, family in FAMILIES.items()}
    best = min(fits, key=lambda name: fits[name].aicc)
    trending = {name for name, fit in fits.items() if _trends(FAMILIES[name], u, points, fit, errors)}
    reason = _why_none(points, fits[best].curve, trends=best in trending)
    if reason:
        return replace(points, reason=reason)
    kept = {name: FAMILIES[name] for name in fits if name not in trending}
    return replace(
        points,
        fitted=True,
        family=best,
        parameters=FAMILIES[best].in_samples(fits[best].parameters, last),
        confidence=confidence,
        draws={name: on_grid(family, u, points.knowledge_lost + errors) for name, family in kept.items()},
    )


def _points(history: History, probe: str | None, category: str) -> tuple[DataScaleFit, Floats]:
    """The checkpoints after the baseline, with the reason if they are too few, and the scores behind them."""
    names = history.probes
    name = probe or ("all" if "all" in names else names[0] if names else "")
    rows = history.select(name, category)
    if not rows:
        raise ValueError(f"the history has no probe {name!r} with category {category!r}; it has probes {list(names)}")
    start = 0.0 if rows[0].step == 0 and np.isnan(rows[0].samples_seen) else rows[0].samples_seen
    seen = np.array([row.samples_seen for row in rows]) - start
    lost = np.array([row.transitions.knowledge_lost for row in rows])
    ends = np.array([row.transitions.interval("knowledge_lost") for row in rows])
    # With variants="ends" the others were asked in the first prompt alone.
    kept = ~np.isnan(lost) & np.array([row.confirmed for row in rows])
    kept[0] = False  # all curves start at 0, so the baseline carries no information
    scores = history.lost_scores(name, category)[kept].astype(float).T
    scores = scores[~np.isnan(scores).all(axis=1)]
    known = rows[0].transitions.known_before
    points = DataScaleFit(name, category, len(scores), seen[kept], lost[kept], ends[kept, 0], ends[kept, 1], known)
    if rows[0].transitions.ability == "text":
        return replace(points, reason="texts have no right and wrong, so nothing known can be lost"), scores
    return replace(points, reason=_too_little(points, scores)), scores


def _too_little(points: DataScaleFit, scores: Floats) -> str:
    d = points.samples_seen
    if np.isnan(d).any() or (np.diff(d, prepend=0.0) < 0).any():
        return "samples_seen is not known at every checkpoint, or falls; pass samples_seen= to observe"
    n = len(np.unique(d[d > 0]))
    if n < MIN_CHECKPOINTS:
        return (
            f"a curve needs {MIN_CHECKPOINTS} checkpoints after the baseline, there are {n}; measure more often, and "
            "where items have several prompts ask all of them each time (variants='all')"
        )
    if len(scores) < 2:
        return f"a band needs 2 items or more, there is {len(scores)}; hundreds are better"
    if not (scores[~np.isnan(scores)] != 0).any():
        return "no item was lost or changed its guess at any checkpoint: there is nothing to fit"
    if not points.known_before > 0:
        return f"{points.known_before:.3f} of the items were known at the baseline: there is nothing to lose"
    return ""


def _bootstrap(scores: Floats, n_draws: int, rng: np.random.Generator) -> Floats:
    """Errors of the mean scores when items are drawn with replacement as whole rows, ``(n_draws, n_checkpoints)``.

    `scores` are ``(n_items, n_checkpoints)``, NaN where an item was not scored.
    """
    n, scored = len(scores), ~np.isnan(scores)
    filled = np.where(scored, scores, 0.0)
    means, chunk = [], max(1, 2_000_000 // n)
    for begin in range(0, n_draws, chunk):
        size = min(chunk, n_draws - begin)
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(float)
        with np.errstate(invalid="ignore"):  # no scored item drawn
            means.append(times @ filled / (times @ scored))
    errors: Floats = np.concatenate(means) - filled.sum(axis=0) / scored.sum(axis=0)
    return errors[~np.isnan(errors).any(axis=1)]


def _why_no_curve(points: DataScaleFit, errors: Floats) -> str:
    """No fit where the loss is not seen early enough to tell its course, or where it falls: all curves only rise."""
    if len(errors) < 2:
        return "too few items were scored at every checkpoint for a band; score the same items each time"
    lost, seen = points.knowledge_lost, points.samples_seen
    early = max(int(np.searchsorted(seen, _EARLY * seen[-1], side="right")) - 1, 0)
    if lost[early] <= np.quantile(errors[:, early], _SURE):
        return (
            f"nothing was lost beyond the sampling error of {points.n_items} items up to {seen[early]:g} of "
            f"{seen[-1]:g} samples, and what shows later is too late to tell how it goes on; train on, or add items"
        )
    earlier, later = np.triu_indices(len(lost), 1)
    fall, noise = _standardized(lost[earlier] - lost[later], errors[:, earlier] - errors[:, later])
    worst = int(fall.argmax())
    if fall[worst] <= noise:
        return ""
    high, low = earlier[worst], later[worst]
    return (
        f"knowledge_lost fell from {lost[high]:.3f} at {seen[high]:g} samples to {lost[low]:.3f} at {seen[low]:g}, "
        f"more than the sampling error of {points.n_items} items: the model recovered, which a curve that only rises "
        "cannot describe; read the points"
    )


def _standardized(values: Floats, errors: Floats) -> tuple[Floats, float]:
    """The values in units of their bootstrap errors, and what the largest of them exceeds in 5% of cases by chance.

    `values` are ``(n,)``, `errors` ``(n_draws, n)``.
    """
    spread = errors.std(axis=0)
    sure = spread < 1e-9  # the same items lost at both checkpoints, or all: no error
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.where(sure, np.where(values > 1e-6, np.inf, 0.0), values / spread)
        noise = np.where(sure, 0.0, errors / spread).max(axis=1)
    return size, float(np.quantile(noise, _SURE))


def _why_none(points: DataScaleFit, curve: Floats, *, trends: bool) -> str:
    """No fit where the points do not follow the best curve.

    The intervals are each point's own, because a run varies by more than the sampling of items explains.
    """
    missed = int(((curve < points.low - _NEAR) | (curve > points.high + _NEAR)).sum())
    if missed > _MOST_MISSED * len(curve):
        return (
            f"knowledge_lost follows no curve: the best one misses the 95% interval of {missed} of {len(curve)} "
            "checkpoints; read the points"
        )
    if trends:
        return (
            "knowledge_lost follows no curve: what the best one leaves over has a trend, so it would be wrong beyond "
            "the last checkpoint; read the points"
        )
    return ""


def _trends(family: Family, u: Floats, points: DataScaleFit, fit: Fit, errors: Floats) -> bool:
    """Whether what the curve leaves over goes the same way at neighbouring checkpoints more than sampling error does.

    The statistic is the sum of products of neighbouring residuals, compared with the same after fits to the curve plus
    bootstrap errors, which are correlated over time themselves.
    """
    left = points.knowledge_lost - fit.curve
    if np.abs(left).max() <= _NEAR:
        return False
    drawn = fit.curve + errors
    refits = on_grid(family, u, drawn)
    noise = drawn - refits[:, :1] * family.curve(u, refits[:, 1:])
    return bool((left[1:] * left[:-1]).sum() > np.quantile((noise[:, 1:] * noise[:, :-1]).sum(axis=1), _SURE))
