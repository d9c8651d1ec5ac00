"""The task's own metrics over training: loss, evaluation loss, reward, as the trainer logged them, in `task.parquet`.

They stand beside what was forgotten: what was learned for it. Nothing here is computed from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from forget_callback.probes.quoting import printable

FILE = "task.parquet"
SCHEMA = pa.schema(
    {
        "step": pa.int64(),
        "samples_seen": pa.float64(),
        "tokens_seen": pa.float64(),
        "metric": pa.string(),
        "value": pa.float64(),
    }
)
EVALUATION = "eval_"
# Of the rows that trainers log in training: what is learned, and not how (learning_rate, grad_norm, kl, lengths).
_LEARNED = re.compile(r"(?:^|[_/])(?:loss|reward)$|accurac")
# Of evaluations, whose other metrics are the user's: words of cost and of how texts were sampled.
_ASIDE = re.compile(
    r"(?:^|[_/])(?:runtime|second|time|mem|tokens|epoch|entropy|length|completions|ratio|kl|std|logps|logits)(?:$|[_/])"
)


@dataclass(frozen=True)
class TaskCurve:
    """One metric over training, oldest first.

    Attributes:
        steps: (n,) optimizer steps.
        samples_seen: (n,), NaN where not known.
        tokens_seen: (n,), likewise.
        values: (n,) as logged.
    """

    metric: str
    steps: np.ndarray
    samples_seen: np.ndarray
    tokens_seen: np.ndarray
    values: np.ndarray

    def at(self, steps: Sequence[int]) -> list[float]:
        """The last value that was logged up to each of these steps and after the one before it, NaN if none was."""
        ends = np.searchsorted(self.steps, steps, side="right")
        begins = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        return [float(self.values[end - 1]) if end > begin else float("nan") for begin, end in zip(begins, ends)]


def is_task_metric(name: str, *, best: str | None = None) -> bool:
    """Whether something that a trainer logs tells how well the task is learned.

    Args:
        name: As it is logged.
        best: The metric by which the best checkpoint is chosen, which does so whatever its name.

    >>> [name for name in ("loss", "grad_norm", "eval_loss", "eval_f1", "eval_runtime", "train_loss", "reward_std")
    ...  if is_task_metric(name)]
    ['loss', 'eval_loss', 'eval_f1']
    """
    if name == best:
        return True
    if name.startswith("train_"):  # of the whole training, logged at its end
        return False
    if name.startswith(EVALUATION):
        return _ASIDE.search(name) is None
    return _LEARNED.search(name) is not None


def main_metric(names: Iterable[str], *, best: str | None = None) -> str | None:
    """The metric to show: reward, the one by which the best checkpoint is chosen, evaluation loss, loss, any other."""
    known = list(dict.fromkeys(names))
    losses = [name for name in known if name.startswith(EVALUATION) and name.endswith("_loss")]
    return next((name for name in ("reward", best, "eval_loss", *losses, "loss", *known) if name in known), None)


def read_table(path: Path) -> pa.Table:
    """What is in a `task.parquet`, in the order in which it was logged; nothing if there is no such file.

    Raises:
        ValueError: If the file is damaged.
    """
    if not path.is_file():
        return SCHEMA.empty_table()
    try:
        # Not by the reader of datasets, which looks for partitions in the path.
        with path.open("rb") as file:  # pyarrow itself opens no path that is not UTF-8
            return parquet.ParquetFile(file).read(columns=SCHEMA.names).select(SCHEMA.names).cast(SCHEMA, safe=True)
    except (OSError, ValueError, KeyError) as error:  # what pyarrow raises is one of them
        raise ValueError(
            f"{path} is damaged: {printable(str(error))}; restore it from a copy, or delete it: what was forgotten is "
            "in other files"
        ) from None


def curves_of(table: pa.Table) -> dict[str, TaskCurve]:
    """The curves in a table of `SCHEMA`, by metric, in the order in which they were first logged."""
    column = {name: table[name].to_numpy() for name in SCHEMA.names}
    names = column.pop("metric")
    found = {}
    for name in dict.fromkeys(names.tolist()):
        own = {key: values[names == name] for key, values in column.items()}
        order = np.argsort(own["step"], kind="stable")
        steps, samples, tokens, values = (own[key][order] for key in ("step", "samples_seen", "tokens_seen", "value"))
        found[name] = TaskCurve(name, steps, samples, tokens, values)
    return found


def beside(curves: Mapping[str, TaskCurve], steps: Sequence[int], *, best: str | None = None) -> list[dict[str, float]]:
    """What stands beside the snapshots of these steps: at most one metric of training and one of evaluations.

    Of training the last one logged since the snapshot before, of evaluations only one of the same step.
    """
    training = main_metric([name for name in curves if not name.startswith(EVALUATION)], best=best)
    evaluation = main_metric([name for name in curves if name.startswith(EVALUATION)], best=best)
    found: list[dict[str, float]] = [{} for _ in steps]
    for row, value in zip(found, [] if training is None else curves[training].at(steps)):
        row[str(training)] = value
    for row, step in zip(found, [] if evaluation is None else steps):
        curve = curves[str(evaluation)]
        for value in curve.values[curve.steps == step][-1:]:
            row[str(evaluation)] = float(value)
    return [{name: value for name, value in row.items() if np.isfinite(value)} for row in found]
