"""How the cost of a snapshot grows with the number of items, and how much of it is not the model's.

    python tests/benchmarks/growth.py [--items 1000 2000 ...] [--out growth.png] [--threads N]

Model S with a vocabulary of 32k; items as text, in ten categories, each with a number of its own before its prompt. A
snapshot is what training pays for: scoring, judging, comparing, writing to disk, the history's table. What is not spent
in the forwards of the likelihoods is "the rest". Medians.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from scoring import quiet
from workloads import choices, make_model, make_tokenizer, source

from forget_callback import ForgetMonitor, Probe


def make_probe(n: int) -> Probe:
    """`n` different items."""
    items = islice(cycle(choices("text", 900).items), n)
    return Probe(
        "items",
        [
            replace(item, id=f"{i}", prompt=f"{i}. {item.prompt}", category=f"category {i % 10}")
            for i, item in enumerate(items)
        ],
    )


def measure(n: int, model: Any, tokenizer: Any, repeats: int) -> tuple[float, float]:
    """Seconds of a snapshot, and of its forwards; the first one, which plans, is left out."""
    from forget_callback.scoring.engine import Scorer
    from forget_callback.scoring.likelihood.fallbacks import LikelihoodScorer

    probe, forward, whole = make_probe(n), [], []
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
                monitor.observe(step, scorer.by_probe(model), samples_seen=step)
                whole.append(time.perf_counter() - begun)
    finally:
        LikelihoodScorer.score = plain  # type: ignore[method-assign]
    return median(whole[1:]), median(forward[1:])


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
    """Prints one row a number of items, and draws them."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, nargs="+", default=[1_000, 2_000, 5_000, 10_000, 20_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    quiet()
    tokenizer = make_tokenizer()
    model = make_model("S", "32k", tokenizer)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; {source()}")
    print("  items  seconds  ms an item  the rest")
    rows = []
    for n in options.items:
        seconds, forward = measure(n, model, tokenizer, options.repeats)
        rows.append((n, seconds, forward))
        print(f"{n:>7} {seconds:>8.2f} {1000 * seconds / n:>11.2f} {(seconds - forward) / seconds:>8.1%}", flush=True)
    if options.out:
        plot(rows, options.out)


if __name__ == "__main__":
    main()
