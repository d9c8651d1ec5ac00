"""What the readers of all tools make: a log, one item a row, with what each item was asked as hashes.

A reader finds the rows, `by_id` and `pick_metric` say whether they can be used. Knows nothing of any tool's files.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from forget_callback.probes.items import Generation, Item, MultipleChoice
from forget_callback.probes.probe import Probe
from forget_callback.snapshots.snapshot import Snapshot


@dataclass(frozen=True)
class Wanted:
    """What the user chose where a log leaves a choice.

    Attributes:
        filter: Of lm-eval, where answers were read in several ways.
        metric: What decides right and wrong; of inspect, the scorer.
        epoch: Of inspect, where every sample was asked several times.
        n_choices: Options of items whose right answer is a letter, where the log does not have the options.
        allow_partial: Whether items that cannot be compared may be left out.
        note: Takes what the user should know, a line each.
    """

    filter: str | None = None
    metric: str | None = None
    epoch: int | None = None
    n_choices: int | None = None
    allow_partial: bool = False
    note: Callable[[str], None] = print


@dataclass(frozen=True)
class Row:
    """A row of a log as the tool wrote it: the item's id, where it stands, its metrics, and all of it."""

    id: str
    where: str
    metrics: Mapping[str, Any]
    raw: Any


@dataclass(frozen=True)
class Logged:
    """One item of a log.

    Attributes:
        asked: Hashes of what makes it the same item, by what they are of, such as "prompt"; the cause stands first.
        expected: The right answers as text.
        options: Texts of the options, none where open-ended; then `answer` is the right one's index.
    """

    id: str
    correct: float
    asked: Mapping[str, str]
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

    @property
    def margin(self) -> float:
        """Lead of the right option over the best other one, NaN where there are none."""
        if not self.scores:
            return math.nan
        return self.scores[self.answer] - max(s for i, s in enumerate(self.scores) if i != self.answer)


@dataclass(frozen=True)
class Log:
    """One task of one model.

    Attributes:
        probe: The probe's name.
        how: What must be equal in two logs that compare: the tool, the metric, the filter.
        source: Of which file or directory errors speak.
        few_shot: Examples before each question, None if the log does not say.
        group: The task's group, "" if it has none.
        offers: What the user could have chosen instead, by the name of the option.
    """

    probe: str
    how: Mapping[str, str]
    items: tuple[Logged, ...]
    source: str
    few_shot: int | None = None
    group: str = ""
    offers: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def select(self, ids: Iterable[str]) -> Log:
        """The items with these ids, in this order."""
        of = {item.id: item for item in self.items}
        return replace(self, items=tuple(of[name] for name in ids))

    @property
    def fingerprint(self) -> str:
        """sha256 of all that makes two logs comparable: task, tool, metric, filter and what every item was asked."""
        items = sorted((item.id, sorted(item.asked.items())) for item in self.items)
        return digest([self.probe, sorted(self.how.items()), items])

    def snapshot(self, *, step: int = 0, fingerprint: str | None = None) -> Snapshot:
        """The answers.

        Args:
            step: Of the checkpoint that was asked.
            fingerprint: Of the probe to which they belong, the log's own by default.
        """
        columns: dict[str, Any] = {
            name: [getattr(item, name) for item in self.items]
            for name in ("correct", "choice", "margin", "category", "prediction", "text", "scores", "answer")
        }
        return Snapshot(
            probe=self.probe,
            fingerprint=self.fingerprint if fingerprint is None else fingerprint,
            step=step,
            ids=np.array([item.id for item in self.items], object),
            outcome=[_outcome(item) for item in self.items],
            n_choices=np.array([len(item.options) or np.inf for item in self.items], float),
            metadata={**self.how, "log": self.source, "few_shot": self.few_shot},
            **columns,
        )

    def to_probe(self) -> Probe:
        """The items as a probe, for a page that shows them."""
        return Probe(self.probe, [_item(item, f"{self.how['tool']}:{self.probe}") for item in self.items])


def _outcome(item: Logged) -> str | None:
    if math.isnan(item.correct):
        return None
    return "correct" if item.correct else item.outcome or "wrong"


def _item(item: Logged, task: str) -> Item:
    if not item.options:
        answers = tuple(text for text in item.expected if text.strip()) or ("(not in the log)",)
        prompt = item.prompt if item.prompt.strip() else "(not in the log)"
        return Generation(item.id, prompt, answers, "task", item.category, task=task)
    right = item.options[item.answer].strip()
    texts = [
        f"{text} (option {i + 1})" if not text.strip() or (i != item.answer and text.strip() == right) else text
        for i, text in enumerate(item.options)  # benchmarks have options that equal the right one
    ]
    return MultipleChoice(item.id, item.prompt, texts, item.answer, item.category)


