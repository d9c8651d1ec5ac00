"""Do weighted subsets of a probe tell more than uniform ones? Variance, bias and coverage at one number of items.

    python tests/benchmarks/subset.py [RUN ...] [--model MODEL] [--items 200] [--draws 2000] [--step N]

Compares the first snapshot of a RUN with its last one, or with that of `--step`; with `--model`, the directory of
SmolLM2-135M-Instruct, the recorded answers of what training made of it on ARC-Easy, by the margins before, which are
scored for it; without both, simulated worlds. The items stand for the population: subsets are drawn from them with
replacement, and what all of them say is the truth.

Weighted: 80% of a subset are items that can count as lost by what the baseline says, more where its margin is small;
the others, in which only gains can be seen, share the rest. "best" is the allocation to the same strata that nobody
knows beforehand, from the true variances. Gains are how many times fewer items give the same variance, and the same
width of the intervals: of weighted subsets these are MOVER on the Wilson limits of each stratum, as the product's
would have to be; z is 1.96 standard errors on both sides. Last, how many items answer their first prompt otherwise.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from real_table import SCORED
from simulated_worlds import Cell, Change, simulate

from forget_callback.metrics.estimates import Shares, Stratum
from forget_callback.metrics.knowledge import lost_by_item
from forget_callback.metrics.pairs import Pairs, paired
from forget_callback.metrics.transitions import pairs_of
from forget_callback.runs.store import Store
from forget_callback.scoring.engine import Scorer

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

RECORDED = Path(__file__).parents[1] / "data" / "smollm2_answers.npz"
SHOWN = ("light", "qa2", "mid", "heavy")
LEVELS = 2  # strata of the margin: of more, each has too few items for a narrow interval
GAINS = 0.2  # share of a subset for items that cannot count as lost
LOST = Change(lost=0.1)
WORLDS = (
    Cell("uniform", Change(lost=0.02), n=20_000),
    Cell("uniform", LOST, n=20_000),
    Cell("half known", LOST, n=20_000),
)
HEAD = (
    *("population", "items", "number", "value", "margin's AUC", "gain in variance: best", "weighted", "in width"),
    *("bias / s.e.", "covers: uniform", "weighted, z", "weighted"),
)


@dataclass(frozen=True)
class Number:
    """A number that is a mean over items, and what the baseline knows of them.

    Attributes:
        name: What it is called.
        scores: Of each item, ``(n,)``.
        stratum: 0 for items that cannot score, then by what they can score and by margin, ``(n,)``.
        guess: How likely an item scores, by its margin alone, ``(n,)``.
    """

    name: str
    scores: Floats
    stratum: Ints
    guess: Floats


def numbers(pairs: Pairs, margin: Floats) -> Iterator[Number]:
    """The raw number and the headline, of one prompt and of all."""
    both, (choice, _) = pairs.in_all_prompts, pairs.in_all_prompts.choices or (None, None)
    assert choice is not None
    guess = 1 / (1 + np.exp(np.abs(margin)))
    right, ahead = pairs.before == 1, np.full(len(pairs), 1)
    ahead[right] += _levels(margin[right])
    behind = 1 + LEVELS + _levels(margin)
    agreed = ((choice == choice[0]) | ~both.asked).all(axis=0)
    forgetting = (right & (pairs.after == 0)).astype(float)
    yield Number("forgetting", forgetting, np.where(right, ahead, 0), guess)
    yield Number("knowledge_lost, one prompt", lost_by_item(pairs.first()), np.where(right, ahead, behind), guess)
    if pairs.n_prompts > 1:
        yield Number("knowledge_lost", lost_by_item(pairs), np.where(agreed, np.where(right, ahead, behind), 0), guess)


def _levels(margin: Floats) -> Ints:
    """Fifths of the items, ``(n,)``."""
    order = np.argsort(np.argsort(margin, kind="stable"), kind="stable")
    return np.asarray(order * LEVELS // max(len(margin), 1), np.int64)


@dataclass(frozen=True)
class Design:
    """How a subset is drawn: of each stratum its number of items in the population and in the subset."""

    rows: tuple[Ints, ...]
    sizes: tuple[int, ...]
    can_score: tuple[bool, ...]

    def draw(self, number: Number, rng: np.random.Generator) -> tuple[Shares, float]:
        """The estimate of one subset, and its standard error."""
        n, total = sum(self.sizes), sum(map(len, self.rows))
        values = np.unique(number.scores[number.scores != 0])
        strata, variance = [], 0.0
        for rows, size, can in zip(self.rows, self.sizes, self.can_score):
            found = number.scores[rng.choice(rows, size)]
            share = len(rows) / total
            events = [float((found == value).sum()) for value in values] if can else []
            strata.append(Stratum(size, tuple(events), tuple(values * share * n / size) if can else ()))
            variance += share**2 * found.var(ddof=1) / size
        return Shares(tuple(strata)), float(np.sqrt(variance))

    def variance(self, number: Number) -> float:
        """Of its estimate."""
        total = sum(map(len, self.rows))
        parts = zip(self.rows, self.sizes)
        return float(sum((len(rows) / total) ** 2 * number.scores[rows].var() / size for rows, size in parts))


def uniform(number: Number, n: int) -> Design:
    """Every item is as likely as another."""
    return Design((np.arange(len(number.scores)),), (n,), (True,))


def weighted(number: Number, n: int, *, spread: Floats | None = None) -> Design:
    """More items where the margin says that they may score, or where their scores are `spread`, ``(n_strata,)``."""
    keys = np.unique(number.stratum)
    rows = tuple(np.flatnonzero(number.stratum == key) for key in keys)
    if spread is None:
        # What a lost item counts is about twice what its twin takes off, with four options.
        worth = np.where(keys > LEVELS, 0.5, 1.0)
        spread = worth * np.array([np.sqrt((p := number.guess[own].mean()) * (1 - p)) for own in rows])
        spread = np.where(keys == 0, 0.0, spread)
    need = np.array([len(own) for own in rows]) * spread
    gains = round(GAINS * n) if keys[0] == 0 else 0
    sizes = [gains if key == 0 else max(2, round((n - gains) * part)) for key, part in zip(keys, need / need.sum())]
    return Design(rows, tuple(sizes), tuple(bool(key > 0) for key in keys))


def best(number: Number, n: int) -> Design:
    """Neyman's allocation, from variances that are known only afterwards."""
    keys = np.unique(number.stratum)
    return weighted(number, n, spread=np.array([number.scores[number.stratum == key].std() for key in keys]))


