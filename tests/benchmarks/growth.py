"""How the cost of an evaluation grows: with the evaluations before it, and with the number of items.

    python tests/benchmarks/growth.py [--without-model] [--items 1000 2000 ...] [--data DIR] [--out growth.png]

First `observe` late in a run against early in it, without a model: 57 categories, as in MMLU, and 60 evaluations.

Then items: model S with a vocabulary of 32k; items as text, in ten categories, each with a number of its own before its
prompt. A snapshot is what training pays for: scoring, judging, comparing, writing to disk, the history's table. What is
not spent in the forwards of the likelihoods is "the rest". Medians.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from contestants import quiet
from workloads import make_model, make_probe as items_of, make_tokenizer

from forget_callback import ForgetMonitor, MultipleChoice, Probe, Snapshot


def make_probe(n: int, data: Path | None) -> Probe:
    """`n` different items."""
    items = islice(cycle(items_of("text", 900, data).items), n)
    return Probe(
        "items",
        [
            replace(item, id=f"{i}", prompt=f"{i}. {item.prompt}", category=f"category {i % 10}")
            for i, item in enumerate(items)
        ],
    )


def measure(probe: Probe, model: Any, tokenizer: Any, repeats: int) -> tuple[float, float]:
    """Seconds of a snapshot, and of its forwards; the first one, which plans, is left out."""
    from forget_callback.scoring.engine import Scorer
    from forget_callback.scoring.likelihood.fallbacks import LikelihoodScorer

    forward: list[float] = []
    whole: list[float] = []
    plain = LikelihoodScorer.score

    def timed(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        found = plain(*args, **kwargs)
        forward.append(time.perf_counter() - begun)
        return found

    LikelihoodScorer.score = timed  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as out:
            scorer, monitor = Scorer(tokenizer, [probe]), ForgetMonitor(probe, out)
            for step in range(repeats + 1):
                begun = time.perf_counter()
                monitor.observe(step, scorer.score(model), samples_seen=step)
                whole.append(time.perf_counter() - begun)
    finally:
        LikelihoodScorer.score = plain  # type: ignore[method-assign]
    return median(whole[1:]), median(forward[1:])


def random_snapshots(probe: Probe) -> Iterator[Snapshot]:
    """Snapshots on one random path; every item has four options."""
    n, answer, rng = len(probe), probe.answer, np.random.default_rng(0)
    choice = np.where(rng.random(n) < 0.8, answer, (answer + 1) % 4)
    while True:
        scores = rng.normal(size=(n, 4))
        scores[np.arange(n), choice] = scores.max(axis=1) + 0.1
        columns = {"choice": choice, "margin": rng.normal(size=n), "scores": list(scores)}
        yield Snapshot(probe.name, probe.fingerprint, 0, np.array(probe.ids), choice == answer, **columns)
        choice = np.where(rng.random(n) < 0.05, rng.integers(0, 4, n), choice)


def measure_evaluations(n: int = 4_000, categories: int = 57, evaluations: int = 60) -> tuple[float, float]:
    """Seconds of `observe` around the fifth evaluation, and of the last ones."""
    options = [" a", " b", " c", " d"]
    probe = Probe("items", [MultipleChoice(f"{i}", f"{i}.", options, i % 4, f"{i % categories}") for i in range(n)])
    seconds = []
    with tempfile.TemporaryDirectory() as out:
        monitor = ForgetMonitor(probe, out)
        for step, snapshot in enumerate(islice(random_snapshots(probe), evaluations + 1)):
            begun = time.perf_counter()
            monitor.observe(step, snapshot, samples_seen=8.0 * step)
            seconds.append(time.perf_counter() - begun)
    return median(seconds[3:8]), median(seconds[-5:])


def plot(rows: list[tuple[int, float, float]], path: Path) -> None:
    """Seconds over items, and the straight line through the largest."""
    import matplotlib.pyplot as plt

    items, seconds, forward = zip(*rows)
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot([0, items[-1]], [0, seconds[-1]], color="0.7", linestyle="--", label="proportional")
    axes.plot(items, seconds, "o-", label="a snapshot")
    axes.plot(items, [s - f for s, f in zip(seconds, forward)], "s-", label="of that, not the model's forwards")
    axes.set(xlabel="items", ylabel="seconds", xlim=(0, None), ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Prints both, and draws the items."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--without-model", action="store_true", help="leave out the items")
    parser.add_argument("--items", type=int, nargs="+", default=[1_000, 2_000, 5_000, 10_000, 20_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--data", type=Path, help="folder of items, see workloads.py; built-in ones by default")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    quiet()
    early, late = measure_evaluations()
    print(f"evaluation 5: {1000 * early:.0f} ms, evaluation 60: {1000 * late:.0f} ms, {late / early:.2f} times as much")
    if options.without_model:
        return
    tokenizer = make_tokenizer(options.data)
    model = make_model("S", "32k", tokenizer)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print("  items  seconds  ms an item  the rest")
    rows = []
    for n in options.items:
        seconds, forward = measure(make_probe(n, options.data), model, tokenizer, options.repeats)
        rows.append((n, seconds, forward))
        print(f"{n:>7} {seconds:>8.2f} {1000 * seconds / n:>11.2f} {(seconds - forward) / seconds:>8.1%}", flush=True)
    if options.out:
        plot(rows, options.out)


if __name__ == "__main__":
    main()
