"""Time of work that is done once and kept: token ids, batches, self-checks.

A later scoring of the same items takes that much less, which whoever plans by the first one needs to know.
Marked where it is done, collected wherever around it: no function in between passes anything on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Span:
    """A stretch of work.

    Attributes:
        seconds: Of what in it is done once, known at its end.
        repeated: Whether the work itself is done every time, and only what is marked inside of it is not.
    """

    seconds: float = 0.0
    repeated: bool = False


_around: ContextVar[Span | None] = ContextVar("_around", default=None)


@contextmanager
def once(*, repeated: bool = False) -> Iterator[Span]:
    """Around work that is done once; around any other, with `repeated`, it collects what is marked inside.

    >>> with once(repeated=True) as scoring:
    ...     with once():
    ...         with once():  # no time counts twice
    ...             _ = sum(range(1000))
    >>> scoring.seconds > 0
    True
    """
    own, outer = Span(repeated=repeated), _around.get()
    token, begun = _around.set(own), time.perf_counter()
    try:
        yield own
    finally:
        _around.reset(token)
        if not own.repeated:
            own.seconds = time.perf_counter() - begun
        if outer is not None:
            outer.seconds += own.seconds
