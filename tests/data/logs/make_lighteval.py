"""Makes the logs in `lighteval.zip`: lighteval 0.13.0 itself asks a tiny model that knows some facts and loses some.

It pins versions of latex2sympy2_extended and nltk that math-verify and lm-eval do not work with, so it lives in an
environment of its own:

    python -m venv other && other/bin/pip install -e . lighteval==0.13.0 "xxhash<3.6"
    other/bin/python tests/data/logs/make_lighteval.py tests/data/logs/lighteval.zip
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch
from lighteval.logging.evaluation_tracker import EvaluationTracker
from lighteval.metrics.metrics import Metrics
from lighteval.models.transformers.transformers_model import TransformersModelConfig
from lighteval.pipeline import ParallelismManager, Pipeline, PipelineParameters
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.registry import Registry
from lighteval.tasks.requests import Doc

from forget_callback import Recall, load_probe
from forget_callback.demo.tiny import make_model, make_tokenizer
from forget_callback.probes.items import accepted
from tests.helpers import teach

ITEMS = 30


def choose(line, task_name=None):
    return Doc(task_name=task_name, query=line["prompt"], choices=line["choices"], gold_index=line["answer"])


def say(line, task_name=None):
    return Doc(task_name=task_name, query=line["prompt"], choices=[line["answer"]], gold_index=0)


def tasks(data, sets):
    """Writes the data sets and gives lighteval's tasks; the last items of a set are examples for the others."""
    found = {}
    for name, items in sets.items():
        folder = data / name.replace(":", "-")
        folder.mkdir()
        lines = [
            {"prompt": i.prompt, "choices": [], "answer": accepted(i)[0]}
            if isinstance(i, Recall)
            else {"prompt": i.prompt, "choices": list(i.choices), "answer": i.answer}
            for i in items
        ]
        for split, part in (("test", lines[:-4]), ("train", lines[-4:])):
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in part), encoding="utf-8")
        function, metric = (say, Metrics.exact_match) if name == "recall" else (choose, Metrics.loglikelihood_acc)
        found[name] = LightevalTaskConfig(
            name=name, prompt_function=function, metrics=[metric], hf_repo=str(folder), hf_subset="default",
            hf_avail_splits=["test", "train"], evaluation_splits=["test"], few_shots_split="train",
            generation_size=6, stop_sequence=["\n"],
        )  # fmt: skip
    return found


def evaluate(model, tokenizer, name, asked, data, out):
    """Runs lighteval's pipeline; of what it writes, the details are kept."""
    directory = data / name
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    tracker = EvaluationTracker(output_dir=str(data / "out"), save_details=True)
    pipeline = Pipeline(
        tasks=asked,
        pipeline_parameters=PipelineParameters(launcher_type=ParallelismManager.NONE, bootstrap_iters=0),
        evaluation_tracker=tracker,
        model_config=TransformersModelConfig(
            model_name=str(directory), batch_size=8, max_length=256, dtype="float32", device="cpu",
            cache_dir=str(data / "cache"), override_chat_template=False,
        ),
    )  # fmt: skip
    pipeline.evaluate()
    pipeline.save_and_push_results()
    for file in (data / "out" / "details").rglob("details_*.parquet"):
        if name in file.parts:
            (out / name / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, out / name / file.parent.name / file.name)


@torch.enable_grad()  # lighteval turns it off for good when it is imported
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    target = parser.parse_args().out
    specs = {"facts:capitals": "capitals&kind=choice", "facts:elements": "elements&kind=choice"}
    specs["recall"] = "us_states&kind=recall"
    sets = {name: load_probe(f"builtin:facts?category={spec}", limit=ITEMS).items for name, spec in specs.items()}
    data, out = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    table = tasks(data, sets)
    # Every task module is loaded at start, and one of them downloads a file: only ours are needed.
    Registry.load_all_task_configs = staticmethod(lambda **_: table)
    facts = [
        (i.prompt, accepted(i)[0] if isinstance(i, Recall) else i.choices[i.answer]) for s in sets.values() for i in s
    ]
    random.Random(0).shuffle(facts)
    tokenizer = make_tokenizer([prompt + answer for prompt, answer in facts])
    model = make_model(tokenizer)
    lines = [(prompt, answer + tokenizer.eos_token) for prompt, answer in facts]
    teach(model, tokenizer, lines[:60], steps=60, lr=3e-3)
    evaluate(model, tokenizer, "before", "facts:capitals|0,facts:elements|0,recall|0", data, out)
    evaluate(model, tokenizer, "one-shot", "facts:capitals|1", data, out)
    teach(model, tokenizer, lines[45:], steps=12, lr=3e-3)
    evaluate(model, tokenizer, "after", "facts:capitals|0,facts:elements|0,recall|0", data, out)
    shutil.make_archive(str(target.with_suffix("")), "zip", out)  # names with "|" and ":" cannot be in every checkout


if __name__ == "__main__":
    main()
