"""What a demo that Ctrl-C stops says before it ends: what there is of the run, and what can be done with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from forget_callback.probes.console import say
from forget_callback.probes.quoting import printable
from forget_callback.runs.next_command import next_command
from forget_callback.runs.store import Store


@contextlib.contextmanager
def said_if_stopped(out: Path) -> Iterator[None]:
    """Says where the part of a run is that Ctrl-C ends.

    Args:
        out: Run directory, where an earlier run may be.
    """
    earlier, _ = _recorded(out)
    try:
        yield
    except KeyboardInterrupt:
        own, last = _recorded(out)
        if own == earlier or last is None:
            say("stopped before anything was scored; the same command starts again")
        else:
            part = f"the run up to the evaluation at step {last:,}" if last else "the baseline"
            say(printable(f"stopped: {part} is in {out}, and {next_command('report', out)} writes its page"))
            say("the same command starts again; what is there now is then set aside")
        raise


def _recorded(out: Path) -> tuple[str | None, int | None]:
    """Which run is in a directory, and the step of its last evaluation."""
    store = Store(out, writable=False)
    try:
        names = list(store.manifest()["probes"])
        return store.run.id, max((step for name in names for step in store.steps(name)), default=None)
    except ValueError:  # nothing, or nothing that can be read
        return None, None