def row(name: str, number: Number, n: int, draws: int, rng: np.random.Generator) -> tuple[Any, ...]:
    """A line of the table."""
    truth, plan = float(number.scores.mean()), weighted(number, n)
    even, own = uniform(number, n), []
    n_own = sum(plan.sizes)
    for design in (even, plan):
        found = [design.draw(number, rng) for _ in range(draws)]
        means, errors = np.array([one.mean for one, _ in found]), np.array([error for _, error in found])
        low, high = np.array([one.interval() for one, _ in found]).T
        by_z = np.abs(means - truth) <= 1.96 * errors
        own.append((means, (high - low).mean(), ((low <= truth) & (truth <= high)).mean(), by_z.mean()))
    (means, width, covers, _), (others, width_own, covers_own, covers_z) = own
    scale = n_own / n  # sizes are rounded
    return (
        *(name, n, number.name, f"{100 * truth:.1f}%", f"{auc(number):.2f}"),
        f"{even.variance(number) / best(number, n).variance(number):.2f}",
        f"{means.var() / others.var() / scale:.2f}",
        f"{(width / width_own) ** 2 / scale:.2f}",
        f"{(others.mean() - truth) / (others.std() / np.sqrt(draws)):+.1f}",
        *(f"{100 * share:.0f}%" for share in (covers, covers_z, covers_own)),
    )


def auc(number: Number) -> float:
    """Of the margin, for which items that were right count as lost."""
    own = (number.stratum > 0) & (number.stratum <= LEVELS)
    lost = number.scores[own] > 0
    if lost.all() or not lost.any():
        return float("nan")
    rank = np.argsort(np.argsort(number.guess[own])) + 1
    return float((rank[lost].sum() - lost.sum() * (lost.sum() + 1) / 2) / (lost.sum() * (~lost).sum()))


