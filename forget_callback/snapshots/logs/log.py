"""A per-item log in one form for all tools: an item a row, with hashes of its prompt, options and right answer.

A reader of one tool finds the rows; `by_id` and `metric.decide` validate them. An item that cannot be compared stays,
as one that was not scored. Knows nothing of any tool's files.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from forget_callback.probes.items import Generation, MultipleChoice, Text
from forget_callback.probes.probe import Probe, is_probe_name
from forget_callback.probes.quoting import printable, quoted
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.logs.as_items import NOT_IN_LOG as NOT_IN_LOG, document_of, item_of
from forget_callback.snapshots.logs.files import stem_of
from forget_callback.snapshots.snapshot import Snapshot

SHOWN = 3  # of a list of ids or places
_LONG, _MANY = 80, 20  # characters of a name, and names of a list, that an error shows


@dataclass(frozen=True)
class LogOptions:
    """How to read a log that leaves a choice.

    Attributes:
        filter: Filter of lm-eval, where answers were extracted by several.
        metric: Metric that decides right and wrong; the scorer of inspect.
        epoch: Epoch of inspect, where every sample was run several times.
        n_choices: Options of items whose right answer is a letter, where the log does not have the options.
        allow_partial: Whether items that cannot be compared may be left out.
        note: Called with each note for the user, one line.
        texts: Whether what is said may name items: an id may be a text.
    """

    filter: str | None = None
    metric: str | None = None
    epoch: int | None = None
    n_choices: int | None = None
    allow_partial: bool = False
    note: Callable[[str], None] = print
    texts: bool = True


@dataclass(frozen=True)
class LogRow:
    """A row of a log as the tool wrote it.

    Attributes:
        id: The item's.
        where: Its place in the file, such as "line 3".
        metrics: Value of each metric.
        raw: The whole row.
        score: The number in [0, 1] that decides, where it is graded; NaN where right and wrong is all there is.
    """

    id: str
    where: str
    metrics: Mapping[str, Any]
    raw: Any
    score: float = math.nan

    def value(self, metric: str) -> float:
        """A metric as a number, NaN where it is missing, infinite where it is not a number."""
        value = self.metrics.get(metric)
        if value is None:
            return math.nan
        if not isinstance(value, (int, float)) or abs(value) > sys.float_info.max:  # JSON has whole numbers of any size
            return math.inf
        return float(value)


@dataclass(frozen=True)
class LoggedItem:
    """One item of a log.

    Attributes:
        hashes: Of everything that makes it the same item, by name, such as "prompt"; causes before consequences.
        expected: The ground truth as text, one or several.
        options: Texts of the options, none where open-ended; `answer` is the index of the right one.
        cluster: What it shares with items that are not independent of it, "" if nothing.
        fact: What it asks, shared by the items that ask the same in another form, "" if unknown.
        messages: The conversation that was asked, none where it was a text.
        bits_per_byte: Of a document, NaN of all else; the prompt is its text then.
        score: A graded number in [0, 1], NaN where there is none.
        further: The answers in each further prompt of the log's `variants`, None where it was not asked in it.
    """

    id: str
    correct: float
    hashes: Mapping[str, str]
    prompt: str
    expected: tuple[str, ...]
    options: tuple[str, ...] = ()
    answer: int = -1
    choice: int = -1
    scores: tuple[float, ...] = ()
    outcome: str | None = None
    prediction: str | None = None
    text: str | None = None
    category: str = ""
    cluster: str = ""
    fact: str = ""
    messages: tuple[Mapping[str, Any], ...] = ()
    bits_per_byte: float = math.nan
    score: float = math.nan
    further: tuple[LoggedItem | None, ...] = ()

    @property
    def margin(self) -> float:
        """Score of the right option less that of the best other one, NaN without scores."""
        if not self.scores:
            return math.nan
        return self.scores[self.answer] - max(s for i, s in enumerate(self.scores) if i != self.answer)

    @property
    def kind(self) -> str:
        """As which kind of item it is shown."""
        if not math.isnan(self.bits_per_byte):
            return Text.kind
        return (MultipleChoice if self.options else Generation).kind

    @staticmethod
    def lost(name: str) -> LoggedItem:
        """An item that was evaluated, of which the log has no more than the id."""
        return LoggedItem(name, math.nan, {}, NOT_IN_LOG, ())

    def unscored(self) -> LoggedItem:
        """The same question without an answer."""
        none: dict[str, Any] = {"choice": -1, "scores": (), "outcome": None, "prediction": None, "text": None}
        none |= {"bits_per_byte": math.nan, "score": math.nan}
        return replace(self, correct=math.nan, further=(None,) * len(self.further), **none)


@dataclass(frozen=True)
class Log:
    """One task of one model.

    Attributes:
        probe: The task's name as a probe may have it, with "_" for what it may not contain.
        how: What must be equal in two logs to compare them: the tool, the metric, the filter.
        source: File or directory, for error messages.
        few_shot: Few-shot examples, None if the log does not say.
        group: The task's group, "" if it has none.
        offers: The values that the user can choose from, by option name.
        variants: Names of the prompts that the items were asked in, the first of them first; none if there is one.
        named: Whether `probe` is the task's own name, and not just that of the file.
        counted: Whether the number of its items was checked against what the tool says that it evaluated.
        files: What it was read from.
    """

    probe: str
    how: Mapping[str, str]
    items: tuple[LoggedItem, ...]
    source: str
    few_shot: int | None = None
    group: str = ""
    offers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    variants: tuple[str, ...] = ()
    named: bool = True
    counted: bool = True
    files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", self.probe).strip("._-") or "task"
        name = name if len(name) <= 90 else f"{name[:81]}-{digest(name)[:8]}"
        if name == "all":  # the pool of several probes
            name = "all_"
        object.__setattr__(self, "probe", name if is_probe_name(name) else f"task-{name}")

    def snapshot(self, *, step: int = 0, fingerprint: str = "") -> Snapshot:
        """The answers at a step; of logs no `fingerprint` of a probe is known, and `match` decides what compares."""
        texts = any(item.kind == Text.kind for item in self.items)  # then those that were not measured are, too
        columns: dict[str, Any] = {
            name: [getattr(item, name) for item in self.items]
            for name in (
                *("correct", "choice", "margin", "prediction", "text", "scores", "answer"),
                *("category", "cluster", "fact", "score", "bits_per_byte"),
            )
        }
        return Snapshot(
            probe=self.probe,
            fingerprint=fingerprint,
            step=step,
            ids=np.array([item.id for item in self.items], object),
            outcome=[_outcome(item) for item in self.items],
            n_choices=np.array([len(item.options) or np.inf for item in self.items], float),
            kind=[Text.kind if texts else item.kind for item in self.items],
            ability=[Text.kind if texts else _ability(item, self.probe) for item in self.items],
            metadata={**self.how, "log": self.source, "few_shot": self.few_shot},
            further=tuple(
                _answers(name, [item.further[place] for item in self.items])
                for place, name in enumerate(self.variants[1:])
            ),
            **columns,
        )

    def to_probe(self) -> Probe:
        """The items as a probe, for the report."""
        task, texts = f"{self.how['tool']}:{self.probe}", any(item.kind == Text.kind for item in self.items)
        return Probe(self.probe, [document_of(item) if texts else item_of(item, task) for item in self.items])


def _answers(variant: str, items: Sequence[LoggedItem | None]) -> Answers:
    """The answers to a further prompt; None is an item that was not asked in it."""
    return Answers(
        fingerprint=variant,
        correct=[math.nan if item is None else item.correct for item in items],
        outcome=[None if item is None else _outcome(item) for item in items],
        choice=[-1 if item is None else item.choice for item in items],
        prediction=[None if item is None else item.prediction for item in items],
        asked=[item is not None for item in items],
    )


def _ability(item: LoggedItem, task: str) -> str:
    """What an item is about, as `ability_of` says of a probe's items."""
    if item.options or item.fact:
        return "knowledge"
    return "behaviour" if "ifeval" in task.lower() else "task"


