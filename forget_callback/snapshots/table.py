"""A snapshot as a table, a row an item, and back: the columns that are on disk and what else a file holds.

The further variants stand beside the first prompts, as `correct_2`, `outcome_2`, ... Knows nothing of where files are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forget_callback.probes.quoting import quoted
from forget_callback.snapshots.answers import FURTHER, PER_ITEM, Answers

if TYPE_CHECKING:
    from forget_callback.snapshots.snapshot import Snapshot

_FIRST = ["id", "category", "correct", "outcome", "choice", "margin", "prediction"]
_MAY_BE_NONE = {"outcome", "prediction", "text"}
_TEXT = {"id", "category", "cluster", "fact", "kind", "ability", *_MAY_BE_NONE}


def table_of(snapshot: Snapshot) -> pd.DataFrame:
    """The table of `Snapshot.to_pandas`; `attrs` holds what is not per item, as JSON can."""
    finite = np.isfinite(snapshot.n_choices)
    columns = {name: getattr(snapshot, name) for name in PER_ITEM if name not in ("ids", "n_choices")}
    columns = {"id": snapshot.ids, **columns}
    columns["k"] = pd.arrays.IntegerArray(np.where(finite, snapshot.n_choices, 0).astype(np.int64), ~finite)
    text = dict.fromkeys(_TEXT, "string")
    for number, answers in enumerate(snapshot.further, 2):
        columns |= {f"{name}_{number}": getattr(answers, name) for name in FURTHER}
        text |= {f"{name}_{number}": "string" for name in _MAY_BE_NONE}
    frame = pd.DataFrame(columns).astype(text)
    frame.attrs = {
        "probe": snapshot.probe,
        "fingerprint": snapshot.fingerprint,
        "step": snapshot.step,
        "samples_seen": None if np.isnan(snapshot.samples_seen) else snapshot.samples_seen,
        "tokens_seen": None if np.isnan(snapshot.tokens_seen) else snapshot.tokens_seen,
        "metadata": dict(snapshot.metadata),
        "variants": [answers.fingerprint for answers in snapshot.further],
    }
    return frame[_FIRST + [name for name in frame.columns if name not in _FIRST]]


def fields_of(frame: pd.DataFrame) -> dict[str, Any]:
    """The fields of the snapshot that a table of `table_of` is of, read from a file.

    Raises:
        ValueError: If what is not per item is not of its type; a KeyError if it or a column is missing.
    """
    attrs: dict[str, Any] = {str(name): value for name, value in frame.attrs.items()}
    for name, kind in (("probe", str), ("fingerprint", str), ("step", int), ("metadata", dict), ("variants", list)):
        if not isinstance(attrs[name], kind):
            raise ValueError(f"its {name!r} must be of type {kind.__name__}, got {quoted(attrs[name])}")
    for name in ("samples_seen", "tokens_seen"):
        attrs[name] = float("nan") if attrs[name] is None else attrs[name]
    further = tuple(
        Answers(fingerprint, **{name: _column(frame, name, f"_{number}") for name in FURTHER})
        for number, fingerprint in enumerate(attrs.pop("variants"), 2)
    )
    columns = {name: _column(frame, name) for name in PER_ITEM if name not in ("ids", "n_choices")}
    k = frame["k"].to_numpy(dtype=float, na_value=np.inf)
    return {"ids": _column(frame, "id"), "n_choices": k, "further": further, **columns, **attrs}


def _column(frame: pd.DataFrame, name: str, suffix: str = "") -> NDArray[Any]:
    """A column as the snapshot holds it: texts as Python's, None where there is none."""
    values = frame[name + suffix]
    if name in _MAY_BE_NONE:
        return np.array([None if pd.isna(value) else value for value in values], object)
    return values.to_numpy(dtype=object) if name in _TEXT else values.to_numpy()
