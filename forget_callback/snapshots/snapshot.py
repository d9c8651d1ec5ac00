"""A snapshot: what one model answered on every item of one probe at one moment, one row an item.

Unscored items are NaN (`correct`) and None (`outcome`), never 0. Snapshots are joined by item id. Reads and writes one
Parquet file; where files belong and how they are written atomically is the store's concern.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from forget_callback.probes.probe import Probe

# A vector as a caller gives it: numbers, or texts of which some may be None.
Column: TypeAlias = ArrayLike | Sequence[str | None]

OUTCOMES = ("correct", "wrong", "unparsed", "truncated")

# Per-item columns: numpy dtype, and the value where a caller gives none.
_COLUMNS: dict[str, tuple[type, Any]] = {
    "ids": (object, None),
    "correct": (float, np.nan),
    "outcome": (object, None),
    "choice": (int, -1),
    "margin": (float, np.nan),
    "category": (object, ""),
    "prediction": (object, None),
    "text": (object, None),
    "scores": (object, ()),
    "n_choices": (float, np.inf),
    "answer": (int, -1),
}
_NOT_GIVEN: Any = None  # a default is filled in, so no reader sees None
_TEXT = ("id", "category", "outcome", "prediction", "text")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One model on one probe. All vectors are ``(n_items,)``; only the first five fields are required.

    Attributes:
        probe: Name of the probe.
        fingerprint: The probe's fingerprint: only snapshots with equal ones compare.
        step: Optimizer steps so far.
        ids: Item ids, unique.
        correct: 1 right, 0 wrong, NaN not scored.
        outcome: One of `OUTCOMES`, None where not scored; follows from `correct` if not given.
        choice: Index of the chosen option, -1 if there is none.
        margin: How far the right answer is ahead of the best wrong one in nats; negative where wrong, NaN if unknown.
        category: Category of each item, "" if it has none.
        prediction: The answer that was given, None if unknown.
        text: The whole generated text of generation items, else None.
        scores: Normalised log-probability of each option, a vector an item, empty where there are no options.
        n_choices: Options of each item, infinite where open-ended.
        answer: Index of the right option, -1 where open-ended.
        samples_seen: Training samples so far, NaN if unknown.
        tokens_seen: Training tokens so far, NaN if unknown.
        metadata: How it was measured; anything that JSON can hold.

    Raises:
        ValueError: If vectors differ in length, an id repeats, or an outcome contradicts `correct`.
    """

    probe: str
    fingerprint: str
    step: int
    ids: NDArray[Any]
    correct: NDArray[Any]
    outcome: NDArray[Any] = _NOT_GIVEN
    choice: NDArray[Any] = _NOT_GIVEN
    margin: NDArray[Any] = _NOT_GIVEN
    category: NDArray[Any] = _NOT_GIVEN
    prediction: NDArray[Any] = _NOT_GIVEN
    text: NDArray[Any] = _NOT_GIVEN
    scores: NDArray[Any] = _NOT_GIVEN
    n_choices: NDArray[Any] = _NOT_GIVEN
    answer: NDArray[Any] = _NOT_GIVEN
    samples_seen: float = float("nan")
    tokens_seen: float = float("nan")
    metadata: Mapping[str, Any] = field(default_factory=dict)

    if TYPE_CHECKING:  # what callers may give for the vectors above: any sequence

        def __init__(
            self,
            probe: str,
            fingerprint: str,
            step: int,
            ids: Column,
            correct: Column,
            outcome: Column = ...,
            choice: Column = ...,
            margin: Column = ...,
            category: Column = ...,
            prediction: Column = ...,
            text: Column = ...,
            scores: Column = ...,
            n_choices: Column = ...,
            answer: Column = ...,
            samples_seen: float = ...,
            tokens_seen: float = ...,
            metadata: Mapping[str, Any] = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        n = len(self.ids)
        for name, (dtype, default) in _COLUMNS.items():
            object.__setattr__(self, name, _vector(name, getattr(self, name), n, dtype, default))
        if not np.isin(self.correct[~np.isnan(self.correct)], (0.0, 1.0)).all():
            raise ValueError("correct must hold 1, 0 or NaN (not scored) only")
        given = np.fromiter((o is not None for o in self.outcome), bool, n)
        if not given.any():
            given = ~np.isnan(self.correct)
            derived = np.full(n, None, object)
            derived[given] = np.where(self.correct[given] == 1, "correct", "wrong")
            object.__setattr__(self, "outcome", derived)
        if len(set(map(str, self.ids))) < n:
            unique, count = np.unique(self.ids.astype(str), return_counts=True)
            raise ValueError(f"ids must be unique, got {str(unique[count > 1][0])!r} {count.max()} times")
        wrong = np.fromiter((o is None or o in OUTCOMES for o in self.outcome), bool, n)
        if not wrong.all():
            raise ValueError(f"outcome must be one of {OUTCOMES} or None, got {self.outcome[~wrong][0]!r}")
        bad = (given == np.isnan(self.correct)) | ((self.outcome == "correct") != (self.correct == 1))
        if bad.any():
            i = int(np.argmax(bad))
            raise ValueError(
                f"item {self.ids[i]!r}: outcome {self.outcome[i]!r} contradicts correct {self.correct[i]}; "
                "1 is 'correct', 0 is one of the others, NaN is None"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def accuracy(self) -> float:
        """Share of right answers among the scored items, NaN if none was scored."""
        scored = self.correct[~np.isnan(self.correct)]
        return float(scored.mean()) if len(scored) else float("nan")

    def select(self, rows: NDArray[Any]) -> Snapshot:
        """The items at `rows` (a mask or indices), in that order."""
        return _changed(self, **{name: getattr(self, name)[rows] for name in _COLUMNS})

    def at(self, step: int, *, samples_seen: float = float("nan"), tokens_seen: float = float("nan")) -> Snapshot:
        """The same answers, of a model at this step of its training."""
        return _changed(self, step=step, samples_seen=samples_seen, tokens_seen=tokens_seen)

    def with_metadata(self, **metadata: Any) -> Snapshot:
        """The same with more in its metadata."""
        return _changed(self, metadata={**self.metadata, **metadata})

    def to_pandas(self) -> pd.DataFrame:
        """A row an item, with the columns of the file; `attrs` holds what is not per item.

        Columns: id, category, correct, outcome, choice, margin, prediction, text, scores, k (options, missing where
        open-ended) and answer (index of the right option).
        """
        finite = np.isfinite(self.n_choices)
        columns = {name: getattr(self, name) for name in _COLUMNS if name not in ("ids", "n_choices")}
        k = pd.arrays.IntegerArray(np.where(finite, self.n_choices, 0).astype(np.int64), ~finite)
        frame = pd.DataFrame({"id": self.ids, **columns, "k": k})
        frame = frame.astype(dict.fromkeys(_TEXT, "string"))
        frame.attrs = {
            "probe": self.probe,
            "fingerprint": self.fingerprint,
            "step": self.step,
            "samples_seen": None if np.isnan(self.samples_seen) else self.samples_seen,
            "tokens_seen": None if np.isnan(self.tokens_seen) else self.tokens_seen,
            "metadata": dict(self.metadata),
        }
        first = ["id", "category", "correct", "outcome", "choice", "margin", "prediction"]
        return frame[first + [name for name in frame.columns if name not in first]]

    def save(self, path: str | PathLike[str]) -> None:
        """Writes one Parquet file; what is not per item goes into the file's own metadata."""
        self.to_pandas().to_parquet(path, index=False)

    @staticmethod
    def load(path: str | PathLike[str]) -> Snapshot:
        """Reads what `save` wrote.

        Raises:
            ValueError: If the file is not one of our snapshots.
        """
        frame = pd.read_parquet(path)
        if "fingerprint" not in frame.attrs or "correct" not in frame:
            raise ValueError(f"{path} is not a snapshot of forget_callback: expected what Snapshot.save wrote")
        frame = frame.astype(dict.fromkeys(_TEXT, object))
        columns: dict[str, Any] = {name: frame[name].to_numpy() for name in _COLUMNS if name in frame}
        for name in ("outcome", "prediction", "text"):
            columns[name] = np.array([None if pd.isna(v) else v for v in columns[name]], object)
        attrs: dict[str, Any] = {str(name): value for name, value in frame.attrs.items()}
        for name in ("samples_seen", "tokens_seen"):
            attrs[name] = float("nan") if attrs[name] is None else attrs[name]
        k = frame["k"].to_numpy(dtype=float, na_value=np.inf)
        return Snapshot(ids=frame["id"].to_numpy(), n_choices=k, **columns, **attrs)


def _vector(name: str, value: ArrayLike | None, n: int, dtype: type, default: Any) -> NDArray[Any]:
    """`value` as a vector of `n`; object vectors are filled one by one, for numpy would stack equal-length entries."""
    if value is None:
        value = [default] * n
    if dtype is not object:
        vector: NDArray[Any] = np.asarray(value, dtype)
    else:
        entries: Sequence[Any] = value if isinstance(value, (list, tuple)) else list(np.asarray(value, object))
        if name == "scores":
            entries = [np.asarray(entry, float) for entry in entries]
        vector = np.fromiter(entries, object, len(entries))
    if vector.shape != (n,):
        raise ValueError(f"{name} must have one value per id, shape ({n},), got {vector.shape}")
    return vector


def complete(snapshot: Snapshot, probe: Probe) -> Snapshot:
    """The snapshot in the probe's item order, with category, options and right option taken from the probe.

    Raises:
        ValueError: If it is of another probe: name, fingerprint or set of ids differ.
    """
    if (snapshot.probe, snapshot.fingerprint) != (probe.name, probe.fingerprint):
        raise ValueError(
            f"snapshot of probe {snapshot.probe!r} ({snapshot.fingerprint[:12]}, {len(snapshot)} items) where probe "
            f"{probe.name!r} ({probe.fingerprint[:12]}, {len(probe)} items) was expected; use the probe of that run, "
            "or another baseline"
        )
    category = np.array([item.category for item in probe.items], object)
    ordered = _ordered(snapshot, np.array(probe.ids, object), f"probe {probe.name!r}")
    return _changed(ordered, category=category, n_choices=probe.n_choices, answer=probe.answer)


def _changed(snapshot: Snapshot, **fields: Any) -> Snapshot:
    """A copy with other fields, which come from what was validated before and are not validated again."""
    found = copy(snapshot)
    for name, value in fields.items():
        object.__setattr__(found, name, value)
    return found


def _ordered(snapshot: Snapshot, ids: NDArray[Any], owner: str) -> Snapshot:
    """The snapshot with its items in the order of `ids`.

    Raises:
        ValueError: If the two sets of ids differ; shows what is missing on each side.
    """
    if np.array_equal(snapshot.ids, ids):
        return snapshot
    position = dict(zip(snapshot.ids, range(len(snapshot))))
    rows = [position.get(name, -1) for name in ids]
    if len(rows) != len(position) or -1 in rows:
        missing = [name for name in ids if name not in position]
        extra = set(position).difference(ids)
        raise ValueError(
            f"items do not match: the snapshot of step {snapshot.step} lacks {len(missing)} of {owner} "
            f"{missing[:3]} and has {len(extra)} more {sorted(extra)[:3]}"
        )
    return snapshot.select(np.array(rows))


def align(before: Snapshot, after: Snapshot) -> Snapshot:
    """`after` with its items in the order of `before`, joined by id.

    Raises:
        ValueError: If the two are of different probes or hold different items.
    """
    if before.fingerprint != after.fingerprint:
        raise ValueError(
            f"snapshots of different probes do not compare: {before.probe!r} at step {before.step} has fingerprint "
            f"{before.fingerprint[:12]} and {len(before)} items, {after.probe!r} at step {after.step} has "
            f"{after.fingerprint[:12]} and {len(after)}; score both models on the same items, settings and chat "
            "template: use the probe of that run, or another baseline"
        )
    return _ordered(after, before.ids, f"the snapshot of step {before.step}")


def scoring_seconds(snapshots: Iterable[Snapshot]) -> float:
    """Time that scoring them took together, NaN if none says."""
    known = [float(snapshot.metadata["seconds"]) for snapshot in snapshots if "seconds" in snapshot.metadata]
    return sum(known) if known else float("nan")


def pool(snapshots: Sequence[Snapshot]) -> Snapshot:
    """All items of several probes at one step as one snapshot, ids prefixed by the probe's name."""
    first = snapshots[0]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(s, name) for s in snapshots]) for name in _COLUMNS if name != "ids"
    }
    ids = [f"{s.probe}/{name}" for s in snapshots for name in s.ids]
    fingerprint = "+".join(s.fingerprint for s in snapshots)
    return _changed(first, probe="all", fingerprint=fingerprint, ids=np.array(ids, object), metadata={}, **columns)
