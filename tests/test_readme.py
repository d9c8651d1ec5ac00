"""The README: its code runs, its metric table is the code's, its links and pictures exist."""

import re
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from transformers import DataCollatorForLanguageModeling, TrainingArguments
from trl import GRPOConfig, SFTConfig

from forget_callback import ForgetMonitor, Probe, Recall, Snapshot, load_probe
from forget_callback.runs.history import ALL_METRICS
from forget_callback.training.trackers import RUN_METRICS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PLACES = ("*.md", "recipes/**/*.md", "examples/**/*.md", "forget_callback/**/*.md")
PAGES = [path for place in PLACES for path in ROOT.glob(place)]
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
ITEMS = re.search(r"```json\n(.*?)```", README, re.DOTALL)[1]
BEST = "eval_forget_my_probe_knowledge_lost"
ON_CPU = {"use_cpu": True, "bf16": False, "max_steps": 2, "per_device_train_batch_size": 4, "report_to": "none"}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "disable_tqdm": True, "seed": 0}


@pytest.fixture
def names(make_model, tokenizer, tmp_path, monkeypatch):
    """What a reader has before the blocks begin, except `args`."""
    monkeypatch.chdir(tmp_path)
    Path("my_probe.jsonl").write_text(ITEMS, encoding="utf-8")
    talk = [{"messages": [{"role": r, "content": "hello"} for r in ("user", "assistant")]}] * 8
    tokens = Dataset.from_list([tokenizer("The capital of France is Paris")] * 8)
    return {
        "model": make_model(),
        "tokenizer": tokenizer,
        "train_dataset": Dataset.from_list(talk),
        "eval_dataset": Dataset.from_list(talk[:2]),
        "prompts": Dataset.from_list([{"prompt": row["messages"][:1]} for row in talk]),
        "reward": lambda completions, **_: [float(len(c[0]["content"])) for c in completions],
        "train_tokens": tokens,
        "eval_tokens": tokens,
        "collator": DataCollatorForLanguageModeling(tokenizer, mlm=False),
    }


def arguments(block):
    """The arguments that the text around a block describes."""
    if "SFTTrainer" in block:
        return SFTConfig("out", **ON_CPU, **EVALUATED, max_length=32)
    if "GRPOTrainer" in block:
        return GRPOConfig("out", **ON_CPU, num_generations=4, max_completion_length=4, disable_tqdm=True)
    best = {"load_best_model_at_end": True, "metric_for_best_model": BEST, "greater_is_better": False}
    del_bf16 = {name: value for name, value in ON_CPU.items() if name != "bf16"}
    return TrainingArguments("out", **del_bf16, **EVALUATED, **best, save_strategy="steps", save_steps=1)


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block-{i}" for i in range(len(BLOCKS))])
def test_the_code_runs_as_it_stands(block, names, capsys):
    exec(compile(block, "README.md", "exec"), {**names, "args": arguments(block)})
    folder = Path("runs/own-loop" if "ForgetMonitor" in block else "out") / "forget"
    assert len(list(folder.glob("snapshots/*/*.parquet"))) >= 2
    assert (folder / "history.parquet").is_file()


def test_the_code_of_the_statistics_page_runs(names):
    page = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    probe = Probe("facts", [Recall(f"r{i}", "", "x") for i in range(300)])
    monitor = ForgetMonitor(probe, "runs/sft")
    for step in range(8):
        correct = np.arange(300) >= 10 * step
        taken = Snapshot("facts", probe.fingerprint, step, np.array(probe.ids), correct.astype(float))
        monitor.observe(step, lambda _, taken=taken: taken, samples_seen=100.0 * step)
    found = {}
    exec(compile(block, "statistics.md", "exec"), found)
    assert found["curve"].survival[-1] == pytest.approx(230 / 300)
    assert found["fit"].forecast(1400).knowledge_lost[0] == pytest.approx(140 / 300, abs=0.05)


def test_there_are_blocks_for_every_trainer():
    for name in ("SFTTrainer", "GRPOTrainer", "import Trainer", "ForgetMonitor"):
        assert sum(name in block for block in BLOCKS) >= 1


def test_the_metric_table_is_the_codes():
    table = re.search(r"<!-- metrics.*?-->(.*?)<!-- /metrics -->", README, re.DOTALL)[1]
    named = [
        name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1] if "|" in row else "")
    ]
    assert len(named) == len(set(named))
    assert set(named) == set(ALL_METRICS) | set(RUN_METRICS)


def test_its_numbers_about_the_builtin_facts_are_true():
    facts = load_probe("builtin:facts")
    categories = {item.category for item in facts.items}
    assert f"{len(facts) // 2} facts in {len(categories)} categories" in README


def headings(page):
    """The anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.is_file(), link
        assert not anchor or anchor in headings(target), link


def test_the_item_examples_are_items(names):
    assert [item.kind for item in load_probe("my_probe.jsonl").items] == ["multiple_choice", "recall", "generation"]
