"""Files written whole or not at all, whatever happens in between."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from forget_callback.probes.quoting import quoted

_ROOM = 10_000_000  # bytes: the snapshots of thousands of items, a page


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` on a temporary file beside `path`, forces it to disk and renames it: all of it, or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        _force_to_disk(temporary)
        temporary.replace(path)
        _force_to_disk(path.parent)  # the rename itself
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    r"""Writes a text, whole or not at all; of the name of a file that is not UTF-8, such bytes as \udce9."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def require_writable(path: Path, what: str, *, directory: bool = False) -> None:
    """That a file, or with `directory` files within it, can be written: said before the work, and not after it.

    Args:
        path: Need not exist, nor what it lies in.
        what: What the user calls it, such as "--out".

    Raises:
        ValueError: If not; says what is in the way.
    """
    named = f"{what} {quoted(str(path), 200)}"
    if path.exists() and path.is_dir() != directory:
        wanted = "a directory" if directory else f"a file, such as {quoted(str(path / 'NAME'), 200)}"
        raise ValueError(f"{named} is a {'directory' if path.is_dir() else 'file'}; expected {wanted}")
    place = next(one for one in (path if directory else path.parent, *path.absolute().parents) if one.exists())
    if not place.is_dir():
        raise ValueError(f"{named} cannot be made: {quoted(str(place), 200)} is a file; give another path")
    try:
        with tempfile.TemporaryFile(dir=place):
            room = shutil.disk_usage(place).free
    except OSError as error:
        raise ValueError(
            f"{named} cannot be written: {quoted(str(place), 200)}: {error.strerror}; give a path that can be written"
        ) from None
    if room < _ROOM:
        raise ValueError(
            f"{named} cannot be written: {room / 1e6:.1f} MB are free there, and {_ROOM / 1e6:.0f} are needed; make "
            "room, or give a path on another disk"
        )


def _force_to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a directory
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows forces only what it may write
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
