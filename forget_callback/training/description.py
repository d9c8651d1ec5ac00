"""What a trainer trains, for the run's manifest: model, data, learning rate.

Reads attributes and nothing else: no text of the data, no collective. What cannot be read is None, whatever the reason,
for no training may fail because of this.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sized
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from datasets import Dataset, config
from transformers import TrainerState, TrainingArguments

from forget_callback.runs.training import Training

logger = logging.getLogger(__name__)

_OURS = ("forget_", "eval_forget_")


def described(trainer: Any, args: TrainingArguments, state: TrainerState, model: Any) -> Training:
    """What is known of a training that starts.

    Args:
        trainer: None if it could not be found: then neither its class nor its data are known.
        model: None if it is not known.
    """
    data = None if trainer is None else _read(lambda: trainer.train_dataset)
    rate = _read(lambda: _learning_rate(trainer, args))
    best = args.metric_for_best_model
    return Training(
        model=_read(lambda: _model_name(model)),
        method=_read(lambda: _method(model)),
        rank=_read(lambda: int(_adapter(model).r)),
        data=_read(lambda: _data_name(data)),
        rows=_read(lambda: len(data) if isinstance(data, Sized) else None),
        fingerprint=_read(lambda: str(data._fingerprint) if isinstance(data, Dataset) else None),
        trainer=None
        if trainer is None
        else _read(lambda: str(trainer.__class__.__name__)),  # of a proxy, its trainer's
        learning_rate=rate,
        # A user's own optimizer comes with its own schedule.
        scheduler=_read(lambda: str(args.lr_scheduler_type.value)) if rate == args.learning_rate else None,
        batch_size=_read(lambda: _batch_size(args, state)),
        epochs=None if args.max_steps > 0 else float(args.num_train_epochs),
        precision=_read(lambda: _precision(model, args)),
        seed=int(args.seed),
        metric_for_best_model=None if best is None or best.startswith(_OURS) else f"eval_{best.removeprefix('eval_')}",
    )


def _read(read: Callable[[], Any]) -> Any:
    """What can be read, else None: models and data sets are of many kinds, and few have it all."""
    try:
        return read()
    except Exception as error:
        logger.debug("not known of this training: %r", error)
        return None


def _adapter(model: Any) -> Any:
    """The configuration of a PEFT model's adapter, None of another model."""
    adapters: Mapping[str, Any] = getattr(model, "peft_config", None) or {}
    return next(iter(adapters.values()), None)


def _model_name(model: Any) -> str | None:
    adapter = _adapter(model)
    name = (None if adapter is None else adapter.base_model_name_or_path) or model.config._name_or_path
    return without_credentials(os.fspath(name)) or None


def _method(model: Any) -> str:
    adapter = _adapter(model)
    if adapter is not None:
        return str(getattr(adapter.peft_type, "value", adapter.peft_type)).lower()
    return "full" if all(weights.requires_grad for weights in model.parameters()) else "partial"


def _data_name(data: Any) -> str | None:
    """The repository on the hub, else the name that the data give themselves, else the directory they were saved in."""
    folders = [Path(file["filename"]).resolve().parent for file in getattr(data, "cache_files", None) or ()]
    cache = Path(config.HF_DATASETS_CACHE).resolve()
    cached = [folder.relative_to(cache).parts[:1] for folder in folders if folder.is_relative_to(cache)]
    hub = dict.fromkeys(parts[0].replace("___", "/") for parts in cached if parts and "___" in parts[0])
    own = [f"{folder}" for folder in dict.fromkeys(folders) if not folder.is_relative_to(cache)]
    name = " + ".join(hub) or data.info.dataset_name or data.info.builder_name or " + ".join(own)
    kind = data.info.config_name
    return without_credentials(f"{name} ({kind})" if name and kind not in (None, "default") else name) or None


def _learning_rate(trainer: Any, args: TrainingArguments) -> float | None:
    """Of the optimizer, which the user may have passed and a checkpoint may have restored; None if groups differ."""
    optimizer = None if trainer is None else trainer.optimizer
    if optimizer is None:
        return float(args.learning_rate)
    rates = {float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups}
    return rates.pop() if len(rates) == 1 else None


def _batch_size(args: TrainingArguments, state: TrainerState) -> int:
    on_device = state.train_batch_size or args.train_batch_size  # auto_find_batch_size changes the one in the state
    return int(on_device * args.gradient_accumulation_steps * args.world_size)


def _precision(model: Any, args: TrainingArguments) -> str:
    weights = str(model.dtype).removeprefix("torch.")
    autocast = "bfloat16" if args.bf16 else "float16" if args.fp16 else weights
    return weights if autocast == weights else f"{weights}, autocast to {autocast}"


def without_credentials(name: str) -> str:
    """The name; of an address without what may be a secret in it: user, password and query."""
    parts = urlsplit(name) if "://" in name else None
    return name if parts is None else urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
