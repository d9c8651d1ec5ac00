"""Simulated models whose truth is known: what they know, how they guess, what guesses of two prompts have in common.

Some items are known; on the others the option is drawn from the item's own chances, which a world says. A share of the
guesses is common to all prompts, and training leaves a share of them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forget_callback.metrics.transitions import transitions

KNOWN = 0.4
IN_COMMON = 0.3


@dataclass(frozen=True)
class World:
    """Chances of an item's options where it is not known; option 0 is right.

    Attributes:
        kind: "uniform", "dirichlet", "distractor" (one wrong option takes half), "half known" (right with .40) or "two
            left" (the right one and one other).
        kept: Share of the guesses that training leaves.
        k: Options, one number or several of which each item has one.
    """

    kind: str
    kept: float = 0.6
    k: tuple[int, ...] = (4,)

    def chances(self, rng, k):
        """``(n, max k)``."""
        exists = np.arange(max(self.k)) < k[:, None]
        if self.kind == "dirichlet":
            weight = rng.exponential(size=exists.shape)
        elif self.kind == "distractor":
            weight = np.where(np.arange(max(self.k)) == 1, k[:, None] - 1.0, 1.0)
        elif self.kind == "half known":
            weight = np.where(np.arange(max(self.k)) == 0, 2 / 3 * (k[:, None] - 1.0), 1.0)
        elif self.kind == "two left":
            weight = (np.arange(max(self.k)) < 2) + np.zeros(exists.shape)
        else:
            weight = np.ones(exists.shape)
        weight = weight * exists
        return weight / weight.sum(axis=1, keepdims=True)

    def answers(self, rng, n, *, prompts=2, lost=0.0, gained=0.0):
        """Chosen options before and after, ``(prompts, n)`` each, and the options of each item."""
        k = rng.choice(self.k, n)
        upto = self.chances(rng, k).cumsum(axis=1)[None]

        def drawn(rows):
            return np.minimum((rng.random((rows, n, 1)) > upto).sum(axis=2), k - 1)

        together = rng.random(n) < IN_COMMON
        guess, other = (np.where(together, drawn(1), drawn(prompts)) for _ in range(2))
        moved = np.where(together, rng.random((1, n)), rng.random((prompts, n))) > self.kept
        u = rng.random(n)  # lost are the first of the known, gained the first of the others
        known, knows = u < KNOWN, (u < KNOWN) & (u >= lost) | (u >= KNOWN) & (u < KNOWN + gained)
        after = np.where(moved | known, other, guess)  # what was known before has no guess to keep
        return np.where(known, 0, guess), np.where(knows, 0, after), k

    def measured(self, rng, n, **how):
        """Transitions of one run."""
        return measured(*self.answers(rng, n, **how))


def measured(before, after, k, **how):
    """Transitions of chosen options, 0 is right."""
    right = np.zeros(before.shape[-1], int)
    return transitions(
        before == 0, after == 0, n_choices=k, before_choice=before, after_choice=after, answer=right, **how
    )
