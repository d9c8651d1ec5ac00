"""Before a training: whether items of the probes stand in its data, and what its first steps do to the model.

The pilot trains as the run would, with its schedule and data, and stops after an eighth of the steps, 64 at most. It is
measured by what the study measured (docs/study.md), so that `early_warning` can say what followed there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from forget_callback.callback import ForgetCallback
from forget_callback.metrics.intervals import Interval
from forget_callback.probes.load import load_probe
from forget_callback.probes.probe import Probe
from forget_callback.probes.training_data import TrainingRows
from forget_callback.runs.early_warning import PART, got_worse, text_worse
from forget_callback.runs.sentences import sentence
from forget_callback.tools.overlap import Overlap, texts_of, words_of
from forget_callback.tools.recipe import Recipe

STEPS = 64
# The kinds of the study, and as many that something can be claimed of them.
FACTS, TEXTS, ROWS = "builtin:facts?kind=choice&limit=200", "builtin:text?limit=60", "train:"
FEWEST = 5  # words: fewer stand in many texts that are about something else


@dataclass(frozen=True)
class Leak:
    """The items of one probe that stand in the training data.

    Attributes:
        probe: Its name.
        items: Ids of those that do.
        n: Items of the probe.
        looked_for: Items that were looked for; the others have fewer than five words of their own.
    """

    probe: str
    items: tuple[str, ...]
    n: int
    looked_for: int


@dataclass(frozen=True)
class Pilot:
    """What the first steps of a training did to the model.

    Attributes:
        steps: Steps that were trained.
        planned: Steps of the whole training.
        warmup: Steps in which its learning rate rises.
        text_worse: By which share the bits per byte of texts rose.
        text_worse_interval: Its 95% interval over documents.
        text_lost: Whether that is beyond noise.
        knowledge: What is said of the facts, where a loss shows; else "".
        unscored: Documents and facts without a number at the end, as where training diverged.
        kl: To the model before, on rows of the training data, in nats per token; NaN with GRPO, whose rows are prompts.
        drift: Of the probabilities of the options of built-in facts.
    """

    steps: int
    planned: int
    warmup: int
    text_worse: float
    text_worse_interval: Interval
    text_lost: bool
    knowledge: str
    unscored: int
    kl: float
    drift: float

    @property
    def lost(self) -> bool:
        """Whether something is lost already, or could not be measured."""
        return bool(self.text_lost or self.knowledge or self.unscored)

    @property
    def as_in_study(self) -> bool:
        """Whether as much of the training is over as when the study looked, so that it says something of the end."""
        return PART / 2 <= self.steps / self.planned <= PART


def recipe_of(data: str, model: str, *, learning_rate: float | None, out: Path) -> Recipe:
    """The recipe of SFT on a data set with TRL's defaults.

    Raises:
        ValueError: As `Recipe.read`.
    """
    accelerated = torch.accelerator.is_available()
    keys = {
        "model_name_or_path": model,
        "dataset_name": os.path.abspath(data) if os.path.exists(data) else data,
        "output_dir": str(out),
        "bf16": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        "use_cpu": not accelerated,
        **({} if learning_rate is None else {"learning_rate": learning_rate}),
    }
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "recipe.yaml"
        path.write_text(yaml.safe_dump(keys), encoding="utf-8")
        return Recipe.read(path)


def leaks(rows: Iterable[Mapping[str, Any]], probes: Sequence[Probe]) -> list[Leak]:
    """Which items of these probes stand in training rows, word for word: thirteen words, or all of a shorter question.

    Args:
        rows: Text in any field counts, except roles.
        probes: One of rows of the training data itself is left out.
    """
    looked = [
        (probe, Overlap(probe.items, fewest=FEWEST), set[str]())
        for probe in probes
        if not isinstance(probe, TrainingRows)
    ]
    for row in rows:
        for words in map(words_of, texts_of(row)):
            for _, overlap, found in looked:
                found |= overlap.found(words)
    return [
        Leak(probe.name, tuple(id for id in probe.ids if id in found), len(probe), overlap.looked_for)
        for probe, overlap, found in looked
    ]


def pilot(recipe: Recipe, *, steps: int = STEPS, out: Path) -> Pilot:
    """Trains the first steps of a recipe, which are recorded in `out` as any run.

    Args:
        steps: At most, and at most an eighth of the training, but one.

    Raises:
        ValueError: If the model or the data cannot be had, or do not fit each other.
    """
    specs = [FACTS, TEXTS, *([ROWS] if recipe.forget.trainer == "sft" else [])]
    probes = [load_probe(spec) for spec in specs]
    end = _End(steps)
    # Measured are the start, and the end whenever that is.
    callback = ForgetCallback(probes, every=2**31, variants="ends", rescore=False, on_error="raise", output_dir=out)
    quiet = {"save_strategy": "no", "eval_strategy": "no", "load_best_model_at_end": False, "push_to_hub": False}
    trainer = recipe.build([callback, end], **quiet, report_to=[], output_dir=str(out))
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    monitor = callback.monitor
    assert monitor is not None
    rows = {row.probe: row for row in monitor.last_rows if not row.category}
    facts, texts, *own = (rows[probe.name] for probe in probes)
    worse, interval = text_worse(texts)
    return Pilot(
        steps=trainer.state.global_step,
        planned=trainer.state.max_steps,
        warmup=trainer.args.get_warmup_steps(trainer.state.max_steps),
        text_worse=worse,
        text_worse_interval=interval,
        text_lost=got_worse(texts),
        knowledge=sentence(facts) if facts.transitions.verdict == "lost" else "",
        unscored=sum(int(row.value("n_unscored")) for row in (facts, texts)),
        kl=own[0].value("kl") if own else float("nan"),
        drift=facts.value("drift"),
    )


class _End(TrainerCallback):
    """Ends a training after some steps, or the part of it after which the study looked."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stops where it is time."""
        if state.global_step >= min(self._steps, max(1, int(PART * state.max_steps))):
            control.should_training_stop = True
