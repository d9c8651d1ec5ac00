"""Decoding steps and memory of generation by the loop's own schedule, against rows that reserve their limit.

    python tests/benchmarks/decode_steps.py  # a model of 8B, 1,000 answers with a long tail, seconds on a CPU

No model runs: `Schedule` decides, and answers have given lengths. A step forwards a token of each row.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forget_callback.scoring.generation.schedule import PAGE, Schedule, prefills

GIB = 2**30


@dataclass(frozen=True)
class Simulated:
    """What a policy takes.

    Attributes:
        steps: Decoding steps.
        prefilled: Tokens that are prefilled, those again included.
        peak: Most tokens that the cache holds or reserves, a prefill before it is stored included.
    """

    steps: int
    prefilled: int
    peak: int


def paged(prompts: Sequence[int], answers: Sequence[int], limit: int, tokens: int, budget: int) -> Simulated:
    """The loop's own schedule.

    Args:
        prompts: Tokens of each prompt.
        answers: Tokens of each answer, the first of which follows from the prefill.
        limit: Tokens that an answer may have.
        tokens: Tokens that the cache may hold.
        budget: Tokens of one prefill.
    """
    plan = prefills(dict(enumerate(prompts)), dict.fromkeys(range(len(prompts)), limit), tokens, tokens, budget)
    schedule = Schedule(plan, max_rows=budget)
    generated = [0] * len(prompts)
    steps = prefilled = widest = 0
    while schedule.unfinished:
        rows = schedule.admit()
        if rows:
            width = max(schedule.tokens[row] for row in rows)
            prefilled, widest = prefilled + width * len(rows), max(widest, width * len(rows))
        else:
            schedule.grow()
            rows, steps = list(schedule.pages), steps + 1
        for row in rows:
            generated[row] += 1
        schedule.leave([row for row in rows if generated[row] == answers[row]])
        schedule.gather()
    return Simulated(steps, prefilled, plan.n_pages * PAGE + widest)


def reserved(prompts: Sequence[int], answers: Sequence[int], limit: int, tokens: int) -> Simulated:
    """Rows that reserve prompt and limit, a quarter of the batch joining at a time; all are copied when rows join."""
    row_tokens = max(prompts) + limit
    most = max(tokens // row_tokens, 1)
    size = max(min(most, len(prompts)) // 4, 1)
    waiting = sorted(range(len(prompts)), key=lambda i: -prompts[i])
    left: list[int] = []
    steps = peak = 0
    while waiting or left:
        if waiting and len(left) + size <= most:
            joining, waiting = waiting[:size], waiting[size:]
            peak = max(peak, (2 * len(left) + len(joining)) * row_tokens)
            left += [answers[i] - 1 for i in joining]
        else:
            left, steps = [n - 1 for n in left], steps + 1
        left = [n for n in left if n > 0]
    return Simulated(steps, sum(prompts), peak)


def least(prompts: Sequence[int], answers: Sequence[int], tokens: int) -> int:
    """Steps that no schedule can avoid: each holds every token of a row so far, or the longest answer."""
    held = sum(n * (prompt + n / 2) for prompt, n in zip(prompts, answers))
    return max(round(held / tokens), max(answers) - 1)


def long_tail(n: int, mean: float, limit: int) -> list[int]:
    """Lengths of answers: exponential, cut at the limit, with this mean."""
    rng, scale = np.random.default_rng(0), mean
    draws = rng.exponential(size=n)
    for _ in range(50):
        found = np.clip(scale * draws, 1, limit)
        scale *= mean / found.mean()
    return [int(length) for length in np.clip(scale * draws, 1, limit)]


def main() -> None:
    """Reads the options, simulates both policies for each memory, prints a table."""
    parser = argparse.ArgumentParser(description="Decoding steps and memory of generation.")
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--mean", type=float, default=818, help="tokens of an answer")
    parser.add_argument("--limit", type=int, default=2048, help="tokens that an answer may have")
    parser.add_argument("--prompt", type=int, default=200, help="mean tokens of a prompt")
    parser.add_argument("--token-bytes", type=int, default=2**17, help="keys and values of a token; 8B: 128 KiB")
    parser.add_argument("--gib", type=float, nargs="+", default=[1, 24, 60])
    parser.add_argument("--budget", type=int, default=8192, help="tokens of a prefill")
    options = parser.parse_args()
    answers = long_tail(options.answers, options.mean, options.limit)
    rng = np.random.default_rng(1)
    prompts = [int(n) for n in np.clip(rng.normal(options.prompt, options.prompt / 4, options.answers), 8, None)]
    print(f"{len(answers)} answers, {np.mean(answers):.0f} tokens on average, at most {options.limit}")
    print(
        "| GiB | steps, limit reserved | steps | fewest | prefilled again | peak of what is allowed, reserved | paged |"
    )
    print("| --- |" + " --- |" * 6)
    for gib in options.gib:
        tokens = int(gib * GIB / options.token_bytes)
        old = reserved(prompts, answers, options.limit, tokens)
        new = paged(prompts, answers, options.limit, tokens, options.budget)
        again = new.prefilled / sum(prompts) - 1
        print(
            f"| {gib:g} | {old.steps:,} | {new.steps:,} | {least(prompts, answers, tokens):,} | {again:.0%} "
            f"| {old.peak / tokens:.2f} | {new.peak / tokens:.2f} |"
        )


if __name__ == "__main__":
    main()
