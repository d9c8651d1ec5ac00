"""`--smoke`: a recipe on a CPU, with a tiny model, the built-in facts and a few hundred samples.

Makes the model once and keeps it beside the runs. What is swapped in is a list of options that go over the recipe's own
YAML; what makes the recipe what it is (its trainer, LoRA, packing, replay, its schedule) stays.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import transformers
import yaml

from forget_callback.demo import invented_facts, known_facts, make_model, make_tokenizer, quiet, teach
from forget_callback.sources import load_probe

SAMPLES = 320
FACTS = 100
PROBES = ("builtin:facts?kind=choice", "builtin:facts?kind=recall")
ROOT = Path("smoke-runs")
_TEXT = "{question} It is {answer}."


def smoke(config: str, out: str | None = None) -> list[str]:
    """Makes what a smoke run needs; gives the options to run it.

    Args:
        config: The recipe's YAML.
        out: Run directory, ``smoke-runs/REGIME`` by default; model and data are kept beside it.
    """
    recipe: dict[str, Any] = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    name = Path(config).parent.name + ("" if Path(config).stem == "config" else f"-{Path(config).stem}")
    run = Path(out) if out else ROOT / name
    model, data = make_taught(run.parent / "model"), run.parent / "data"
    write_data(data)
    grpo = recipe.get("trainer") == "grpo"
    rows = "prompts" if grpo else "texts" if "dataset_text_field" in recipe else "conversations"
    options: dict[str, Any] = {
        "output_dir": run,
        "model_name_or_path": model,
        "dataset_name": data / f"{rows}.jsonl",
        "dtype": "float32",
        "attn_implementation": "sdpa",
        "load_in_4bit": False,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "report_to": "none",
        "max_steps": -1,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 32 if grpo else 8,
        "gradient_accumulation_steps": 1,
        "warmup_steps": 0,
        "learning_rate": 2e-3 if recipe.get("use_peft") else 3e-4 if grpo else 5e-4,
        "logging_steps": 2,
        "disable_tqdm": True,
        "probe_limit": FACTS,
        "train_samples": SAMPLES // 8 if grpo else SAMPLES,
        "every": "log2" if recipe.get("every") == "log2" else 2 if grpo or recipe.get("packing") else 8,
    }
    if grpo:
        more = {"num_generations": 8, "max_completion_length": 12, "use_vllm": False, "beta": 0.0}
        options |= {**more, "reward_funcs": "forget_callback.demo.starts_with_s"}
    else:
        options |= {"max_length": 128, "assistant_only_loss": False}
    if "replay_dataset" in recipe:
        options["replay_dataset"] = data / "replay.jsonl"
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return [*words, "--probes", *PROBES]


def make_taught(directory: Path, *, seed: int = 0, hidden_size: int = 128) -> Path:
    """The directory of a tiny model that knows the built-in facts by heart; taught if there is none yet."""
    if (directory / "config.json").is_file():
        return directory
    with quiet():
        transformers.set_seed(seed)
        facts = known_facts(*(load_probe(spec, limit=FACTS) for spec in PROBES))
        new = invented_facts(SAMPLES, random.Random(seed))
        texts = [text for fact in facts for text in fact.texts]
        tokenizer = make_tokenizer([*texts, *(" ".join(pair) for pair in new)])
        model = make_model(tokenizer, hidden_size=hidden_size)
        print(f"teaching a tiny model {len(facts)} facts ...", flush=True)
        teach(model, tokenizer, texts, seed=seed, steps=200)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return directory


def write_data(directory: Path, *, seed: int = 0) -> None:
    """Training data as JSON Lines, invented facts and old ones to replay, and a probe of what is to be learned."""
    facts = known_facts(*(load_probe(spec, limit=FACTS) for spec in PROBES))
    old = [(fact.question, fact.answer) for fact in facts]
    new = invented_facts(SAMPLES, random.Random(seed))
    rows: dict[str, list[dict[str, Any]]] = {
        "conversations": [{"messages": _conversation(*pair)} for pair in new],
        "texts": [{"text": _TEXT.format(question=question, answer=answer)} for question, answer in new],
        "prompts": [{"prompt": _conversation(*pair)[:1]} for pair in new],
        "replay": [{"messages": _conversation(*pair)} for pair in old],
    }
    directory.mkdir(parents=True, exist_ok=True)
    asked = [
        {"id": f"new-{i}", "prompt": question, "answer": answer, "match": "prefix", "max_new_tokens": 12}
        for i, (question, answer) in enumerate(new[:FACTS])
    ]
    for name, own in {**rows, "task": asked}.items():
        lines = "".join(json.dumps(row) + "\n" for row in own)
        (directory / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def _conversation(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