def digest(value: Any) -> str:
    """sha256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode("ascii")).hexdigest()


def probe_name(task: str) -> str:
    """A task's name with what a probe's name may not hold replaced by "_"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", task).lstrip("._-") or "task"


def by_id(rows: Sequence[Row], source: str, wanted: Wanted) -> list[Row]:
    """The rows, whose ids must be unique; with `allow_partial` all rows of a repeated id are left out.

    Raises:
        ValueError: If there is no row, or an id stands twice.
    """
    if not rows:
        raise ValueError(f"{source} holds no items")
    count = Counter(row.id for row in rows)
    twice = [name for name, n in count.items() if n > 1]
    if not twice:
        return list(rows)
    places = ", ".join(row.where for row in rows if row.id == twice[0])
    more = f", and {len(twice) - 1} more ids" if len(twice) > 1 else ""
    said = f"{source}: id {twice[0]!r} stands {count[twice[0]]} times ({places}){more}"
    if not wanted.allow_partial:
        raise ValueError(f"{said}; items are joined by id. Remove the copies, or leave such items out: --allow-partial")
    wanted.note(f"{said}; left out")
    return [row for row in rows if count[row.id] == 1]


def as_number(value: Any) -> float:
    """A metric's value as a number, NaN where there is none; infinite where it is not a number."""
    if value is None:
        return math.nan
    return float(value) if isinstance(value, (bool, int, float)) else math.inf


def pick_metric(rows: Sequence[Row], source: str, wanted: Wanted, preferred: Sequence[str] = ()) -> str:
    """The metric that decides right and wrong: the one that the user wants, else the first that is 0 or 1 everywhere.

    Args:
        preferred: Those that are asked first, in this order; the others follow in the log's.

    Raises:
        ValueError: If there is none, or the one that the user wants is not 0 or 1; shows what there is.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    values = {name: np.array([as_number(row.metrics.get(name)) for row in rows]) for name in names}
    usable = [name for name in names if np.isin(values[name][~np.isnan(values[name])], (0.0, 1.0)).all()]
    usable = [name for name in usable if not np.isnan(values[name]).all()]
    if wanted.metric in usable:
        return str(wanted.metric)
    if wanted.metric in names:
        odd = next(
            row for row, v in zip(rows, values[wanted.metric or ""]) if not math.isnan(v) and v not in (0.0, 1.0)
        )
        value = odd.metrics[wanted.metric or ""]
        raise ValueError(
            f"{source}, {odd.where}: metric {wanted.metric!r} is {value!r}, not 0 or 1, so it does not say what is "
            f"right; 0 or 1 are {', '.join(usable) or 'none'}"
        )
    if not usable:
        raise ValueError(f"{source}: no metric is 0 or 1 for all items, so none says what is right; has {names}")
    return next((name for name in preferred if name in usable), usable[0])


def merge(group: str, logs: Sequence[Log], source: str) -> Log:
    """The tasks of a group as one log: a task is a category, and ids are ``task/id``."""
    logs = sorted(logs, key=lambda log: log.probe)
    how = {}
    for key in logs[0].how:
        values = [log.how[key] for log in logs]
        same = len(set(values)) == 1
        how[key] = values[0] if same else ", ".join(f"{log.probe}={value}" for log, value in zip(logs, values))
    few = {log.few_shot for log in logs}
    items = [replace(item, id=f"{log.probe}/{item.id}", category=log.probe) for log in logs for item in log.items]
    return Log(probe_name(group), how, tuple(items), source, few.pop() if len(few) == 1 else None)


def newest(path: Path, found: Mapping[Path, tuple[Path, str, str]], wanted: Wanted) -> list[Path]:
    """The files to read, in the order of their tasks; notes which ones are passed over.

    Args:
        path: Where they were found.
        found: Of each file the directory of its model, its task, and its time as text that sorts.

    Raises:
        ValueError: If they are of several models.
    """
    models = sorted({model for model, _, _ in found.values()})
    if len(models) > 1:
        raise ValueError(f"{path} holds logs of {len(models)} models: {', '.join(m.name for m in models)}; name one")
    chosen: dict[str, Path] = {}
    for file, (_, task, _) in sorted(found.items(), key=lambda entry: entry[1][2]):
        if task in chosen:
            wanted.note(f"{task}: {file.name} is newer than {chosen[task].name} and taken")
        chosen[task] = file
    return [chosen[task] for task in sorted(chosen)]
