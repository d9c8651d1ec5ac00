"""Per-item logs of other tools, for `compare` and `report`: one snapshot per task.

`lm_eval`, `lighteval` and `inspect_logs` know one tool each: `files` finds its logs, `identity` says of which model,
task and time one is, and `read` returns a `Log` (`log`), with the chosen option where it can be derived (`options`).
`matching` finds the items that two logs share, or says why they do not compare.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from forget_callback.snapshots.logs import inspect_logs, lighteval, lm_eval
from forget_callback.snapshots.logs.log import Log, LogOptions, merge
from forget_callback.snapshots.logs.matching import match

__all__ = ["Log", "LogOptions", "is_log", "match", "read_logs"]

_READERS = {"lm-eval": lm_eval, "lighteval": lighteval, "inspect": inspect_logs}


def is_log(path: Path) -> bool:
    """Whether a path is another tool's log or a directory of logs, and not a run or snapshot."""
    return bool(_tools(path))


def _tools(path: Path) -> list[str]:
    """Tools whose logs are at the path."""
    if (path / "forget" / "manifest.json").is_file() or (path / "manifest.json").is_file():
        return []
    return [tool for tool, reader in _READERS.items() if reader.files(path)]


def read_logs(path: Path, wanted: LogOptions) -> dict[str, Log]:
    """The logs at a path by probe name, of a directory the newest of each task.

    The tasks of a group are one probe with a category each.

    Raises:
        ValueError: If there are several models, or a log is damaged, not finished, ambiguous, or has the same item
            twice; names file and line.
        ImportError: If it is a log of inspect and inspect_ai is not installed.
    """
    tools = _tools(path)
    if len(tools) != 1:
        raise ValueError(
            f"{path} has logs of {' and '.join(tools) or 'no known tool'}; give a path with logs of one tool"
        )
    reader = _READERS[tools[0]]
    files = reader.files(path)
    if path.is_dir():
        files = _newest(path, {file: reader.identity(file) for file in files}, wanted)
    logs = [reader.read(file, wanted) for file in files]
    _require_chosen(path, logs, wanted)
    groups: dict[str, list[Log]] = {}
    for log in logs:
        groups.setdefault(log.group or log.probe, []).append(log)
    found = {}
    for name, own in groups.items():
        log = own[0] if len(own) == 1 else merge(name, own, str(path))
        if log.probe in found:
            raise ValueError(f"{path}: two tasks have the probe name {log.probe!r}; give one file at a time")
        found[log.probe] = log
    return found


def _newest(path: Path, found: Mapping[Path, tuple[str, str, str]], wanted: LogOptions) -> list[Path]:
    """The newest file of each task, sorted by task; notes which ones are skipped.

    `found` has the model (or its directory), task and sortable time of each file.

    Raises:
        ValueError: If they are of several models.
    """
    models = sorted({model.removeprefix(f"{path}{os.sep}") for model, _, _ in found.values()})
    if len(models) > 1:
        raise ValueError(f"{path} holds logs of {len(models)} models: {', '.join(models)}; name one log or directory")
    chosen: dict[str, Path] = {}
    for file, (_, task, _) in sorted(found.items(), key=lambda entry: entry[1][2]):
        if task in chosen:
            wanted.note(f"{task}: {file.name} is newer than {chosen[task].name} and is used")
        chosen[task] = file
    return [chosen[task] for task in sorted(chosen)]


def _require_chosen(path: Path, logs: Sequence[Log], wanted: LogOptions) -> None:
    """Raises ValueError if the user's choice does not exist; notes tasks that another metric decides."""
    for option, value in (("metric", wanted.metric), ("filter", wanted.filter)):
        without = [log for log in logs if value is not None and log.how.get(option) != value]
        if without and len(without) == len(logs):
            there = ", ".join(without[0].offers.get(option, ())) or "none"
            raise ValueError(f"{path} has no {option} {value!r}; {without[0].probe} has {there}")
        for log in without if option == "metric" else ():
            wanted.note(f"{log.probe} has no metric {value!r}: {log.how['metric']} is used")
