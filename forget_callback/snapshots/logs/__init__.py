"""Per-item logs of other tools, as what `compare` and `report` read: one snapshot a task.

`lm_eval`, `lighteval` and `inspect_logs` read one tool each and make a `Log` of each task (`log`), with the option that
was chosen where it can be told (`options`); `matching` says which items of two logs compare, or why they do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from forget_callback.snapshots.logs import inspect_logs, lighteval, lm_eval
from forget_callback.snapshots.logs.log import Log, Wanted, merge
from forget_callback.snapshots.logs.matching import match

__all__ = ["Log", "Wanted", "is_log", "match", "read_logs"]

_READERS = {"lm-eval": lm_eval, "lighteval": lighteval, "inspect": inspect_logs}


def is_log(path: Path) -> bool:
    """Whether a path is another tool's log, or a directory of such, and none of our runs or snapshots."""
    return bool(_tools(path))


def _tools(path: Path) -> list[str]:
    """Whose logs are there."""
    if path.is_dir():
        if (path / "forget" / "manifest.json").is_file() or (path / "manifest.json").is_file():
            return []
        return [tool for tool, reader in _READERS.items() if reader.files(path)]
    if not path.is_file():
        return []
    tools = {".jsonl": "lm-eval", ".eval": "inspect", ".json": "inspect"}
    if path.suffix == ".parquet":
        return ["lighteval"] if path.name.startswith("details_") or lighteval.is_details(path) else []
    return [tools[path.suffix]] if path.suffix in tools else []


def read_logs(path: Path, wanted: Wanted) -> dict[str, Log]:
    """The logs at a path by the name of their probe; the tasks of a group are one probe with a category each.

    Raises:
        ValueError: If a log is damaged, ambiguous, or has the same item twice; names file and line.
        ImportError: If it is a log of inspect and inspect_ai is not installed.
    """
    tools = _tools(path)
    if len(tools) != 1:
        raise ValueError(f"{path} holds logs of {' and '.join(tools) or 'no tool that is known'}; name those of one")
    logs = _READERS[tools[0]].read(path, wanted)
    _require_chosen(path, logs, wanted)
    groups: dict[str, list[Log]] = {}
    for log in logs:
        groups.setdefault(log.group or log.probe, []).append(log)
    found = {}
    for name, own in groups.items():
        log = own[0] if len(own) == 1 else merge(name, own, str(path))
        if log.probe in found:
            raise ValueError(f"{path}: two tasks come to the name {log.probe!r}; name one file at a time")
        found[log.probe] = log
    return found


def _require_chosen(path: Path, logs: Sequence[Log], wanted: Wanted) -> None:
    """That what the user chose exists; tasks that another metric decides are named."""
    for option, value in (("metric", wanted.metric), ("filter", wanted.filter)):
        without = [log for log in logs if value is not None and log.how.get(option) != value]
        if without and len(without) == len(logs):
            there = ", ".join(without[0].offers.get(option, ())) or "none"
            raise ValueError(f"{path} has no {option} {value!r}; {without[0].probe} has {there}")
        for log in without if option == "metric" else ():
            wanted.note(f"{log.probe} has no metric {value!r}: {log.how['metric']} is taken")
