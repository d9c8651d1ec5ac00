"""The demo: a tiny model that knows facts is fine-tuned on a CPU while the callback shows what it forgets.

Makes a tiny model, teaches it a few hundred of the builtin facts, then fine-tunes it with TRL on facts that do not
exist. The callback is used as anybody would use it; nothing here is simulated.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import datasets
import transformers
from rich.console import Console
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from forget_callback.callback import ForgetCallback
from forget_callback.demo import tiny
from forget_callback.demo.clock import Stages
from forget_callback.demo.offline import offline_run, wandb_offline_unless_configured
from forget_callback.demo.tiny import ON_CPU, conversation
from forget_callback.probes.load import load_probe
from forget_callback.probes.probe import Probe
from forget_callback.report.terminal import curve_table, first_lost_table, sparkline
from forget_callback.runs.formatting import percent
from forget_callback.runs.headline import headline
from forget_callback.runs.next_command import next_command
from forget_callback.runs.store import Store

FACTS = 300
BATCH = 32
EVALUATIONS = 10


def run_demo(
    out: Path, *, seed: int, samples: int, replay: float, method: str, results: Console, notes: Console
) -> ForgetCallback:
    """Runs the demo, prints the curve and where the files are, and returns the callback.

    Args:
        out: Run directory: `forget/` and, unless W&B is configured, the offline W&B run.
        seed: Of everything; the same seed gives the same curve on the same machine.
        samples: How many samples to train on.
        replay: Share of them that are old facts instead of new ones.
        method: "sft" on invented facts, or "grpo" on a rule that is new to the model.
    """
    rng = random.Random(seed)
    with tiny.quiet():
        transformers.set_seed(seed)
        probes = [load_probe(f"builtin:facts?kind={kind}", limit=FACTS, seed=seed) for kind in ("choice", "recall")]
        facts, new = tiny.known_facts(*probes), tiny.invented_facts(samples, random.Random(seed))
        mixed = [(f.question, f.answer) if rng.random() < replay else pair for pair in new for f in [rng.choice(facts)]]
        with Stages(notes) as stages:
            texts = [" ".join(pair) for pair in new]
            model, tokenizer = tiny.make_taught_model(facts, texts, seed=seed, progress=stages)
            steps = -(-samples // BATCH)
            callback = ForgetCallback(probes, every=max(1, steps // EVALUATIONS))
            training = {
                "output_dir": str(out),
                "per_device_train_batch_size": BATCH,
                "max_steps": steps,
                "report_to": "wandb",
                "run_name": f"{method}-{samples}-replay-{replay:g}",
                "logging_steps": max(1, steps // (2 * EVALUATIONS)),
                "seed": seed,
            }
            trainer = make_trainer(model, tokenizer, mixed, [callback, _Bar(stages, method)], method, training)
            with wandb_offline_unless_configured(out):
                trainer.train()
            trainer.save_model(str(out / "model"))
        task, metric = ("invented facts", "loss") if method == "sft" else ("a new rule", "reward")
        old = f", {replay:.0%} of them old facts" if replay else ""
        logged = [row[metric] for row in trainer.state.log_history if metric in row]
        headline = f"\n{samples:,} samples of {task} by {method.upper()}{old}: "
        headline += f"{metric} {logged[0]:.2f} → {logged[-1]:.2f}"
        results.print(headline, style="bold", highlight=False, soft_wrap=True)
        show(callback, probes, out, results)
    return callback


def make_trainer(
    model: Any, tokenizer: Any, pairs: list[Any], callbacks: list[Any], method: str, training: dict[str, Any]
) -> Any:
    """A trainer of TRL for pairs of question and answer, whose only output are its callbacks'."""
    shared = {"model": model, "processing_class": tokenizer, "callbacks": callbacks}
    if method == "sft":
        data = datasets.Dataset.from_list([{"messages": conversation(*pair)} for pair in pairs])
        args = SFTConfig(learning_rate=5e-4, max_length=128, **training, **ON_CPU)
        trainer: Any = SFTTrainer(args=args, train_dataset=data, **shared)
    else:
        data = datasets.Dataset.from_list([{"prompt": conversation(*pair)[:1]} for pair in pairs])
        more = {"num_generations": 8, "max_completion_length": 12, "beta": 0.0}
        args = GRPOConfig(learning_rate=3e-4, **more, **training, **ON_CPU)
        trainer = GRPOTrainer(args=args, train_dataset=data, reward_funcs=tiny.starts_with_s, **shared)
    trainer.remove_callback(PrinterCallback)
    return trainer


def show(callback: ForgetCallback, probes: list[Probe], out: Path, results: Console) -> None:
    """Prints the curve, the facts lost first, and where the files are."""
    assert callback.monitor is not None
    history = callback.monitor.rows
    series = [[row for row in history if (row.probe, row.category) == (probe.name, "")] for probe in probes]
    results.print(curve_table(series, title="What the model forgot during training"))
    for rows in series:
        values = [row.transitions.forgetting for row in rows]
        results.print(f"{rows[0].probe:>13} raw 1→0  {sparkline(values)}  {percent(values[-1])}", highlight=False)
    for row in callback.monitor.last_rows:
        if not row.category:
            said = headline(row)
            for line in (said.sentence, *said.notes):
                results.print(f"{row.probe:>13} {line}", highlight=False, soft_wrap=True)
    store = Store(out)
    recall = probes[1]
    snapshots = [store.read(recall.name, step) for step in store.steps(recall.name)]
    prompts = {item.id: item.prompt for item in recall.items}
    results.print()
    results.print(first_lost_table(snapshots, prompts, count=10, title="The ten facts lost first"))
    results.print(f"run directory  {out}", highlight=False, soft_wrap=True)
    results.print(f"report         {store.path / 'report.html'}", highlight=False, soft_wrap=True)
    if (run := offline_run(out)) is not None:
        leet = next_command("leet", run, program="wandb")
        results.print(f"W&B run        {run}   ({leet})", highlight=False, soft_wrap=True)
    results.print(f"next           {next_command('compare', out, out)}", highlight=False, soft_wrap=True)


class _Bar(TrainerCallback):
    """The training run as one stage."""

    def __init__(self, stages: Stages, method: str) -> None:
        self.stages, self.method = stages, method

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.advance = self.stages.begin(f"fine-tuning with {self.method.upper()}", state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.advance(state.global_step)
