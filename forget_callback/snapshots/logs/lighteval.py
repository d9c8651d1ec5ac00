"""lighteval's `details_<task>_<time>.parquet`: the columns doc, metric and model_response, or those of older versions.

An item of an older log has no id: the hash of its question is used. The chosen option is recomputed from the
log-probabilities, normalised as the metric's name says, and used only if it agrees with every score.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from forget_callback.probes.quoting import printable, quoted
from forget_callback.snapshots.logs.files import columns_of
from forget_callback.snapshots.logs.log import (
    Log,
    LoggedItem,
    LogOptions,
    LogRow,
    by_id,
    digest,
    task_and_time,
)
from forget_callback.snapshots.logs.metric import decide
from forget_callback.snapshots.logs.options import Pick, alphabet_of, as_choice, of_letters, settle, with_options

PREFERRED = ("acc", "extractive_match", "em", "exact_match", "qem", "quasi_exact_match", "pass@1")


def files(path: Path) -> list[Path]:
    """The logs under a directory."""
    return sorted(path.rglob("details_*.parquet"))


def identity(file: Path) -> tuple[str, str, str]:
    """Directory of the model, task and time of details/<model>/<time>/details_<task>_<time>.parquet."""
    name, time = task_and_time(file)
    return str(file.parent.parent if time == file.parent.name else file.parent), _task_and_shots(name)[0], time


def _task_and_shots(name: str) -> tuple[str, int | None]:
    """Task and few-shot examples in a name such as suite|task:subset|5."""
    words = name.split("|")
    shots = int(words.pop()) if len(words) > 1 and words[-1].isdigit() else None
    return words[-1], shots


def is_details(columns: Sequence[str]) -> bool:
    """Whether a table with these columns is of lighteval."""
    return {"doc", "metric"} <= set(columns) or "metrics" in columns


def read(file: Path, wanted: LogOptions) -> Log:
    """One log.

    Raises:
        ValueError: If it is damaged or needs a choice.
    """
    task, shots = _task_and_shots(task_and_time(file)[0])
    columns, source = columns_of(file), printable(str(file))
    if not is_details(columns):
        has = quoted(columns)
        raise ValueError(f"{source}: not details of lighteval: expected doc and metric, or metrics; has {has}")
    with file.open("rb") as opened:
        table = pq.read_table(opened).to_pylist()
    rows = [_row(number, raw, source, newer="doc" in columns) for number, raw in enumerate(table, start=1)]
    generated = not any(row.raw["sums"] for row in rows)
    rows, metric, offers = decide(rows, source, wanted, PREFERRED, graded=generated) if rows else ([], "", [])
    rows = [row for row in rows if metric in row.metrics]  # a task with two kinds of metrics has two rows an item
    rows = by_id(rows, source, wanted)
    picks = settle(rows, metric, partial(_pick, metric=metric), source, wanted)
    return Log(
        probe=task,
        how={"tool": "lighteval", "metric": metric},
        items=of_letters([_item(row, metric, pick) for row, pick in zip(rows, picks)], source, wanted),
        source=source,
        few_shot=shots,
        group=task.partition(":")[0] if ":" in task else "",
        offers={"metric": offers},
    )


def _row(number: int, columns: Mapping[str, Any], source: str, *, newer: bool) -> LogRow:
    values = {name: _plain(name, value) for name, value in columns.items()}
    try:
        metrics = values["metric" if newer else "metrics"]
        raw = _newer(values) if newer else _older(values)
        raw["options"] = tuple(map(str, raw["options"]))
        places = (place for place in raw["right"] if isinstance(place, int))
        raw["right"] = tuple(place for place in places if 0 <= place < len(raw["options"]))
        raw["question"] = str(raw["question"])
        raw["text"] = None if raw["text"] is None else str(raw["text"])
        if not all(isinstance(one, (int, float)) for one in raw["sums"]):
            raw["sums"] = []
        scored = {name: value for name, value in metrics.items() if value is not None}
        name = str(values["doc"]["id"]) if newer else _question_hash(values)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{source}, row {number}: not details of lighteval ({error!r})") from None
    return LogRow(name, f"row {number}", scored, raw)


def _plain(name: str, value: Any) -> Any:
    """A column's value; older versions wrote all columns as text where one did not fit Parquet's types."""
    if not isinstance(value, str) or name in ("example", "full_prompt", "instruction"):
        return value
    try:
        return ast.literal_eval(re.sub(r"np\.\w+\(([^()]*)\)", r"\1", value))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value


def _question_hash(raw: Mapping[str, Any]) -> str:
    """The id of an item that has none in the log: the hash of its question."""
    hashes = raw.get("hashes") or {}
    known = hashes.get("hash_example") or hashes.get("example") if isinstance(hashes, dict) else None
    return str(known or digest(raw.get("example") or raw.get("full_prompt"))[:16])


def _newer(raw: Mapping[str, Any]) -> dict[str, Any]:
    doc, response = raw["doc"], raw["model_response"]
    shots = doc.get("fewshot_samples") or []
    prompt = response.get("input") or [doc.get("instruction"), [one.get("query") for one in shots], doc["query"]]
    sums = response.get("logprobs") or []
    return {
        "question": doc["query"],
        "prompt": [prompt, response.get("input_tokens") if sums else None],  # tokens reveal another chat template
        "shots": len(shots),
        "options": doc.get("choices") or [],
        "right": _listed(doc.get("gold_index")),
        "sums": sums,
        "unconditioned": response.get("unconditioned_logprobs") or sums[len(doc.get("choices") or []) :],
        "tokens": response.get("output_tokens") or [],
        "text": next(iter(response.get("text_post_processed") or response.get("text") or []), None),
    }


def _older(raw: Mapping[str, Any]) -> dict[str, Any]:
    predictions = _listed(raw.get("predictions"))
    numbers = [one[0] if isinstance(one, (list, tuple)) and one else one for one in predictions]
    choices = _listed(raw.get("choices"))
    is_number = bool(choices) and len(numbers) >= len(choices) and all(isinstance(n, float) for n in numbers)
    gold = choices or _listed(raw.get("gold"))
    return {
        "question": raw.get("example") or raw.get("full_prompt") or "",
        "prompt": raw.get("full_prompt"),
        "shots": raw.get("num_effective_few_shots"),
        "options": gold,
        "right": _listed(raw.get("gold_index")) if choices else list(range(len(gold))),
        "sums": numbers if is_number else [],
        "unconditioned": numbers[len(choices) :] if is_number else [],
        "tokens": [],
        "text": None if is_number or not numbers else str(numbers[0]),
    }


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _pick(raw: Mapping[str, Any], as_named: bool, *, metric: str) -> Pick | None:
    """The options with their scores, normalised as the metric's name says; None if there are no log-probabilities.

    Args:
        as_named: Whether an option's first space counts among its characters as the name says; else the other way.
    """
    options, metric = raw["options"], metric.lower()
    skip_space = as_named == ("nospace" in metric or "ignore_first_space=true" in metric)
    if len(options) < 2 or len(raw["sums"]) < len(options):
        return None
    sums = raw["sums"][: len(options)]
    try:
        if "norm" not in metric or metric.endswith("=none"):
            scores = sums
        elif "pmi" in metric:
            scores = [a - b for a, b in zip(sums, raw["unconditioned"], strict=True)]
        elif "token" in metric:
            scores = [a / len(b) for a, b in zip(sums, raw["tokens"], strict=True)]
        else:
            scores = [a / (len(b) - (skip_space and b.startswith(" "))) for a, b in zip(sums, options)]
    except (ValueError, ZeroDivisionError):
        scores = []  # the log does not have what this metric needs
    return Pick(options, raw["right"], tuple(scores))


def _item(row: LogRow, metric: str, pick: Pick | None) -> LoggedItem:
    raw, options, right = row.raw, row.raw["options"], row.raw["right"]
    expected = tuple(options[place] for place in right)
    hashes = {
        "question": digest(raw["question"]),
        "right answer": digest(expected),
        "list of options": digest(options),
        "number of few-shot examples": digest(raw["shots"]),
        "prompt": digest(raw["prompt"]),
    }
    text, correct = raw["text"], row.value(metric)
    item = LoggedItem(row.id, correct, hashes, raw["question"], expected, text=text, prediction=text, score=row.score)
    if not 0 < len(right) < len(options):
        return item
    if pick is not None:
        return with_options(item, pick)
    if len(right) == 1 and alphabet_of(options):
        return as_choice(item, options, right[0], text or "")
    return replace(item, options=options, answer=right[0])
