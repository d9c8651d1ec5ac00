"""Anyone's file with a row an item: JSON Lines, CSV or Parquet with `id` and `score` or `correct`.

Optional columns: `category`, `cluster`, `fact`; `k` (options), `choice` and `answer` (option indices); `variant` (an
item asked in several prompts has a row for each; the first that stands in the file is the first prompt); `prompt` (or
`messages`), `prediction` and `outcome`, which are shown. A score from 0.5 on is right, as `threshold=` of a scorer has
it.
"""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from forget_callback.probes.quoting import printable, quoted
from forget_callback.snapshots.logs.conversations import messages_in
from forget_callback.snapshots.logs.files import Record, columns_of, read_text, records, stem_of, suffix_of
from forget_callback.snapshots.logs.log import Log, LoggedItem, LogOptions, LogRow, by_id, digest
from forget_callback.snapshots.logs.metric import right, say_threshold
from forget_callback.snapshots.logs.options import of_letters

DECIDES = ("correct", "score")
SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json")
_BINARY = ("correct", "acc")  # right and wrong, as far as there is no number between
_COLUMNS = (
    *("id", *DECIDES, "category", "cluster", "fact", "choice", "answer", "k"),
    *("variant", "prompt", "messages", "prediction", "outcome"),
)
_MISSING = {"", "nan", "null", "none", "na", "n/a", "<na>"}
_WORDS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
_MOST_OPTIONS = 1000


def read(file: Path, wanted: LogOptions) -> Log:
    """One file.

    Raises:
        ValueError: If it is damaged, lacks a column, or holds what is no score, index or number of options.
    """
    suffix = suffix_of(file)
    if suffix == ".parquet":
        rows = _parquet(file, wanted)
    else:
        rows = _csv(file) if suffix in (".csv", ".tsv") else records(file)
    return log_of(_named(rows), file, wanted, tool="per-item file", probe=stem_of(file))


def log_of(
    rows: Sequence[Record],
    file: Path,
    wanted: LogOptions,
    *,
    tool: str,
    probe: str,
    preferred: Sequence[str] = DECIDES,
    others: Sequence[str] = (),
    indices: bool = True,
) -> Log:
    """A log of rows with the columns that this module's head lists.

    Args:
        tool: What wrote it; only logs of one tool compare.
        preferred: Columns that may decide what is right, the best first.
        others: Further columns that decide if the user says so with ``--metric``.
        indices: Whether `answer` is the index of an option, as far as there are any, and not a text.

    Raises:
        ValueError: As `read` does.
    """
    source = printable(str(file))
    if not rows:
        raise ValueError(f"{source} holds no items")
    names = dict.fromkeys(name for _, raw in rows for name in raw)
    candidates = [name for name in (*preferred, *others) if name in names]
    metric = wanted.metric if wanted.metric in names else next(iter(candidates), None)
    if metric is None or "id" not in names:
        expected = "id and " + " or ".join([*preferred, "the column that --metric names"])
        raise ValueError(f"{source}: expected the columns {expected}; it has {quoted(list(names), 200)}")
    variants, parts = _by_variant(rows, metric, source, wanted)
    k = wanted.n_choices if indices else None
    answers = [{row.id: _item(row, metric, source, k, indices=indices) for row in part} for part in parts]
    items = [_with_further(name, answers) for name in dict.fromkeys(_id(row, source) for row in rows)]
    items = _without_contradictions(items, source, wanted)
    return Log(
        probe=probe,
        how={"tool": tool, "metric": metric},
        items=of_letters(items, source, wanted),
        source=source,
        offers={"metric": [name for name in candidates if _could_decide(rows, name, source)]},
        variants=tuple(variants) if len(variants) > 1 else (),
        named=False,
    )


def _named(rows: Sequence[Record]) -> Sequence[Record]:
    """The rows with the columns named as here, which spreadsheets write as "ID" or " Score"."""
    names = dict.fromkeys(name for _, raw in rows for name in raw)
    ours = {name: _plain(name) for name in names if _plain(name) in _COLUMNS and _plain(name) not in names}
    if not ours:
        return rows
    return [Record(where, {ours.get(name, name): value for name, value in raw.items()}) for where, raw in rows]


def _plain(name: str) -> str:
    return name.strip().lower()


