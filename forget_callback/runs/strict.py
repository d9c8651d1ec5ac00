"""The confidence of a strict rule: an error rate spent over all looks of a run, by how the looks vary together.

Looks share their items, so their errors are correlated, and dividing the error rate by their number (Bonferroni) gives
most of it away. Takes the items' scores at the looks so far; knows nothing of rules or rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

Floats = NDArray[np.float64]

N_DRAWS = 4000


def strict_confidence(
    scores: ArrayLike,
    *,
    planned: int,
    alpha: float,
    patience: int = 1,
    clusters: ArrayLike | None = None,
    seed: int = 0,
) -> float:
    """One-sided confidence that the bounds of the last `patience` looks must have, so that false stops sum up to alpha.

    A stop at a look is false where the bounds of all of its last `patience` looks are above a threshold that the truth
    does not exceed. By the look t the rate of false stops may add up to ``alpha (t / planned)^2``: later looks, where a
    growing loss is largest, get more of it (alpha spending, Lan and DeMets 1983). Each look's limit is read from draws
    of the joint distribution of the looks so far, those already stopped left out: Gaussian multipliers on items, or on
    whole clusters, which is a normal distribution with the correlations of the looks. An earlier look's limit does not
    depend on later ones, so it is the same each time.

    Args:
        scores: Each item's part in the metric at each look after the baseline, ``(n_looks, n_items)``, NaN where it was
            not scored.
        planned: Looks planned for the whole run.
        alpha: Rate of false stops over the whole run.
        patience: Consecutive looks that must all be above.
        clusters: Group of each item, "" where it has none, ``(n_items,)``.
        seed: Of the draws.

    Raises:
        ValueError: If `scores` is no table of at least one look, or `clusters` are not as many as its items.

    >>> rng = np.random.default_rng(0)
    >>> scores = np.cumsum(rng.random((20, 500)) < 0.005, axis=0)  # what is lost stays lost
    >>> 1 - 0.05 / 20 > strict_confidence(scores, planned=20, alpha=0.05) > 1 - 0.05
    True
    """
    rows = np.asarray(scores, float)
    if rows.ndim != 2 or len(rows) == 0:
        raise ValueError(f"scores must be (n_looks, n_items) with one look or more, got shape {rows.shape}")
    drawn = _joint_draws(_influence(rows, clusters), seed)
    alive, spent, limit = np.ones(N_DRAWS, bool), 0, np.inf
    for look in range(len(rows)):
        # The weakest of the looks that must all be above.
        weakest = np.where(alive, drawn[max(look - patience + 1, 0) : look + 1].min(axis=0), -np.inf)
        allowed = int(alpha * min((look + 1) / max(planned, 1), 1.0) ** 2 * N_DRAWS) - spent
        limit = max(float(np.partition(weakest, -allowed - 1)[-allowed - 1]), float(ndtri(1 - alpha)))
        stopped = weakest > limit
        spent += int(stopped.sum())
        alive &= ~stopped
    return float(ndtr(limit))


def _influence(rows: Floats, clusters: ArrayLike | None) -> Floats:
    """Each item's, or cluster's, deviation from the mean of each look, ``(n_looks, n_units)``."""
    scored = ~np.isnan(rows)
    n = np.maximum(scored.sum(axis=1, keepdims=True), 1)
    mean = np.where(scored, rows, 0.0).sum(axis=1, keepdims=True) / n
    found: Floats = np.where(scored, rows - mean, 0.0)
    if clusters is None:
        return found
    names = np.asarray(clusters).astype(str)
    if names.shape != rows.shape[1:]:
        raise ValueError(f"clusters must be one per item, {rows.shape[1:]}, got {names.shape}")
    code = np.unique(names, return_inverse=True)[1]
    alone = names == ""
    code[alone] = code.max() + 1 + np.arange(alone.sum())
    return np.stack([np.bincount(code, row) for row in found])


def _joint_draws(influence: Floats, seed: int) -> Floats:
    """Standardized errors of the looks, ``(n_looks, n_draws)``; -inf at a look where no item differs."""
    covariance = influence @ influence.T
    spread = np.sqrt(np.diag(covariance))
    moved = spread > 1e-9
    scale = np.where(moved, spread, 1.0)
    # Two looks with the same answers correlate perfectly: the diagonal keeps the factor from failing.
    correlation = covariance / np.outer(scale, scale) + np.diag(np.where(moved, 1e-6, 1.0))
    drawn = np.linalg.cholesky(correlation) @ np.random.default_rng(seed).standard_normal((len(influence), N_DRAWS))
    return np.where(moved[:, None], drawn, -np.inf)
