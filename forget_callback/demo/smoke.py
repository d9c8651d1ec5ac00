"""`--smoke`: a recipe on a CPU, with a tiny model, the built-in facts and a few hundred samples.

Makes the model once and keeps it. What is swapped in is a list of options that go over the recipe's own YAML; what
makes the recipe what it is (its trainer, LoRA, packing, replay, its schedule) stays. All of them learn the same new
task, so that SFT and GRPO compare: answers start with S.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import transformers
import yaml

from forget_callback.demo import tiny
from forget_callback.demo.tiny import ON_CPU, Conversation, Fact, conversation, invented_facts, known_facts, quiet
from forget_callback.probes.items import Generation
from forget_callback.probes.load import load_probe
from forget_callback.probes.probe import Probe
from forget_callback.probes.records import item_record

SAMPLES = 320
FACTS = 100
WIDTH = 128
PROBES = ("builtin:facts?kind=choice", "builtin:facts?kind=recall")
ROOT = Path("smoke-runs")


def smoke(config: str, out: str | None = None, *, width: int = WIDTH) -> list[str]:
    """Makes what a smoke run needs; gives the options to run it.

    Args:
        config: The recipe's YAML.
        out: Run directory, ``smoke-runs/REGIME`` by default; model and data are kept in ``smoke-runs`` for all recipes.
        width: Hidden size of the tiny model, a multiple of 8.
    """
    recipe: dict[str, Any] = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    name = Path(config).parent.name + ("" if Path(config).stem == "config" else f"-{Path(config).stem}")
    run = Path(out) if out else ROOT / name
    model, data = make_taught(ROOT / f"model-{width}", hidden_size=width), ROOT / "data"
    write_data(data)
    grpo = recipe.get("trainer") == "grpo"
    rows = "prompts" if grpo else "texts" if "dataset_text_field" in recipe else "conversations"
    options: dict[str, Any] = {
        **ON_CPU,
        "output_dir": run,
        "model_name_or_path": model,
        "dataset_name": data / f"{rows}.jsonl",
        "dtype": "float32",
        "attn_implementation": "sdpa",
        "load_in_4bit": False,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "report_to": "none",
        "max_steps": -1,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 32 if grpo else 1 if recipe.get("packing") else 8,
        "gradient_accumulation_steps": 1,
        "warmup_steps": 0,
        "learning_rate": 2e-3 if recipe.get("use_peft") else 3e-4 if grpo else 5e-4,
        "logging_steps": 2,
        "probe_limit": FACTS,
        "train_samples": SAMPLES // 8 if grpo else SAMPLES,
    }
    if grpo:
        more = {"num_generations": 8, "max_completion_length": 12, "use_vllm": False, "beta": 0.0}
        options |= {**more, "reward_funcs": "forget_callback.demo.tiny.starts_with_s"}
    else:
        options |= {"max_length": 128, "assistant_only_loss": False}
    if "replay_dataset" in recipe:
        options["replay_dataset"] = data / "replay.jsonl"
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return [*words, "--probes", *PROBES, f"{data / 'task.jsonl'}?chat=true"]


def taught_facts() -> tuple[list[Probe], list[Fact]]:
    """The two probes of what the tiny model knows, and the facts behind them."""
    probes = [load_probe(spec, limit=FACTS) for spec in PROBES]
    return probes, known_facts(*probes)


def new_task(samples: int, *, seed: int = 0) -> tuple[list[Conversation], Probe]:
    """What is to be learned: conversations in which every answer starts with S, and a probe with other questions."""
    rng = random.Random(seed)
    questions = [question for question, _ in invented_facts(samples + FACTS, rng)]
    answers = ["S" + "".join(rng.choice("bdfgklmnprtv") + rng.choice("aeiou") for _ in range(3)) for _ in questions]
    held_out = [
        Generation(f"s-{i}", question, r"^\s*S", "regex", max_new_tokens=4)
        for i, question in enumerate(questions[samples:])
    ]
    return [conversation(*pair) for pair in zip(questions[:samples], answers)], Probe("task", held_out, chat=True)


def make_taught(directory: Path, *, seed: int = 0, hidden_size: int = WIDTH) -> Path:
    """The directory of a tiny model that knows the built-in facts by heart; taught if there is none yet."""
    if (directory / "config.json").is_file():
        return directory
    with quiet():
        transformers.set_seed(seed)
        _, facts = taught_facts()
        new = [turn["content"] for turns in new_task(SAMPLES, seed=seed)[0] for turn in turns]
        print(f"teaching a tiny model {len(facts)} facts ...", flush=True)
        for made in tiny.make_taught_model(facts, new, seed=seed, hidden_size=hidden_size, steps=200):
            made.save_pretrained(directory)
    return directory


def write_data(directory: Path) -> None:
    """The new task as JSON Lines in the forms that trainers take, its probe, and the old facts to replay."""
    _, facts = taught_facts()
    new, task = new_task(SAMPLES)
    rows: dict[str, list[dict[str, Any]]] = {
        "conversations": [{"messages": turns} for turns in new],
        "texts": [{"text": " ".join(turn["content"] for turn in turns)} for turns in new],
        "prompts": [{"prompt": turns[:1]} for turns in new],
        "replay": [{"messages": conversation(fact.question, fact.answer)} for fact in facts],
        "task": [item_record(item) for item in task.items],
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, own in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in own)
        (directory / f"{name}.jsonl").write_text(lines, encoding="utf-8")