def _by_variant(
    rows: Sequence[Record], metric: str, source: str, wanted: LogOptions
) -> tuple[list[str], list[list[LogRow]]]:
    """The names of the prompts, in the order of the file, and the rows of each with unique ids."""
    parts: dict[str, list[LogRow]] = {}
    values = [_score(row, metric, source) for row in rows]
    say_threshold(values, metric, source, wanted)
    for row, value, score in zip(rows, values, _graded(rows, metric, values, source)):
        own = parts.setdefault(_text(row.raw.get("variant")), [])
        decided = {metric: None if value is None else right(value)}
        own.append(LogRow(_id(row, source), row.where, decided, row.raw, math.nan if score is None else score))
    names = {name: f"{source}, variant {quoted(name)}" if len(parts) > 1 else source for name in parts}
    return list(parts), [by_id(own, names[name], wanted) for name, own in parts.items()]


def _parquet(file: Path, wanted: LogOptions) -> list[Record]:
    columns = columns_of(file)
    own = [name for name in columns if _plain(name) in _COLUMNS or name == wanted.metric]
    if not own:
        return [Record("", dict.fromkeys(columns))]
    with file.open("rb") as opened:
        table = pq.read_table(opened, columns=own).to_pylist()
    return [Record(f"row {number}", raw) for number, raw in enumerate(table, start=1)]


def _csv(file: Path) -> list[Record]:
    """The rows of a table with commas, semicolons or tabs between its columns, as spreadsheets write it."""
    name, text = printable(str(file)), read_text(file)
    head = text.partition("\n")[0]
    if head.lower().startswith("sep=") and len(head.strip()) == 5:
        delimiter, text = head[4], text.partition("\n")[2]
    else:
        delimiter = max(",;\t", key=head.count)
    limit = csv.field_size_limit(sys.maxsize)  # a response may be longer than the module's 131,072 characters
    try:
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise ValueError(f"{name}: not CSV ({error}), or was cut off") from None
    finally:
        csv.field_size_limit(limit)
    rows = [(number, cells) for number, cells in enumerate(table, start=1) if any(cells)]
    if not rows:
        return []
    names = [cell.strip() for cell in rows[0][1]]
    for number, cells in rows[1:]:
        if len(cells) != len(names):
            problem = f"expected {len(names)} cells as in the first row, got {len(cells)}"
            raise ValueError(f"{name}, row {number}: {problem}; the file may have been cut off there")
    return [Record(f"row {number}", dict(zip(names, cells))) for number, cells in rows[1:]]


