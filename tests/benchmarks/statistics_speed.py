"""Time of all statistics of one evaluation: transitions of the probe and its categories, intervals, and the history.

    python tests/benchmarks/statistics_speed.py [ITEMS ...]

An evaluation is `History.append` of one more snapshot and every number of its rows. Medians of five runs. Exits with 1
if a limit is exceeded.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from forget_callback.metrics.transitions import compare
from forget_callback.runs.history import History
from forget_callback.snapshots.snapshot import Snapshot

CATEGORIES = 50
LIMITS = {5_000: 0.050, 100_000: 0.500}


def snapshot(step: int, n: int, *, shuffled: bool = False, k: int = 4) -> Snapshot:
    """A model that knows half of `n` items and guesses the rest, with scores for each option."""
    rng = np.random.default_rng([step, n])
    answer = np.arange(n) % k
    choice = np.where(np.random.default_rng(n).random(n) < 0.5, answer, rng.integers(0, k, n))
    found = Snapshot(
        "probe",
        "fingerprint",
        step,
        ids=np.array([f"item-{i}" for i in range(n)], object),
        correct=(choice == answer).astype(float),
        choice=choice,
        margin=rng.normal(size=n),
        category=np.array([f"category-{i % CATEGORIES}" for i in range(n)], object),
        scores=list(rng.normal(size=(n, k))),
        n_choices=np.full(n, float(k)),
        answer=answer,
    )
    return found.select(rng.permutation(n)) if shuffled else found


def seconds(work: Callable[[History], object], n: int) -> float:
    """Median of five runs, each after a baseline that is not timed."""
    times = []
    for _ in range(5):
        history = History()
        history.append([snapshot(0, n)])
        begun = time.perf_counter()
        work(history)
        times.append(time.perf_counter() - begun)
    return median(times)


def evaluate(history: History, after: Snapshot) -> None:
    """Computes every number of one evaluation."""
    for row in history.append([after]):
        row.numbers  # noqa: B018 - computed when first read


def main(sizes: list[int]) -> bool:
    """Prints the table; returns whether every limit holds."""
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}")
    print(f"\n| items | an evaluation, {CATEGORIES} categories | limit | items in another order | transitions alone |")
    print("| --- | --- | --- | --- | --- |")
    kept = True
    for n in sizes:
        before, after, other = snapshot(0, n), snapshot(1, n), snapshot(1, n, shuffled=True)
        whole = seconds(lambda history, after=after: evaluate(history, after), n)
        shuffled = seconds(lambda history, after=other: evaluate(history, after), n)
        alone = seconds(lambda _, before=before, after=after: compare(before, after).as_dict(), n)
        limit = LIMITS.get(n, float("inf"))
        kept &= whole < limit
        numbers = " | ".join(f"{1000 * value:.1f} ms" for value in (whole, limit, shuffled, alone))
        print(f"| {n:,} | {numbers} |")
    return kept


if __name__ == "__main__":
    sys.exit(0 if main([int(n) for n in sys.argv[1:]] or list(LIMITS)) else 1)
