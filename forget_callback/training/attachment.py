"""Finds the trainer that calls a callback, and gives the callback its place among the trainer's others.

An event tells a callback the model, the arguments and the state, but not the trainer, with its reporters and its vLLM.
Nothing here keeps a reference to a trainer, which would keep its model in memory.
"""

from __future__ import annotations

import inspect
import logging
import sys
import weakref
from types import FrameType
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from forget_callback.probes.quoting import quoted
from forget_callback.training.resume import ResumeWandbRun

logger = logging.getLogger(__name__)


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
    from transformers import Trainer  # seconds to import, and a line on standard output where W&B is offline

    code = inspect.unwrap(Trainer.train).__code__
    for frame in sys._current_frames().values():
        at: FrameType | None = frame
        while at is not None:
            if at.f_code is code and getattr(at.f_locals.get("self"), "state", None) is state:
                return True
            at = at.f_back
    return False


def trainer_of(callback: TrainerCallback) -> Any:
    """The trainer that begins to train; None where it cannot be found, which is logged.

    Raises:
        ValueError: If another training of this callback runs.
    """
    trainers = calling_trainers(callback)
    if len(trainers) > 1:
        raise ValueError(
            "this ForgetCallback watches a trainer that is still training, inside of which this one trains; give "
            "each trainer a ForgetCallback of its own"
        )
    if not trainers:
        logger.warning(
            "ForgetCallback could not find the trainer that calls it: of report_to only W&B gets its metrics, a "
            "resumed run starts a new W&B run, and answers are generated without the trainer's vLLM; for these, "
            "pass it to the trainer itself: callbacks=[ForgetCallback(...)]"
        )
    return trainers[0] if trainers else None


def attach(callback: TrainerCallback, trainer: Any, kind: type[TrainerCallback]) -> None:
    """Gives a callback its place in a trainer, which may have one of its kind.

    Raises:
        ValueError: If it is no trainer, or has another callback of that kind.
    """
    handler = getattr(trainer, "callback_handler", None)
    if handler is None:
        raise ValueError(f"trainer must be a Trainer (an object that has callback_handler), got {quoted(trainer)}")
    callbacks = [one for one in handler.callbacks if one is callback or not getattr(one, "gives_way", False)]
    handler.callbacks = callbacks
    before = callbacks[: callbacks.index(callback)] if callback in callbacks else callbacks
    if any(isinstance(one, kind) for one in before):
        raise ValueError(
            "the trainer has a ForgetCallback already, and two would write to the same metrics; give one of them "
            "all probes, ForgetCallback([probe, other]), or call trainer.remove_callback(ForgetCallback) first"
        )
    place(callback, trainer)


def gave_way(callback: TrainerCallback, trainer: Any, kind: type[TrainerCallback]) -> bool:
    """Takes a callback out of a trainer that begins to train with another of its kind; whether it did."""
    handler = trainer.callback_handler
    if not any(isinstance(one, kind) and one is not callback for one in handler.callbacks):
        return False
    handler.callbacks = [one for one in handler.callbacks if one is not callback]
    return True


class Start:
    """One start of a training, remembered without keeping its trainer or its model in memory.

    Args:
        trainer: None where it could not be found.
        trained: Whether an earlier start of the same training had trained a step.
    """

    def __init__(
        self, trainer: Any, args: TrainingArguments, state: TrainerState, model: Any, *, trained: bool
    ) -> None:
        self._trainer = weakref.ref(args if trainer is None else trainer)
        self._model = weakref.ref(args if model is None else _inner(model))
        self._state, self._step, self._trained = state, state.global_step, trained

    @property
    def trained(self) -> bool:
        """Whether a step was trained so far."""
        return self._trained or self._state.global_step > self._step

    def has(self, model: Any) -> bool:
        """Whether it trained this model."""
        return self._model() is _inner(model)

    def is_repeated(self, trainer: Any, args: TrainingArguments, state: TrainerState, model: Any) -> bool:
        """Whether training starts again where this one started, with the model as this one left it.

        So does the Trainer after running out of memory with `auto_find_batch_size`, and a second call of `train` after
        one that was interrupted. With other weights it is another training: a new trainer, or the new model that
        `model_init` makes, as for each trial of a hyperparameter search, or a checkpoint that is resumed.
        """
        same = self._trainer() is (args if trainer is None else trainer) and self.has(model)
        # At a later step the weights are a checkpoint's, unless it is the Trainer that starts again.
        return same and state.global_step == self._step and (self._step == 0 or args.auto_find_batch_size)


def _inner(model: Any) -> Any:
    """The model without what a Trainer wraps around it, anew at every start."""
    while hasattr(model, "module"):
        model = model.module
    return model


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
