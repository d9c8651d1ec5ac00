"""The demo on a real model: any causal language model is fine-tuned for a few minutes while the callback watches.

Full fine-tuning is in float32, whatever the checkpoint is in: in bfloat16 most of AdamW's small steps would be rounded
away, and answers of nearly equal probability would flip for no reason. Nothing of this is special to the demo: it is
TRL's trainer with the callback in `callbacks=`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from forget_callback.callback import ForgetCallback
from forget_callback.demo import tiny
from forget_callback.demo.clock import TimeLeft
from forget_callback.demo.config import SETTINGS, DemoConfig
from forget_callback.demo.offline import wandb_offline_unless_configured
from forget_callback.demo.outcome import show, trained_on
from forget_callback.demo.samples import Samples, own_samples, quiz_samples, short_and_right
from forget_callback.demo.tokens import prepare
from forget_callback.probes.console import say
from forget_callback.probes.load import load_probe
from forget_callback.probes.probe import Probe
from forget_callback.scoring.loading import load_model, load_tokenizer

PROBE = "builtin:facts?kind=choice"
ITEMS = 600  # of the default probe: 5% lost are found in 99% of runs, with 150 in a third of them
EVALUATIONS = 4
TOKENS = 256  # longer samples are cut: time and memory of a step grow with them
_NO_TOKENIZER = "save the model's own tokenizer into the same directory: tokenizer.save_pretrained(...)"


def run_on_model(config: DemoConfig, *, results: Console) -> ForgetCallback:
    """Fine-tunes a model, prints what it lost and gained and where everything is, and returns the callback.

    Raises:
        ValueError: If the model, the data or a probe cannot be had, or do not fit each other.
        ImportError: If an adapter is asked for and peft is not there.
    """
    adapter = _adapter() if config.lora else None
    with tiny.quiet():
        transformers.set_seed(config.seed)
        probes = [load_probe(spec) for spec in config.probes] or [load_probe(PROBE, limit=ITEMS)]
        samples, steps = _samples(config)
        every = max(1, steps // EVALUATIONS)
        callback = ForgetCallback(probes, every=every, variants="ends")
        tokenizer, model = load_tokenizer(config.model, remedy=_NO_TOKENIZER), load_model(config.model)
        if not config.lora:
            require_memory(sum(one.numel() for one in model.parameters()), _memory(model.device))
            model = model.float()
        prepare(tokenizer, model.config, name=config.model)
        say(_about(config, model, samples, steps, probes))
        trainer = _trainer(config, model, tokenizer, samples, steps, adapter, [TimeLeft(say, every=every), callback])
        with wandb_offline_unless_configured(config.out):
            trainer.train()
        trainer.save_model(str(config.out / "model"))
        trainer.save_state()  # trainer_state.json, with the loss of every step
        show(config, callback, trainer, samples, results)
    return callback


def _samples(config: DemoConfig) -> tuple[Samples, int]:
    """What is trained on, and in how many steps."""
    settings = SETTINGS[config.method]
    count = config.samples or settings.samples
    if config.data is None:
        samples = quiz_samples(config.method, count=count, seed=config.seed)
    else:
        samples = own_samples(config.data, config.method, count=count, seed=config.seed)
        if config.samples is None and config.method != "grpo":
            count = min(count, samples.available)
    return samples, max(1, count // settings.batch)


def require_memory(parameters: int, memory: float) -> None:
    """Refuses what cannot end well, before hours of swapping or a process that is killed without a word.

    Args:
        parameters: Of the model; weight, gradient and AdamW's two moments are 16 bytes of each.
        memory: Bytes that there are, whatever uses them.

    Raises:
        ValueError: If that is too little.
    """
    needed = 16 * parameters
    if needed > memory:
        raise ValueError(
            f"fine-tuning all {parameters / 1e9:,.1f}B parameters in float32 takes {needed / 1e9:,.0f} GB of memory "
            f"and more, and there are {memory / 1e9:,.0f} GB: pass --lora, training an adapter, or a smaller --model"
        )


def _memory(device: torch.device) -> float:
    """All bytes of memory of a device; infinite where the system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    names = getattr(os, "sysconf_names", {})
    if device.type != "cpu" or not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names):
        return math.inf
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _adapter() -> Any:
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError("--lora needs peft: pip install 'forget-callback[peft]'") from error
    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def _about(config: DemoConfig, model: Any, samples: Samples, steps: int, probes: Sequence[Probe]) -> str:
    """What is about to happen, in a line."""
    size, batch = sum(one.numel() for one in model.parameters()), SETTINGS[config.method].batch
    how = f"{config.method.upper()}{' with LoRA' if config.lora else ''}"
    asked = ", ".join(f"{len(probe):,} items of {probe.name}" for probe in probes)
    return (
        f"{how} of a model of {size / 1e6:,.0f}M parameters on {trained_on(config, samples, steps * batch)}, "
        f"while {asked} are watched"
    )


def _trainer(
    config: DemoConfig, model: Any, tokenizer: Any, samples: Samples, steps: int, adapter: Any, callbacks: list[Any]
) -> Any:
    """A trainer of TRL whose only output are its callbacks'."""
    settings, accelerated = SETTINGS[config.method], torch.accelerator.is_available()
    training: dict[str, Any] = {
        **tiny.ON_CPU,
        "use_cpu": not accelerated,
        "bf16": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        "output_dir": str(config.out),
        "per_device_train_batch_size": settings.batch,
        "max_steps": steps,
        "learning_rate": settings.lora_learning_rate if config.lora else settings.learning_rate,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "report_to": "wandb",
        "run_name": f"{config.method}-{Path(config.model).name}",
        "seed": config.seed,
    }
    shared = {
        "model": model,
        "processing_class": tokenizer,
        "callbacks": callbacks,
        "train_dataset": samples.rows,
        "peft_config": adapter,
    }
    if config.method == "sft":
        trainer: Any = SFTTrainer(args=SFTConfig(max_length=TOKENS, **training), **shared)
    elif config.method == "dpo":
        # The reference's answers are computed first, so that no second model stays in memory.
        trainer = DPOTrainer(args=DPOConfig(max_length=TOKENS, precompute_ref_log_probs=True, **training), **shared)
    else:
        more = {"num_generations": 4, "max_completion_length": 24, "beta": 0.0}
        trainer = GRPOTrainer(args=GRPOConfig(**more, **training), reward_funcs=short_and_right, **shared)
    trainer.remove_callback(PrinterCallback)
    return trainer
