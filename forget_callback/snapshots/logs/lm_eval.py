"""lm-eval's `samples_<task>_<time>.jsonl`, a line per document and filter, and the results file beside them.

The chosen option of a multiple-choice item is not in the log: it is recomputed from the log-likelihoods as lm-eval does
(`ConfigurableTask.process_results`), and used only if it agrees with every score in the log. What is in files of which
version was read in lm-evaluation-harness: `lm_eval/__main__.py` until v0.4.2, `lm_eval/loggers/evaluation_tracker.py`
since, and `lm_eval/evaluator.py` at each tag.
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from forget_callback.probes.quoting import printable
from forget_callback.snapshots.logs.conversations import messages_in
from forget_callback.snapshots.logs.files import PACKED, first_record, records, start_of
from forget_callback.snapshots.logs.lm_eval_results import Results, results_of, table_in
from forget_callback.snapshots.logs.log import (
    Log,
    LoggedItem,
    LogOptions,
    LogRow,
    by_id,
    digest,
    listed,
    task_and_time,
)
from forget_callback.snapshots.logs.metric import decide
from forget_callback.snapshots.logs.options import Pick, of_letters, settle, with_options

PREFERRED = ("acc", "exact_match", "em", "pass@1", "prompt_level_strict_acc")
BITS = "bits_per_byte"  # of `loglikelihood_rolling` tasks, whose items are documents
_NEEDED = {"doc_id", "target", "arguments", "filtered_resps"}
_FIELDS = {  # of a row; in logs older than the field `metrics` every other key is a metric
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
    *("doc_hash", "prompt_hash", "target_hash"),
}
_INDEX = re.compile(r"\s*(-?\d{1,9}|[\[(].*[\])])\s*", re.DOTALL)


def files(path: Path) -> list[Path]:
    """The logs under a directory, or those of one results file."""
    if path.is_file():
        time = task_and_time(path)[1]
        return sorted(path.parent.glob(f"samples_*_{time}.jsonl*")) if time else []
    found = [file for file in path.rglob("samples_*.jsonl*") if file.suffix in (".jsonl", *PACKED)]
    return sorted(found or filter(_is_old, path.rglob("*.jsonl*")))


def is_sample(record: Mapping[str, Any]) -> bool:
    """Whether an object is a row of lm-eval."""
    return {"doc_id", "arguments"} <= set(record)


def _is_old(file: Path) -> bool:
    """Whether a file is a log of lm-eval 0.4.0 to 0.4.2: one JSON array in <model>_<task>.jsonl."""
    packed = file.suffix in (".jsonl", *PACKED) and file.is_file() and start_of(file).startswith("[")
    return packed and is_sample(first_record(file))


def identity(file: Path) -> tuple[str, str, str]:
    """Directory and name of the model, task and time."""
    results = results_of(file)
    return results.model, results.task, task_and_time(file)[1]


def read(file: Path, wanted: LogOptions) -> Log:
    """One log.

    Raises:
        ValueError: If it is damaged or needs a choice.
    """
    results, source = results_of(file), printable(str(file))
    rows, filters = _by_filter(_lines(file, source), results, source)
    if len(filters) > 1 and wanted.filter not in filters:
        shown = listed(filters)
        raise ValueError(
            f"{source} has every answer extracted by {len(filters)} filters: {shown}; choose one: --filter"
        )
    chosen = str(wanted.filter) if wanted.filter in filters else filters[0]
    own = by_id([row for row in rows if row.raw["filter"] == chosen], source, wanted)
    items: Sequence[LoggedItem]
    if all(_bits(row) is not None for row in own if row.metrics):
        metric, metrics, items = BITS, [BITS], [_document(row) for row in own]
    else:
        metric, metrics, items = _answers(own, results, source, wanted)
    shots = results.of_task("n-shot", "n_shot")
    return Log(
        probe=results.task,
        how={"tool": "lm-eval", "metric": metric, "filter": chosen},
        items=(*items, *_lost(own, results.evaluated, source, wanted)),
        source=source,
        few_shot=shots if isinstance(shots, int) else None,
        group=results.group,
        offers={"metric": metrics, "filter": filters},
        named=results.known or bool(task_and_time(file)[1]),
        counted=results.evaluated is not None,
    )


def _bits(row: LogRow) -> float | None:
    """Bits per byte of a row of a `loglikelihood_rolling` task, NaN of an empty document, None if of another task.

    Its metrics are pairs: the log-likelihood of the document, and the bytes or the words that it is divided by.
    """
    pairs = {name: row.metrics[name] for name in (BITS, "byte_perplexity", "word_perplexity") if name in row.metrics}
    name = next(iter(pairs), None)
    if name is None or not isinstance(pairs[name], list) or len(pairs[name]) != 2:
        return None
    total, count = pairs[name]
    if name == "word_perplexity":  # then what there are bytes of is the text itself
        count = len(_text_of(row).encode(errors="replace"))
    if not all(isinstance(number, (int, float)) for number in (total, count)):
        return None
    if not count > 0:
        return math.nan
    return -float(total) / math.log(2) / float(count)


def _text_of(row: LogRow) -> str:
    return next((str(one[0]) for one in row.raw["arguments"] if one), "")


def _document(row: LogRow) -> LoggedItem:
    """A document: it was measured, which is all that `correct` says."""
    bits, text = (_bits(row) if row.metrics else None), _text_of(row)
    measured = bits is not None and math.isfinite(bits)
    hashes = {
        "document": str(row.raw.get("doc_hash") or digest(row.raw.get("doc"))),
        "prompt": digest(text),
    }
    item = LoggedItem(row.id, 1.0 if measured else math.nan, hashes, text, ())
    return replace(item, bits_per_byte=float(bits)) if bits is not None and measured else item


def _answers(
    own: Sequence[LogRow], results: Results, source: str, wanted: LogOptions
) -> tuple[str, list[str], Sequence[LoggedItem]]:
    """The metric that decides, those that could, and the items, of a task that asks for answers."""
    generated = not any(_options(row.raw["filtered_resps"], row.raw["arguments"]) for row in own)
    own, metric, metrics = decide(own, source, wanted, PREFERRED, graded=generated)
    delimiter = str(table_in(results.of_task("configs")).get("target_delimiter", " "))
    picks = settle(own, metric, partial(_pick, metric=metric, delimiter=delimiter), source, wanted)
    return metric, metrics, of_letters([_item(row, metric, pick) for row, pick in zip(own, picks)], source, wanted)


def _lost(rows: Sequence[LogRow], evaluated: int | None, source: str, wanted: LogOptions) -> list[LoggedItem]:
    """Items that were evaluated and are not in the log, as one that was cut off at the end of a line; unscored.

    Raises:
        ValueError: If there are any, and the user does not allow it.
    """
    if evaluated is None or len(rows) >= evaluated:
        return []
    problem = f"{source} has {len(rows)} of {evaluated} evaluated items"
    if not wanted.allow_partial:
        raise ValueError(f"{problem}; to compare these: --allow-partial")
    wanted.note(f"{problem}; the others count as not scored")
    there = {row.id for row in rows}
    free = [name for name in map(str, range(evaluated)) if name not in there]  # documents are counted from 0
    return [LoggedItem.lost(name) for name in free[: evaluated - len(rows)]]


def _lines(file: Path, source: str) -> list[LogRow]:
    """Every row of the file.

    Raises:
        ValueError: If one is not a sample, such as a last line that was cut off; names it.
    """
    rows = []
    for where, raw in records(file):
        names = raw.get("metrics") or [name for name in raw if name not in _FIELDS]
        lists = isinstance(raw.get("filtered_resps"), list) and _are_texts(names)
        arguments = _arguments(raw.get("arguments"))
        if arguments is None or not lists or not raw.keys() >= _NEEDED:
            raise ValueError(f"{source}, {where}: not a sample of lm-eval: expected doc_id, target, arguments, ...")
        raw["arguments"] = arguments
        rows.append(LogRow(str(raw["doc_id"]), where, {name: raw.get(name) for name in names}, raw))
    return rows


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _by_filter(rows: Sequence[LogRow], results: Results, source: str) -> tuple[Sequence[LogRow], list[str]]:
    """The rows, each with its filter, and the filters' names.

    Until 0.4.6 a row does not name its filter. A document's rows stand in the order of the filters: each process writes
    all of its documents for the first one, then all for the second (`evaluate` in lm_eval/evaluator.py, v0.4.0 to
    v0.4.6), so whose rows they are follows from the results file.

    Raises:
        ValueError: If several filters were used and their order is not known.
    """
    if any("filter" in row.raw for row in rows):
        for row in rows:
            row.raw["filter"] = str(row.raw.get("filter", "none"))
        return rows, list(dict.fromkeys(row.raw["filter"] for row in rows))
    count = Counter(row.id for row in rows)
    readings, filters = max(count.values(), default=1), results.filters
    repeated = sum(n > 1 for n in count.values()) > len(count) / 2
    if repeated and not filters:
        raise ValueError(
            f"{source} has most documents {readings} times: versions of lm-eval before 0.4.7 wrote the readings of "
            "several filters without naming them. Put the results_*.json of that evaluation beside it, which has their "
            "order, or evaluate again; if the lines are copies, remove them"
        )
    if readings > len(filters) or len(filters) < 2:
        filters = ["none"]
    seen: Counter[str] = Counter()
    for row in rows:
        row.raw["filter"] = filters[min(seen[row.id], len(filters) - 1)]
        seen[row.id] += 1
    return rows, filters


def _arguments(requests: Any) -> list[list[Any]] | None:
    """The arguments of each request of one document; lm-eval names them gen_args_0, arg_0 and so on. None if none."""
    requests = list(requests.values()) if isinstance(requests, dict) else requests
    if not isinstance(requests, list) or not all(isinstance(one, (dict, list)) for one in requests):
        return None
    return [list(one.values()) if isinstance(one, dict) else one for one in requests]


def _options(answers: Sequence[Any], arguments: Sequence[Sequence[Any]]) -> tuple[str, ...]:
    """The options of a document scored as several continuations, or as several contexts; else none."""
    likelihoods = len(answers) == len(arguments) and all(isinstance(one, list) and len(one) == 2 for one in answers)
    texts_only = all(len(one) == 2 and all(isinstance(text, str) for text in one) for one in arguments)
    if len(arguments) < 2 or not likelihoods or not texts_only:
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
    right = _right(str(raw["target"]), plain, by_index=by_index)
    try:
        sums = [float(answer[0]) for answer in raw["filtered_resps"][: len(options)]]
    except (TypeError, ValueError):
        return Pick(options, right, ())
    scores = tuple(total / max(size, 1) for total, size in zip(sums, sizes.get(metric, [1] * len(sums))))
    return Pick(options, right, () if any(map(math.isnan, scores)) else scores)


def _right(target: str, texts: Sequence[str], *, by_index: bool) -> tuple[int, ...]:
    """Indices of the options that a target such as "2", "[0, 3]" or "Paris" names; none if it names no option."""
    try:
        value = ast.literal_eval(target.strip()) if by_index and _INDEX.fullmatch(target) else target
    except (ValueError, SyntaxError, RecursionError, MemoryError):
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
    prompt = texts[0] if texts else ""
    item = LoggedItem(
        row.id, row.value(metric), hashes, str(prompt), (target,), messages=messages_in(prompt), score=row.score
    )
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
