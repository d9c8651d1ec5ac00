"""lm-eval's `samples_<task>_<time>.jsonl`, a line per document and filter, and `results_<time>.json` beside them.

The chosen option of a multiple-choice item is not in the log: it is recomputed from the log-likelihoods as lm-eval does
(`ConfigurableTask.process_results`), and used only if it agrees with every score in the log.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
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
    task_and_time,
)
from forget_callback.snapshots.logs.options import Pick, of_letters, settle, with_options

PREFERRED = ("acc", "exact_match", "em", "pass@1", "prompt_level_strict_acc")
_FIELDS = {  # of a row; in logs older than the field `metrics` every other key is a metric
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
    *("doc_hash", "prompt_hash", "target_hash"),
}


def files(path: Path) -> list[Path]:
    """The logs under a directory, or a file that may be one."""
    return [path] if path.suffix == ".jsonl" and path.is_file() else sorted(path.rglob("samples_*.jsonl"))


def identity(file: Path) -> tuple[str, str, str]:
    """Directory of the model, task and time."""
    return (str(file.parent), *task_and_time(file))


def read(file: Path, wanted: LogOptions) -> Log:
    """One log.

    Raises:
        ValueError: If it is damaged or needs a choice.
    """
    task, time = task_and_time(file)
    results = _results(file.with_name(f"results_{time}.json"))
    rows = _lines(file)
    filters = list(dict.fromkeys(str(row.raw.get("filter", "none")) for row in rows)) or ["none"]
    if len(filters) > 1 and wanted.filter not in filters:
        raise ValueError(
            f"{file} has every answer extracted by {len(filters)} filters: {', '.join(filters)}; choose one: --filter"
        )
    chosen = str(wanted.filter) if wanted.filter in filters else filters[0]
    rows = [row for row in rows if str(row.raw.get("filter", "none")) == chosen]
    rows = by_id(rows, str(file), wanted)
    evaluated = results.get("n-samples", {}).get(task, {}).get("effective")
    if evaluated is not None and len(rows) < evaluated and not wanted.allow_partial:
        raise ValueError(f"{file} has {len(rows)} of {evaluated} evaluated items; to compare these: --allow-partial")
    metric = pick_metric(rows, str(file), wanted, PREFERRED)
    delimiter = str(results.get("configs", {}).get(task, {}).get("target_delimiter", " "))
    picks = settle(rows, metric, partial(_pick, metric=metric, delimiter=delimiter), str(file), wanted)
    shots = results.get("n-shot", {}).get(task)
    return Log(
        probe=task,
        how={"tool": "lm-eval", "metric": metric, "filter": chosen},
        items=tuple(of_letters(_item(row, metric, pick), wanted) for row, pick in zip(rows, picks)),
        source=str(file),
        few_shot=shots if isinstance(shots, int) else None,
        group=_group(task, results.get("group_subtasks", {})),
        offers={"metric": list(rows[0].metrics), "filter": filters},
    )


def _lines(file: Path) -> list[LogRow]:
    """Every line of the file.

    Raises:
        ValueError: If a line is not a sample, such as a last one that was cut off; names the line.
    """
    rows = []
    text = file.read_bytes().decode("utf-8", errors="replace")
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
        except ValueError as error:
            cut = "the file ends within this line: it was cut off" if number == len(lines) else f"not JSON ({error})"
            raise ValueError(f"{file}, line {number}: {cut}; write or copy the log again") from None
        if not isinstance(raw, dict) or not {"doc_id", "target", "arguments", "filtered_resps"} <= set(raw):
            raise ValueError(f"{file}, line {number}: not a sample of lm-eval: expected doc_id, target, arguments, ...")
        raw["arguments"] = _arguments(raw["arguments"])
        names = raw.get("metrics") or [name for name in raw if name not in _FIELDS]
        rows.append(LogRow(str(raw["doc_id"]), f"line {number}", {name: raw.get(name) for name in names}, raw))
    return rows


def _results(file: Path) -> dict[str, Any]:
    """lm-eval's results file, empty if there is none."""
    try:
        found: dict[str, Any] = json.loads(file.read_bytes()) if file.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error}); write or copy the log again") from None
    return found


