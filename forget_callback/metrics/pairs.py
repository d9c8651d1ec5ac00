"""Two answers to each item: right or wrong before and after, the number of options, and the chosen ones.

`paired` validates what callers bring, once; the other modules of this folder rely on it. Knows nothing of snapshots,
or of what the answers mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Choices = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Validated answers to the same items at two snapshots, ``(n_items,)`` each.

    Attributes:
        before: 1 right, 0 wrong, NaN not scored.
        after: The same at the later snapshot.
        n_choices: Options of each item, infinite where it is open-ended.
        choices: Chosen option before and after, -1 where none could be parsed; None if choices were not stored.
    """

    before: Floats
    after: Floats
    n_choices: Floats
    choices: Choices | None

    def __len__(self) -> int:
        return len(self.before)

    @property
    def closed(self) -> Flags:
        """Items with options, which a guess can get right, ``(n_items,)``."""
        return np.isfinite(self.n_choices)

    @property
    def several(self) -> Flags:
        """Items with three options or more, where a guess can move between wrong ones, ``(n_items,)``."""
        return self.closed & (self.n_choices > 2)

    @property
    def by_choice(self) -> bool:
        """Whether the chosen options show how much guesses move."""
        return self.choices is not None and bool(self.several.any())

    def take(self, rows: slice | NDArray[np.int64] | Flags) -> Pairs:
        """The items at `rows`."""
        choices = None if self.choices is None else (self.choices[0][rows], self.choices[1][rows])
        return Pairs(self.before[rows], self.after[rows], self.n_choices[rows], choices)

    def swapped(self) -> Pairs:
        """The same items with before and after exchanged: what was lost becomes what was gained."""
        return Pairs(self.after, self.before, self.n_choices, None if self.choices is None else self.choices[::-1])

    def scored(self) -> Pairs:
        """The items scored both times; without choices where a closed one of these was right but has none stored."""
        scored = ~(np.isnan(self.before) | np.isnan(self.after))
        pairs = self if scored.all() else self.take(scored)
        if pairs.choices is not None and len(pairs) and min(choice.min() for choice in pairs.choices) < 0:
            sides = zip((pairs.before, pairs.after), pairs.choices)
            if any((pairs.closed & (right == 1) & (choice < 0)).any() for right, choice in sides):
                return Pairs(pairs.before, pairs.after, pairs.n_choices, None)  # an imported log, say
        return pairs


def mean(values: Floats) -> float:
    """NaN without values."""
    return float(values.sum()) / len(values) if len(values) else float("nan")


def paired(
    before: ArrayLike,
    after: ArrayLike,
    n_choices: ArrayLike | None,
    *,
    before_choice: ArrayLike | None,
    after_choice: ArrayLike | None,
    answer: ArrayLike | None,
) -> Pairs:
    """Validates the arguments of `transitions`, which says what it raises."""
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
    if (before_choice is None) != (after_choice is None):
        raise ValueError("before_choice and after_choice go together: give both, or none")
    if before_choice is None or after_choice is None:
        return Pairs(a, b, k, None)
    x, y = np.asarray(before_choice, np.int64), np.asarray(after_choice, np.int64)
    if x.shape != a.shape or y.shape != a.shape:
        raise ValueError(f"choices must have the shape of before {a.shape}, got {x.shape} and {y.shape}")
    pairs = Pairs(a, b, k, (x, y))
    if answer is None:
        return pairs
    right = np.asarray(answer, np.int64)
    for name, correct, choice in (("before", a, x), ("after", b, y)):
        bad = pairs.closed & ~np.isnan(correct) & (choice >= 0) & ((choice == right) != (correct == 1))
        if bad.any():
            i = int(np.argmax(bad))
            raise ValueError(
                f"item {i}: {name}_choice {choice[i]} and answer {right[i]} contradict {name} {correct[i]}"
            )
    return pairs
