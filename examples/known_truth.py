"""How far is knowledge_lost from the truth? A trained model whose losses are known, three seeds.

Half of the invented facts are taught to a tiny model, half are never shown to it. Then it is trained on other facts. On
the taught half, which it answered without a mistake, what was lost can be read off; on the other half nothing could be
lost. Every estimator sees all items together and knows none of this.

    python examples/known_truth.py --out known_truth

Writes known_truth.md and known_truth.png. About 7 minutes on 2 cores. Needs matplotlib.
"""

import argparse
import copy
import random
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import torch
from rich.progress import Progress

from forget_callback import MultipleChoice, Probe, compare, score_probe
from forget_callback.demo.tiny import make_model, make_tokenizer, teach

ONSETS = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "gr", "kr", "tr", "st"]
VERSIONS = 3
VOWELS = ["a", "e", "i", "o", "u", "ia", "ea"]


def invent(count: int, rng: random.Random, taken: set[str]) -> list[str]:
    """Words that nobody used before."""
    words: list[str] = []
    while len(words) < count:
        word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(3)).capitalize()
        if word not in taken:
            taken.add(word)
            words.append(word)
    return words


def facts_about(count: int, half: str, rng: random.Random, taken: set[str]) -> list[MultipleChoice]:
    """Invented facts, each asked with three sets of options: answers of the same half, all equally familiar."""
    subjects, answers = invent(count, rng, taken), invent(count, rng, taken)
    items = []
    for i, (subject, answer) in enumerate(zip(subjects, answers, strict=True)):
        for version in range(VERSIONS):
            options = [answer, *rng.sample([other for other in answers if other != answer], 3)]
            rng.shuffle(options)
            choices = [f" {option}" for option in options]
            name = f"{half}{i}/{version}"
            items.append(MultipleChoice(name, f"{subject} is in", choices, options.index(answer), half))
    return items


def sentences(items: list[MultipleChoice]) -> list[str]:
    """What teaching the facts shows, one sentence a fact."""
    return [f"{item.prompt}{item.choices[item.answer]}<|im_end|>" for item in items[::VERSIONS]]


def study(seed: int, count: int, amounts: list[int], progress: Progress) -> list[dict[str, float]]:
    """One model: a row for each amount of further training."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    taken: set[str] = set()
    taught, unseen, other = (facts_about(count, half, rng, taken) for half in ("taught", "unseen", "other"))
    tokenizer = make_tokenizer(sentences(taught + unseen + other))
    model = make_model(tokenizer)
    teach(model, tokenizer, sentences(taught), seed=seed, progress=progress, steps=count // 2, batch_size=128)
    probe = Probe("facts", taught + unseen)
    before = score_probe(model, tokenizer, probe)
    rows, known = [], before.category == "taught"
    for amount in amounts:
        further = copy.deepcopy(model)
        teach(further, tokenizer, sentences(other), seed=seed, progress=progress, steps=amount, learning_rate=2e-4)
        after = score_probe(further, tokenizer, probe)
        whole = compare(before, after)
        half, rest = (compare(before.select(mask), after.select(mask)) for mask in (known, ~known))
        rows.append(
            {
                "seed": seed,
                "steps": amount,
                "truth": half.n10 / whole.n * 4 / 3,  # a lost item is still guessed right one time in four
                "raw": whole.forgetting,
                "paper": whole.forgetting_adjusted,
                "knowledge_lost": whole.knowledge_lost,
                "low": whole.knowledge_lost_interval.low,
                "high": whole.knowledge_lost_interval.high,
                "unseen raw": rest.forgetting,
                "unseen knowledge_lost": rest.knowledge_lost,
                "persistence": whole.guess_persistence,
                "taught before": half.accuracy_before,
                "unseen before": rest.accuracy_before,
            }
        )
        print({name: round(value, 3) for name, value in rows[-1].items()}, flush=True)
    return rows


def draw(table: pd.DataFrame, path: Path) -> None:
    """Estimates against the truth, a point a cell."""
    figure, axis = plt.subplots(figsize=(5, 4))
    top = 100 * table[["truth", "high"]].to_numpy().max()
    axis.plot([0, top], [0, top], color="grey", linewidth=0.8, label="truth")
    for name, label, marker in (("raw", "raw 1→0", "x"), ("paper", "paper", "+")):
        axis.plot(100 * table["truth"], 100 * table[name], marker, label=label)
    errors = 100 * abs(table[["low", "high"]].sub(table["knowledge_lost"], axis=0)).to_numpy().T
    axis.errorbar(
        100 * table["truth"], 100 * table["knowledge_lost"], errors, fmt="o", markersize=4, label="knowledge_lost"
    )
    axis.set_xlabel("truly lost (% of items)")
    axis.set_ylabel("estimated (% of items)")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=160)


def main() -> None:
    """Runs the study and writes the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("known_truth"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--facts", type=int, default=1200, help="facts in each half")
    parser.add_argument("--steps", type=int, nargs="+", default=[15, 40, 80, 160])
    options = parser.parse_args()
    with Progress() as progress:
        rows = [row for seed in range(options.seeds) for row in study(seed, options.facts, options.steps, progress)]
    table = pd.DataFrame(rows)
    columns = [
        "seed",
        "steps",
        "truth",
        "raw 1→0",
        "paper",
        "knowledge_lost [95%]",
        "error",
        "unseen half, truth 0: raw / ours",
        "guess persistence",
    ]
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for row in rows:
        ours = f"{row['knowledge_lost']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        rest = f"{row['unseen raw']:.3f} / {row['unseen knowledge_lost']:+.3f}"
        error, repeats = f"{row['knowledge_lost'] - row['truth']:+.3f}", f"{row['persistence']:.2f}"
        numbers = [f"{row[name]:.3f}" for name in ("truth", "raw", "paper")]
        lines.append(
            "| " + " | ".join([str(row["seed"]), str(row["steps"]), *numbers, ours, error, rest, repeats]) + " |"
        )
    options.out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(table, options.out.with_suffix(".png"))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
