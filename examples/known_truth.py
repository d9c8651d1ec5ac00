"""How far is knowledge_lost from the truth? A trained model whose losses are known, two seeds.

Half of the invented facts are taught to a tiny model in five wordings, half are never shown to it. Then it is trained
on other facts. Every estimator sees all facts together, asked in two of the wordings. The truth comes from the three
other wordings, each with two other sets of wrong options: a fact is lost if it was right in all six before and is right
in at most a third of them now, or in at most two thirds, for facts are also lost in part. Facts that were never shown
say how often that happens where a fact is only guessed.

    python examples/known_truth.py --out known_truth

Writes known_truth.md and known_truth.png. About 5 minutes on 2 cores. Needs matplotlib.
"""

import argparse
import copy
import random
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from rich.progress import Progress

from forget_callback import MultipleChoice, Probe, Variant, compare, score_probe
from forget_callback.demo.tiny import make_model, make_tokenizer, teach

ONSETS = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "gr", "kr", "tr", "st"]
VOWELS = ["a", "e", "i", "o", "u", "ia", "ea"]
ASKED = ("{} is in", "Where would you look for {}? In")
HIDDEN = ("Question: which land has {}?\nAnswer:", "The road to {} leads through", "They say that {} belongs to")
DRAWS = 2  # sets of wrong options in each hidden wording


def invent(count: int, rng: random.Random, taken: set[str]) -> list[str]:
    """Words that nobody used before."""
    words: list[str] = []
    while len(words) < count:
        word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(3)).capitalize()
        if word not in taken:
            taken.add(word)
            words.append(word)
    return words


def facts_about(count: int, half: str, rng: random.Random, taken: set[str]) -> tuple[list[MultipleChoice], ...]:
    """Invented facts as the estimators see them, and as they do not; wrong options are answers of the same half."""
    subjects, answers = invent(count, rng, taken), invent(count, rng, taken)
    seen, hidden = [], []

    def options(right: str) -> tuple[list[str], int]:
        found = [right, *rng.sample([other for other in answers if other != right], 3)]
        rng.shuffle(found)
        return [f" {option}" for option in found], found.index(right)

    for i, (subject, right) in enumerate(zip(subjects, answers, strict=True)):
        prompt, second = (wording.format(subject) for wording in ASKED)
        seen.append(MultipleChoice(f"{half}{i}", prompt, *options(right), half, variants=[Variant(second)]))
        for number, wording in enumerate(HIDDEN * DRAWS):
            hidden.append(MultipleChoice(f"{half}{i}/{number}", wording.format(subject), *options(right), half))
    return seen, hidden


def sentences(items: list[MultipleChoice]) -> list[str]:
    """What teaching the facts shows: each in every wording."""
    found = []
    for item in items:
        subject = item.prompt.removesuffix(ASKED[0].format(""))
        found += [f"{wording.format(subject)}{item.choices[item.answer]}<|im_end|>" for wording in ASKED + HIDDEN]
    return found


def study(seed: int, count: int, amounts: list[int], progress: Progress) -> list[dict[str, float]]:
    """One model: a row for each amount of further training."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    taken: set[str] = set()
    halves = [facts_about(count, half, rng, taken) for half in ("taught", "unseen", "other")]
    (taught, _), (unseen, _), (other, _) = halves
    tokenizer = make_tokenizer(sentences(taught + unseen + other))
    model = make_model(tokenizer)
    teach(model, tokenizer, sentences(taught), seed=seed, progress=progress, steps=count // 2, batch_size=128)
    probe, hidden = Probe("facts", taught + unseen), Probe("hidden", halves[0][1] + halves[1][1])
    before = score_probe(model, tokenizer, probe)
    rows, known = [], before.category == "taught"
    right_before = score_probe(model, tokenizer, hidden).correct.reshape(len(probe), -1).mean(axis=1)
    for amount in amounts:
        further = copy.deepcopy(model)
        teach(further, tokenizer, sentences(other), seed=seed, progress=progress, steps=amount, learning_rate=5e-4)
        after = score_probe(further, tokenizer, probe)
        left = score_probe(further, tokenizer, hidden).correct.reshape(len(probe), -1).mean(axis=1)
        whole, one = compare(before, after), compare(before.without_variants(), after.without_variants())
        rest = compare(before.select(~known), after.select(~known))
        # Of the facts that were right in all six, and over how often a fact that is not known is right so rarely.
        gone = [
            (known & (right_before == 1) & (left <= share)).mean() / np.mean(left[~known] <= share)
            for share in (1 / 3, 2 / 3)
        ]
        rows.append(
            {
                "seed": seed,
                "steps": amount,
                "truth": gone[0],
                "truth high": gone[1],
                "raw": whole.forgetting,
                "paper": whole.forgetting_adjusted,
                "one": one.knowledge_lost,
                "knowledge_lost": whole.knowledge_lost,
                "low": whole.knowledge_lost_interval.low,
                "high": whole.knowledge_lost_interval.high,
                "unseen raw": rest.forgetting,
                "unseen knowledge_lost": rest.knowledge_lost,
                "taught before": before.correct[known].mean(),
                "hidden before": np.mean(right_before[known] == 1),
            }
        )
        print({name: round(float(value), 3) for name, value in rows[-1].items()}, flush=True)
    return rows


def draw(table: pd.DataFrame, path: Path) -> None:
    """Estimates against the truth, a point a cell."""
    figure, axis = plt.subplots(figsize=(5, 4))
    top = 100 * table[["truth high", "high"]].to_numpy().max()
    axis.plot([0, top], [0, top], color="grey", linewidth=0.8)
    truth, spread = 50 * (table["truth"] + table["truth high"]), 50 * (table["truth high"] - table["truth"])
    for name, label, marker in (("raw", "raw 1→0", "x"), ("paper", "paper", "+"), ("one", "one prompt", "s")):
        axis.plot(truth, 100 * table[name], marker, markersize=4, label=label)
    errors = 100 * abs(table[["low", "high"]].sub(table["knowledge_lost"], axis=0)).to_numpy().T
    label = "knowledge_lost, two prompts"
    axis.errorbar(truth, 100 * table["knowledge_lost"], errors, spread, fmt="o", markersize=4, label=label)
    axis.set_xlabel("truly lost (% of items)")
    axis.set_ylabel("estimated (% of items)")
    axis.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=160)


def main() -> None:
    """Runs the study and writes the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("known_truth"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--facts", type=int, default=600, help="facts in each half")
    parser.add_argument("--steps", type=int, nargs="+", default=[15, 40, 80, 160])
    options = parser.parse_args()
    with Progress() as progress:
        rows = [row for seed in range(options.seeds) for row in study(seed, options.facts, options.steps, progress)]
    table = pd.DataFrame(rows)
    columns = ["seed", "steps", "truth", "raw 1→0", "paper", "one prompt", "knowledge_lost [95%]"]
    columns.append("unseen half, truth 0: raw / ours")
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for row in rows:
        ours = f"{row['knowledge_lost']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        rest = f"{row['unseen raw']:.3f} / {row['unseen knowledge_lost']:+.3f}"
        truth, numbers = (
            f"{row['truth']:.3f} to {row['truth high']:.3f}",
            [f"{row[n]:.3f}" for n in ("raw", "paper", "one")],
        )
        cells = [f"{row['seed']}", f"{row['steps']}", truth, *numbers, ours]
        lines.append("| " + " | ".join([*cells, rest]) + " |")
    options.out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(table, options.out.with_suffix(".png"))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
