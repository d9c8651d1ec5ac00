"""The study: what a model forgets by continual pretraining, SFT, LoRA and GRPO, and what replay and merging save.

python recipes/study.py --model MODEL [--out study] [--items SPEC ...] [--only NAME ...] [--seeds 0 1 2]
    [--budget-minutes N]
python recipes/study_tables.py study

A run is a file, OUT/runs/NAME-SEED.json, with its settings and every number of every evaluation; a run that is there is
not run again, so the study can be stopped and continued at any time. Without --model it is the demo's tiny model with
few items, in minutes, which shows that it runs and nothing else. One process trains one run at a time: on more cores or
GPUs start it several times with different --seeds.
"""

import argparse
import contextlib
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from study_data import own_answers, passages, replay_pool, write_rows, write_task
from study_record import confident_conflicts, portable, read_run, record, turned, whole, write_ids
from transformers import PrinterCallback

from forget_callback import load_probe, load_tokenizer
from forget_callback.demo.tiny import quiet
from forget_callback.probes.specs import limited
from forget_callback.tools.recipe import Recipe
from forget_callback.tools.replay import replay_pack

# `samples` are rows of the task or passages of the domain, `rate` is a multiple of the scale's learning rate. `replay`
# takes a fifth of the samples. Mitigations stand beside the run `sft-hot`, with its data and its rate.
REGIMES: dict[str, dict[str, Any]] = {
    "pretrain-small": {"data": "domain", "samples": "few"},
    "pretrain-large": {"data": "domain", "samples": "many"},
    "pretrain-hot": {"data": "domain", "samples": "many", "rate": 5},
    "sft-small": {"samples": "few"},
    "sft-large": {"samples": "many"},
    "sft-hot": {"samples": "many", "rate": 2, "dial": True, "pack": True},
    "sft-hotter": {"samples": "many", "rate": 5},
    "lora": {"samples": "many", "rate": 10, "lora": True},
    "replay-pool": {"samples": "many", "rate": 2, "replay": "pool"},
    "replay-own": {"samples": "many", "rate": 2, "replay": "own"},
    "replay-pack": {"samples": "many", "rate": 2, "replay": "pack"},
    "grpo-small": {"trainer": "grpo", "samples": "few"},
    "grpo-large": {"trainer": "grpo", "samples": "many"},
}
BATCH = {"sft": 8, "domain": 8, "grpo": 32}
GENERATIONS = 8
FACTS = "builtin:facts?kind=choice&limit={}"
# What depends on the size of the model: rows, items, learning rates. Of GRPO a sample is a prompt with one response.
REAL = {
    "samples": {"sft": {"few": 64, "many": 320}, "grpo": {"few": 128, "many": 640}, "domain": {"few": 24, "many": 160}},
    "rates": {"sft": 1e-4, "grpo": 5e-5, "domain": 1e-4},
    "probes": (
        FACTS.format(150),
        "builtin:behaviour?category=language,over_refusal,reading,tools&limit=48",
        "builtin:text?limit=15",
    ),
    "items": 80,
    "task": 40,
    "replay": 96,
    "length": 384,
}
TINY = {
    "samples": {"sft": {"few": 32, "many": 64}, "grpo": {"few": 64, "many": 96}, "domain": {"few": 16, "many": 32}},
    "rates": {"sft": 5e-4, "grpo": 3e-4, "domain": 5e-4},
    "probes": (FACTS.format(60), "builtin:behaviour?category=instructions&limit=4", "builtin:text?limit=4"),
    "items": 20,
    "task": 12,
    "replay": 16,
    "length": 128,
}


class LeftOut(Exception):
    """A run that cannot be; the message says why."""


