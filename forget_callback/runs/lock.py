"""One run at a time in a directory: a lock that goes with its process, however that ends.

The lock is the operating system's, on an open file; the file itself means nothing and stays. A process that was killed
holds nothing, and a child that it forked (a data loader's worker outlives it by seconds) does not keep it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

# Held by this process. The system refuses it a second time to the same process too.
_HELD: dict[Path, DirectoryLock] = {}
_CONTENDED = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK}


class DirectoryLock:
    """A lock that is held; see `take`."""

    def __init__(self, path: Path, descriptor: int, alive: Callable[[], bool]) -> None:
        self._path, self._descriptor, self.alive = path, descriptor, alive

    @property
    def held(self) -> bool:
        """Whether it was neither given back nor taken over by another run of this process."""
        return _HELD.get(self._path) is self

    def release(self) -> None:
        """Gives it back; does nothing if it is not held any more."""
        if self.held:
            del _HELD[self._path]
            os.close(self._descriptor)


def take(path: Path, owner: object, *, alive: Callable[[], bool] = lambda: False) -> DirectoryLock | None:
    """Takes the lock of a file; None while another run has it.

    Args:
        path: The file, made if there is none.
        owner: Given back when this object is collected.
        alive: Whether the run goes on. A run of the same process that does not, such as one that an error ended, loses
            its lock to the next.

    Raises:
        OSError: If the file system has no locks, or the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.resolve()
    before = _HELD.get(path)
    if before is not None:
        if before.alive():
            return None
        before.release()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(descriptor)
    except OSError as error:
        os.close(descriptor)
        if error.errno in _CONTENDED:
            return None
        raise
    lock = _HELD[path] = DirectoryLock(path, descriptor, alive)
    weakref.finalize(owner, lock.release)
    return lock


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _let_go() -> None:
        """In a forked child, whose copy of the open file would hold the lock for as long as the child lives."""
        for lock in _HELD.values():
            with contextlib.suppress(OSError):
                os.close(lock._descriptor)
        _HELD.clear()

    os.register_at_fork(after_in_child=_let_go)
