"""The bootstrap of a mean change: an interval that follows skewed changes, where t is symmetric.

Not part of a run's numbers, which keep no vectors: made from two snapshots where it is asked for.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import special

from forget_callback.metrics.intervals import NO_INTERVAL, Interval
from forget_callback.metrics.pairs import Floats, Ints
from forget_callback.metrics.transitions import pairs_of
from forget_callback.probes.quoting import quoted
from forget_callback.snapshots.snapshot import Snapshot


def bootstrap_change(
    before: Snapshot,
    after: Snapshot,
    column: Literal["bits_per_byte", "score"],
    *,
    confidence: float = 0.95,
    n_draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Interval of the mean change of bits per byte or of graded scores, see `bootstrap`; NaN where nothing has both.

    Raises:
        ValueError: If the column is another one, or the snapshots do not compare.
    """
    if column not in ("bits_per_byte", "score"):
        raise ValueError(f"column must be 'bits_per_byte' or 'score', got {quoted(column)}")
    pairs = pairs_of(before, after)
    numbers = pairs.bits if column == "bits_per_byte" else pairs.score
    if numbers is None:
        return NO_INTERVAL
    changes = numbers.after - numbers.before
    known = ~np.isnan(changes)
    cluster = None if pairs.cluster is None else pairs.cluster[known]
    return bootstrap(changes[known], cluster, confidence=confidence, n_draws=n_draws, seed=seed)


def bootstrap(
    changes: Floats, cluster: Ints | None = None, *, confidence: float = 0.95, n_draws: int = 10_000, seed: int = 0
) -> Interval:
    """Interval of the mean by drawing items, or whole clusters, again: bias-corrected and accelerated (Efron 1987).

    Follows skewed changes, as when a few documents get much worse, where t is symmetric.

    Args:
        changes: After less before, none NaN, ``(n_items,)``.
        cluster: Number of the cluster of each item.
        n_draws: Samples drawn.
        seed: Of the draws.
    """
    code = np.arange(len(changes)) if cluster is None else np.unique(cluster, return_inverse=True)[1]
    if len(changes) == 0 or code.max() < 1:
        return NO_INTERVAL
    sums, sizes = (np.bincount(code, weights).astype(float) for weights in (changes, np.ones(len(changes))))
    centre, rng = float(changes.mean()), np.random.default_rng(seed)
    drawn = np.concatenate([_drawn_means(sums, sizes, rng, min(200, n_draws - at)) for at in range(0, n_draws, 200)])
    left_out = (sums.sum() - sums) / (sizes.sum() - sizes)  # the jackknife, for the acceleration
    away = left_out.mean() - left_out
    squares = float((away**2).sum())
    if squares == 0 or (drawn == drawn[0]).all():
        return Interval(centre, centre)
    acceleration = float((away**3).sum()) / (6 * squares**1.5)
    below = float(((drawn < centre).mean() + (drawn <= centre).mean()) / 2)
    bias = float(special.ndtri(np.clip(below, 0.5 / n_draws, 1 - 0.5 / n_draws)))

    def end(level: float) -> float:
        z = bias + float(special.ndtri(level))
        return float(np.quantile(drawn, special.ndtr(bias + z / (1 - acceleration * z))))

    return Interval(end(0.5 - confidence / 2), end(0.5 + confidence / 2))


def _drawn_means(sums: Floats, sizes: Floats, rng: np.random.Generator, n_draws: int) -> Floats:
    """Means of samples of as many clusters, ``(n_draws,)``."""
    rows = rng.integers(0, len(sums), (n_draws, len(sums)))
    means: Floats = sums[rows].sum(axis=1) / sizes[rows].sum(axis=1)
    return means
