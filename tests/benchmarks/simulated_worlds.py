"""Simulated worlds for `truth.py`: which items are known before and after is drawn first, the answers follow from it.

So the truth, the share of items that were known and are not, never passes through an estimator. A world says how items
that are not known are answered. Two frames share `COMMON` of their guesses, and training leaves a share `persistence`
of all guesses as they are. Pure numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]

KNOWN = 0.4  # share of items known before
COMMON = 0.3  # share of guesses that are the same in every frame
WORLDS = (
    *("uniform", "dirichlet", "two left", "half known", "distractor"),
    *("overwritten", "misinformed", "drift", "form"),
)


@dataclass(frozen=True)
class Change:
    """What training does, as shares of all items."""

    lost: float = 0.0
    gained: float = 0.0

    def __str__(self) -> str:
        parts = [f"{100 * share:g}% {name}" for name, share in (("lost", self.lost), ("gained", self.gained)) if share]
        return " + ".join(parts) or "none"


@dataclass(frozen=True)
class Cell:
    """One setting of the simulation. `options` "mixed" is two, three, four and five options in one probe."""

    world: str
    change: Change = Change()
    persistence: float = 0.6
    options: int | str = 4
    n: int = 1_000
    frames: int = 2


@dataclass(frozen=True)
class Draw:
    """One simulated pair of snapshots.

    Attributes:
        before: Chosen option in each frame, ``(frames, n)``.
        after: The same after training.
        answer: The right option, ``(n,)``.
        options: How many an item has, ``(n,)``.
        lost: Items that were known and are not, ``(n,)``.
        gained: Items that were not known and are, ``(n,)``.
    """

    before: Ints
    after: Ints
    answer: Ints
    options: Ints
    lost: Bools
    gained: Bools


def simulate(cell: Cell, rng: np.random.Generator) -> Draw:
    """Draws one pair of snapshots."""
    n, change = cell.n, cell.change
    k = rng.choice([2, 3, 4, 5], n) if cell.options == "mixed" else np.full(n, int(cell.options))
    answer = (rng.random(n) * k).astype(np.int64)
    draw = rng.random(n)
    known = draw < KNOWN
    lost = draw < change.lost
    gained = (draw >= KNOWN) & (draw < KNOWN + change.gained)
    guesses = _preferences(cell.world, k, answer, rng)
    later = guesses if cell.world != "drift" else 0.5 * guesses + 0.5 * (np.arange(guesses.shape[1]) == 0)
    before = _in_frames(guesses, cell.frames, rng)
    stays = (rng.random(before.shape) < cell.persistence) & ~lost
    after = np.where(stays, before, _in_frames(later, cell.frames, rng))
    other = (answer + 1 + (rng.random(n) * (k - 1)).astype(np.int64)) % k  # a wrong option of each item
    if cell.world == "overwritten":
        after[:, lost] = other[lost]
    if cell.world == "misinformed":  # half of what is not known is believed wrongly, whatever the frame
        sure = (rng.random(n) < 0.5) & ~known
        before[:, sure] = other[sure]
        moved = (answer + 1 + (other - answer) % k % (k - 1)) % k
        after[:, sure] = np.where(rng.random(n) < cell.persistence, other, moved)[sure]
    before[:, known] = answer[known]
    after[:, (known & ~lost) | gained] = answer[(known & ~lost) | gained]
    if cell.world == "form":  # one known item in five is no longer said in the first frame, and still known
        unsaid = known & ~lost & (rng.random(n) < 0.2)
        after[0, unsaid] = other[unsaid]
    return Draw(before, after, answer, k, lost, gained)


def _preferences(world: str, k: Ints, answer: Ints, rng: np.random.Generator) -> Floats:
    """How likely each option is where an item is not known, ``(n, most options)``."""
    n, most = len(k), int(k.max())
    exists = np.arange(most) < k[:, None]
    right = np.arange(most) == answer[:, None]
    favourite = np.arange(most) == ((answer + 1 + (rng.random(n) * (k - 1)).astype(np.int64)) % k)[:, None]
    if world == "dirichlet":
        weight = rng.gamma(1.0, size=(n, most)) * exists
    elif world == "two left":
        weight = 0.5 * (right | favourite)
    elif world == "half known":
        weight = np.where(right, 0.4, exists * (0.6 / (k - 1))[:, None])
    elif world == "distractor":
        weight = np.where(favourite, 0.6, exists * (0.4 / (k - 1))[:, None])
    else:
        weight = exists.astype(float)
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def _in_frames(preferences: Floats, frames: int, rng: np.random.Generator) -> Ints:
    """A guess in each frame, ``(frames, n)``: for a share `COMMON` of the items it is one guess for all frames."""
    bounds = preferences.cumsum(axis=1)
    uniform = rng.random((frames + 1, len(preferences)))
    drawn = (uniform[:, :, None] >= bounds[None]).sum(axis=2)
    return np.where(rng.random(len(preferences)) < COMMON, drawn[:1], drawn[1:])
