"""Finds the trainer that calls a callback, and gives the callback its place among the trainer's others.

An event tells a callback the model, the arguments and the state, but not the trainer, with its reporters and its vLLM.
Nothing here keeps a reference to a trainer, which would keep its model in memory.
"""

from __future__ import annotations

import inspect
import sys
from types import FrameType
from typing import Any

from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerState
from transformers.trainer_callback import CallbackHandler

from forget_callback.training.resume import ResumeWandbRun


def calling_trainers(callback: TrainerCallback) -> list[Any]:
    """The trainers that have `callback` and are in one of their events right now, innermost first.

    Usually one; none where something between the trainer and the callback passes the event on; several where one
    trains inside an event of another.

    transformers has no way from an event to its trainer, so this walks up the call stack, to each `CallbackHandler`
    that holds the callback and to what called it. careful: before Python 3.13 `f_locals` leaves a dict of all locals
    with a frame until that returns. Read in the user's own functions it would keep a model in memory that they delete,
    so it is read in frames of the handler and in the one that called it, and nowhere else.
    """
    found: list[Any] = []
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "call_event":
            handler = frame.f_locals.get("self")
            if isinstance(handler, CallbackHandler) and any(one is callback for one in handler.callbacks):
                while frame is not None and frame.f_locals.get("self") is handler:
                    frame = frame.f_back
                owner = None if frame is None else frame.f_locals.get("self")
                if getattr(owner, "callback_handler", None) is handler:
                    found.append(owner)
        frame = None if frame is None else frame.f_back
    return found


def is_training(state: TrainerState) -> bool:
    """Whether the training that has this state goes on, in any thread of this process; not where an error ended it."""
    code = inspect.unwrap(Trainer.train).__code__
    for frame in sys._current_frames().values():
        at: FrameType | None = frame
        while at is not None:
            if at.f_code is code and getattr(at.f_locals.get("self"), "state", None) is state:
                return True
            at = at.f_back
    return False


def place(callback: TrainerCallback, trainer: Any) -> None:
    """Adds `callback` to a trainer, once, before any early stopping, which reads its metrics.

    Before all others stands what resumes the W&B run of a checkpoint: the Trainer's reporter would start another.
    """
    handler = trainer.callback_handler
    before: list[TrainerCallback] = list(handler.callbacks)
    places = [at for at, one in enumerate(before) if one is callback or isinstance(one, EarlyStoppingCallback)]
    at = min(places, default=len(before))
    after = [*before[:at], callback, *(one for one in before[at:] if one is not callback)]
    if not any(isinstance(one, ResumeWandbRun) for one in after):
        after.insert(0, ResumeWandbRun())
    # A new list: the handler may be iterating over the old one, and would call some twice if that changed.
    handler.callbacks = after