def _group(task: str, groups: Mapping[str, Sequence[str]]) -> str:
    """The outermost group that the task belongs to, "" if there is none or more than one."""
    tops = {task}
    while above := {name for name, children in groups.items() if tops & set(children)}:
        tops = above
    return tops.pop() if len(tops) == 1 and tops != {task} else ""


def _arguments(requests: Any) -> list[list[Any]]:
    """The arguments of each request of one document; lm-eval names them gen_args_0, arg_0 and so on."""
    requests = list(requests.values()) if isinstance(requests, dict) else requests
    return [list(one.values()) if isinstance(one, dict) else list(one) for one in requests]


def _options(answers: Sequence[Any], arguments: Sequence[Sequence[Any]]) -> tuple[str, ...]:
    """The options of a document scored as several continuations, or as several contexts; else none."""
    likelihoods = len(answers) == len(arguments) and all(isinstance(one, list) and len(one) == 2 for one in answers)
    if len(arguments) < 2 or not likelihoods or not all(isinstance(one[-1], str) for one in arguments):
        return ()
    half = len(arguments) // 2
    if all(context == "" for context, _ in arguments[half:]) and len(arguments) == 2 * half and arguments[0][0] != "":
        arguments = arguments[:half]  # mutual information scores each option a second time, without the context
    contexts, continuations = zip(*arguments)
    texts = continuations if len(set(contexts)) == 1 else contexts
    return tuple(texts) if len(texts) > 1 else ()


def _pick(raw: Mapping[str, Any], by_index: bool, *, metric: str, delimiter: str) -> Pick | None:
    """The options with the scores of the metric; a target such as "2" is an option's index, or else its text."""
    options = _options(raw["filtered_resps"], raw["arguments"])
    if not options:
        return None
    plain = [text.removeprefix(delimiter) for text in options]
    sizes = {"acc_norm": [len(text) for text in plain], "acc_bytes": [len(text.encode()) for text in plain]}
    sums = [float(answer[0]) for answer in raw["filtered_resps"][: len(options)]]
    scores = tuple(total / max(size, 1) for total, size in zip(sums, sizes.get(metric, [1] * len(sums))))
    return Pick(options, _right(str(raw["target"]), plain, by_index=by_index), scores)


def _right(target: str, texts: Sequence[str], *, by_index: bool) -> tuple[int, ...]:
    """Indices of the options that a target such as "2", "[0, 3]" or "Paris" names; none if it names no option."""
    try:
        value = ast.literal_eval(target) if by_index else target
    except (ValueError, SyntaxError):
        value = target
    found = value if isinstance(value, (list, tuple)) else [value]
    places = [
        one if isinstance(one, int) else next((i for i, t in enumerate(texts) if t.strip() == str(one).strip()), -1)
        for one in found
    ]
    return tuple(place for place in places if 0 <= place < len(texts))


def _item(row: LogRow, metric: str, pick: Pick | None) -> LoggedItem:
    raw, target, arguments = row.raw, str(row.raw["target"]), row.raw["arguments"]
    texts = [one[0] for one in arguments if one]
    hashes = {
        "document": str(raw.get("doc_hash") or digest(raw.get("doc"))),
        "right answer": str(raw.get("target_hash") or digest(target)),
        "prompt": str(raw.get("prompt_hash") or digest(texts[:1])),
        "request": digest(arguments),  # options, and the settings of generation
    }
    item = LoggedItem(row.id, row.value(metric), hashes, str(texts[0]) if texts else "", (target,))
    if pick is not None and pick.right:
        return with_options(item, pick)
    if any(isinstance(one[-1], str) for one in arguments if len(one) > 1):
        return item  # its responses are likelihoods
    answer, text = _first_response(raw["filtered_resps"]), _first_response(raw.get("resps"))
    if answer == "[invalid]":  # of lm-eval's regex filters where nothing matches
        return replace(item, outcome="unparsed", text=text)
    return replace(item, prediction=answer, text=text)


def _first_response(answers: Any) -> str | None:
    """The first response of a document, which may have several requests, and several samples of each."""
    while isinstance(answers, (list, tuple)):
        answers = answers[0] if answers else None
    return None if answers is None else str(answers)
