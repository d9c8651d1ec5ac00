"""Two answers to each item: right or wrong before and after, the options it has, and which it chose.

Checks what callers bring, once; everything above counts on it. Knows nothing of what the answers mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forget_callback.metrics.guessing import Choices, Floats


class Scored(NamedTuple):
    """The items scored both times: vectors ``(n,)``, and how many are left out."""

    a: Floats
    b: Floats
    k: Floats
    choices: Choices | None
    n_unscored: int


@dataclass(frozen=True, eq=False)
class Pairs:
    """Checked answers, ``(n,)`` each.

    Attributes:
        a: 1 right, 0 wrong, NaN not scored, before.
        b: The same after.
        k: Options, infinite where open-ended.
        choices: Chosen option before and after, -1 if none, or None if not given.
    """

    a: Floats
    b: Floats
    k: Floats
    choices: Choices | None

    def take(self, rows: slice | NDArray[np.int64]) -> Pairs:
        """Those at `rows`."""
        choices = None if self.choices is None else (self.choices[0][rows], self.choices[1][rows])
        return Pairs(self.a[rows], self.b[rows], self.k[rows], choices)

    def scored(self) -> Scored:
        """The items scored both times; choices are None where they are not known for every closed one of these."""
        a, b, k, choices = self.a, self.b, self.k, self.choices
        scored = ~(np.isnan(a) | np.isnan(b))
        n_unscored = len(a) - int(np.count_nonzero(scored))
        if n_unscored:
            a, b, k = a[scored], b[scored], k[scored]
            choices = None if choices is None else (choices[0][scored], choices[1][scored])
        if choices is not None and len(a) and min(choices[0].min(), choices[1].min()) < 0:
            # A right item without a choice: the choices were not stored (an imported log, say).
            x, y = choices
            unknown = np.isfinite(k) & (((a == 1) & (x < 0)) | ((b == 1) & (y < 0)))
            choices = None if unknown.any() else choices
        return Scored(a, b, k, choices, n_unscored)


def paired(
    before: ArrayLike,
    after: ArrayLike,
    *,
    n_choices: ArrayLike | None = None,
    before_choice: ArrayLike | None = None,
    after_choice: ArrayLike | None = None,
    answer: ArrayLike | None = None,
) -> Pairs:
    """Checks what `transitions` takes, and says what is wrong with it.

    Raises:
        ValueError: See `transitions`.
    """
    a, b = np.asarray(before, float), np.asarray(after, float)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise ValueError(f"before and after must be vectors of one length of at least 1, got {a.shape} and {b.shape}")
    for name, values in (("before", a), ("after", b)):
        odd = values[~np.isnan(values) & (values != 0) & (values != 1)]
        if len(odd):
            raise ValueError(f"{name} must hold 1, 0 or NaN (not scored), got {odd[0]}")
    k = np.broadcast_to(np.asarray(np.inf if n_choices is None else n_choices, float), a.shape)
    if not (k >= 2).all():
        raise ValueError(f"n_choices must be 2 or more (None where open-ended), got {k[~(k >= 2)][0]}")
    return Pairs(a, b, k, _choices(a, b, k, before_choice, after_choice, answer))


def _choices(
    a: Floats,
    b: Floats,
    k: Floats,
    before_choice: ArrayLike | None,
    after_choice: ArrayLike | None,
    answer: ArrayLike | None,
) -> Choices | None:
    """Both choices, or None if they were not given."""
    if (before_choice is None) != (after_choice is None):
        raise ValueError("before_choice and after_choice go together: give both, or none")
    if before_choice is None or after_choice is None:
        return None
    x, y = np.asarray(before_choice, np.int64), np.asarray(after_choice, np.int64)
    if x.shape != a.shape or y.shape != a.shape:
        raise ValueError(f"choices must have the shape of before {a.shape}, got {x.shape} and {y.shape}")
    closed = np.isfinite(k)
    if answer is not None:
        right = np.asarray(answer, np.int64)
        for name, choice, correct in (("before", x, a), ("after", y, b)):
            bad = closed & ~np.isnan(correct) & (choice >= 0) & ((choice == right) != (correct == 1))
            if bad.any():
                i = int(np.argmax(bad))
                raise ValueError(
                    f"item {i}: {name}_choice {choice[i]} and answer {right[i]} contradict {name} {correct[i]}"
                )
    return x, y