def settings(name: str, seed: int, scale: dict[str, Any], model: str, work: Path, items: list[str]) -> dict[str, Any]:
    """A run as the flat keys of a recipe."""
    regime = REGIMES[name]
    kind = regime.get("data", regime.get("trainer", "sft"))
    samples = scale["samples"][kind][regime["samples"]]
    steps = samples // BATCH[kind]
    keys: dict[str, Any] = {
        "trainer": regime.get("trainer", "sft"),
        "model_name_or_path": model,
        "dtype": "float32",
        "dataset_name": str(work / f"{kind}.jsonl"),
        "seed": seed,
        "learning_rate": scale["rates"][kind] * regime.get("rate", 1),
        "lr_scheduler_type": "linear",
        "max_steps": steps,
        "per_device_train_batch_size": BATCH[kind],
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": not torch.accelerator.is_available(),
        "logging_steps": max(1, steps // 16),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "output_dir": str(work),
        "probes": [*scale["probes"], *(limited(spec, scale["items"]) for spec in items)],
        "every": ",".join(str(step) for step in sorted({max(1, steps // 8), max(1, steps // 2), steps})),
        "variants": "changed",
        "on_error": "raise",
    }
    keys["probes"] += [str(work / "task.jsonl"), f"corpus:{work / 'tickets.jsonl'}"]
    if kind == "grpo":
        more = {"num_generations": GENERATIONS, "max_completion_length": 8, "temperature": 0.7, "beta": 0.0}
        return {**keys, **more, "reward_funcs": ["study_data.named"]}
    keys["max_length"] = scale["length"]
    if regime.get("lora"):
        lora = {"lora_r": 16, "lora_alpha": 32, "lora_target_modules": ["all-linear"]}
        keys |= {"use_peft": True, "lora_task_type": "CAUSAL_LM", **lora}
    if regime.get("replay"):
        keys |= {"replay_dataset": str(work / "replay.jsonl"), "replay_share": 0.2}
    return keys


def write_data(name: str, seed: int, scale: dict[str, Any], model: str, out: Path, work: Path) -> None:
    """All files that a run reads.

    Raises:
        LeftOut: If it replays what a run that is not there has lost, or that run lost nothing.
    """
    regime = REGIMES[name]
    samples = {kind: own[regime["samples"]] for kind, own in scale["samples"].items()}
    prompts = max(samples["sft"], samples["grpo"] // GENERATIONS)
    write_task(work, load_tokenizer(model), samples=prompts, items=scale["task"], seed=seed)
    write_rows(work / "domain.jsonl", ({"text": text} for text in passages(samples["domain"], seed)))
    if (replay := regime.get("replay")) is None:
        return
    pool = replay_pool(load_probe(scale["probes"][0]))
    if replay == "pack":
        first = out / "runs" / f"sft-hot-{seed}.json"
        if not first.is_file():
            raise LeftOut(f"it replays what another run lost: {first} must be there first")
        chosen = read_run(first)["pack"]
        if isinstance(chosen, str):
            raise LeftOut(chosen)
    else:
        chosen = random.Random(seed).sample(range(len(pool)), scale["replay"])
    rows = [pool[place] for place in chosen]
    write_rows(work / "replay.jsonl", own_answers(model, rows) if replay == "own" else rows)


def train(name: str, seed: int, scale: dict[str, Any], model: str, out: Path, items: list[str]) -> dict[str, Any]:
    """One run, as what is kept of it."""
    begun, work = time.perf_counter(), out / "work" / f"{name}-{seed}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_data(name, seed, scale, model, out, work)
    config = work / "config.yaml"
    keys = settings(name, seed, scale, model, work, items)
    config.write_text(yaml.safe_dump(keys), encoding="utf-8")
    recipe = Recipe.read(config)
    callback = recipe.forget.callback()
    trainer = recipe.build([callback])
    trainer.remove_callback(PrinterCallback)
    conflicts = confident_conflicts(trainer) if keys["trainer"] == "sft" else None
    trainer.train()
    run = {"name": name, "seed": seed, "settings": portable(keys), "conflicts": conflicts}
    run |= record(callback, trainer)
    write_ids(out, callback)
    if REGIMES[name].get("dial"):
        trainer.save_model(str(work / "model"))
        run["dial"] = turned(model, str(work / "model"), callback)
        shutil.rmtree(work / "model")
    if REGIMES[name].get("pack"):
        run["pack"] = pack(work, replay_pool(load_probe(scale["probes"][0])), scale["replay"])
    return {**run, "minutes": round((time.perf_counter() - begun) / 60, 2)}


def pack(work: Path, pool: list[dict[str, Any]], size: int) -> list[int] | str:
    """Places in the pool of what is nearest to what the run lost, or why there are none."""
    try:
        return [pool.index(dict(row)) for row in replay_pack(str(work), pool, size=size).examples]
    except ValueError as error:
        return str(error)


def main(arguments: list[str] | None = None) -> None:
    """Runs what is not there yet, the first seed of every regime first."""
    parser = argparse.ArgumentParser(description="What a model forgets, by what, and what saves it.")
    parser.add_argument("--model", help="directory or hub id; the demo's tiny model if left out")
    parser.add_argument("--out", type=Path, default=Path("study"))
    parser.add_argument("--items", nargs="*", default=[], help="more probes, such as hub:arc or FILE.jsonl")
    parser.add_argument("--only", nargs="+", choices=REGIMES, default=list(REGIMES), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget-minutes", type=float, default=float("inf"), help="start no run that may end later")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    begun, longest = time.perf_counter(), 0.0
    for seed, name in ((seed, name) for seed in given.seeds for name in given.only):
        path = given.out / "runs" / f"{name}-{seed}.json"
        spent = (time.perf_counter() - begun) / 60
        if path.is_file():
            continue
        if spent + longest > given.budget_minutes:
            print(f"{spent:.0f} of {given.budget_minutes:.0f} minutes spent, {path.stem} and later ones are left")
            break
        model, scale = given.model or tiny(given.out), REAL if given.model else TINY
        try:
            with (
                quiet(),
                open(given.out / "log.txt", "a", encoding="utf-8") as log,
                contextlib.redirect_stdout(log),
                contextlib.redirect_stderr(log),
            ):
                run = train(name, seed, scale, model, given.out, given.items)
        except LeftOut as reason:
            print(f"{path.stem} is left out: {reason}", file=sys.stderr)
            continue
        whole(path, run)
        longest = max(longest, run["minutes"])
        print(f"{path.stem}: {run['minutes']:.1f} minutes", flush=True)


def tiny(out: Path) -> str:
    """The directory of the demo's tiny model, made if it is not there."""
    from forget_callback.demo.smoke import make_taught

    return str(make_taught(out / "model"))


if __name__ == "__main__":
    main()
