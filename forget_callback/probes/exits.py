"""Other people's code that would end the whole process: it fails as any other does, and ends no training."""

from __future__ import annotations

import contextlib
import signal
import traceback
from asyncio import CancelledError
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def exits_as_errors() -> Iterator[None]:
    """Around other people's code: what it ends by `sys.exit()`, or cancels, ends as an error.

    What comes from outside goes through: Ctrl-C, and the exit that a signal's handler wants, as at SIGTERM.

    Raises:
        RuntimeError: In place of SystemExit and CancelledError, which are no `Exception`.
    """
    try:
        yield
    except (SystemExit, CancelledError) as error:
        if _by_signal(error):
            raise
        shown = ": ".join(filter(None, (type(error).__name__, str(error))))
        raise RuntimeError(f"it would have ended the whole process ({shown}); raise an error instead") from error


def _by_signal(error: BaseException) -> bool:
    """Whether a signal's handler raised it, in the middle of whatever ran."""
    handlers = [_code(signal.getsignal(number)) for number in signal.valid_signals()]
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(error.__traceback__))


def _code(handler: Any) -> Any:
    return getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
