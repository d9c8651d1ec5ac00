"""The data-scale study on the tiny model: how forgetting grows with data, by method and by size of the model.

python recipes/tiny_study.py --out study [--seeds 0 1 2 3 4 5] [--samples 160 640 2560 10240] [--workers 2]

One new task for all: answers shall start with S. SFT learns it from demonstrations (made-up words), SFT with replay
from the same with a fifth of old facts, LoRA as SFT, GRPO from a reward for the first letter. What is not to be
forgotten are the facts that the model was taught before. Writes study.md, study.png, runs.json and report.html.
"""

import argparse
import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import random
import time
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot
from study_tables import matrix

from forget_callback.report import write_report

WIDTH, OTHER_WIDTHS, AT = 128, (64, 256), 2560
NAMES = {"sft": "SFT", "replay": "SFT, 20% replay", "lora": "LoRA", "grpo": "GRPO"}
COLORS = {"sft": "#c0392b", "replay": "#e08e45", "lora": "#7d5ba6", "grpo": "#2471a3"}
KEPT = ("method", "size", "samples", "seed", "seconds", "steps")
BATCH = 32


def train(job: dict) -> dict:
    """One run: trains, and gives what each snapshot says of the task and of the facts.

    A job has `root`, `out`, `method`, `samples`, `seed`, `size`, and may have `replay` (JSON Lines of conversations
    that a fifth of the samples is drawn from), `recall` (true: watch the recall items alone) and `save` (where to save
    the model).
    """
    import transformers
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    from forget_callback import ForgetCallback
    from forget_callback.demo.smoke import make_taught, new_task, taught_facts
    from forget_callback.demo.tiny import conversation, quiet, starts_with_s
    from forget_callback.probes.records import item_record
    from forget_callback.scoring.loading import load_model, load_tokenizer

    root, method, samples, seed, size = (job[name] for name in ("root", "method", "samples", "seed", "size"))
    begun = time.perf_counter()
    taught = make_taught(Path(root) / f"model-{size}-{seed}", seed=seed, hidden_size=size)
    model, tokenizer = load_model(str(taught)), load_tokenizer(str(taught))
    probes, facts = taught_facts()
    rows, task = new_task(samples, seed=seed)
    if job.get("replay"):
        old = [json.loads(line)["messages"] for line in Path(job["replay"]).read_text().splitlines()]
    else:
        old = [conversation(fact.question, fact.answer) for fact in facts]
    if method == "replay" or job.get("replay"):
        rng = random.Random(seed)
        rows = [rng.choice(old) if rng.random() < 0.2 else row for row in rows]
    watched = [probe for probe in probes if probe.name == "facts-recall" or not job.get("recall")]
    callback = ForgetCallback([*watched, task], every="log2", on_error="raise")
    common = {
        "output_dir": job["out"],
        "max_steps": -(-samples // BATCH),
        "per_device_train_batch_size": BATCH,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "logging_strategy": "no",
        "seed": seed,
    }
    shared = {"model": model, "processing_class": tokenizer, "callbacks": [callback]}
    transformers.set_seed(seed)
    Path(job["out"]).mkdir(parents=True, exist_ok=True)
    with (
        open(Path(job["out"], "log.txt"), "w", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
        quiet(),
    ):
        if method == "grpo":
            args = GRPOConfig(learning_rate=3e-4, num_generations=8, max_completion_length=12, beta=0.0, **common)
            data = Dataset.from_list([{"prompt": row[:1]} for row in rows])
            trainer = GRPOTrainer(args=args, train_dataset=data, reward_funcs=starts_with_s, **shared)
        else:
            lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
            args = SFTConfig(learning_rate=5e-3 if method == "lora" else 5e-4, max_length=128, **common)
            data = Dataset.from_list([{"messages": row} for row in rows])
            config = lora if method == "lora" else None
            trainer = SFTTrainer(args=args, train_dataset=data, peft_config=config, **shared)
        trainer.train()
        if job.get("save"):
            trainer.save_model(job["save"])
            tokenizer.save_pretrained(job["save"])
            held = "".join(json.dumps(item_record(item)) + "\n" for item in task.items)
            Path(job["save"], "task.jsonl").write_text(held)
    history = callback.history[callback.history["category"] == ""]
    steps = []
    for step, own in history.groupby("step"):
        by_probe = own.set_index("probe")
        lost = by_probe["knowledge_lost"].get("facts-choice")
        steps.append(
            {
                "step": int(step),
                "samples": float(by_probe["samples_seen"].iloc[0]),
                "task": float(by_probe.loc[task.name, "accuracy_after"]),
                "lost": None if lost is None else float(lost),
                "forgotten": float(by_probe.loc["facts-recall", "forgetting"]),
            }
        )
    end, seconds = steps[-1], time.perf_counter() - begun
    print(
        f"{NAMES[method]}, width {size}, seed {seed}, {samples:,} samples: {end['task']:.0%} right in the task, "
        f"{end['forgotten']:.0%} of the facts forgotten, {seconds:.0f} s",
        flush=True,
    )
    return {**job, "steps": steps, "seconds": seconds}


def teach(model: tuple[str, int, int]) -> None:
    """Makes the model of a directory, a size and a seed."""
    from forget_callback.demo.smoke import make_taught

    root, size, seed = model
    make_taught(Path(root) / f"model-{size}-{seed}", seed=seed, hidden_size=size)


def workers(count: int) -> concurrent.futures.ProcessPoolExecutor:
    """Processes of one thread each: more threads than cores are slower than none."""
    os.environ["OMP_NUM_THREADS"] = "1"
    return concurrent.futures.ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


def at_task(run: dict, level: float) -> float:
    """Facts forgotten when the task first reaches a level, by straight lines between snapshots; NaN if never."""
    steps = run["steps"]
    for before, after in zip([steps[0], *steps], steps):
        if after["task"] >= level:
            span = after["task"] - before["task"]
            share = (level - before["task"]) / span if span > 0 else 1.0
            return before["forgotten"] + share * (after["forgotten"] - before["forgotten"])
    return float("nan")


def ends(runs: list[dict], what: str, method: str, samples: int, width: int = WIDTH) -> dict[int, float]:
    """What runs ended with, by seed."""
    kind = (method, samples, width)
    return {run["seed"]: run["steps"][-1][what] for run in runs if (run["method"], run["samples"], run["size"]) == kind}


def tables(runs: list[dict]) -> list[str]:
    """What runs ended with by data scale, how methods differ, what was forgotten at equal task accuracy, by width."""
    samples = sorted({run["samples"] for run in runs})
    heads = [f"{n:,} samples" for n in samples]

    def of_all(what: str) -> dict[str, list[list[float]]]:
        return {NAMES[m]: [list(ends(runs, what, m, n).values()) for n in samples] for m in NAMES}

    forgotten = of_all("forgotten")
    for more, less in (("sft", "grpo"), ("sft", "replay"), ("lora", "sft")):
        pairs = [(ends(runs, "forgotten", more, n), ends(runs, "forgotten", less, n)) for n in samples]
        forgotten[f"{NAMES[more]} less {NAMES[less]}"] = [[one[s] - other[s] for s in one] for one, other in pairs]
    levels = (0.5, 0.8, 0.95)
    longest = {m: [run for run in runs if (run["method"], run["samples"]) == (m, samples[-1])] for m in NAMES}
    reached = {NAMES[m]: [[at_task(run, level) for run in own] for level in levels] for m, own in longest.items()}
    pairs = zip(reached[NAMES["sft"]], reached[NAMES["grpo"]])
    reached["SFT less GRPO"] = [[one - other for one, other in zip(*pair)] for pair in pairs]
    widths = sorted((WIDTH, *OTHER_WIDTHS))
    by_width = {f"SFT, {AT:,} samples": [list(ends(runs, "forgotten", "sft", AT, w).values()) for w in widths]}
    return [
        matrix("facts forgotten (recall), %", heads, forgotten),
        matrix("facts forgotten (recall), %, when the task is at", [f"{level:.0%}" for level in levels], reached),
        matrix("facts forgotten (recall), %, by width", [str(width) for width in widths], by_width),
        matrix("knowledge lost (choice), %", heads, of_all("lost")),
        matrix("right in the task, %", heads, of_all("task")),
    ]


def figure(runs: list[dict], path: Path) -> None:
    """Forgetting against samples, against task accuracy, and by width."""
    samples = sorted({run["samples"] for run in runs})
    matplotlib.use("Agg")
    plot, axes = pyplot.subplots(1, 3, figsize=(13, 4), constrained_layout=True, sharey=True)
    for method, color in COLORS.items():
        found = {n: [100 * value for value in ends(runs, "forgotten", method, n).values()] for n in samples}
        axes[0].plot(samples, [np.mean(found[n]) for n in samples], color=color, label=NAMES[method])
        for n in samples:
            axes[0].plot([n] * len(found[n]), found[n], "o", color=color, ms=4, alpha=0.6)
        for run in (run for run in runs if (run["method"], run["samples"]) == (method, max(samples))):
            xy = np.array([[100 * step["task"], 100 * step["forgotten"]] for step in run["steps"]])
            axes[1].plot(*xy.T, "-o", color=color, ms=3, lw=1, alpha=0.7)
    axes[0].set(xscale="log", xlabel="samples trained on", ylabel="facts forgotten (recall), %", ylim=(-2, 102))
    axes[0].set_xticks(samples, [f"{n:,}" for n in samples])
    axes[0].minorticks_off()
    axes[0].legend(frameon=False)
    axes[1].set(xlabel=f"right in the new task, %, on the way to {samples[-1]:,} samples")
    for width in (WIDTH, *OTHER_WIDTHS):
        values = [100 * value for value in ends(runs, "forgotten", "sft", AT, width).values()]
        axes[2].plot([width] * len(values), values, "o", color=COLORS["sft"], alpha=0.6)
        axes[2].plot([width], [np.mean(values)], "_", color="black", ms=16)
    axes[2].set(xlabel=f"width of the model (SFT, {AT:,} samples)", xscale="log")
    axes[2].set_xticks(sorted((WIDTH, *OTHER_WIDTHS)), sorted((WIDTH, *OTHER_WIDTHS)))
    axes[2].minorticks_off()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    plot.savefig(path, dpi=150)


def jobs(root: Path, samples: list[int], seeds: list[int]) -> list[dict]:
    """All runs, the longest first: methods at each data scale, and SFT at one scale for the other widths."""
    wanted = [(method, n, seed, WIDTH) for seed in seeds for method in NAMES for n in samples]
    wanted += [("sft", AT, seed, width) for seed in seeds for width in OTHER_WIDTHS]
    found = [dict(zip(("method", "samples", "seed", "size"), one)) for one in wanted]
    found.sort(key=lambda job: -job["samples"])
    return [
        {**job, "root": str(root), "out": str(root / f"{job['method']}-{job['samples']}-{job['size']}-{job['seed']}")}
        for job in found
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The data-scale study on the tiny model.")
    parser.add_argument("--out", type=Path, default=Path("study"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--samples", type=int, nargs="+", default=[160, 640, 2560, 10240])
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    begun = time.perf_counter()
    samples = sorted({*given.samples, AT})
    wanted = jobs(given.out, samples, given.seeds)
    with workers(given.workers) as pool:
        # Models first: runs that share one must not teach it twice.
        list(pool.map(teach, sorted({(str(given.out), job["size"], job["seed"]) for job in wanted})))
        runs = list(pool.map(train, wanted))
    kept = [{name: run[name] for name in KEPT} for run in runs]
    (given.out / "runs.json").write_text(json.dumps(kept) + "\n")
    text = "\n\n".join(tables(runs))
    (given.out / "study.md").write_text(text + "\n", encoding="utf-8")
    figure(runs, given.out / "study.png")
    shown = [job["out"] for job in wanted if (job["seed"], job["size"]) == (given.seeds[0], WIDTH)]
    print(text)
    print(f"page {write_report(shown, given.out / 'report.html', stages=False)}")
    print(f"{len(runs)} runs, {(time.perf_counter() - begun) / 60:.1f} minutes")
