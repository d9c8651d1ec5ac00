"""A training run as a YAML file: TRL's own configs, flat, and the arguments of the callback.

Keys are the fields of TRL's ScriptArguments, SFTConfig or GRPOConfig and ModelConfig, and of `ForgetArguments` here.
`recipes/sft.py` and `recipes/grpo.py` call `main`.
"""

from __future__ import annotations

import argparse
import copy
import os
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

from rich.console import Console

from forget_callback.callback import ForgetCallback
from forget_callback.probes.data_sets import read_splits, rows_of
from forget_callback.probes.quoting import quoted
from forget_callback.report.terminal import curve_table
from forget_callback.scoring.distributed import rank
from forget_callback.scoring.loading import load_tokenizer
from forget_callback.tools.arguments import CallbackArguments, read_yaml, require_known


@dataclass
class ForgetArguments(CallbackArguments):
    """A recipe's arguments for the callback, the reward and the data.

    Attributes:
        trainer: "sft" or "grpo".
        reward_funcs: Reward functions of GRPO: dotted names such as "my_package.my_reward", or names in trl.rewards.
        train_samples: Size of the random subset to train on, drawn with the training seed; all by default.
        replay_dataset: Data to replay, such as a pack of `forget-callback replay`: a .json or .jsonl file or hub id.
        replay_share: Share of the training samples replaced by samples from it; their total number stays the same.
        output_dir: None: the key of this name is the Trainer's.
    """

    trainer: str = "sft"
    reward_funcs: list[str] = field(default_factory=list)
    train_samples: int | None = None
    replay_dataset: str | None = None
    replay_share: float = 0.2
    output_dir: str | None = field(default=None, init=False)


