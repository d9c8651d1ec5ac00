"""Gives a trainer a `ForgetCallback` that its script knows nothing of: `forget-callback run`, within the command.

The callback gets the place that `callbacks=[..., ForgetCallback(...)]` gives it. What cannot be attached is said once,
and ends the process only under `--require`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import transformers.trainer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from forget_callback.callback import ForgetCallback
from forget_callback.scoring.distributed import rank, together, world_size
from forget_callback.scoring.models import not_causal
from forget_callback.tools.arguments import ENVIRONMENT, CallbackArguments
from forget_callback.tools.launch import REPORTS, REQUIRE
from forget_callback.training.attachment import calling_trainers
from forget_callback.training.unmeasured import reason

logger = logging.getLogger(__name__)

_watched: weakref.WeakSet[Any] = weakref.WeakSet()


def attach(
    placeholder: TrainerCallback, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
) -> None:
    """Puts a ForgetCallback in the place of `placeholder`, in the trainer that is just built.

    Raises:
        SystemExit: With status 2, where that fails and is required.
    """
    trainer = next(iter(calling_trainers(placeholder)), None)
    name = "a Trainer" if trainer is None else type(trainer).__name__
    try:
        if trainer is None:
            raise ValueError("the Trainer that is being built was not found")
        callbacks = [one for one in trainer.callback_handler.callbacks if one is not placeholder]
        trainer.callback_handler.callbacks = callbacks
        if (why := _left_out(trainer, callbacks)) is not None:
            _say("left out", name, why)
            return
        callback = CallbackArguments.of_json(os.environ[ENVIRONMENT]).callback()
        callback.gives_way = True
        trainer.callback_handler.callbacks = _with(callback, callbacks)
        callback.on_init_end(args, state, control, **kwargs)
    except Exception as error:  # whatever it is, it must not end a run that did not ask for us
        _say("failed", name, reason(error))
        logger.debug("the error in full", exc_info=True)
        if os.environ.get(REQUIRE):
            raise SystemExit(2) from None
        if trainer is not None and world_size() > 1:
            trainer.add_callback(_Failed(reason(error)))
        return
    if trainer not in _watched:  # some subclasses build a trainer twice over
        _watched.add(trainer)
        _say("attached", name, "")


class _Failed(TrainerCallback):
    """Stands where a rank has no ForgetCallback: other ranks may have one, and would wait for this one."""

    def __init__(self, why: str) -> None:
        self._why = why

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Fails with the first thing that a run under watch does together, on all ranks alike."""

        def fail() -> None:
            raise ValueError(self._why)

        with contextlib.suppress(Exception):
            together(fail)


def _left_out(trainer: Any, callbacks: list[TrainerCallback]) -> str | None:
    """Why this trainer gets none."""
    if any(isinstance(one, ForgetCallback) for one in callbacks):
        return "it has a ForgetCallback of its own, which stays"
    if (found := not_causal(trainer.model)) is not None:
        return f"it trains no causal language model but {found}"
    if not callable(getattr(trainer.model, "generate", None)):
        return f"it trains no causal language model but {type(trainer.model).__name__}, which does not generate"
    return None


def _with(callback: TrainerCallback, callbacks: list[TrainerCallback]) -> list[TrainerCallback]:
    """The callbacks with ours after the user's: the Trainer has added its progress bar since."""
    bars = (transformers.trainer.PrinterCallback, transformers.trainer.DEFAULT_PROGRESS_CALLBACK)
    at = len(callbacks) - (bool(callbacks) and isinstance(callbacks[-1], bars))
    return [*callbacks[:at], callback, *callbacks[at:]]


def _say(found: str, trainer: str, why: str) -> None:
    """Says it on the main rank, and leaves it for the process that started the command."""
    if rank() > 0 and found != "failed":
        return
    said = {
        "attached": f"watches {trainer}",
        "left out": f"leaves out {trainer}: {why}",
        "failed": f"NOT ATTACHED to {trainer}, no forgetting will be measured: {why}",
    }
    if rank() == 0:
        print(f"forget-callback run: {said[found]}", file=sys.stderr, flush=True)
    if (directory := os.environ.get(REPORTS)) is not None:
        report = {"found": found, "trainer": trainer, "why": why, "rank": rank()}
        with contextlib.suppress(OSError):  # it may be on another machine
            Path(directory, f"{os.getpid()}-{time.time_ns()}.json").write_text(json.dumps(report), encoding="utf-8")
