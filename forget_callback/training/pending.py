"""What a run still has to write: each on its own, so that one that fails does not keep the others from the disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

from forget_callback.runs.store import Store
from forget_callback.snapshots.snapshot import Snapshot

logger = logging.getLogger(__name__)


class Pending:
    """Writes to a store, in order, kept until they succeed.

    Args:
        store: Where the snapshots go; its path is shown.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        # By what is written: a later one of the same takes its place. Without those that are `needed` the rest would be
        # read as something else.
        self._writes: dict[Hashable, tuple[Callable[[], object], bool]] = {}

    def __len__(self) -> int:
        return len(self._writes)

    def add(self, what: Hashable, write: Callable[[], object], *, needed: bool = False) -> None:
        """Adds a write.

        Args:
            what: What is written, in place of any earlier one of the same.
            needed: Nothing after it is written before it is.
        """
        self._writes.pop(what, None)
        self._writes[what] = write, needed

    def add_snapshot(self, snapshot: Snapshot, *, adds: bool = False) -> None:
        """Adds a snapshot; with `adds` in place of one that was asked fewer prompts."""
        write = self._store.add_variants if adds else self._store.write

        def save() -> None:
            try:
                write(snapshot)
            except ValueError as error:
                kept = self._store.write_aside(snapshot)
                logger.warning("%s; this one is kept in %s", error, kept)

        self.add((snapshot.probe, snapshot.step), save)

    @property
    def steps(self) -> set[int]:
        """Steps that are not on disk with all of their probes."""
        return {what[1] for what in self._writes if isinstance(what, tuple) and isinstance(what[1], int)}

    def write(self, *, step: int | None, otherwise: str) -> Exception | None:
        """Writes what it can; logs and returns what was the matter with the first that failed."""
        first: Exception | None = None
        for what, (write, needed) in list(self._writes.items()):
            try:
                write()
                del self._writes[what]
            except Exception as error:  # a full disk must not keep the numbers from trackers and stop rules
                first = first or error
                if needed:
                    break
        if first is not None:
            logger.warning(
                "the snapshot of step %s could not be written to %s; %s: %s: %s",
                step,
                self._store.path,
                otherwise,
                type(first).__name__,
                first,
            )
        return first