@dataclass(frozen=True)
class Recipe:
    """The parsed configs of a run, from which any number of trainers can be built."""

    script: Any
    training: Any
    model: Any
    forget: ForgetArguments

    @classmethod
    def read(cls, path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
        """Reads a YAML file; `overrides` are options of a command line, such as ``["--max_steps", "5"]``.

        Raises:
            ValueError: If the file is missing, or has an unknown key.
        """
        from trl import GRPOConfig, ModelConfig, ScriptArguments, SFTConfig, TrlParser

        configs = {"sft": SFTConfig, "grpo": GRPOConfig}
        given = read_yaml(path, example="trainer: sft")
        trainer = given.get("trainer", "sft")
        if trainer not in configs:
            raise ValueError(f"{os.fspath(path)}: trainer must be one of {', '.join(configs)}, got {quoted(trainer)}")
        parts = (ScriptArguments, configs[trainer], ModelConfig, ForgetArguments)
        known = ["env", *(one.name for part in parts for one in fields(part))]
        require_known(given, known, path, f"keys are the fields of {', '.join(one.__name__ for one in parts)}")

        def refuse(message: str) -> NoReturn:
            raise ValueError(f"{os.fspath(path)}: {message}")

        parser = TrlParser(parts)
        parser.error = refuse  # argparse would print 200 options
        return cls(*parser.parse_args_and_config(["--config", os.fspath(path), *overrides]))

    def build(self, callbacks: Sequence[Any] = (), **training: Any) -> Any:
        """A trainer with a newly loaded model, ready to train.

        Args:
            callbacks: Added to the Trainer's default ones.
            training: Overrides of the trainer's config.
        """
        from trl import GRPOTrainer, SFTTrainer, get_peft_config, get_quantization_config

        if not self.model.model_name_or_path:
            raise ValueError("model_name_or_path is missing: name a directory or a model of the hub")
        kwargs = {
            "revision": self.model.model_revision,
            "attn_implementation": self.model.attn_implementation,
            "dtype": self.model.dtype,
            **(self.training.model_init_kwargs or {}),
        }
        args = copy.copy(self.training)  # not replace(): GRPOConfig does not accept its own computed fields
        for name, value in {**training, "model_init_kwargs": kwargs}.items():
            setattr(args, name, value)
        data = self.data()
        common: dict[str, Any] = {
            "model": self.model.model_name_or_path,
            "args": args,
            "train_dataset": data[self.script.dataset_train_split],
            "eval_dataset": data.get(self.script.dataset_test_split) if self.training.eval_strategy != "no" else None,
            "processing_class": load_tokenizer(self.model.model_name_or_path),
            "peft_config": get_peft_config(self.model),
            "callbacks": list(callbacks),
        }
        if self.forget.trainer == "grpo":
            return GRPOTrainer(reward_funcs=[_reward(name) for name in self.forget.reward_funcs], **common)
        self._require_columns(common["train_dataset"].column_names)
        return SFTTrainer(quantization_config=get_quantization_config(self.model), **common)

    def _require_columns(self, columns: Sequence[str]) -> None:
        """That SFT finds a text, which it would miss with an error about something else."""
        known = ("messages", "conversations", "prompt", self.training.dataset_text_field, "input_ids")
        if not set(known) & set(columns):
            raise ValueError(
                f"dataset_name {quoted(self.script.dataset_name)}: SFT trains on the columns 'messages', or 'prompt' "
                f"and 'completion', or {self.training.dataset_text_field!r}, and there are "
                f"{', '.join(map(quoted, columns)) or 'none'}"
            )

    def run(self) -> ForgetCallback:
        """Trains with the callback and every tracker, saves the model, and returns the callback."""
        callback = self.forget.callback()
        trainer = self.build([callback])
        trainer.train(resume_from_checkpoint=self.training.resume_from_checkpoint)
        trainer.save_model()
        return callback

    def data(self) -> Any:
        """The dataset's splits; the training split cut to `train_samples` and mixed with `replay_dataset`.

        Raises:
            ValueError: If there is no such dataset, or what is to be replayed does not fit it.
        """
        split = self.script.dataset_train_split
        if self.script.dataset_name is None:
            raise ValueError("dataset_name is missing: name a dataset of the hub, or a .json or .jsonl file")
        name, forget = self.script.dataset_name, self.forget
        data = read_splits(name, self.script.dataset_config, argument="dataset_name", split=split)
        rows = rows_of(data, split, argument="dataset_name", name=name)
        if forget.train_samples is not None:
            if forget.train_samples < 1:
                raise ValueError(f"train_samples must be 1 or more, got {forget.train_samples}; leave it out for all")
            rows = rows.shuffle(seed=self.training.seed).select(range(min(forget.train_samples, len(rows))))
        if forget.replay_dataset is not None:
            old = read_splits(forget.replay_dataset, argument="replay_dataset", split=split)
            replay = rows_of(old, split, argument="replay_dataset", name=forget.replay_dataset)
            rows = _with_replay(rows, replay, forget, self.training.seed)
        return {**data, split: rows}


def _with_replay(rows: Any, replay: Any, forget: ForgetArguments, seed: int) -> Any:
    """As many rows as before, a share of them from `replay`, whose rows repeat if it is too small."""
    from datasets import concatenate_datasets

    if not 0 < forget.replay_share < 1:
        raise ValueError(f"replay_share must lie between 0 and 1, got {forget.replay_share}")
    missing = sorted(set(rows.column_names) - set(replay.column_names))
    if missing and missing == sorted(rows.column_names):
        raise ValueError(f"replay_dataset {quoted(forget.replay_dataset)} has none of the columns {rows.column_names}")
    shared = [name for name in rows.column_names if name not in missing]
    count = round(forget.replay_share * len(rows))
    places = [place % len(replay) for place in range(count)]
    kept = rows.shuffle(seed=seed).select(range(len(rows) - count)).select_columns(shared)
    drawn = replay.shuffle(seed=seed).select(places).select_columns(shared)
    return concatenate_datasets([kept, drawn.cast(kept.features)]).shuffle(seed=seed)


def main(trainer: str, arguments: Sequence[str] | None = None) -> None:
    """Command line of `recipes/sft.py` and `recipes/grpo.py`: a YAML file, overridden by options.

    Args:
        trainer: "sft" or "grpo"; the recipe's must be the same.
        arguments: Of the command line; those of this process by default.

    Raises:
        ValueError: If the recipe is for the other trainer, or has an unknown key.
    """
    from forget_callback.demo.smoke import WIDTH, smoke

    parser = argparse.ArgumentParser(description=f"Trains by {trainer.upper()} while probes watch.", allow_abbrev=False)
    parser.add_argument("--config", required=True, help="a recipe's YAML")
    smoke_help = f"a tiny model, of width {WIDTH} by default, and a few hundred samples, on a CPU"
    parser.add_argument("--smoke", nargs="?", type=int, const=WIDTH, metavar="WIDTH", help=smoke_help)
    parser.add_argument("--out", help="run directory; the recipe's output_dir by default")
    own, overrides = parser.parse_known_args(arguments)
    if own.smoke:
        overrides = [*smoke(own.config, own.out, width=own.smoke), *overrides]
    elif own.out:
        overrides = ["--output_dir", own.out, *overrides]
    recipe = Recipe.read(own.config, overrides)
    if recipe.forget.trainer != trainer:
        raise ValueError(
            f"{own.config} is a recipe for {recipe.forget.trainer}: run recipes/{recipe.forget.trainer}.py"
        )
    monitor = recipe.run().monitor
    if rank() == 0:
        assert monitor is not None
        rows = [row for row in monitor.rows if not row.category]
        series = [[row for row in rows if row.probe == probe.name] for probe in monitor.probes]
        Console().print(curve_table(series, title="Forgetting during training"))
        print(f"run {recipe.training.output_dir}, page {monitor.store.path / 'report.html'}")


def _reward(name: str) -> Any:
    try:
        return pkgutil.resolve_name(name if "." in name else f"trl.rewards.{name}")
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"reward_funcs: cannot import a function {quoted(name)}: {error}") from error
