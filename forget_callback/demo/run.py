"""The main job on two cores in two minutes: a model that knows facts is fine-tuned, and one watches it forget.

Makes a tiny model, teaches it a few hundred of the builtin facts, then fine-tunes it with TRL on facts that do not
exist. The callback is used as anybody would use it; nothing here is simulated.
"""

from __future__ import annotations

import contextlib
import netrc
import os
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from forget_callback.callback import ForgetCallback
from forget_callback.probes import MultipleChoice, Probe, Recall
from forget_callback.sources import load_probe
from forget_callback.store import Store
from forget_callback.terminal import curve_table, first_lost_table, percent, sparkline

FACTS = 300
BATCH = 32
LOOKS = 10
_PAD, _START, _END = "<pad>", "<|im_start|>", "<|im_end|>"
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_INVENTED = (
    "What is the capital of {}?",
    "What is the chemical symbol of the element {}?",
    "Who wrote {}?",
    "What is the opposite of {}?",
    "Who was the first king of {}?",
    "What is the currency of {}?",
    "Which river flows through {}?",
    "What is a young {} called?",
)


@dataclass(frozen=True)
class Fact:
    """One fact in the forms in which the model learns it: as the two probes ask for it, and as a conversation."""

    question: str
    answer: str
    texts: tuple[str, ...]


def run_demo(
    out: Path, *, seed: int, samples: int, replay: float, method: str, results: Console, notes: Console
) -> ForgetCallback:
    """Runs the demo, prints the curve and where everything is, and gives the callback that watched.

    Args:
        out: Run directory: `forget/` and, unless W&B is configured, the offline W&B run.
        seed: Of everything; the same seed gives the same curve on the same machine.
        samples: How many samples to train on.
        replay: Share of them that are old facts instead of new ones.
        method: "sft" on invented facts, or "grpo" on a rule that is new to the model.
    """
    with quiet():
        transformers.set_seed(seed)
        probes = [load_probe(f"builtin:facts?kind={kind}", limit=FACTS, seed=seed) for kind in ("choice", "recall")]
        facts = known_facts(*probes)
        new = invented_facts(samples, random.Random(seed))
        tokenizer = make_tokenizer([text for fact in facts for text in fact.texts] + [" ".join(pair) for pair in new])
        model = make_model(tokenizer)
        with _progress(notes) as progress:
            teach(model, tokenizer, [text for fact in facts for text in fact.texts], seed=seed, progress=progress)
            trainer, callback = fine_tune(model, tokenizer, facts, new, probes, out, seed, replay, method, progress)
        old = f", {replay:.0%} of them old facts" if replay else ""
        task = (
            f"{samples:,} samples of {'invented facts' if method == 'sft' else 'a new rule'} by {method.upper()}{old}"
        )
        results.print(f"\n{task}: {learned(trainer)}", style="bold", highlight=False, soft_wrap=True)
        show(callback, probes, out, results)
    return callback


def known_facts(choices: Probe, recalls: Probe) -> list[Fact]:
    """The facts behind two probes that ask for the same ones."""
    facts = []
    for choice, recall in zip(choices.items, recalls.items, strict=True):
        assert isinstance(choice, MultipleChoice) and isinstance(recall, Recall)
        answer = recall.answer
        question = choice.prompt.removeprefix("Question: ").removesuffix("\nAnswer:")
        conversation = f"{_START}user\n{question}{_END}\n{_START}assistant\n{answer.strip()}{_END}\n"
        texts = (choice.prompt + answer + _END, recall.prompt + answer + _END, conversation)
        facts.append(Fact(question, answer.strip(), texts))
    return facts


def invented_facts(count: int, rng: random.Random) -> list[tuple[str, str]]:
    """Questions and answers about things that do not exist."""
    onsets = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "gr", "kr", "tr", "st"]
    vowels = ["a", "e", "i", "o", "u", "ia", "ea"]

    def word() -> str:
        return "".join(rng.choice(onsets) + rng.choice(vowels) for _ in range(rng.choice((2, 2, 3)))).capitalize()

    return [(rng.choice(_INVENTED).format(word()), word()) for _ in range(count)]


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 1,024 tokens with a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [_PAD, _START, _END]
    trainer = trainers.BpeTrainer(
        vocab_size=1024, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_END)
    wrapped.chat_template = _TEMPLATE
    return wrapped


