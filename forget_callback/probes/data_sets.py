"""Data sets as users name them: a file, a directory or one of the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forget_callback.probes.quoting import quoted
from forget_callback.probes.remote import file_problem, hub_problem

READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def read_splits(
    name: str, config: str | None = None, *, argument: str, split: str = "train", alone: bool = False
) -> dict[str, Any]:
    """The splits of a data set.

    Args:
        name: A file in one of `READERS`, also with .gz behind it, a directory that `datasets` loads or saved, or a hub
            id.
        config: Its configuration, of the hub.
        argument: What the user calls it, for an error.
        split: What the rows of a file are.
        alone: Of the hub and of directories only this split is loaded.

    Raises:
        ValueError: If nothing can be read there.
    """
    import datasets

    path = Path(name)
    problem = file_problem(name) if name else "expected a file, a directory or a hub id"
    if problem is not None:
        raise ValueError(f"{argument} {quoted(name)}: {problem}")
    try:
        if path.is_file():
            suffix = Path(name.casefold().removesuffix(".gz")).suffix
            if suffix not in READERS:
                raise ValueError(f"expected a file in {', '.join(READERS)}")
            if not path.stat().st_size:
                raise ValueError("the file is empty")
            return dict(datasets.load_dataset(READERS[suffix], data_files={split: str(path)}))
        if (path / "state.json").is_file():
            return {split: datasets.load_from_disk(name)}
        if (path / "dataset_dict.json").is_file():
            return dict(datasets.load_from_disk(name))
        if alone:
            return {split: datasets.load_dataset(name, name=config, split=split)}
        return dict(datasets.load_dataset(name, name=config))
    except Exception as error:  # datasets raises what its readers raise: pandas', pyarrow's and the hub's errors
        reason = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]
        problem = None if path.exists() else hub_problem(name, error)
        raise ValueError(f"{argument} {quoted(name)}: {problem or f'cannot be read: {reason}'}") from error


def rows_of(splits: Mapping[str, Any], split: str, *, argument: str, name: str) -> Any:
    """The rows of a split.

    Args:
        argument, name: As of `read_splits`, for an error.

    Raises:
        ValueError: If it is not there or has no row.
    """
    if split not in splits:
        there = ", ".join(map(quoted, splits))
        raise ValueError(f"{argument} {quoted(name)}: there is no split {quoted(split)}, but {there}")
    if not len(splits[split]):
        raise ValueError(f"{argument} {quoted(name)}: split {quoted(split)} is empty")
    return splits[split]