def needed(pairs: Pairs) -> float:
    """Share of the further prompts that `variants="changed"` asks."""
    assert pairs.choices is not None
    changed, asked = pairs.choices[0] != pairs.choices[1], pairs.in_all_prompts.asked[1:]
    return float((asked & changed).sum() / asked.sum())


def of_run(path: str, step: int | None) -> tuple[Pairs, Floats]:
    """The multiple-choice items of a run that were scored in all of their prompts, and the baseline's margins."""
    store, found = Store(path), []
    for probe in store.probes():
        steps = store.steps(probe.name)
        before, after = store.read(probe.name, steps[0]), store.read(probe.name, steps[-1] if step is None else step)
        pairs = pairs_of(before, after)
        kept = pairs.several & ~np.isnan(pairs.before + pairs.after) & pairs.in_all_prompts.scored
        if kept.any():
            found.append((pairs.take(kept), before.margin[kept]))
    if len(found) != 1:
        raise SystemExit(f"{path} must have one probe with multiple-choice items, got {len(found)}")
    return found[0]


def of_recorded(model: str, data: Path) -> Iterator[tuple[str, Pairs, Floats]]:
    """ARC-Easy before and after several trainings, in the frames A and E; the margins before are scored anew."""
    from real_model import Study

    study = Study(model, data, data)
    (base,) = Scorer(study.tokenizer, study.sets["arc"]["A"]).score(study.start)
    with np.load(RECORDED) as file:
        choices, answer = file["arc"][:, [0, -1]].astype(np.int64), file["arc_answer"].astype(np.int64)
    if not np.array_equal(answer, base.answer):
        raise SystemExit(f"{RECORDED} is not of the items in {data}")
    right = (choices == answer).astype(float)
    # Recorded in bfloat16: where it is nearly a tie another option may have been ahead.
    margin = np.where((base.margin > 0) == (right[0, 0] == 1), base.margin, -base.margin)
    for i, state in enumerate(SCORED["arc"]):
        if state in SHOWN:
            shared = {"before_choice": choices[0], "after_choice": choices[i], "answer": answer}
            yield f"ARC-Easy, {state}", paired(right[0], right[i], 4, **shared), margin


def of_world(cell: Cell, rng: np.random.Generator) -> tuple[Pairs, Floats]:
    """A simulated pair of snapshots; margins say of what was right how sure it is, with an AUC of about 0.85."""
    draw = simulate(cell, rng)
    right = [(side == draw.answer).astype(float) for side in (draw.before, draw.after)]
    shared = {"before_choice": draw.before, "after_choice": draw.after, "answer": draw.answer}
    moved = draw.before[0] != draw.after[0]
    margin = rng.gamma(2.0, size=cell.n) * np.where(moved, 0.5, 1.5)
    return paired(*right, draw.options, **shared), np.where(right[0][0] == 1, margin, -margin)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN")
    parser.add_argument("--model", help="directory of SmolLM2-135M-Instruct")
    parser.add_argument("--data", type=Path, default=Path("data"), help="with --model: directory of arc_easy.jsonl")
    parser.add_argument("--items", type=int, nargs="+", default=[200])
    parser.add_argument("--draws", type=int, default=2_000)
    parser.add_argument("--step", type=int, help="of a RUN; its last one by default")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    populations = [(path, *of_run(path, options.step)) for path in options.runs]
    populations += of_recorded(options.model, options.data) if options.model else []
    populations = populations or [(f"{cell.world}, {cell.change}", *of_world(cell, rng)) for cell in WORLDS]
    print("| " + " | ".join(HEAD) + " |\n" + "| --- " * len(HEAD) + "|")
    for name, pairs, margin in populations:
        for n in options.items:
            for number in numbers(pairs, margin):
                cells = row(name, number, n, options.draws, rng)
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    for name, pairs, _ in populations:
        print(f"{name}: {len(pairs)} items, {needed(pairs):.0%} of the further prompts are worth asking")


if __name__ == "__main__":
    main()
