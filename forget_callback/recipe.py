"""A run as a YAML file: TRL's own configs, flat, and beside them what is probed.

Keys are the fields of TRL's ScriptArguments, SFTConfig or GRPOConfig and ModelConfig, and of `ForgetArguments` here.
"""

from __future__ import annotations

import copy
import importlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forget_callback.callback import ForgetCallback
from forget_callback.loading import load_tokenizer
from forget_callback.stopping import StopRule

_RULE = re.compile(r"(?:(?P<probe>[^/>]+)/)?(?:(?P<category>[^/>]+)/)?(?P<metric>\w+)\s*>\s*(?P<above>[\d.eE+-]+)")


@dataclass
class ForgetArguments:
    """What a recipe says about probing.

    Attributes:
        trainer: "sft" or "grpo".
        probes: Specs for `load_probe`.
        every: A number of steps, several with commas between, "log2", or nothing: at each evaluation.
        stop: Rules such as "knowledge_lost>0.05", "PROBE/METRIC>VALUE" or "PROBE/CATEGORY/METRIC>VALUE".
        baseline, max_overhead, probe_batch_tokens: As in `ForgetCallback`.
        reward_funcs: Of GRPO, dotted names such as "my_package.my_reward", or names within trl.rewards.
    """

    trainer: str = "sft"
    probes: list[str] = field(default_factory=lambda: ["builtin:facts"])
    every: str | None = None
    stop: list[str] = field(default_factory=list)
    baseline: str = "start"
    max_overhead: float | None = None
    probe_batch_tokens: int | None = None
    reward_funcs: list[str] = field(default_factory=list)

    def callback(self, **more: Any) -> ForgetCallback:
        """The callback that they describe; `more` goes before them."""
        own = {
            "every": _every(self.every),
            "stop": [_rule(text) for text in self.stop],
            "baseline": self.baseline,
            "max_overhead": self.max_overhead,
            "batch_tokens": self.probe_batch_tokens,
        }
        return ForgetCallback(self.probes, **{**own, **more})


@dataclass(frozen=True)
class Recipe:
    """A run that can be built again and again."""

    script: Any
    training: Any
    model: Any
    forget: ForgetArguments

    @classmethod
    def read(cls, path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
        """Reads a YAML file; `overrides` are options of a command line, such as ``["--max_steps", "5"]``.

        Raises:
            ValueError: If the file is missing, or has a key that nobody knows.
        """
        from trl import GRPOConfig, ModelConfig, ScriptArguments, SFTConfig, TrlParser

        if not Path(path).is_file():
            raise ValueError(f"config {os.fspath(path)!r}: no such file; expected a recipe's YAML")
        configs = {"sft": SFTConfig, "grpo": GRPOConfig}
        named = re.search(r"^trainer:\s*(\S+)", Path(path).read_text(encoding="utf-8"), re.MULTILINE)
        trainer = named[1].strip("\"'") if named else "sft"
        if trainer not in configs:
            raise ValueError(f"{os.fspath(path)}: trainer must be one of {', '.join(configs)}, got {trainer!r}")
        parser = TrlParser((ScriptArguments, configs[trainer], ModelConfig, ForgetArguments))
        return cls(*parser.parse_args_and_config(["--config", os.fspath(path), *overrides]))

    def build(self, callbacks: Sequence[Any] = (), **training: Any) -> Any:
        """A trainer with a model of its own, ready to train.

        Args:
            callbacks: Beside the Trainer's own.
            training: Fields of the trainer's config that are set otherwise.
        """
        from trl import GRPOTrainer, SFTTrainer, get_peft_config, get_quantization_config

        kwargs = {
            "revision": self.model.model_revision,
            "attn_implementation": self.model.attn_implementation,
            "dtype": self.model.dtype,
            **(self.training.model_init_kwargs or {}),
        }
        args = copy.copy(self.training)  # not replace(): a config of GRPO refuses to be made of its own fields
        for name, value in {**training, "model_init_kwargs": kwargs}.items():
            setattr(args, name, value)
        data = self._data()
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
        return SFTTrainer(quantization_config=get_quantization_config(self.model), **common)

    def _data(self) -> Any:
        from datasets import load_dataset

        name = self.script.dataset_name
        if name is None:
            raise ValueError("dataset_name is missing: name a dataset of the hub, or a .json or .jsonl file")
        if name.endswith((".json", ".jsonl")):
            return load_dataset("json", data_files={self.script.dataset_train_split: name})
        return load_dataset(name, name=self.script.dataset_config)


def _every(text: str | None) -> Any:
    if text is None or text == "log2":
        return text
    try:
        steps = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"every must be a number of steps, several with commas, or log2; got {text!r}") from None
    return steps[0] if len(steps) == 1 else steps


def _rule(text: str) -> StopRule:
    match = _RULE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"stop {text!r}: expected METRIC>VALUE, PROBE/METRIC>VALUE or PROBE/CATEGORY/METRIC>VALUE")
    return StopRule(match["metric"], float(match["above"]), probe=match["probe"], category=match["category"])


def _reward(name: str) -> Callable[..., Any]:
    module, _, function = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module or "trl.rewards"), function)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise ValueError(f"reward_funcs: {name!r} is no function that can be imported: {error}") from error
