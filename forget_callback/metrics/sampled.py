"""Several answers to one item: shuffled options, sampled generations, seeds.

Repeats tell what is known from what is guessed without any assumption about single guesses. Each way ends in numbers
of the same meaning as those of `knowledge.py`, or in vectors that `transitions` takes. Knows nothing of how the
answers were produced.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, xlog1py, xlogy

from forget_callback.metrics.guessing import NAN, Classes, Floats
from forget_callback.metrics.intervals import NO_INTERVAL, Interval, wilson


def unshuffled(choice: ArrayLike, order: ArrayLike) -> NDArray[np.int64]:
    """Choices among shuffled options, as indices in the item's own order, ``(n, R)``.

    Args:
        choice: Place of the chosen option as it was shown, -1 if none could be read, ``(n, R)``.
        order: The item's own index of the option shown at each place, -1 past its last option, ``(n, R, k)``.

    Raises:
        ValueError: If shapes do not fit, or a choice is not one of the places shown.
    """
    shown, places = np.asarray(choice, np.int64), np.asarray(order, np.int64)
    if shown.ndim != 2 or places.shape[:2] != shown.shape or places.ndim != 3:
        raise ValueError(f"choice must be (n, R) and order (n, R, k), got {shown.shape} and {places.shape}")
    inside = (shown >= 0) & (shown < places.shape[2])
    own = np.take_along_axis(places, np.where(inside, shown, 0)[..., None], axis=2)[..., 0]
    bad = (shown >= 0) & ~(inside & (own >= 0))
    if bad.any():
        i, r = map(int, np.argwhere(bad)[0])
        raise ValueError(f"item {i}, repeat {r}: choice {shown[i, r]} is not a place in its order {places[i, r]}")
    return np.where(shown >= 0, own, -1)


def collapse(choice: ArrayLike) -> NDArray[np.int64]:
    """The option that all repeats of an item chose, in the item's own order, else -1, ``(n,)``.

    Collapsed before and after, choices go into `transitions` (right where they equal the answer), whose method
    "choice" treats -1 as an answer that tells nothing: a guess must now be repeated to look like knowledge.

    Args:
        choice: Chosen option in the item's own order, -1 if none could be read, ``(n, R)``, R >= 1.

    >>> collapse([[2, 2], [2, 1], [-1, -1]])
    array([ 2, -1, -1])
    """
    x = np.asarray(choice, np.int64)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"choice must be (n, R) with at least one repeat, got {x.shape}")
    return np.where((x == x[:, :1]).all(axis=1), x[:, 0], -1)


@dataclass(frozen=True)
class SlipFit:
    """What repeated samples say was known, and how often known items are answered wrong.

    Attributes:
        n: Items.
        classes: Shares of the four latent classes.
        slip_before, slip_after: Chance that one sample of a known item is wrong; NaN if nothing is known.
        log_likelihood: Mean per item, in nats.
        converged: Whether no number moved by more than 1e-9 in the last round.
    """

    n: int
    classes: Classes
    slip_before: float
    slip_after: float
    log_likelihood: float
    converged: bool


def fit_slip(before: ArrayLike, after: ArrayLike, *, repeats: int, n_choices: ArrayLike | None = None) -> SlipFit:
    """Latent classes of items that were sampled several times: known ~ Bin(R, 1 - slip), unknown ~ Bin(R, 1/k).

    EM on the joint counts, slip free before and after (R = 4 is a good number).

    Args:
        before: Right samples of each item, 0 to `repeats`, ``(n,)``.
        after: The same after.
        repeats: Samples of each item, R >= 2: with one, a slip and a guess look the same.
        n_choices: Options per item: one number, ``(n,)``, or None if answers are open-ended.

    Raises:
        ValueError: If `repeats` is below 2, a count is not a whole number from 0 to `repeats`, or shapes differ.
    """
    x, y = np.asarray(before, float), np.asarray(after, float)
    if repeats < 2:
        raise ValueError(f"repeats must be 2 or more, got {repeats}: one sample cannot tell a slip from a guess")
    if x.shape != y.shape or x.ndim != 1 or len(x) == 0:
        raise ValueError(f"before and after must be vectors of one length of at least 1, got {x.shape} and {y.shape}")
    for name, values in (("before", x), ("after", y)):
        odd = values[~np.isin(values, np.arange(repeats + 1))]
        if len(odd):
            raise ValueError(f"{name} must hold whole numbers from 0 to repeats ({repeats}), got {odd[0]}")
    k = np.broadcast_to(np.asarray(np.inf if n_choices is None else n_choices, float), x.shape)
    if not (k >= 2).all():
        raise ValueError(f"n_choices must be 2 or more (None where open-ended), got {k[~(k >= 2)][0]}")
    cells, count = np.unique(np.stack([x, y, 1 / k]), axis=1, return_counts=True)
    return _slip_em(cells[0], cells[1], cells[2], count / len(x), repeats, len(x))


def _slip_em(x: Floats, y: Floats, chance: Floats, weight: Floats, repeats: int, n: int) -> SlipFit:
    """EM over distinct (count before, count after, chance); `weight` is the share of each, ``(n_cells,)``."""
    shares, slips = np.full((2, 2), 0.25), np.array([0.1, 0.1])  # shares[known before?, known after?], 0 is known
    guessed = _binomial(x, repeats, chance), _binomial(y, repeats, chance)
    likelihood, converged = NAN, False
    for _ in range(20_000):
        p = np.stack([_binomial(x, repeats, 1 - slips[0]), guessed[0]])
        q = np.stack([_binomial(y, repeats, 1 - slips[1]), guessed[1]])
        joint = shares[:, :, None] * p[:, None] * q[None, :]
        total = joint.sum(axis=(0, 1))
        likelihood = float(weight @ np.log(total))
        posterior = joint * (weight / total)
        new_shares = posterior.sum(axis=2)
        known = posterior[0].sum(axis=0), posterior[:, 0].sum(axis=0)
        new_slips = np.array([_slip(k, v, repeats, old) for k, v, old in zip(known, (x, y), slips)])
        moved = max(np.abs(new_shares - shares).max(), np.abs(new_slips - slips).max())
        shares, slips = new_shares, new_slips
        if moved < 1e-9:
            converged = True
            break
    (kept, lost), (gained, never) = shares.tolist()
    classes = Classes(kept, lost, gained, never, kept + lost, kept + gained)
    slip_before, slip_after = (
        float(slip) if known > 1e-6 else NAN for slip, known in zip(slips, (classes.known_before, classes.known_after))
    )
    return SlipFit(n, classes, slip_before, slip_after, likelihood, converged)


def _slip(known: Floats, right: Floats, repeats: int, old: float) -> float:
    """Share of wrong samples among items as far as they are known."""
    total = float(known.sum())
    return float(known @ (repeats - right)) / (repeats * total) if total > 1e-12 else old


def _binomial(x: Floats, n: int, p: Floats | float) -> Floats:
    """P(X = x) of X ~ Bin(n, p), with p = 0 and 1 as limits."""
    found: Floats = np.exp(gammaln(n + 1) - gammaln(x + 1) - gammaln(n - x + 1) + xlogy(x, p) + xlog1py(n - x, -p))
    return found


@dataclass(frozen=True)
class Agreement:
    """Transitions that every seed shows; rates are fractions of `n`, with 95% Wilson intervals.

    Attributes:
        n: Items that every seed scored before and after.
        forgetting: Share right before and wrong after in every seed.
        backward_transfer: Share wrong before and right after in every seed.
    """

    n: int
    forgetting: float
    backward_transfer: float
    forgetting_interval: Interval
    backward_transfer_interval: Interval


def agreement(before: ArrayLike, after: ArrayLike) -> Agreement:
    """Counts only the transitions that all seeds share (arXiv 2510.17776).

    Guesses that differ between seeds drop out, and so do slips; what is left is a lower estimate.

    Args:
        before: 1 right, 0 wrong, NaN not scored, a column a seed, ``(n, n_seeds)``.
        after: The same items and seeds after.

    Raises:
        ValueError: If shapes differ, or a value is not 1, 0 or NaN.

    >>> agreement([[1, 1], [1, 1], [0, 1]], [[0, 0], [0, 1], [1, 1]]).forgetting
    0.3333333333333333
    """
    a, b = np.asarray(before, float), np.asarray(after, float)
    if a.shape != b.shape or a.ndim != 2 or 0 in a.shape:
        raise ValueError(f"before and after must both be (n, n_seeds), got {a.shape} and {b.shape}")
    for name, values in (("before", a), ("after", b)):
        odd = values[~np.isnan(values) & (values != 0) & (values != 1)]
        if len(odd):
            raise ValueError(f"{name} must hold 1, 0 or NaN (not scored), got {odd[0]}")
    scored = ~(np.isnan(a) | np.isnan(b)).any(axis=1)
    n = int(scored.sum())
    if n == 0:
        return Agreement(0, NAN, NAN, NO_INTERVAL, NO_INTERVAL)
    lost, gained = (int(((v == 1) & (w == 0))[scored].all(axis=1).sum()) for v, w in ((a, b), (b, a)))
    return Agreement(n, lost / n, gained / n, wilson(lost, n), wilson(gained, n))
