"""Other people's code that would end the whole process: it fails as any other does, and ends no training."""

from __future__ import annotations

import contextlib
import signal
import traceback
from asyncio import CancelledError
from collections.abc import Iterator
from functools import partial
from types import FrameType
from typing import Any


@contextlib.contextmanager
def exits_as_errors() -> Iterator[None]:
    """Around other people's code: what it ends by `sys.exit()`, or cancels, ends as an error.

    What comes from outside goes through: Ctrl-C, and the exit that a signal's handler wants, as at SIGTERM.

    Raises:
        RuntimeError: In place of SystemExit and CancelledError, which are no `Exception`.
    """
    handlers = {_code(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    try:
        yield
    except (SystemExit, CancelledError) as error:
        if _by_signal(error, handlers):
            raise
        shown = ": ".join(filter(None, (type(error).__name__, str(error))))
        raise RuntimeError(f"it would have ended the whole process ({shown}); raise an error instead") from error


def _by_signal(error: BaseException, handlers: set[Any]) -> bool:
    """Whether a signal's handler raised it, in the middle of whatever ran, or what it was raised in place of.

    In doubt it did: a training that goes on at SIGTERM is worse than one that a scorer's exit ends.

    Args:
        handlers: Code of those installed when the call began; one may take itself out before it exits.
    """
    one: BaseException | None = error
    while one is not None:
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if frame.f_code in handlers or _takes_frame(frame):
                return True
        one = one.__cause__ or one.__context__
    return False


def _takes_frame(frame: FrameType) -> bool:
    """Whether it holds a frame, as handlers do, which are called with the signal's number and the frame."""
    held = [*frame.f_locals.values()]
    return any(isinstance(value, FrameType) for one in held for value in (one if type(one) is tuple else (one,)))


def _code(handler: Any) -> Any:
    """The code of a handler in Python: a function, a bound method, a `functools.partial` or a callable object."""
    while isinstance(handler, partial):
        handler = handler.func
    return getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