def _outcome(item: LoggedItem) -> str | None:
    if math.isnan(item.correct):
        return None
    said = item.text if item.prediction is None else item.prediction
    empty = "unparsed" if said is not None and not said.strip() else "wrong"
    return "correct" if item.correct else item.outcome or empty


def listed(names: Sequence[str]) -> str:
    """Names for an error: each in a line, none of them long, and not more than can be read."""
    shown = [printable(name) if len(name) <= _LONG else quoted(name) for name in names[:_MANY]]
    return ", ".join(shown) + (f", ... ({len(names)})" if len(names) > _MANY else "") or "none"


def digest(value: Any) -> str:
    """sha256 of anything that JSON can hold."""
    try:
        text = json.dumps(value, sort_keys=True, default=str)
    except RecursionError:
        raise ValueError("a log has JSON that is nested too deep to be read") from None
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def task_and_time(file: Path) -> tuple[str, str]:
    """Task and time in a file's name, such as samples_<task>_<time>.jsonl; time "" if there is none."""
    stem = stem_of(file)
    found = re.fullmatch(r"(?:samples_|details_)?(.+?)(?:_(\d{4}-\d\d-\d\dT[\d.-]+))?", stem)
    return (found[1], found[2] or "") if found else (stem, "")


def by_id(rows: Sequence[LogRow], source: str, wanted: LogOptions) -> list[LogRow]:
    """Checks that the ids of rows are unique; with `allow_partial` an id that repeats stays once, without a score.

    Raises:
        ValueError: If there is no row, or an id stands twice.
    """
    if not rows:
        raise ValueError(f"{source} holds no items")
    count = Counter(row.id for row in rows)
    twice = [name for name, n in count.items() if n > 1]
    if twice:
        places = [row.where for row in rows if row.id == twice[0]]
        shown = ", ".join(places[:SHOWN]) + (", ..." if len(places) > SHOWN else "")
        more = f", and {len(twice) - 1} more ids" if len(twice) > 1 else ""
        which = f"id {quoted(twice[0])}" if wanted.texts else "an id"
        problem = f"{source}: {which} occurs {len(places)} times ({shown}){more}"
        if not wanted.allow_partial:
            raise ValueError(
                f"{problem}; items are joined by id. Remove the duplicates, or leave these items out: --allow-partial"
            )
        wanted.note(f"{problem}; left out")
    unique = {row.id: row if count[row.id] == 1 else replace(row, metrics={}) for row in rows}
    return list(unique.values())


def merge(group: str, logs: Sequence[Log], source: str) -> Log:
    """The tasks of a group as one log: each task is a category, and ids are ``task/id``."""
    logs = sorted(logs, key=lambda log: log.probe)
    how = {}
    for key in logs[0].how:
        values = [log.how[key] for log in logs]
        same = len(set(values)) == 1
        how[key] = values[0] if same else ", ".join(f"{log.probe}={value}" for log, value in zip(logs, values))
    few = {log.few_shot for log in logs}
    metrics = dict.fromkeys(name for log in logs for name in log.offers.get("metric", ()))
    items = [replace(item, id=f"{log.probe}/{item.id}", category=log.probe) for log in logs for item in log.items]
    return Log(
        group,
        how,
        tuple(items),
        source,
        few_shot=few.pop() if len(few) == 1 else None,
        offers={"metric": list(metrics)} if how["metric"] in metrics else {},
        counted=all(log.counted for log in logs),
        files=tuple(file for log in logs for file in log.files),
    )
