"""The dial and the replay pack on the tiny model: numbers before and after, over six seeds.

python recipes/tools.py --out tools [--seeds 0 1 2 3 4 5] [--samples 2560]

The task is that of recipes/tiny_study.py. The dial turns a fine-tuning back a part of the way. The replay pack is
chosen, from conversations about facts and about things that do not exist, for what a first run forgot; a second run
trains on a fifth of it, a third one on a fifth of as many random conversations of the pool.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from study_tables import matrix
from tiny_study import train, workers

COMMAND = [sys.executable, "-m", "forget_callback"]
RECALL = "builtin:facts?kind=recall"
PACK = 60


def write_pool(path: Path, seed: int) -> list[dict]:
    """Conversations: each fact in a wording that no recall item has, and twice as many about made-up things."""
    from forget_callback.demo.smoke import FACTS, taught_facts
    from forget_callback.demo.tiny import conversation, invented_facts

    _, facts = taught_facts()
    pairs = [(fact.question, fact.answer) for fact in facts] + invented_facts(2 * FACTS, random.Random(seed + 100))
    pool = [{"messages": conversation(*pair)} for pair in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in pool))
    return pool


def one_seed(job: dict) -> dict:
    """Trains three runs and turns the dial, for one seed."""
    from forget_callback.demo.smoke import FACTS

    root, seed = Path(job["root"]), job["seed"]
    # The recall items alone: the pool asks as the choice items do, and would be refused for that.
    base = {"root": str(root), "method": "sft", "samples": job["samples"], "seed": seed, "size": 128, "recall": True}
    first = train({**base, "out": str(root / f"first-{seed}"), "save": str(root / f"tuned-{seed}")})
    pool = write_pool(root / f"pool-{seed}.jsonl", seed)
    pack, other = root / f"pack-{seed}.jsonl", root / f"random-{seed}.jsonl"
    chosen = ["replay", first["out"], "--pool", root / f"pool-{seed}.jsonl", "--out", pack, "--size", PACK]
    subprocess.run([*COMMAND, *map(str, chosen)], check=True, capture_output=True)
    count = len(pack.read_text().splitlines())
    other.write_text("".join(json.dumps(row) + "\n" for row in random.Random(seed).sample(pool, count)))
    again = {
        name: train({**base, "out": str(root / f"{name}-{seed}"), "replay": str(file)})
        for name, file in (("pack", pack), ("random", other))
    }
    tuned = root / f"tuned-{seed}"
    turned = ["dial", root / f"model-128-{seed}", tuned, "--probe", RECALL, "--task", tuned / "task.jsonl?chat=true"]
    dial = subprocess.run(
        [*COMMAND, *map(str, turned), "--limit", str(FACTS), "--format", "json"],
        check=True,
        capture_output=True,
        text=True,
    )
    ends = {"first": first, **again}
    return {"replay": {name: run["steps"][-1] for name, run in ends.items()}, "dial": json.loads(dial.stdout)}


def tables(seeds: list[dict]) -> list[str]:
    """Both tools, over seeds."""
    heads = ["right in the task, %", "facts forgotten (recall), %"]
    said = {"first": "nothing", "random": "random examples of the pool", "pack": "the replay pack"}
    replayed = {
        text: [[seed["replay"][name][key] for seed in seeds] for key in ("task", "forgotten")]
        for name, text in said.items()
    }
    turned = {
        f"{point['share']:g}": [
            [seed["dial"]["points"][place][key] for seed in seeds] for key in ("task_accuracy", "forgetting")
        ]
        for place, point in enumerate(seeds[0]["dial"]["points"])
    }
    return [matrix("a fifth of the samples is", heads, replayed), matrix("dial", heads, turned)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The dial and the replay pack on the tiny model.")
    parser.add_argument("--out", type=Path, default=Path("tools"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--samples", type=int, default=2560)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    begun = time.perf_counter()
    given.out.mkdir(parents=True, exist_ok=True)
    jobs = [{"root": str(given.out), "seed": seed, "samples": given.samples} for seed in given.seeds]
    with workers(given.workers) as pool:
        found = list(pool.map(one_seed, jobs))
    text = "\n\n".join(tables(found))
    (given.out / "tools.json").write_text(json.dumps(found) + "\n")
    (given.out / "tools.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    print(f"{(time.perf_counter() - begun) / 60:.1f} minutes")
