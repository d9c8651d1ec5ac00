"""Forgetting against the amount of data: the better of two curves, its band, and a forecast to twice the data seen.

Takes from a history the estimates of `knowledge_lost` and the items' scores behind them. Where the data do not support
a curve, none is fitted and `reason` says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from forget_callback.runs.history import History

Floats = NDArray[np.float64]

MIN_CHECKPOINTS = 6
REACH = 2.0  # a forecast goes no further than this many times the data seen
_FALL_CONFIDENCE = 0.95
_MOST_MISSED = 1 / 3  # of the checkpoints may lie off a curve that is drawn, by more than _NEAR
_NEAR = 0.01
_GRID = 200


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
        fitted: Whether a curve was fitted.
        reason: Why not, and what to do; "" if it was fitted.
        family: "power", a D^b, or "exponential", a (1 - exp(-D/c)): the one with the smaller residual sum.
        parameters: "a" and "b", or "a" and "c", with D in samples.
        confidence: Of the band.
        draws: Bootstrap parameters by family, "a" and the shape with D in units of the last checkpoint's,
            ``(n_draws, 2)``.
    """

    probe: str
    category: str
    n_items: int
    samples_seen: Floats
    knowledge_lost: Floats
    low: Floats
    high: Floats
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
        """The curve at these numbers of samples since the baseline, with its band: the envelope of both families.

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
        shape = self.parameters["b" if self.family == "power" else "c"]
        value = self.parameters["a"] * _basis(self.family, at, shape)
        tail = (1 - self.confidence) / 2
        ends = [
            np.quantile(a[:, None] * _basis(family, at / self.samples_seen[-1], shapes[:, None]), [tail, 1 - tail], 0)
            for family, (a, shapes) in ((name, draws.T) for name, draws in self.draws.items())
        ]
        return Forecast(at, value, np.min([end[0] for end in ends], 0), np.max([end[1] for end in ends], 0))


def fit_data_scale(
    history: History,
    *,
    probe: str | None = None,
    category: str = "",
    confidence: float = 0.90,
    n_draws: int = 1000,
    seed: int | np.random.Generator = 0,
) -> DataScaleFit:
    """Fits a D^b (Kalajdzievski 2024, arXiv 2401.05605) and a (1 - exp(-D/c)) to knowledge lost over samples seen.

    Least squares on the unclipped estimates after the baseline, where both curves are 0. The band is a bootstrap over
    items, each with its scores at all checkpoints, because an item's errors are correlated over time. It covers the
    sampling of items, not the variation between training runs.

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
    best = {family: _least_squares(family, u, points.knowledge_lost) for family in ("power", "exponential")}
    family = min(best, key=lambda name: best[name].residual)
    a, shape, _ = best[family]
    reason = _why_neither(points, a * _basis(family, u, shape))
    if reason:
        return replace(points, reason=reason)
    parameters = {"a": a / last**shape, "b": shape} if family == "power" else {"a": a, "c": shape * last}
    return replace(
        points,
        fitted=True,
        family=family,
        parameters=parameters,
        confidence=confidence,
        draws={name: _on_grid(name, u, points.knowledge_lost + errors).draws for name in best},
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
    kept = ~np.isnan(lost)
    kept[0] = False  # both curves start at 0, so the baseline carries no information
    scores = history.lost_scores(name, category)[kept].astype(float).T
    scores = scores[~np.isnan(scores).all(axis=1)]
    points = DataScaleFit(name, category, len(scores), seen[kept], lost[kept], ends[kept, 0], ends[kept, 1])
    return replace(points, reason=_too_little(points, scores)), scores


def _too_little(points: DataScaleFit, scores: Floats) -> str:
    d = points.samples_seen
    if np.isnan(d).any() or (np.diff(d, prepend=0.0) < 0).any():
        return "samples_seen is not known at every checkpoint, or falls; pass samples_seen= to observe"
    n = len(np.unique(d[d > 0]))
    if n < MIN_CHECKPOINTS:
        return f"a curve needs {MIN_CHECKPOINTS} checkpoints after the baseline, there are {n}; measure more often"
    if len(scores) < 2:
        return f"a band needs 2 items or more, there is {len(scores)}; hundreds are better"
    if not (scores[~np.isnan(scores)] != 0).any():
        return "no item was lost or changed its guess at any checkpoint: there is nothing to fit"
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
    """No fit where forgetting falls by more than sampling error explains, because both curves only rise.

    The test statistic is the largest fall between two checkpoints in units of its bootstrap error, compared with the
    same maximum over the bootstrap errors.
    """
    if len(errors) < 2:
        return "too few items were scored at every checkpoint for a band; score the same items each time"
    worst, where = -np.inf, (0, 0)
    noise = np.full(len(errors), -np.inf)
    lost = points.knowledge_lost
    for later in range(1, len(lost)):
        fall = errors[:, :later] - errors[:, later, None]
        spread = fall.std(axis=0)
        sure = spread < 1e-9  # the same items lost at both checkpoints, or all: no error
        drop = lost[:later] - lost[later]
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.where(sure, np.where(drop > 1e-6, np.inf, 0.0), drop / spread)
            noise = np.maximum(noise, np.where(sure, 0.0, fall / spread).max(axis=1))
        if size.max() > worst:
            worst, where = float(size.max()), (int(size.argmax()), later)
    if worst <= np.quantile(noise, _FALL_CONFIDENCE):
        return ""
    (high, low), seen = where, points.samples_seen
    return (
        f"knowledge_lost fell from {lost[high]:.3f} at {seen[high]:g} samples to {lost[low]:.3f} at {seen[low]:g}, "
        f"more than the sampling error of {points.n_items} items: the model recovered, which a curve that only rises "
        "cannot describe; read the points"
    )


def _why_neither(points: DataScaleFit, curve: Floats) -> str:
    """No fit where the points follow neither curve, such as an S-shape.

    Compared with each point's own interval, because a run varies by more than the sampling of items explains.
    """
    missed = int(((curve < points.low - _NEAR) | (curve > points.high + _NEAR)).sum())
    if missed <= _MOST_MISSED * len(curve):
        return ""
    return (
        f"knowledge_lost follows neither curve: the better one misses the 95% interval of {missed} of {len(curve)} "
        "checkpoints; read the points"
    )


class _Fit(NamedTuple):
    a: float
    shape: float
    residual: float


class _Grid(NamedTuple):
    shapes: Floats
    best: NDArray[np.int64]
    draws: Floats


def _basis(family: str, d: ArrayLike, shape: ArrayLike) -> Floats:
    """The curve for a = 1; `shape` is b, or c in units of `d`."""
    x, s = np.asarray(d, float), np.asarray(shape, float)
    curve: Floats = x**s if family == "power" else -np.expm1(-x / s)
    return curve


def _on_grid(family: str, u: Floats, y: Floats) -> _Grid:
    """Least squares over a grid of shapes, each with its best `a`, for every row of `y`, ``(n_draws, n)``."""
    first = float(u[u > 0].min())
    shapes = np.geomspace(0.02, 5.0, _GRID) if family == "power" else np.geomspace(first / 5, 20.0, _GRID)
    curves = _basis(family, u, shapes[:, None])
    squares = (curves**2).sum(axis=1)
    along = y @ curves.T
    best = (along**2 / squares).argmax(axis=1)  # largest explained sum of squares
    a = along[np.arange(len(y)), best] / squares[best]
    return _Grid(shapes, best, np.column_stack([a, shapes[best]]))


def _least_squares(family: str, u: Floats, y: Floats) -> _Fit:
    """The best curve: `a` is linear, so only the shape is searched, starting from the best point of a grid."""
    grid = _on_grid(family, u, y[None])
    at = int(grid.best[0])
    bounds = np.log(grid.shapes[[max(at - 1, 0), min(at + 1, _GRID - 1)]])

    def fit(log_shape: float) -> _Fit:
        curve = _basis(family, u, np.exp(log_shape))
        a = float(curve @ y / (curve @ curve))
        return _Fit(a, float(np.exp(log_shape)), float(((y - a * curve) ** 2).sum()))

    found = minimize_scalar(lambda s: fit(s).residual, bounds=tuple(bounds), method="bounded", options={"xatol": 1e-10})
    return min(fit(float(found.x)), fit(float(np.log(grid.shapes[at]))), key=lambda one: one.residual)
