"""Which files of a directory are read: of one model, and of each task the newest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from forget_callback.importers.log import Wanted


def newest(path: Path, found: Mapping[Path, tuple[Path, str, str]], wanted: Wanted) -> list[Path]:
    """The files to read, in the order of their tasks; notes which ones are passed over.

    Args:
        path: Where they were found.
        found: Of each file the directory of its model, its task, and its time as text that sorts.

    Raises:
        ValueError: If they are of several models.
    """
    models = sorted({model for model, _, _ in found.values()})
    if len(models) > 1:
        raise ValueError(f"{path} holds logs of {len(models)} models: {', '.join(m.name for m in models)}; name one")
    chosen: dict[str, Path] = {}
    for file, (_, task, _) in sorted(found.items(), key=lambda entry: entry[1][2]):
        if task in chosen:
            wanted.note(f"{task}: {file.name} is newer than {chosen[task].name} and taken")
        chosen[task] = file
    return [chosen[task] for task in sorted(chosen)]