def _missing(value: Any) -> bool:
    """Whether a cell is empty, in any of the ways in which tables say so."""
    if isinstance(value, str):
        return value.strip().lower() in _MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(value: Any) -> str:
    """A label, "" where there is none; a number as it is written."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _id(row: Record, source: str) -> str:
    value = row.raw.get("id")
    if isinstance(value, (dict, list)) or not _text(value).strip():
        raise ValueError(f"{source}, {row.where}: expected a text or number as id, got {quoted(value)}")
    return _number_or_text(value)


def _number_or_text(value: Any) -> str:
    """A label of which 1, "1" and "1.0" are the same: a table with an empty cell writes whole numbers so."""
    return re.sub(r"^(-?\d+)\.0$", r"\1", _text(value))


def _graded(rows: Sequence[Record], metric: str, values: Sequence[float | None], source: str) -> Sequence[float | None]:
    """The scores beside right and wrong: of the column `score`, or of the one that decides where that is a number."""
    if metric != "score" and any("score" in raw for _, raw in rows) and _could_decide(rows, "score", source):
        return [_score(row, "score", source) for row in rows]
    binary = metric in _BINARY and {0.0, 1.0, None}.issuperset(values)
    return [None] * len(rows) if binary else values


def _could_decide(rows: Iterable[Record], metric: str, source: str) -> bool:
    try:
        return not {_score(row, metric, source) for row in rows} <= {None}
    except ValueError:
        return False


def _score(row: Record, metric: str, source: str) -> float | None:
    value = row.raw.get(metric)
    if _missing(value):
        return None
    word = str(value).strip().lower()
    try:
        number = _WORDS[word] if word in _WORDS else float(str(value))
    except ValueError:
        number = math.inf
    if not 0 <= number <= 1:
        raise ValueError(
            f"{source}, {row.where}: {quoted(metric)} is {quoted(value)}; expected true or false, or a number from 0 "
            "to 1. Choose another column with --metric, or write 1 where the answer is right"
        )
    return number


def _whole(row: LogRow, name: str, source: str, *, least: int, most: int) -> int | None:
    """A column with an index or a count, None where there is none.

    Raises:
        ValueError: If it is no whole number from `least` to `most`.
    """
    value = row.raw.get(name)
    if _missing(value):
        return None
    try:
        number = float(value) if not isinstance(value, bool) else math.inf
    except (TypeError, ValueError, OverflowError):
        number = math.inf
    if not number.is_integer() or not least <= number <= most:
        raise ValueError(
            f"{source}, {row.where}: expected a whole number from {least} to {most} as {name}, got {quoted(value)}"
        )
    return int(number)


def _item(row: LogRow, metric: str, source: str, options: int | None, *, indices: bool) -> LoggedItem:
    """One row; `options` is their number where the row does not say it, None if unknown."""
    raw, expected = row.raw, row.raw.get("answer")
    is_text = isinstance(expected, str) and not expected.strip().lstrip("-").replace(".", "", 1).isdecimal()
    k = _whole(row, "k", source, least=2, most=_MOST_OPTIONS) or (None if is_text else options)
    choice = _whole(row, "choice", source, least=-1, most=(k or _MOST_OPTIONS) - 1)
    answer = None
    if indices and (k is not None or (choice is not None and not is_text)):
        answer = _whole(row, "answer", source, least=-1, most=(k or _MOST_OPTIONS) - 1)
    asked = raw.get("messages") if _missing(raw.get("prompt")) else raw["prompt"]
    hashes = {
        "number of options": "" if k is None else str(k),
        "right answer": "" if _missing(expected) else _number_or_text(expected if answer is None else answer),
        "prompt": "" if _missing(asked) else digest(str(asked)),
    }
    outcome = str(raw.get("outcome")).strip().lower()
    return LoggedItem(
        row.id,
        row.value(metric),
        {name: value for name, value in hashes.items() if value},
        prompt=_text(raw.get("prompt")),
        messages=messages_in(raw.get("messages") or asked),
        expected=() if _missing(expected) else (_text(expected),),
        options=tuple(f"option {i}" for i in range(k or 0)),
        answer=-1 if answer is None else answer,
        choice=-1 if choice is None else choice,
        outcome=outcome if outcome in ("unparsed", "truncated") else None,
        prediction=None if raw.get("prediction") is None else _text(raw["prediction"]),
        category=_text(raw.get("category")),
        cluster=_text(raw.get("cluster")),
        fact=_text(raw.get("fact")),
        score=row.score,
    )


def _with_further(name: str, answers: Sequence[Mapping[str, LoggedItem]]) -> LoggedItem:
    """An item with its answers in all prompts; what it is follows from its first row that says it."""
    rows = [own.get(name) for own in answers]
    there = [row for row in rows if row is not None]
    known: dict[str, Any] = {
        part: next((value for row in there if (value := getattr(row, part))), empty)
        for part, empty in (("category", ""), ("cluster", ""), ("fact", ""), ("options", ()), ("expected", ()))
    }
    answer = next((row.answer for row in there if row.answer >= 0), -1)
    first = rows[0] or there[0].unscored()
    return replace(first, answer=answer, further=tuple(rows[1:]), **known)


def _without_contradictions(items: Sequence[LoggedItem], source: str, wanted: LogOptions) -> list[LoggedItem]:
    """The items with the options that follow from right and wrong; a choice that contradicts these is not used."""
    contradicting = 0

    def settled(item: LoggedItem, answer: int) -> LoggedItem:
        nonlocal contradicting
        if answer < 0 or math.isnan(item.correct):
            return item
        if item.choice >= 0 and (item.choice == answer) != (item.correct == 1):
            contradicting += 1
            return replace(item, choice=-1)
        return replace(item, choice=answer) if item.correct == 1 else item

    found = []
    for item in items:
        prompts = [item, *(one for one in item.further if one is not None)]
        chosen = (one.choice for one in prompts if one.correct == 1 and one.choice >= 0)
        answer = item.answer if item.answer >= 0 else next(chosen, -1)
        further = tuple(one and settled(one, answer) for one in item.further)
        found.append(replace(settled(item, answer), answer=answer, further=further))
    if contradicting:
        wanted.note(f"{source}: choice and answer contradict right or wrong in {contradicting} rows; not used there")
    return found
