"""What the demo on a real model is asked to do, and the defaults of each method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from forget_callback.demo.samples import Method


@dataclass(frozen=True)
class Settings:
    """What a method is run with by default.

    Attributes:
        samples: How many, unless the user says; of GRPO completions.
        batch: Samples of a step.
        learning_rate: Of full fine-tuning.
        lora_learning_rate: Of an adapter, which takes a higher one.
    """

    samples: int
    batch: int
    learning_rate: float
    lora_learning_rate: float


SETTINGS: dict[Method, Settings] = {
    "sft": Settings(240, 4, 3e-4, 2e-3),
    "dpo": Settings(64, 2, 2e-5, 2e-4),
    "grpo": Settings(96, 8, 5e-5, 5e-4),
}


@dataclass(frozen=True)
class DemoConfig:
    """What the user asked for.

    Attributes:
        model: A directory or hub id.
        data: A file or data set; the packaged quiz by default.
        method: "sft", "grpo" or "dpo".
        lora: Whether an adapter is trained, and not the whole model.
        probes: Specs; `ITEMS` of the built-in facts by default.
        samples: How many to train on; what `SETTINGS` says by default, of a user's data at most what there is.
        seed: Of the order of the samples and of the adapter; the same seed gives the same run on the same machine.
        out: Run directory.
    """

    model: str
    data: str | None
    method: Method
    lora: bool
    probes: Sequence[str]
    samples: int | None
    seed: int
    out: Path
