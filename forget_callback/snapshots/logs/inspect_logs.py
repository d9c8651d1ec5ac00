"""Logs of inspect, `.eval` or `.json`, read by inspect_ai itself; a log is one task, a sample is an item.

A sample without a score, or one that ended in an error, is unscored, not wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from forget_callback.snapshots.logs.log import (
    Log,
    LoggedItem,
    LogOptions,
    LogRow,
    by_id,
    digest,
    pick_metric,
    probe_name,
)
from forget_callback.snapshots.logs.options import as_choice, letter_place, of_letters

_VALUES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}  # inspect's CORRECT, INCORRECT, PARTIAL, NOANSWER


def files(path: Path) -> list[Path]:
    """The logs under a directory."""
    return sorted([*path.rglob("*.eval"), *(file for file in path.rglob("*.json") if is_log(file))])


def is_log(file: Path) -> bool:
    """Whether a JSON file is a log of inspect."""
    try:
        found = json.loads(file.read_bytes())
    except ValueError:
        return False
    return isinstance(found, dict) and {"version", "status", "eval"} <= set(found)


def read(path: Path, wanted: LogOptions) -> list[Log]:
    """The logs of a directory, the newest of each task, or of one file.

    Raises:
        ValueError: If there are several models, or a log is damaged, not finished or needs a choice.
        ImportError: If inspect_ai is not installed.
    """
    found = [(file, _load(file)) for file in ([path] if path.is_file() else files(path))]
    models = sorted({str(log.eval.model) for _, log in found})
    if len(models) > 1:
        raise ValueError(f"{path} holds logs of {len(models)} models: {', '.join(models)}; name one log or directory")
    newest: dict[str, tuple[Path, Any]] = {}
    for file, log in sorted(found, key=lambda one: str(one[1].eval.created)):
        if log.eval.task in newest:
            wanted.note(f"{log.eval.task}: {file.name} is newer than {newest[log.eval.task][0].name} and is used")
        newest[log.eval.task] = (file, log)
    return [_read_task(*newest[task], wanted) for task in sorted(newest)]


def _load(file: Path) -> Any:
    if file.suffix == ".json" and not is_log(file):
        raise ValueError(f"{file} is not a log of inspect, or was cut off: expected JSON with version, status and eval")
    try:
        from inspect_ai.log import read_eval_log
    except ImportError:
        raise ImportError(
            f"{file} is a log of inspect, which inspect_ai reads: pip install 'forget-callback[inspect]'"
        ) from None
    try:
        return read_eval_log(str(file), resolve_attachments=True)
    except Exception as error:  # zip, JSON and pydantic each have their own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{file} is damaged, or not a log of inspect: {lines[0]}") from None


def _read_task(file: Path, log: Any, wanted: LogOptions) -> Log:
    samples = log.samples or []
    if log.status != "success":
        problem = f"{file}: the evaluation did not finish, its status is {log.status!r}"
        if not wanted.allow_partial:
            raise ValueError(f"{problem}; to compare the {len(samples)} samples that it has: --allow-partial")
        wanted.note(f"{problem}; used as it is")
    epochs = sorted({sample.epoch for sample in samples})
    if len(epochs) > 1 and wanted.epoch not in epochs:
        raise ValueError(f"{file} has every sample {len(epochs)} times, epochs {epochs}; choose one: --epoch")
    rows = [
        LogRow(str(sample.id), f"sample {number}", _metrics(sample), sample)
        for number, sample in enumerate(samples, start=1)
        if len(epochs) < 2 or sample.epoch == wanted.epoch
    ]
    rows = by_id(rows, str(file), wanted)
    scorers = list(dict.fromkeys(name for row in rows for name in row.metrics))
    if len(scorers) > 1 and wanted.metric not in scorers:
        raise ValueError(f"{file} has {len(scorers)} scorers: {', '.join(scorers)}; choose one: --metric")
    metric = pick_metric(rows, str(file), wanted)
    return Log(
        probe=probe_name(str(log.eval.task)),
        how={"tool": "inspect", "metric": metric},
        items=tuple(of_letters(_item(row, metric), wanted) for row in rows),
        source=str(file),
        offers={"metric": scorers},
    )


def _metrics(sample: Any) -> dict[str, Any]:
    """Every score by its scorer's name, and by ``scorer/name`` where a scorer returned several."""
    found = {}
    for name, score in (sample.scores or {}).items():
        several = score.value if isinstance(score.value, Mapping) else {"": score.value}
        for part, value in several.items():
            known = value if not isinstance(value, str) else _VALUES.get(value, value)
            missing = sample.error is not None or (isinstance(known, float) and math.isnan(known))
            found[f"{name}/{part}" if part else name] = None if missing else known
    return found


def _item(row: LogRow, metric: str) -> LoggedItem:
    sample = row.raw
    value = row.metrics.get(metric)
    score = (sample.scores or {}).get(metric.partition("/")[0])
    options = tuple(sample.choices or ())
    targets = (sample.target,) if isinstance(sample.target, str) else tuple(sample.target)
    hashes = {
        "input": digest(_text(sample.input)),
        "right answer": digest(targets),
        "list of options": digest(options),
        "prompt": digest([_text([one]) for one in _prompt(sample.messages)]),
    }
    answer = None if score is None else score.answer
    reason = getattr(score, "reason", None)  # since 0.3.245
    unparsed = reason in ("no_response", "invalid_response_format") or (score is not None and score.value == "N")
    cut = sample.output.stop_reason == "max_tokens"
    item = LoggedItem(
        row.id, math.nan if value is None else float(value), hashes, _text(sample.input), targets,
        outcome="unparsed" if unparsed else "truncated" if cut else None,
        prediction=answer or None, text=sample.output.completion or None,
    )  # fmt: skip
    right = _right(targets, options)
    return item if right < 0 else as_choice(item, options, right, answer or "")


def _right(targets: Sequence[str], options: Sequence[str]) -> int:
    """Index of the right option, -1 if there are no options or several right ones."""
    if len(targets) != 1 or len(options) < 2:
        return -1
    place = letter_place(targets[0])
    place = list(options).index(targets[0]) if targets[0] in options else place
    return place if place < len(options) else -1


def _prompt(messages: Sequence[Any]) -> list[Any]:
    """The messages before the first generated one, few-shot examples included."""
    return list(takewhile(lambda one: one.role != "assistant" or one.source != "generate", messages))


def _text(messages: Any) -> str:
    return messages if isinstance(messages, str) else "\n".join(f"{one.role}: {one.text}" for one in messages)
