"""Per-item logs of other tools, and anyone's files with a row an item, for `compare` and `report`: a snapshot per task.

`lm_eval`, `lighteval`, `inspect_logs`, `rollouts` and `per_item` know one tool or form each: `read` returns a `Log`
(`log`), with the chosen option where it can be derived (`options`); of those that write directories `files` finds the
logs and `identity` says of which model, task and time one is. `files` opens what they read, and `matching` finds the
items that logs share, or says why they do not compare.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pyarrow.parquet as pq

from forget_callback.probes.quoting import printable, quoted
from forget_callback.probes.suggest import beside, did_you_mean
from forget_callback.snapshots.logs import inspect_logs, lighteval, lm_eval, per_item, rollouts
from forget_callback.snapshots.logs.files import columns_of, first_record, stem_of, suffix_of
from forget_callback.snapshots.logs.log import Log, LogOptions, listed, merge
from forget_callback.snapshots.logs.matching import match, paired

__all__ = ["Log", "LogOptions", "is_log", "match", "paired", "read_logs", "require_there"]

_DIRECTORIES = {"lm-eval": lm_eval, "lighteval": lighteval, "inspect": inspect_logs}


class Reader(Protocol):
    """A module that reads one tool's logs."""

    def read(self, file: Path, wanted: LogOptions) -> Log:
        """One log."""


def is_log(path: Path) -> bool:
    """Whether a path is a log, any file with a row an item, or a directory of logs; not a run or snapshot of ours."""
    is_named = suffix_of(path) in (*per_item.SUFFIXES, ".eval")
    if path.is_file():
        return is_named and not _is_snapshot(path)
    if not path.exists():
        return is_named and suffix_of(path) != ".parquet"  # so that it is missed as what it is
    return bool(_tools(path))


def _is_snapshot(file: Path) -> bool:
    """Whether a file is what `Snapshot.save` wrote."""
    if suffix_of(file) != ".parquet":
        return False
    try:
        with file.open("rb") as opened:  # pyarrow itself opens no path that is not UTF-8
            attributes = (pq.read_schema(opened).metadata or {}).get(b"PANDAS_ATTRS", b"{}")
        return "fingerprint" in json.loads(attributes)
    except (OSError, ValueError):
        return False


def _tools(path: Path) -> list[str]:
    """Tools whose logs are in a directory."""
    if (path / "forget" / "manifest.json").is_file() or (path / "manifest.json").is_file():
        return []
    return [tool for tool, reader in _DIRECTORIES.items() if reader.files(path)]


def _of_file(file: Path) -> tuple[Reader, list[Path]]:
    """Who reads a file, by what stands in it, and the files to read: of a results file of lm-eval the logs beside."""
    suffix = suffix_of(file)
    if suffix == ".eval" or (suffix == ".json" and inspect_logs.is_log(file)):
        return inspect_logs, [file]
    if suffix == ".parquet":
        details = file.name.startswith("details_") or lighteval.is_details(columns_of(file))
        return (lighteval if details else per_item), [file]
    if suffix in (".csv", ".tsv"):
        return per_item, [file]
    if suffix == ".json" and (beside := lm_eval.files(file)):
        return lm_eval, beside
    record = first_record(file)
    if "id" in record and not {*per_item.DECIDES}.isdisjoint(record):
        return per_item, [file]
    if lm_eval.is_sample(record) or stem_of(file).startswith("samples_"):
        return lm_eval, [file]
    if rollouts.tool_of(record) or (suffix == ".json" and "evaluation_data" in record):
        return rollouts, [file]
    if suffix == ".json" and "id" not in record:
        return inspect_logs, [file]  # which says what is wrong with it
    return per_item, [file]


def read_logs(path: Path, wanted: LogOptions) -> dict[str, Log]:
    """The logs at a path by probe name, of a directory the newest of each task.

    The tasks of a group are one probe with a category each.

    Raises:
        ValueError: If there are several models, or a log is damaged, not finished, ambiguous, or has the same item
            twice; names file and line.
        ImportError: If it is a log of inspect and inspect_ai is not installed.
    """
    require_there(path)
    logs = _read_directory(path, wanted) if path.is_dir() else _read_file(path, wanted)
    _require_chosen(path, logs, wanted)
    sizes = {len(item.options) for log in logs for item in log.items}
    if wanted.n_choices is not None and not sizes & {0, wanted.n_choices}:
        wanted.note(f"{printable(str(path))}: --n-choices {wanted.n_choices} applies to none: all items have options")
    groups: dict[str, list[Log]] = {}
    for log in logs:
        groups.setdefault(log.group or log.probe, []).append(log)
    found = {}
    for name, own in groups.items():
        log = own[0] if len(own) == 1 else merge(name, own, printable(str(path)))
        if log.probe in found:
            raise ValueError(
                f"{printable(str(path))}: two tasks have the probe name {log.probe!r}; give one file at a time"
            )
        found[log.probe] = log
    return found


def require_there(path: Path) -> None:
    """That there is a file or directory of that name.

    Raises:
        ValueError: If not.
    """
    if not path.exists():
        raise ValueError(f"{printable(str(path))}: no such file{did_you_mean(path, beside(path))}")


def _read_file(path: Path, wanted: LogOptions) -> list[Log]:
    reader, files = _of_file(path)
    return [replace(reader.read(file, wanted), files=(file,)) for file in files]


def _read_directory(path: Path, wanted: LogOptions) -> list[Log]:
    tools = _tools(path)
    if len(tools) != 1:
        has = " and ".join(tools) or "no known tool"
        raise ValueError(f"{printable(str(path))} has logs of {has}; give a path with logs of one tool")
    reader = _DIRECTORIES[tools[0]]
    files = _newest(path, {file: reader.identity(file) for file in reader.files(path)}, wanted)
    return [replace(reader.read(file, wanted), files=(file,)) for file in files]


def _newest(path: Path, found: Mapping[Path, tuple[str, str, str]], wanted: LogOptions) -> list[Path]:
    """The newest file of each task, sorted by task; notes which ones are skipped.

    `found` has the model (or its directory), task and sortable time of each file.

    Raises:
        ValueError: If they are of several models.
    """
    models = sorted({model.removeprefix(f"{path}{os.sep}") for model, _, _ in found.values()})
    if len(models) > 1:
        shown = listed(models)
        raise ValueError(
            f"{printable(str(path))} holds logs of {len(models)} models: {shown}; name one log or directory"
        )
    chosen: dict[str, Path] = {}
    for file, (_, task, _) in sorted(found.items(), key=lambda entry: entry[1][2]):
        if task in chosen:
            newer, older = printable(file.name), printable(chosen[task].name)
            wanted.note(f"{printable(task)}: {newer} is newer than {older} and is used")
        chosen[task] = file
    return [chosen[task] for task in sorted(chosen)]


def _require_chosen(path: Path, logs: Sequence[Log], wanted: LogOptions) -> None:
    """Raises ValueError if the user's choice does not exist; notes tasks that another metric decides."""
    for option, value in (("metric", wanted.metric), ("filter", wanted.filter)):
        without = [log for log in logs if value is not None and log.how.get(option) != value]
        if without and len(without) == len(logs):
            there = listed(without[0].offers.get(option, ()))
            raise ValueError(f"{printable(str(path))} has no {option} {quoted(value)}; {without[0].probe} has {there}")
        for log in without if option == "metric" else ():
            wanted.note(f"{log.probe} has no metric {quoted(value)}: {quoted(log.how['metric'])} is used")
