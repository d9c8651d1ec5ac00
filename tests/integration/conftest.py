"""Real trainers on a tiny model: what every integration test starts from."""

import hashlib
from dataclasses import replace

import pytest
import torch
import wandb
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from forget_callback import Generation, MultipleChoice, Probe, Recall
from tests.pages import CHROMIUM, DESK

collect_ignore = [
    "run_script.py",
    "score_script.py",
    "slow_script.py",
    "soak.py",
    "train_script.py",
    "trl_script.py",
    "unequal_script.py",
    "watched_script.py",
]  # doctest collection would run it

COMMON = {
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
    "seed": 1,
}


@pytest.fixture
def probe():
    """Six items of all three kinds in two categories."""
    return Probe(
        "mini",
        [
            MultipleChoice("c1", "The capital of France is", [" Paris", " Rome", " Tokyo"], 0, "capitals"),
            MultipleChoice("c2", "The capital of Italy is", [" Paris", " Rome", " Tokyo"], 1, "capitals"),
            MultipleChoice("c3", "The opposite of cold is", [" hot", " fox", " sun", " hill"], 0, "words"),
            Recall("r1", "The capital of Japan is", " Tokyo", "capitals"),
            Recall("r2", "Once upon a", " time", "words"),
            Generation("g1", "She has 12 apples and", "42", "number", "words", max_new_tokens=4),
        ],
    )


@pytest.fixture
def probe_in_two(probe):
    """The same six items, each of them also asked in another form."""
    return replace(probe, items=tuple(replace(item, variants=(f"Well: {item.prompt}",)) for item in probe.items))


@pytest.fixture
def rows():
    """24 conversations that teach something else."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Who is {i}?"},
                {"role": "assistant", "content": f"The fox {i * 7}."},
            ]
        }
        for i in range(24)
    ]


@pytest.fixture
def make_sft(make_model, tokenizer, rows, tmp_path):
    """make_sft(callbacks, **config) -> an SFTTrainer of six steps of four samples, with dropout."""

    def make(callbacks, *, model=None, rows=rows, data=None, **config):
        config = {**COMMON, "output_dir": str(tmp_path), "max_length": 64, "learning_rate": 1e-2, **config}
        config = {"per_device_train_batch_size": 4, "num_train_epochs": 1, **config}
        return SFTTrainer(
            model=model or make_model(attention_dropout=0.1),
            processing_class=tokenizer,
            args=SFTConfig(**config),
            train_dataset=Dataset.from_list(rows) if data is None else data,
            eval_dataset=Dataset.from_list(rows[:4]),
            callbacks=callbacks,
        )

    return make


@pytest.fixture
def make_grpo(make_model, tokenizer, rows, tmp_path):
    """make_grpo(callbacks, **config) -> a GRPOTrainer of four steps of eight completions, with dropout."""

    def make(callbacks, *, peft_config=None, **config):
        config = {**COMMON, "output_dir": str(tmp_path), "max_completion_length": 6, "num_generations": 4, **config}
        config = {"per_device_train_batch_size": 8, "max_steps": 4, "learning_rate": 1e-2, **config}
        return GRPOTrainer(
            model=make_model(attention_dropout=0.1),
            processing_class=tokenizer,
            args=GRPOConfig(**config),
            train_dataset=Dataset.from_list([{"prompt": row["messages"][:1]} for row in rows]),
            reward_funcs=lambda completions, **_: [float(len(c[0]["content"])) for c in completions],
            peft_config=peft_config,
            callbacks=callbacks,
        )

    return make


@pytest.fixture
def wandb_offline(tmp_path, monkeypatch):
    """A directory for offline W&B runs; no run outlives the test."""
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))  # copies of what goes into Artifacts
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield tmp_path
    if wandb.run is not None:
        wandb.finish()
    wandb.teardown()  # else the next run goes to this directory


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, without a window."""
    from playwright.sync_api import sync_playwright  # of `dev` alone; most tests here do with `test`

    with sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def show(browser):
    """show(file, **context) -> an opened page; at the end it must have asked for nothing and complained of nothing."""
    opened = []

    def open_page(file, *, viewport=DESK, **how):
        context = browser.new_context(viewport=viewport, accept_downloads=True, **how)
        page = context.new_page()
        requests, complaints = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]", timeout=30_000)
        opened.append((context, file, requests, complaints))
        return page

    yield open_page
    for context, file, requests, complaints in opened:
        context.close()
        assert complaints == []
        assert requests == [file.as_uri()], "the page asks the network for something"


def weights_hash(model: torch.nn.Module) -> str:
    """sha256 over every tensor of the state dict, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
