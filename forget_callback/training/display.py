"""What a run shows through its trackers.

Any of it may fail: history, disk and stop rules have the step all the same.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import methodcaller
from pathlib import Path

import pandas as pd

from forget_callback.probes.probe import Probe
from forget_callback.runs.history import History
from forget_callback.runs.rows import Row
from forget_callback.snapshots.snapshot import Snapshot
from forget_callback.training.trackers import Gallery, Log, Tracker, Upload, tracked, uploadable, without_texts

logger = logging.getLogger(__name__)


class Display:
    """The trackers of a run.

    Args:
        log: Which metrics they get, see `ForgetMonitor`.
        upload: What they get at all; with "none" there are no trackers.
    """

    def __init__(self, probes: Sequence[Probe], trackers: Sequence[Tracker], *, log: Log, upload: Upload) -> None:
        self._probes = probes
        self.trackers = () if upload == "none" else tuple(trackers)
        self._log, self._upload = log, upload
        sampled = {probe.name for probe in probes if probe.sampled}
        self._sampled = sampled | {"all"} if len(sampled) == len(probes) else sampled
        self._galleries = [tracker for tracker in self.trackers if isinstance(tracker, Gallery)]

    def show(
        self,
        history: History,
        snapshots: Sequence[Snapshot],
        rows: Sequence[Row],
        *,
        seconds: float,
        overhead: float,
        shown: bool,
        task: Mapping[str, float],
    ) -> None:
        """Sends one step.

        Args:
            seconds: Time that scoring took.
            overhead: Share of the run's time that probing took so far.
            shown: Whether the items that changed were shown before.
            task: The task's own metrics that stand beside it.
        """
        with guarded("showing this step"):
            logged = tracked(rows, seconds=seconds, overhead=overhead, log=self._log, sampled=self._sampled, task=task)
            changes = None
            if self._galleries:
                with guarded("showing what changed"):
                    changes = self._changes(history, snapshots, shown=shown)
            for tracker in self.trackers:
                acts = [methodcaller("log", logged)]
                if changes is not None and isinstance(tracker, Gallery):
                    acts.insert(0, methodcaller("show", history.rows, changes))
                _each(tracker, acts)

    def _changes(self, history: History, snapshots: Sequence[Snapshot], *, shown: bool) -> pd.DataFrame:
        """The items that changed, as far as they may leave the machine."""
        changes = pd.concat([history.changes(probe, now) for probe, now in zip(self._probes, snapshots)])
        changes = changes.head(0) if shown else changes
        return changes if self._upload == "all" else without_texts(changes)

    def relog(self, tracker: Tracker, rows: Sequence[Row], tasks: Sequence[Mapping[str, float]]) -> None:
        """Logs every snapshot so far to one tracker, each with what of the task stands beside it."""
        with guarded(type(tracker).__name__):
            for (_, own), task in zip(groupby(rows, key=lambda row: row.step), tasks):
                tracker.log(tracked(list(own), log=self._log, sampled=self._sampled, task=task))

    def alert(self, title: str, text: str) -> None:
        """Sends a message through every tracker."""
        for tracker in self.trackers:
            with guarded(type(tracker).__name__):
                tracker.alert(title, text)

    def finish(self, rows: Sequence[Row], directory: Path) -> None:
        """Hands the whole run to the trackers that show more than numbers."""
        with guarded("showing the run"):
            files = uploadable(directory, self._upload)
            for gallery in self._galleries:
                with guarded(type(gallery).__name__):
                    gallery.finish(rows, files)


@contextlib.contextmanager
def guarded(what: str) -> Iterator[None]:
    """Logs an error: what only shows numbers must not cost a snapshot, a stop or a run."""
    try:
        yield
    except Exception as error:
        _log(what, str(error))


def _each(tracker: Tracker, acts: Iterable[Callable[[Tracker], object]]) -> None:
    """Does all of these with a tracker, whichever fail, and logs that in one line."""
    found = []
    for act in acts:
        try:
            act(tracker)
        except Exception as error:
            found.append(str(error))
    if found:
        _log(type(tracker).__name__, "; ".join(dict.fromkeys(found)))


def _log(what: str, why: str) -> None:
    logger.warning("%s failed, the run's own files have the numbers: %s", what, why)