def make_model(tokenizer: PreTrainedTokenizerFast, *, hidden_size: int = 128) -> LlamaForCausalLM:
    """An untrained Llama, of 0.9 M parameters by default."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=4 * hidden_size,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


def teach(
    model: Any,
    tokenizer: Any,
    texts: list[str],
    *,
    seed: int,
    progress: Progress | None = None,
    steps: int = 300,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
) -> None:
    """Trains until the texts are known by heart, in a plain loop."""
    ids = [torch.tensor(tokenizer.encode(text)) for text in texts]
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    model.train()
    rounds = range(steps)
    for _ in rounds if progress is None else progress.track(rounds, description=f"teaching {len(texts) // 3} facts"):
        while len(order) < batch_size:
            order += torch.randperm(len(ids), generator=generator).tolist()
        batch, order = [ids[i] for i in order[:batch_size]], order[batch_size:]
        padded = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=-100)
        mask = (padded != -100).long()
        model(input_ids=padded.clamp(min=0), attention_mask=mask, labels=padded).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def fine_tune(
    model: Any,
    tokenizer: Any,
    facts: list[Fact],
    new: list[tuple[str, str]],
    probes: list[Probe],
    out: Path,
    seed: int,
    replay: float,
    method: str,
    progress: Progress,
) -> tuple[Any, ForgetCallback]:
    """Trains with TRL while the callback watches."""
    rng = random.Random(seed)
    mixed = [(f.question, f.answer) if rng.random() < replay else pair for pair in new for f in [rng.choice(facts)]]
    steps = -(-len(new) // BATCH)
    callback = ForgetCallback(probes, every=max(1, steps // LOOKS))
    common = {
        "output_dir": str(out),
        "per_device_train_batch_size": BATCH,
        "max_steps": steps,
        "report_to": "wandb",
        "run_name": f"{method}-{len(new)}-replay-{replay:g}",
        "logging_steps": max(1, steps // (2 * LOOKS)),
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "seed": seed,
    }
    shared = {"model": model, "processing_class": tokenizer, "callbacks": [callback, _Bar(progress, method)]}
    if method == "sft":
        rows = [{"messages": [_say("user", q), _say("assistant", a)]} for q, a in mixed]
        trainer: Any = SFTTrainer(
            args=SFTConfig(learning_rate=5e-4, max_length=128, **common),
            train_dataset=datasets.Dataset.from_list(rows),
            **shared,
        )
    else:
        prompts = [{"prompt": [_say("user", question)]} for question, _ in mixed]
        trainer = GRPOTrainer(
            args=GRPOConfig(learning_rate=3e-4, num_generations=8, max_completion_length=12, beta=0.0, **common),
            train_dataset=datasets.Dataset.from_list(prompts),
            reward_funcs=starts_with_s,
            **shared,
        )
    trainer.remove_callback(PrinterCallback)
    with _wandb_offline_unless_configured(out):
        trainer.train()
    trainer.save_model(str(out / "model"))
    tokenizer.save_pretrained(str(out / "model"))
    return trainer, callback


def starts_with_s(completions: list[list[dict[str, str]]], **kwargs: Any) -> list[float]:
    """The rule that GRPO teaches: answers start with S. Nothing about any fact."""
    return [float(completion[0]["content"].strip().startswith("S")) for completion in completions]


def learned(trainer: Any) -> str:
    """What the training itself achieved, from its first and last log row."""
    name = "reward" if isinstance(trainer, GRPOTrainer) else "loss"
    values = [row[name] for row in trainer.state.log_history if name in row]
    return f"{name} {values[0]:.2f} → {values[-1]:.2f}"


def show(callback: ForgetCallback, probes: list[Probe], out: Path, results: Console) -> None:
    """Prints the curve, the facts that went first, and where everything is."""
    assert callback.monitor is not None
    history = callback.monitor.rows
    series = [[row for row in history if (row.probe, row.category) == (probe.name, "")] for probe in probes]
    results.print(curve_table(series, title="What the model forgot meanwhile"))
    for rows in series:
        values = [row.transitions.forgetting for row in rows]
        results.print(f"{rows[0].probe:>13} forgotten  {sparkline(values)}  {percent(values[-1])}", highlight=False)
    for rows in series:
        floor, guessing = rows[-1].value("noise_floor"), rows[-1].transitions.persistence
        guesses = ""
        if guessing is not None and guessing.n:
            guesses = f", guesses repeat {guessing.rho:.2f} beyond chance ({guessing.n} items)"
        results.print(f"{rows[0].probe:>13} noise floor {percent(floor)}{guesses}", highlight=False)
    store = Store(out)
    recall = probes[1]
    snapshots = [store.read(recall.name, step) for step in store.steps(recall.name)]
    prompts = {item.id: item.prompt for item in recall.items}
    results.print()
    results.print(first_lost_table(snapshots, prompts, count=10, title="The ten facts that went first"))
    wandb_run = sorted((out / "wandb").glob("offline-run-*"), key=os.path.getmtime)
    results.print(f"run directory  {out}", highlight=False, soft_wrap=True)
    results.print(f"report         {store.path / 'report.html'}", highlight=False, soft_wrap=True)
    if wandb_run:
        results.print(f"W&B run        {wandb_run[-1]}   (wandb leet {wandb_run[-1]})", highlight=False, soft_wrap=True)
    results.print(f"next           forget-callback compare {out} {out}", highlight=False, soft_wrap=True)


class _Bar(TrainerCallback):
    """The training run as one bar."""

    def __init__(self, progress: Progress, method: str) -> None:
        self.progress, self.method = progress, method

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.task = self.progress.add_task(f"fine-tuning with {self.method.upper()}", total=state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.update(self.task, completed=state.global_step)


def _say(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The libraries' own bars and notes would drown the result."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TRL's own use of names that transformers renamed
        yield


@contextlib.contextmanager
def _wandb_offline_unless_configured(out: Path) -> Iterator[None]:
    """W&B runs offline, in the run directory, where nobody has set it up."""
    import wandb

    os.environ.setdefault("WANDB_PROJECT", "forget-callback-demo")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_DIR", str(out))
    out.mkdir(parents=True, exist_ok=True)
    if not os.environ.get("WANDB_API_KEY") and not _has_netrc():
        os.environ.setdefault("WANDB_MODE", "offline")
    try:
        yield
    finally:
        if wandb.run is not None:
            wandb.finish()


def _has_netrc() -> bool:
    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (OSError, netrc.NetrcParseError):
        return False
