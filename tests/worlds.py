"""Simulated models whose truth is known: which items they know, and how they guess the others."""

import numpy as np

from forget_callback import Snapshot
from forget_callback.runs.comparison import compare_checkpoints, overall
from forget_callback.snapshots.answers import Answers


class World:
    """Items that are known or guessed: guesses of two prompts and of two checkpoints agree now and then."""

    def __init__(self, n=1000, *, k=4, known=0.4, prompts=2, seed=0):
        self.rng, self.n, self.k, self.prompts = np.random.default_rng(seed), n, k, prompts
        self.answer = self.rng.integers(0, k, n)
        self.known = np.arange(n) < known * n
        self.guess = self._guesses(np.zeros((prompts, n), int), 0.0)

    def _guesses(self, last, persistence):
        common = self.rng.integers(0, self.k, self.n)
        own = self.rng.integers(0, self.k, (self.prompts, self.n))
        new = np.where(self.rng.random((self.prompts, self.n)) < 0.3, common, own)
        return np.where(self.rng.random((self.prompts, self.n)) < persistence, last, new)

    def snapshot(self, name="p", *, categories=0):
        """Its answers now."""
        choice = np.where(self.known, self.answer, self.guess)
        correct = (choice == self.answer).astype(float)
        further = tuple(Answers(f"v{w}", correct[w], choice=choice[w]) for w in range(1, self.prompts))
        shared = {"n_choices": np.full(self.n, self.k), "answer": self.answer, "kind": ["multiple_choice"] * self.n}
        if categories:
            shared["category"] = [f"c{i % categories}" for i in range(self.n)]
        ids = [f"{name}{i}" for i in range(self.n)]
        return Snapshot(name, name, 0, ids, correct[0], choice=choice[0], further=further, **shared)

    def train(self, *, lost=0.0, gained=0.0, persistence=0.5):
        """The world after training."""
        first, last = np.flatnonzero(self.known)[: round(lost * self.n)], np.flatnonzero(~self.known)
        self.known = self.known.copy()
        self.known[first], self.known[last[: round(gained * self.n)]] = False, True
        self.guess = self._guesses(self.guess, persistence)
        return self


def row_of(*pairs):
    """The row of all items of one or several (before, after)."""
    before, after = ({one.probe: one for one in side} for side in zip(*pairs))
    return overall(compare_checkpoints(before, after))


def trained(*, lost=0.0, gained=0.0, persistence=0.5, **how):
    world = World(**how)
    before = world.snapshot()
    return row_of((before, world.train(lost=lost, gained=gained, persistence=persistence).snapshot()))
