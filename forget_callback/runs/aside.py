"""What another run left in a `forget/` folder, out of the way and back: `set-aside/<n>/`.

A move of several files that a kill interrupts is finished by the next run: it is written down before it begins.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from forget_callback.runs.files import write_text
from forget_callback.runs.manifest import read_manifest, run_of

# All that a record consists of. Without its manifest a folder is no run: that goes first, and comes back last.
MADE = ("report.html", "recheck.json", "recheck.parquet")  # of the last step
RECORD = ("manifest.json", "snapshots", "baseline", "again", "probes", "history.parquet", "task.parquet", *MADE)
_MOVES = ".moves.json"


def set_aside(root: Path, names: Iterable[str] = RECORD) -> Path | None:
    """Moves what there is of these, relative to `root`, to `set-aside/<n>/`, in this order.

    Returns:
        Where they are now, None if there were none.
    """
    found = [name for name in names if (root / name).exists() and not _is_empty(root / name)]
    if not found:
        return None
    aside = next_folder(root)
    _move(root, [(name, (aside / name).relative_to(root).as_posix()) for name in found])
    return aside


def take_back(root: Path, run_id: str) -> bool:
    """Puts the record of this run in its place again, if it was set aside; what is there goes aside instead."""
    for folder in _folders(root):
        with contextlib.suppress(ValueError):  # most hold no manifest: a few steps of a run that was resumed
            if run_of(read_manifest(folder / "manifest.json")).id == run_id:
                set_aside(root)
                found = [name for name in reversed(RECORD) if (folder / name).exists()]
                _move(root, [((folder / name).relative_to(root).as_posix(), name) for name in found])
                return True
    return False


def finish_moves(root: Path) -> None:
    """Finishes a move that a kill interrupted."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        _move(root, json.loads((root / _MOVES).read_text(encoding="utf-8")))


def _move(root: Path, pairs: Sequence[Sequence[str]]) -> None:
    """Renames files and folders, relative to `root`; what is no longer there was moved before."""
    with contextlib.suppress(OSError):  # a full disk renames, and writes nothing
        write_text(root / _MOVES, json.dumps(pairs))
    try:
        for source, target in pairs:
            if (root / source).exists() and (not (root / target).exists() or _is_empty(root / target)):
                (root / target).parent.mkdir(parents=True, exist_ok=True)
                if (root / target).is_dir():
                    shutil.rmtree(root / target)  # Windows renames onto nothing
                (root / source).rename(root / target)
    finally:  # only a kill leaves it
        (root / _MOVES).unlink(missing_ok=True)


def next_folder(root: Path) -> Path:
    """The folder for what is set aside next."""
    return root / "set-aside" / str(1 + max((int(folder.name) for folder in _folders(root)), default=0))


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(one.is_file() for one in path.rglob("*"))


def _folders(root: Path) -> list[Path]:
    return sorted(
        (folder for folder in (root / "set-aside").glob("*") if folder.name.isdigit()), key=lambda f: int(f.name)
    )
