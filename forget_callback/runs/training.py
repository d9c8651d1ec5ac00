"""What was trained, as a run's manifest tells it: model, data, learning rate and trainer.

What is not known is None and never guessed. Reads no trainer: `training/description.py` does.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from forget_callback.probes.quoting import printable, quoted

_HUB_CACHE = re.compile(r"(?:^|[/\\])models--([^/\\]+)[/\\]snapshots[/\\][^/\\]+")
_LOCAL = re.compile(r"^(?:[/\\.~]|[A-Za-z]:[/\\])")


@dataclass(frozen=True)
class Training:
    """A training, the part "training" of `manifest.json`; None where something is not known.

    Attributes:
        model: Name or path of the model that was trained; of an adapter, that of its base model.
        method: "full"; "partial" where some of the weights are frozen; the kind of adapter, such as "lora".
        rank: Of a low-rank adapter.
        data: Name of the training data, or where they are on disk.
        rows: Of the data as the trainer goes through them: packed ones, if it packs.
        fingerprint: What `datasets` calls so: the data and all that was done to them.
        trainer: Name of the trainer's class.
        learning_rate: The highest of its schedule.
        scheduler: Kind of that schedule, such as "linear".
        batch_size: Samples of an optimizer step, over all devices and accumulated batches.
        epochs: How many were planned, None where the steps were.
        precision: Of the weights, and of autocast if there is one.
        seed: Of the trainer.
        metric_for_best_model: By which the best checkpoint is chosen, as evaluations name it; none of this package's.

    Raises:
        ValueError: If one is not of its type.
    """

    model: str | None = None
    method: str | None = None
    rank: int | None = None
    data: str | None = None
    rows: int | None = None
    fingerprint: str | None = None
    trainer: str | None = None
    learning_rate: float | None = None
    scheduler: str | None = None
    batch_size: int | None = None
    epochs: float | None = None
    precision: str | None = None
    seed: int | None = None
    metric_for_best_model: str | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value, kind = getattr(self, f.name), str(f.type).split(" ")[0]
            kinds = {"str": str, "int": int, "float": (int, float)}[kind]
            wrong = isinstance(value, bool) or not isinstance(value, kinds)  # type: ignore[arg-type]
            if value is not None and (wrong or (kind == "float" and not math.isfinite(value))):
                raise ValueError(f"'training.{f.name}' must be of type {kind}, or null, got {quoted(value)}")

    @classmethod
    def of(cls, part: Any) -> Training:
        """What a mapping says, such as the part "training" of a manifest; None says nothing.

        Raises:
            ValueError: If it is no mapping, or has other names or types.
        """
        names = [f.name for f in fields(cls)]
        if part is not None and not (isinstance(part, Mapping) and set(part) <= set(names)):
            raise ValueError(f"'training' must be an object of {', '.join(names)}, got {quoted(part)}")
        return cls(**(part or {}))

    def continues(self, before: Training) -> Training:
        """This training as one that resumes `before`: of the same first model, and what is no longer known stays."""
        kept = {f.name: getattr(before, f.name) for f in fields(self) if getattr(self, f.name) is None}
        return replace(self, **kept | ({"model": before.model} if before.model is not None else {}))

    @property
    def sentence(self) -> str:
        """The training in one line for people, "" where nothing is known of it.

        >>> Training(model="org/Small-1B", method="lora", rank=8, trainer="SFTTrainer", rows=300, batch_size=4).sentence
        'org/Small-1B with LoRA of rank 8, SFTTrainer on 300 rows, 4 samples a step'
        """
        said = dict(self.described)
        method, rate = said.get("method"), said.get("learning rate")
        who = " with ".join(filter(None, (said.get("model"), method if self.method != "full" else None)))
        rows = "" if self.rows is None else f"{self.rows:,} rows"
        data = said.get("data", "")
        on = f"{data} ({rows})" if data and rows else data or rows
        what = f"{self.trainer} on {on}" if self.trainer and on else self.trainer or (f"on {on}" if on else "")
        step = "" if self.batch_size is None else f"{self.batch_size:,} sample{'s' * (self.batch_size != 1)} a step"
        return printable(", ".join(filter(None, (who, what, rate and f"learning rate {rate}", step))))

    @property
    def described(self) -> list[tuple[str, str]]:
        """What is known, as label and text each, in the order in which people ask for it."""
        rate, method = self.learning_rate, self.method
        if method is not None:
            kind = {"full": "all weights", "partial": "some weights frozen", "lora": "LoRA"}.get(method, method.upper())
            method = kind if self.rank is None else f"{kind} of rank {self.rank}"
        known = {
            "model": self.model and short_name(self.model),
            "method": method,
            "trainer": self.trainer,
            "data": self.data and short_name(self.data),
            "rows": None if self.rows is None else f"{self.rows:,}",
            "learning rate": None if rate is None else rate_text(rate),
            "scheduler": self.scheduler,
            "samples a step": None if self.batch_size is None else f"{self.batch_size:,}",
            "epochs planned": None if self.epochs is None else f"{self.epochs:g}",
            "precision": self.precision,
            "seed": None if self.seed is None else str(self.seed),
            "best model by": self.metric_for_best_model,
            "data fingerprint": self.fingerprint,
        }
        return [(label, text) for label, text in known.items() if text]


def short_name(name: str) -> str:
    """A path without the folders that say nothing, a hub id as it is.

    >>> short_name("/data/models/small-1b"), short_name("org/small-1b"), short_name("runs/a/checkpoint-10")
    ('small-1b', 'org/small-1b', 'a/checkpoint-10')
    """
    cached = _HUB_CACHE.search(name)
    if cached:
        return cached[1].replace("--", "/", 1)
    parts = [part for part in re.split(r"[/\\]", name) if part]
    if len(parts) < 3 and not _LOCAL.match(name):
        return name
    return "/".join(parts[-2:] if parts[-1].startswith("checkpoint-") else parts[-1:])


def hub_id(name: str) -> str:
    """The hub id of a model or data set, "" where the name is that of a directory.

    >>> hub_id("org/small-1b"), hub_id("/data/models/small-1b"), hub_id("c/models--org--small-1b/snapshots/0f")
    ('org/small-1b', '', 'org/small-1b')
    """
    short = short_name(name)
    return short if _HUB_CACHE.search(name) or (short == name and not os.path.isdir(name)) else ""


def rate_text(rate: float) -> str:
    """A learning rate as people write it.

    >>> rate_text(3e-4), rate_text(2.5e-5), rate_text(0.1), rate_text(0)
    ('3e-4', '2.5e-5', '0.1', '0')
    """
    if rate == 0 or abs(rate) >= 0.01:
        return f"{rate:.3g}"
    digits, power = f"{rate:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


def differences(trainings: Sequence[Training]) -> tuple[list[tuple[str, list[str]]], list[tuple[str, str]]]:
    """In what several trainings differ, and what is the same in all: label and texts, "" where one is not known."""
    told = [dict(one.described) for one in trainings]
    labels = dict.fromkeys(label for one in told for label in one)
    each = [(label, [one.get(label, "") for one in told]) for label in labels]
    differ = [(label, own) for label, own in each if len(set(own)) > 1]
    return differ, [(label, own[0]) for label, own in each if len(set(own)) == 1]
