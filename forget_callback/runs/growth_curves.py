"""Curves that only rise, from 0 at D = 0: a power law, an exponential and two sigmoids, and their least squares.

Each has a linear factor "a" and one or two shapes. Knows nothing of histories or items: takes D in units of its largest
value and the points.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize
from scipy.special import expit

Floats = NDArray[np.float64]


def _every_pair(one: Floats, other: Floats) -> Floats:
    return np.stack(np.meshgrid(one, other), axis=-1).reshape(-1, 2)


class Family(NamedTuple):
    """A curve with a linear factor "a" and shapes.

    Attributes:
        curve: For a = 1, from D ``(n,)`` and shapes ``(m, n_shapes)`` to ``(m, n)``.
        grid: Shapes to start from, ``(m, n_shapes)``, given the first checkpoint, with D in units of the last.
        names: Of the shapes.
    """

    curve: Callable[[Floats, Floats], Floats]
    grid: Callable[[float], Floats]
    names: tuple[str, ...]

    def in_samples(self, parameters: Floats, last: float) -> dict[str, float]:
        """The parameters by name, from D in units of `last` to samples."""
        a, *shapes = map(float, parameters)
        if self.names == ("b",):  # the only shape without a unit
            return {"a": a / last ** shapes[0], "b": shapes[0]}
        unit = {"c": last, "m": last, "s": last}
        return {"a": a, **{name: shape * unit.get(name, 1.0) for name, shape in zip(self.names, shapes)}}


def _sigmoid(d: Floats, shapes: Floats) -> Floats:
    middle, scale = shapes[:, :1], shapes[:, 1:]
    curve: Floats = expit((d - middle) / scale) - expit(-middle / scale)
    return curve


def _log_sigmoid(d: Floats, shapes: Floats) -> Floats:
    middle, steepness = shapes[:, :1], shapes[:, 1:]
    with np.errstate(divide="ignore"):  # log(0) is -inf, and there the curve is 0
        curve: Floats = expit(steepness * (np.log(d) - np.log(middle)))
    return curve


FAMILIES = {
    "power": Family(lambda d, b: d**b, lambda first: np.geomspace(0.02, 5.0, 200)[:, None], ("b",)),
    "exponential": Family(
        lambda d, c: -np.expm1(-d / c), lambda first: np.geomspace(first / 5, 20.0, 200)[:, None], ("c",)
    ),
    "sigmoid": Family(
        _sigmoid,
        lambda first: _every_pair(np.geomspace(first / 2, 1.5, 30), np.geomspace(max(first / 5, 0.03), 1.0, 20)),
        ("m", "s"),
    ),
    "log-sigmoid": Family(
        _log_sigmoid,
        lambda first: _every_pair(np.geomspace(first / 2, 1.5, 30), np.geomspace(1.0, 20.0, 20)),
        ("m", "h"),
    ),
}


class Fit(NamedTuple):
    """The best curve of a family: "a" and the shapes, its values at the checkpoints, and its corrected criterion."""

    parameters: Floats
    curve: Floats
    aicc: float


def on_grid(family: Family, u: Floats, y: Floats) -> Floats:
    """Least squares over the grid, each shape with its best `a`, for every row of `y`: ``(n_draws, n_parameters)``."""
    shapes = family.grid(float(u[u > 0].min()))
    curves = family.curve(u, shapes)
    squares = (curves**2).sum(axis=1)
    along = y @ curves.T
    best = (along**2 / squares).argmax(axis=1)  # largest explained sum of squares
    a = along[np.arange(len(y)), best] / squares[best]
    return np.column_stack([a, shapes[best]])


def least_squares(family: Family, u: Floats, y: Floats) -> Fit:
    """The best curve: `a` is linear, so only the shapes are searched, from the best point of the grid."""

    def fit(log_shapes: Floats) -> tuple[float, Floats]:
        curve = family.curve(u, np.exp(log_shapes)[None])[0]
        a = float(curve @ y / max(float(curve @ curve), 1e-300))
        return a, a * curve

    def residual(log_shapes: Floats) -> float:
        return float(((y - fit(log_shapes)[1]) ** 2).sum())

    grid = family.grid(float(u[u > 0].min()))
    start = np.log(on_grid(family, u, y[None])[0, 1:])
    bounds = Bounds(np.log(grid.min(axis=0)), np.log(grid.max(axis=0)))
    tolerances: Any = {"xatol": 1e-8, "fatol": 1e-14}
    found = minimize(residual, start, method="Nelder-Mead", bounds=bounds, options=tolerances).x
    a, curve = fit(found)
    n, k = len(u), len(start) + 2  # with a and the variance
    # Corrected for few points (Hurvich and Tsai 1989); exact points must not give log(0).
    aicc = n * float(np.log(max(residual(found), 1e-12))) + 2 * k + 2 * k * (k + 1) / max(n - k - 1, 1)
    return Fit(np.array([a, *np.exp(found)]), curve, aicc)
