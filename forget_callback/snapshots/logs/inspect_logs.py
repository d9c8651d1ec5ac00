"""Logs of inspect, `.eval` or `.json`, read by inspect_ai itself; a log is one task, a sample is an item.

A sample without a score, or one that ended in an error, is unscored, not wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from forget_callback.probes.quoting import printable
from forget_callback.snapshots.logs.conversations import messages_in
from forget_callback.snapshots.logs.log import Log, LoggedItem, LogOptions, LogRow, by_id, digest, listed
from forget_callback.snapshots.logs.metric import decide
from forget_callback.snapshots.logs.options import as_choice, letter_place, of_letters

_VALUES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}  # inspect's CORRECT, INCORRECT, PARTIAL, NOANSWER


def files(path: Path) -> list[Path]:
    """The logs under a directory."""
    return sorted([*path.rglob("*.eval"), *(file for file in path.rglob("*.json") if is_log(file))])


def identity(file: Path) -> tuple[str, str, str]:
    """Model, task and time."""
    task = _load(file, header_only=True).eval
    return str(task.model), str(task.task), str(task.created)


def is_log(file: Path) -> bool:
    """Whether a JSON file is a log of inspect."""
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"version", "status", "eval"} <= set(found)


def _load(file: Path, *, header_only: bool = False) -> Any:
    name = printable(str(file))
    if file.suffix == ".json" and not is_log(file):
        raise ValueError(f"{name} is not a log of inspect, or was cut off: expected JSON with version, status and eval")
    try:
        from inspect_ai.log import read_eval_log
    except ImportError:
        raise ImportError(f"{name} is a log of inspect, which inspect_ai reads: pip install inspect-ai") from None
    try:
        return read_eval_log(str(file), header_only, resolve_attachments=True)
    except Exception as error:  # zip, JSON and pydantic each have their own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{name} is damaged, or not a log of inspect: {printable(lines[0])}") from None


def read(file: Path, wanted: LogOptions) -> Log:
    """One log.

    Raises:
        ValueError: If it is damaged, not finished or needs a choice.
        ImportError: If inspect_ai is not installed.
    """
    log, source = _load(file), printable(str(file))
    samples = log.samples or []
    whole = _is_whole(log, source, wanted)
    epochs = sorted({sample.epoch for sample in samples})
    if len(epochs) > 1 and wanted.epoch not in epochs:
        raise ValueError(f"{source} has every sample {len(epochs)} times, epochs {epochs}; choose one: --epoch")
    rows = [
        LogRow(str(sample.id), f"sample {number}", _metrics(sample), sample)
        for number, sample in enumerate(samples, start=1)
        if len(epochs) < 2 or sample.epoch == wanted.epoch
    ]
    rows = by_id(rows, source, wanted)
    scorers = list(dict.fromkeys(name for row in rows for name in row.metrics))
    if len(scorers) > 1 and wanted.metric not in scorers:
        shown = listed(scorers)
        raise ValueError(f"{source} has {len(scorers)} scorers: {shown}; choose one: --metric")
    rows, metric, _ = decide(rows, source, wanted, graded=_are_numbers(rows))
    there = {row.id for row in rows}
    lost = [] if whole else [name for name in map(str, log.eval.dataset.sample_ids or ()) if name not in there]
    items = of_letters([_item(row, metric) for row in rows], source, wanted)
    return Log(
        probe=str(log.eval.task),
        how={"tool": "inspect", "metric": metric},
        items=(*items, *(LoggedItem.lost(name) for name in lost)),
        source=source,
        offers={"metric": scorers},
    )


def _is_whole(log: Any, source: str, wanted: LogOptions) -> bool:
    """Whether a log has all samples that were to be evaluated; one that was drained is a success without some.

    Raises:
        ValueError: If not, and the user does not allow it.
    """
    n, planned = len(log.samples or ()), log.results.total_samples if log.results is not None else 0
    if log.status == "success" and n >= planned:
        return True
    problem = f"{source}: the evaluation did not finish, its status is {log.status!r} with {n} samples"
    problem += f" of {planned}" if planned else ""
    if not wanted.allow_partial:
        raise ValueError(f"{problem}; to compare those that it has: --allow-partial")
    wanted.note(f"{problem}; the others count as not scored")
    return False


def _metrics(sample: Any) -> dict[str, Any]:
    """Every score by its scorer's name, and by ``scorer/name`` where a scorer returned several."""
    found = {}
    for name, score in (sample.scores or {}).items():
        several = score.value if isinstance(score.value, Mapping) else {"": score.value}
        for part, value in several.items():
            known = _VALUES.get(value, value) if isinstance(value, str) else value
            found[f"{name}/{part}" if part else name] = known if sample.error is None else None
    return found


def _are_numbers(rows: Sequence[LogRow]) -> bool:
    """Whether no sample has options, and the scores are numbers and no letters such as C and I."""
    values = [score.value for row in rows for score in (row.raw.scores or {}).values()]
    letters = any(isinstance(value, str) for value in values)
    return not letters and not any(row.raw.choices for row in rows)


def _item(row: LogRow, metric: str) -> LoggedItem:
    sample = row.raw
    score = (sample.scores or {}).get(metric.partition("/")[0])
    options = tuple(sample.choices or ())
    targets = (sample.target,) if isinstance(sample.target, str) else tuple(sample.target)
    hashes = {
        "input": digest(_text(sample.input)),
        "right answer": digest(targets),
        "list of options": digest(options),
        "prompt": digest([_text([one]) for one in takewhile(_is_given, sample.messages)]),
    }
    answer = None if score is None else score.answer
    reason = getattr(score, "reason", None)  # since 0.3.245
    unparsed = reason in ("no_response", "invalid_response_format") or (score is not None and score.value == "N")
    cut = sample.output.stop_reason == "max_tokens"
    item = LoggedItem(
        row.id, row.value(metric), hashes, _text(sample.input), targets,
        outcome="unparsed" if unparsed else "truncated" if cut else None,
        prediction=answer or None, text=sample.output.completion, messages=_conversation(sample), score=row.score,
    )  # fmt: skip
    right = _right(targets, options)
    return item if right < 0 else as_choice(item, options, right, answer or "")


def _conversation(sample: Any) -> tuple[dict[str, Any], ...]:
    """What the model was first asked, where that is more than one user's message."""
    given = list(takewhile(_is_given, sample.messages))
    if not given:
        given = [] if isinstance(sample.input, str) else list(sample.input)
    if len(given) == 1 and isinstance(sample.input, str):
        return ()
    return messages_in([_message(one) for one in given])


def _message(given: Any) -> dict[str, Any]:
    """A message as chat templates read it."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.function, "arguments": call.arguments}}
        for call in getattr(given, "tool_calls", None) or ()
    ]
    return {"role": given.role, "content": given.text} | ({"tool_calls": calls} if calls else {})


def _right(targets: Sequence[str], options: Sequence[str]) -> int:
    """Index of the right option, -1 if there are no options or several right ones."""
    if len(targets) != 1 or len(options) < 2:
        return -1
    place = options.index(targets[0]) if targets[0] in options else letter_place(targets[0])
    return place if place < len(options) else -1


def _is_given(message: Any) -> bool:
    """Whether a message is of the prompt, as few-shot examples are, and not generated."""
    return bool(message.role != "assistant" or message.source != "generate")


def _text(messages: Any) -> str:
    return messages if isinstance(messages, str) else "\n".join(f"{one.role}: {one.text}" for one in messages)
