"""Gives a trainer a `ForgetCallback` that its script knows nothing of: `forget-callback run`, within the command.

The callback gets the place that `callbacks=[..., ForgetCallback(...)]` gives it. What cannot be attached is said once,
and ends the process only under `--require`. Attached is not watched: a training says when it has begun whether it is.
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

_found: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()  # of each trainer, when it was built
_told: weakref.WeakSet[Any] = weakref.WeakSet()  # the callback handlers of trainings that were said to be watched
_told_unwatched: weakref.WeakSet[Any] = weakref.WeakSet()  # and of those that were said not to be
_GONE = "it has no ForgetCallback any more"


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
            _found[trainer] = "left out"
            _say("left out", name, why)
            return
        callback = CallbackArguments.of_json(os.environ[ENVIRONMENT]).callback()
        callback.gives_way = True
        trainer.callback_handler.callbacks = _with(callback, callbacks)
        callback.on_init_end(args, state, control, **kwargs)
    except Exception as error:  # whatever it is, it must not end a run that did not ask for us
        if trainer is not None:
            _found[trainer] = "failed"
        _say("failed", name, reason(error))
        logger.debug("the error in full", exc_info=True)
        if os.environ.get(REQUIRE):
            raise SystemExit(2) from None
        if trainer is not None and world_size() > 1:
            trainer.add_callback(_Failed(reason(error)))
        return
    if _found.get(trainer) != "attached":  # some subclasses build a trainer twice over
        _found[trainer] = "attached"
        _say("attached", name, "", listens=callback.settings.remote)


def began(handler: Any, state: TrainerState) -> None:
    """Says of a training that has just begun whether it is watched, whatever its script made of its callbacks.

    Args:
        handler: The CallbackHandler that has passed `on_train_begin` on to all callbacks.

    Raises:
        SystemExit: With status 2, where it is not and that is required.
    """
    whys = [one.why_unwatched(state) for one in handler.callbacks if isinstance(one, ForgetCallback)]
    if None in whys:
        if handler not in _told:
            _told.add(handler)
            _say("watched", _name(handler), "")
    elif _is_unwatched(handler, (whys or [None])[0] or _GONE) and os.environ.get(REQUIRE):
        raise SystemExit(2)


def ends(handler: Any, state: TrainerState) -> None:
    """Says of a training that is about to end if it lost its callback on the way."""
    if not any(isinstance(one, ForgetCallback) for one in handler.callbacks):
        _is_unwatched(handler, f"{_GONE}, at the end in step {state.global_step}")


def _is_unwatched(handler: Any, why: str) -> bool:
    """Says once that a training is not watched; False where none was to be, or that was said of its trainer."""
    trainer = _trainer_of(handler)
    found = None if trainer is None else _found[trainer]
    model = getattr(handler, "model", None)
    if found == "failed" or (found != "attached" and model is not None and _no_language_model(model) is not None):
        return False
    if handler not in _told_unwatched:
        _told_unwatched.add(handler)
        _say("unwatched", _name(handler), why)
    return True


def _trainer_of(handler: Any) -> Any:
    return next((one for one in list(_found) if getattr(one, "callback_handler", None) is handler), None)


def _name(handler: Any) -> str:
    trainer = _trainer_of(handler)
    return "a Trainer" if trainer is None else type(trainer).__name__


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
    return _no_language_model(trainer.model)


def _no_language_model(model: Any) -> str | None:
    """Why a model has no next tokens to ask for."""
    if (found := not_causal(model)) is not None:
        return f"it trains no causal language model but {found}"
    if not callable(getattr(model, "generate", None)):
        return f"it trains no causal language model but {type(model).__name__}, which does not generate"
    return None


def _with(callback: TrainerCallback, callbacks: list[TrainerCallback]) -> list[TrainerCallback]:
    """The callbacks with ours after the user's: the Trainer has added its progress bar since."""
    bars = (transformers.trainer.PrinterCallback, transformers.trainer.DEFAULT_PROGRESS_CALLBACK)
    at = len(callbacks) - (bool(callbacks) and isinstance(callbacks[-1], bars))
    return [*callbacks[:at], callback, *callbacks[at:]]


def _say(found: str, trainer: str, why: str, *, listens: bool = False) -> None:
    """Says it on the main rank, and leaves it for the process that started the command, on each machine.

    Args:
        listens: Whether another process measures.
    """
    if found != "failed" and int(os.environ.get("LOCAL_RANK", rank())) > 0:
        return
    said = {
        "attached": f"has {trainer} listen to forget-callback watch" if listens else f"watches {trainer}",
        "left out": f"leaves out {trainer}: {why}",
        "failed": f"NOT ATTACHED to {trainer}, no forgetting will be measured: {why}",
        "unwatched": f"NOT WATCHED, no forgetting is measured in the training of {trainer}: {why}",
    }
    if rank() == 0 and found in said:
        print(f"forget-callback run: {said[found]}", file=sys.stderr, flush=True)
    if (directory := os.environ.get(REPORTS)) is not None:
        report = {"found": found, "trainer": trainer, "why": why, "rank": rank()}
        with contextlib.suppress(OSError):  # it may be on another machine
            Path(directory, f"{os.getpid()}-{time.time_ns()}.json").write_text(json.dumps(report), encoding="utf-8")
