"""lm-eval's `samples_<task>_<time>.jsonl`, a line per document and filter, and `results_<time>.json` beside them.

The chosen option of a multiple-choice item is not in the log: it is recomputed from the log-likelihoods as lm-eval does
(`ConfigurableTask.process_results`), and used only if it agrees with every score in the log.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from forget_callback.snapshots.logs.options import Pick, of_letters, settle

PREFERRED = ("acc", "exact_match", "em", "pass@1", "prompt_level_strict_acc")
_FILE = re.compile(r"samples_(?P<task>.+)_(?P<time>\d{4}-\d\d-\d\dT[\d.-]+)\.jsonl")
_FIELDS = {  # of a row; in logs older than the field `metrics` every other key is a metric
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
    *("doc_hash", "prompt_hash", "target_hash"),
}


def files(path: Path) -> list[Path]:
    """The files of samples under a directory."""
    return sorted(path.rglob("samples_*.jsonl"))


def read(path: Path, wanted: LogOptions) -> list[Log]:
    """The logs of a directory, the newest of each task, or of one file.

    Raises:
        ValueError: If there are several models, or a log is damaged or needs a choice.
    """
    if path.is_file():
        return [_read_task(path, wanted)]
    found = {file: (file.parent, *_name(file)) for file in files(path)}
    return [_read_task(file, wanted) for file in newest(path, found, wanted)]


def _name(file: Path) -> tuple[str, str]:
    """The task and the time in a file's name."""
    match = _FILE.fullmatch(file.name)
    return (match["task"], match["time"]) if match else (file.stem.removeprefix("samples_"), "")


def _read_task(file: Path, wanted: LogOptions) -> Log:
    task, time = _name(file)
    results = _results(file.with_name(f"results_{time}.json"))
    rows = _lines(file)
    filters = list(dict.fromkeys(str(row.raw.get("filter", "none")) for row in rows))
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
    config = results.get("configs", {}).get(task, {})
    shots = results.get("n-shot", {}).get(task)
    return Log(
        probe=probe_name(task),
        how={"tool": "lm-eval", "metric": metric, "filter": chosen},
        items=tuple(_items(rows, metric, str(config.get("target_delimiter", " ")), file, wanted)),
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
        names = raw.get("metrics") or [name for name in raw if name not in _FIELDS]
        rows.append(LogRow(str(raw["doc_id"]), f"line {number}", {name: raw.get(name) for name in names}, raw))
    if not rows:
        raise ValueError(f"{file} holds no items")
    return rows


def _results(file: Path) -> dict[str, Any]:
    """lm-eval's results file, empty if there is none."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error}); write or copy the log again") from None
    return found if isinstance(found, dict) else {}


def _group(task: str, groups: Mapping[str, Sequence[str]]) -> str:
    """The outermost group that the task belongs to, "" if there is none or more than one."""
    groups = {name: children for name, children in groups.items() if children}
    tops = {task}
    while above := {name for name, children in groups.items() if tops & set(children)}:
        tops = above
    return tops.pop() if len(tops) == 1 and tops != {task} else ""


def _items(rows: Sequence[LogRow], metric: str, delimiter: str, file: Path, wanted: LogOptions) -> list[LoggedItem]:
    correct = [as_number(row.metrics.get(metric)) for row in rows]
    requests = [_arguments(row.raw) for row in rows]
    options = [_options(row.raw["filtered_resps"], arguments) for row, arguments in zip(rows, requests)]
    picks = settle(_readings(rows, options, metric, delimiter), correct)
    if any(options) and not any(pick and pick.scores for pick in picks):
        wanted.note(f"{file}: the option that {metric!r} chose does not follow from the log-likelihoods; it is unknown")
    items = [_item(*one) for one in zip(rows, correct, requests, options, picks)]
    return [of_letters(item, wanted) for item in items]


def _arguments(raw: Mapping[str, Any]) -> list[list[Any]]:
    """The arguments of each request of one document; lm-eval names them gen_args_0, arg_0 and so on."""
    requests = raw["arguments"]
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


def _readings(
    rows: Sequence[LogRow], options: Sequence[tuple[str, ...]], metric: str, delimiter: str
) -> list[list[Pick | None]]:
    """Both interpretations of a target such as "2", an option's index or its text, with the scores of the metric."""

    def size(text: str) -> int:
        return {"acc_norm": len(text), "acc_bytes": len(text.encode())}.get(metric, 1)

    def pick(row: LogRow, texts: tuple[str, ...], by_index: bool) -> Pick | None:
        if not texts:
            return None
        plain = [text.removeprefix(delimiter) for text in texts]
        sums = [float(answer[0]) for answer in row.raw["filtered_resps"][: len(texts)]]
        scores = tuple(total / max(size(text), 1) for total, text in zip(sums, plain))
        return Pick(_right(str(row.raw["target"]), plain, by_index=by_index), scores)

    return [[pick(row, texts, by_index) for row, texts in zip(rows, options)] for by_index in (True, False)]


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


def _item(
    row: LogRow, correct: float, arguments: Sequence[Sequence[Any]], options: tuple[str, ...], pick: Pick | None
) -> LoggedItem:
    raw, target = row.raw, str(row.raw["target"])
    texts = [one[0] for one in arguments if one]
    hashes = {
        "document": str(raw.get("doc_hash") or digest(raw.get("doc"))),
        "right answer": str(raw.get("target_hash") or digest(target)),
        "prompt": str(raw.get("prompt_hash") or digest(texts[:1])),
        "request": digest(arguments),  # options, and the settings of generation
    }
    prompt = str(texts[0]) if texts else ""
    if pick is None or not pick.right:
        generated = not any(isinstance(one[-1], str) for one in arguments if len(one) > 1)  # else likelihoods
        answer = _first_response(raw["filtered_resps"]) if generated else None
        unparsed = "unparsed" if answer == "[invalid]" else None  # of lm-eval's regex filters where nothing matches
        return LoggedItem(
            row.id, correct, hashes, prompt, (target,), outcome=unparsed,
            prediction=None if unparsed else answer, text=_first_response(raw.get("resps")) if generated else None,
        )  # fmt: skip
    choice = pick.choice
    return LoggedItem(
        row.id, correct, hashes, prompt, tuple(options[i] for i in pick.right), options, pick.right[0], choice,
        scores=pick.scores if choice >= 0 else (), prediction=options[choice] if choice >= 0 else None,
    )  # fmt: skip


def _first_response(answers: Any) -> str | None:
    """The first response of a document, which may have several requests, and several samples of each."""
    while isinstance(answers, (list, tuple)):
        answers = answers[0] if answers else None
    return None if answers is None else str(answers)
