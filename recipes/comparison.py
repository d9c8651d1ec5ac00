"""What each tool says of the same four models: unchanged, light, one that gains while it loses, heavy.

python recipes/comparison.py --model MODEL --items SPEC ... [--tools NAME ...] [--comparator model_comparator.py]
    [--env DIR] [--out DIR]

Each tool runs as its README says, pinned, in an environment of its own, a command at a time. What a command printed is
kept in OUT/said, and one that is there is not run again: the comparison can be stopped and continued. The items,
choices of any benchmarks, are asked by lm-eval and by ours; FineTuneCheck and pyrecall have their own. Writes
comparison.json and prints the table of `comparison_table.py`.
"""

import argparse
import json
import os
import random
import resource
import shlex
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import transformers
import yaml
from comparison_table import read, table
from datasets import Dataset
from study_data import Rows, tickets, write_rows
from study_record import whole
from trl import SFTConfig, SFTTrainer

from forget_callback import Probe, Snapshot, Store, load_model, load_probe, load_tokenizer
from forget_callback.demo.tiny import ON_CPU
from forget_callback.probes.records import item_record

TAUGHT, CONTRADICTED = 60, 24  # made so that the average rises while items are lost
BATCH, TORCH = 8, "torch==2.13.0"
PINS = {"ftcheck": "finetunecheck[inference]==2.0.2", "pyrecall": "pyrecall==0.12.0", "lm_eval": "lm_eval[hf]==0.4.13"}
OURS = [sys.executable, "-m", "forget_callback"]
OLDER = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
# A local task of lm-eval with the items as they are: its README's guide for tasks of one's own.
TASK = {
    "task": "items",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{prompt}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "answer",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@dataclass(frozen=True)
class Training:
    """SFT on `data`, at a learning rate, so many steps of eight rows."""

    data: str
    rate: float
    steps: int


MODELS = {
    "base": None,  # saved as the others are, without a step
    "unchanged": None,
    "light": Training("tickets", 2e-5, 8),
    "rising": Training("both ways", 3e-4, 60),
    "heavy": Training("tickets", 1e-3, 20),
}
NAMES = list(MODELS)[1:]


def rows_of(training: Training, probe: Probe, base: Snapshot) -> Rows:
    """Tickets to read, or items of the probe: some that are not known, and some that are with a wrong answer."""
    if training.data == "tickets":
        return [
            {"prompt": turns, "completion": [{"role": "assistant", "content": answer}]}
            for turns, answer in tickets(training.steps * BATCH, 0)
        ]
    first = [place for place, item in enumerate(probe.items) if item.category == probe.items[0].category]
    right = [sum(answers) for answers in zip(base.correct, base.correct_2)]  # in 0, 1 or 2 prompts
    rng = random.Random(0)
    taught = rng.sample([place for place in first if right[place] == 0], TAUGHT)
    contradicted = rng.sample([place for place in first if right[place] == 2], CONTRADICTED)
    shown = [(item := probe.items[place], item.answer) for place in taught]
    shown += [(item := probe.items[place], (item.answer + 1) % len(item.choices)) for place in contradicted]
    return [{"prompt": item.prompt, "completion": item.choices[option]} for item, option in shown]


def make_model(name: str, base: str, rows: Rows, out: Path) -> None:
    """A directory with the model, trained, or saved as it is."""
    transformers.set_seed(0)
    model, tokenizer, training = load_model(base).float(), load_tokenizer(base), MODELS[name]
    part = out.with_suffix(".part")
    if training is not None:
        args = SFTConfig(
            output_dir=str(part),
            learning_rate=training.rate,
            max_steps=training.steps,
            per_device_train_batch_size=BATCH,
            max_length=256,
            report_to="none",
            **ON_CPU,
        )
        SFTTrainer(model=model, processing_class=tokenizer, args=args, train_dataset=Dataset.from_list(rows)).train()
    model.save_pretrained(part)  # float32: on a CPU all of these tools compute so, and bfloat16 is slow on many
    tokenizer.save_pretrained(part)
    # transformers 5 leaves out what version 4, which FineTuneCheck 2.0 asks for, cannot do without.
    config = json.loads((part / "tokenizer_config.json").read_text(encoding="utf-8"))
    whole(part / "tokenizer_config.json", {**config, **OLDER})
    part.replace(out)


class Shell:
    """Runs commands, and keeps what each printed and took."""

    def __init__(self, out: Path, env: Path) -> None:
        self.out, self.env = out.resolve(), env.resolve()

    def python(self, tool: str) -> Path:
        """The environment of a tool; made if it is not there."""
        place = self.env / tool
        if not (place / "installed").is_file():
            venv.create(place, with_pip=True, clear=True)
            subprocess.run([place / "bin" / "pip", "install", "--quiet", TORCH, PINS[tool]], check=True)
            (place / "installed").touch()
        return place / "bin"

    def run(self, tool: str, key: str, command: str, *, before: Callable[[Path], None] | None = None) -> None:
        """A command of a tool in OUT/TOOL, unless it is there; `before` is called first.

        Raises:
            SystemExit: If it failed in another way than by its verdict.
        """
        path = self.out / "said" / f"{tool}-{key}.json"
        if path.is_file():
            return
        place = self.out / tool
        place.mkdir(parents=True, exist_ok=True)
        if before is not None:
            before(place)
        words = shlex.split(command)
        program = OURS if words[0] == "forget-callback" else [str(self.python(tool) / words[0])]
        own = {"HOME": str(self.out / "homes" / tool), "COLUMNS": "200", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}
        begun, used = time.perf_counter(), processor_seconds()
        done = subprocess.run(
            [*program, *words[1:]], cwd=place, env={**os.environ, **own}, capture_output=True, text=True
        )
        record = {
            "tool": tool,
            "key": key,
            "command": command,
            "status": done.returncode,
            "seconds": round(time.perf_counter() - begun, 1),
            "processor_seconds": round(processor_seconds() - used, 1),
            "printed": done.stdout,
            "errors": done.stderr[-4000:],
        }
        whole(path, record)
        print(f"{command}: status {done.returncode}, {record['processor_seconds']:.0f} s of processor time", flush=True)


def processor_seconds() -> float:
    """What the commands so far used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def point_at(model: str) -> Callable[[Path], None]:
    """Names the model `model`, since pyrecall keeps snapshots by a model's name and compares those of one.

    Pyrecall also writes up to 200 tokens to each of its 180 prompts, "for storage". Its scores do not use them, so here
    a response ends with its first token.
    """

    def link(place: Path) -> None:
        source, here = place.parent / "models" / model, place / "model"
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        for file in source.iterdir():
            (here / file.name).symlink_to(file)
        vocabulary = json.loads((source / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        (here / "generation_config.json").unlink()
        whole(here / "generation_config.json", {"eos_token_id": list(range(vocabulary))})

    return link


def ask_ours(shell: Shell, names: list[str]) -> None:
    """A snapshot of each model, each compared with the base's: in all prompts, and in the first alone."""
    for name in ("base", *names):
        command = f"forget-callback snapshot ../models/{name} --probe ../items.jsonl --out {name}"
        shell.run("forget_callback", f"snapshot-{name}", command)
        first = Store(shell.out / "forget_callback" / name).read("items", 0).without_variants()
        first.save(shell.out / "forget_callback" / f"{name}.parquet")
    for name in names:
        shell.run("forget_callback", name, f"forget-callback compare base {name} --format json")
        first = f"forget-callback compare base.parquet {name}.parquet --format json"
        shell.run("forget_callback", f"one-{name}", first)


def ask_lm_eval(shell: Shell, names: list[str]) -> None:
    """The items as a task of one's own."""
    for name in ("base", *names):
        model = f"--model hf --model_args pretrained=../models/{name}"
        shell.run("lm_eval", name, f"lm_eval {model} --tasks items --include_path . --device cpu --batch_size 8")


def ask_ftcheck(shell: Shell, names: list[str]) -> None:
    """Its quick check; the base's answers are cached by it."""
    for name in names:
        shell.run("ftcheck", name, f"ftcheck quick ../models/base ../models/{name} --report {name}.html")


def ask_pyrecall(shell: Shell, names: list[str]) -> None:
    """A snapshot of each model, each checked against the base's."""
    shell.run("pyrecall", "init", "pyrecall init --model model", before=point_at("base"))
    for name in ("base", *names):
        shell.run("pyrecall", f"snapshot-{name}", f"pyrecall snapshot {name}", before=point_at(name))
    for name in names:
        shell.run("pyrecall", name, f"pyrecall check --before base --after {name}")
        shell.run("pyrecall", f"{name}-json", f"pyrecall check --before base --after {name} --json")


ASK = {
    "forget_callback": ask_ours,
    "ftcheck": ask_ftcheck,
    "lm_eval": ask_lm_eval,
    "pyrecall": ask_pyrecall,
}


def main() -> None:
    """Makes what is not there yet, asks, and shows what was said."""
    parser = argparse.ArgumentParser(description="What each tool says of the same models.")
    parser.add_argument("--model", required=True, help="directory or hub id")
    parser.add_argument("--items", nargs="+", required=True, help="choices, such as hub:arc or 'FILE.jsonl?limit=200'")
    parser.add_argument(
        "--tools", nargs="+", choices=ASK, default=list(ASK), help="without a table, unless all of them"
    )
    parser.add_argument("--comparator", type=Path, help="lm-eval's scripts/model_comparator.py, to be tried as it is")
    parser.add_argument("--env", type=Path, default=Path("comparison-env"))
    parser.add_argument("--out", type=Path, default=Path("comparison"))
    given = parser.parse_args()
    items = [item for spec in given.items for item in load_probe(spec).items]
    probe = Probe("items", items)
    write_rows(given.out / "items.jsonl", map(item_record, items))
    data = {"dataset_kwargs": {"data_files": {"test": str((given.out / "items.jsonl").resolve())}}}
    (given.out / "lm_eval").mkdir(exist_ok=True)
    (given.out / "lm_eval" / "items.yaml").write_text(yaml.safe_dump({**TASK, **data}), encoding="utf-8")
    shell = Shell(given.out, given.env)
    for name, training in MODELS.items():
        if not (place := given.out / "models" / name).is_dir():
            base = None if training is None else Store(given.out / "forget_callback" / "base").read("items", 0)
            make_model(name, given.model, rows_of(training, probe, base) if training else [], place)
        if name == "base":
            ask_ours(shell, [])  # which items it knows
    if given.comparator:
        shutil.copy(given.comparator, given.out / "model_comparator.py")
        shell.run("lm_eval", "comparator", "python ../model_comparator.py --pretrained ../models/base --device cpu")
    for tool in given.tools:
        ASK[tool](shell, NAMES)
    found = read(given.out / "said", NAMES)
    trainings = {name: training and asdict(training) for name, training in MODELS.items()}
    whole(given.out / "comparison.json", {"trainings": trainings, "pins": PINS, "items": len(items), **found})
    print(table(found))


if __name__ == "__main__":
    main()
