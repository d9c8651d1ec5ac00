"""lighteval's `details_<task>_<time>.parquet`: the columns doc, metric and model_response, or those of older versions.

An item of an older log has no id: the hash of its question is used. The chosen option is recomputed from the
log-probabilities, normalised as the metric's name says, and used only if it agrees with every score.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from forget_callback.snapshots.logs.log import (
    Log,
    LoggedItem,
    LogOptions,
    LogRow,
    as_number,
    by_id,
    digest,
    newest,
    pick_metric,
    probe_name,
)
from forget_callback.snapshots.logs.options import Pick, as_choice, letter_place, of_letters, settle

PREFERRED = ("acc", "extractive_match", "em", "exact_match", "qem", "quasi_exact_match", "pass@1")
_FILE = re.compile(r"details_(?P<task>.+)_(?P<time>\d{4}-\d\d-\d\dT[\d.-]+)\.parquet")


def files(path: Path) -> list[Path]:
    """The files of details under a directory."""
    return sorted(path.rglob("details_*.parquet"))


def is_details(file: Path) -> bool:
    """Whether a Parquet file is one of lighteval's."""
    names = set(_schema(file))
    return {"doc", "metric"} <= names or "metrics" in names


def read(path: Path, wanted: LogOptions) -> list[Log]:
    """The logs of a directory, the newest of each task, or of one file.

    Raises:
        ValueError: If there are several models, or a log is damaged or needs a choice.
    """
    if path.is_file():
        return [_read_task(path, wanted)]
    found = {}
    for file in files(path):  # details/<model>/<time>/details_<task>_<time>.parquet
        task, _, time = _name(file)
        found[file] = (file.parent.parent if time == file.parent.name else file.parent, task, time)
    return [_read_task(file, wanted) for file in newest(path, found, wanted)]


def _name(file: Path) -> tuple[str, int | None, str]:
    """Task, few-shot examples and time in a file's name: details_suite|task:subset|5_2025-01-31T12-00-00.parquet."""
    match = _FILE.fullmatch(file.name)
    words = (match["task"] if match else file.stem.removeprefix("details_")).split("|")
    shots = int(words.pop()) if len(words) > 1 and words[-1].isdigit() else None
    return words[-1], shots, match["time"] if match else ""


def _schema(file: Path) -> list[str]:
    try:
        return list(pq.read_schema(file).names)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is not a Parquet file, or was cut off: {str(error).splitlines()[0]}") from None


def _read_task(file: Path, wanted: LogOptions) -> Log:
    task, shots, _ = _name(file)
    if not is_details(file):
        raise ValueError(f"{file}: not details of lighteval: expected doc and metric, or metrics; has {_schema(file)}")
    newer = "doc" in _schema(file)
    table = [{name: _plain(name, value) for name, value in raw.items()} for raw in pq.read_table(file).to_pylist()]
    rows = [
        LogRow(
            str(raw["doc"]["id"]) if newer else _question_hash(raw),
            f"row {number}",
            {name: value for name, value in raw["metric" if newer else "metrics"].items() if value is not None},
            _newer(raw) if newer else _older(raw),
        )
        for number, raw in enumerate(table, start=1)
    ]
    metric = pick_metric(rows, str(file), wanted, PREFERRED) if rows else ""
    offers = list(dict.fromkeys(name for row in rows for name in row.metrics))
    rows = [row for row in rows if metric in row.metrics]  # a task with two kinds of metrics has two rows an item
    rows = by_id(rows, str(file), wanted)
    return Log(
        probe=probe_name(task),
        how={"tool": "lighteval", "metric": metric},
        items=tuple(_items(rows, metric, file, wanted)),
        source=str(file),
        few_shot=shots,
        group=task.partition(":")[0] if ":" in task else "",
        offers={"metric": offers},
    )


def _plain(name: str, value: Any) -> Any:
    """A column's value; older versions wrote all columns as text where one did not fit Parquet's types."""
    if not isinstance(value, str) or name in ("example", "full_prompt", "instruction"):
        return value
    try:
        return ast.literal_eval(re.sub(r"np\.\w+\(([^()]*)\)", r"\1", value))
    except (ValueError, SyntaxError):
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


def _items(rows: Sequence[LogRow], metric: str, file: Path, wanted: LogOptions) -> list[LoggedItem]:
    correct = [as_number(row.metrics.get(metric)) for row in rows]
    picks = settle([[_pick(row.raw, way) for row in rows] for way in _normalizations(metric)], correct)
    if any(row.raw["sums"] for row in rows) and not any(pick and pick.scores for pick in picks):
        wanted.note(
            f"{file}: the option that {metric!r} chose does not follow from the log-probabilities; it is unknown"
        )
    return [_item(row, right, pick, wanted) for row, right, pick in zip(rows, correct, picks)]


def _normalizations(metric: str) -> tuple[str, ...]:
    """How a metric normalises the scores of options of different length, by its name."""
    name = metric.lower()
    if "norm" not in name or name.endswith("=none"):
        return ("none",)
    if "pmi" in name:
        return ("pmi",)
    if "token" in name:
        return ("tokens",)
    without_space = "nospace" in name or "ignore_first_space=true" in name
    return ("characters without space", "characters") if without_space else ("characters", "characters without space")


def _pick(raw: Mapping[str, Any], way: str) -> Pick | None:
    options, sums = raw["options"], raw["sums"]
    if len(options) < 2 or len(sums) < len(options):
        return None
    sums = sums[: len(options)]
    try:
        if way == "pmi":
            scores = [a - b for a, b in zip(sums, raw["unconditioned"], strict=True)]
        elif way == "tokens":
            scores = [a / len(b) for a, b in zip(sums, raw["tokens"], strict=True)]
        elif way == "none":
            scores = sums
        else:
            shorter = int(way == "characters without space")
            scores = [a / (len(b) - shorter * b.startswith(" ")) for a, b in zip(sums, options)]
    except (ValueError, ZeroDivisionError):
        return None  # the log does not have what this way needs
    return Pick(tuple(place for place in raw["right"] if 0 <= place < len(options)), tuple(scores))


def _item(row: LogRow, correct: float, pick: Pick | None, wanted: LogOptions) -> LoggedItem:
    raw = row.raw
    options = tuple(str(option) for option in raw["options"])
    right = [place for place in raw["right"] if 0 <= place < len(options)]
    expected = tuple(options[place] for place in right)
    hashes = {
        "question": digest(raw["question"]),
        "right answer": digest(expected),
        "list of options": digest(options),
        "number of few-shot examples": digest(raw["shots"]),
        "prompt": digest(raw["prompt"]),
    }
    item = LoggedItem(row.id, correct, hashes, raw["question"], expected, text=raw["text"], prediction=raw["text"])
    if len(options) < 2 or not 0 < len(right) < len(options):
        return of_letters(item, wanted)
    if raw["sums"]:
        known = pick is not None and pick.choice >= 0
        choice, scores = (pick.choice, pick.scores) if pick is not None and known else (-1, ())
        chosen = options[choice] if known else None
        return replace(item, options=options, answer=right[0], choice=choice, scores=scores, prediction=chosen)
    if len(right) == 1 and [letter_place(option) for option in options] == list(range(len(options))):
        return as_choice(item, options, right[0], raw["text"] or "")
    return replace(item, options=options, answer=right[0])
