"""What is kept of a run of the study: one small JSON file with every number and every item's answers.

A table is {"columns": [...], "rows": [[...], ...]}, numbers to six significant digits, null where there is none.
Answers of a probe are texts with a character an item, in the order of its ids, a text for each evaluation and prompt:
"1" right, "0" wrong, "-" not scored; and of choices the option that was chosen. The ids are in items/, a file for each
fingerprint of a probe.
"""

import json
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from forget_callback import ForgetCallback, Snapshot
from forget_callback.runs.history import History
from forget_callback.runs.rows import table_of
from forget_callback.tools.dial import turn_dial

PACKAGES = ("forget-callback", "torch", "transformers", "trl", "peft", "numpy")
OF_CATEGORIES = (
    *("step", "probe", "category", "n", "accuracy_after", "forgetting", "backward_transfer"),
    *("knowledge_lost", "knowledge_gained", "bits_per_byte_before", "bits_per_byte_change"),
)
SHARES = (0.25, 0.5, 0.75)
CONFLICT_SAMPLES, UNLIKELY, SURE = 32, 0.05, 1.0


def record(callback: ForgetCallback, trainer: Any) -> dict[str, Any]:
    """All that a run measured."""
    monitor = callback.monitor
    assert monitor is not None
    store = monitor.store
    snapshots = {
        probe.name: [store.read(probe.name, step) for step in store.steps(probe.name)] for probe in store.probes()
    }
    names = ("loss", "reward", "entropy", "mean_token_accuracy")
    logged = [{key: row[key] for key in ("step", *names) if key in row} for row in trainer.state.log_history]
    return {
        **tables_of(callback.history),
        "items": {name: answers(own) for name, own in snapshots.items()},
        "training": as_table(pd.DataFrame([row for row in logged if len(row) > 1])),
        "probe_seconds": round(monitor.probe_seconds[0], 1),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "threads": torch.get_num_threads(),
    }


def turned(before: str, after: str, callback: ForgetCallback) -> dict[str, Any]:
    """The dial of a run: the same tables, in which a step is a share of the fine-tuning in percent."""
    assert callback.monitor is not None
    own = {probe.name: probe for probe in callback.monitor.store.probes()}
    task = own.pop("task")
    points = turn_dial(before, after, list(own.values()), task, shares=SHARES)
    history = History()
    for point in points:
        history.append([one.at(round(100 * point.share)) for one in (*point.probes, point.task)])
    return tables_of(table_of(history.rows))


def tables_of(history: pd.DataFrame) -> dict[str, Any]:
    """Every number of whole probes, and the main ones of categories."""
    whole = history["category"] == ""
    return {
        "history": as_table(history[whole].drop(columns="category")),
        "categories": as_table(history.loc[~whole, [*OF_CATEGORIES]]),
    }


def as_table(frame: pd.DataFrame) -> dict[str, Any]:
    """A frame as JSON, without the columns that are empty."""
    frame = frame.dropna(axis="columns", how="all")
    rows = [[_plain(value) for value in row] for row in frame.astype(object).itertuples(index=False)]
    return {"columns": list(frame.columns), "rows": rows}


def frame_of(table: dict[str, Any]) -> pd.DataFrame:
    """The frame of a table."""
    return pd.DataFrame(table["rows"], columns=table["columns"])


def answers(snapshots: list[Snapshot]) -> dict[str, Any]:
    """Every item's answers in all evaluations."""
    first, found = snapshots[0], {}
    for number in range(1, first.n_variants + 1):
        end = "" if number == 1 else f"_{number}"
        found[f"correct{end}"] = [_digits(getattr(one, f"correct{end}")) for one in snapshots]
        if (first.n_choices <= 10).any():
            found[f"choice{end}"] = [_digits(getattr(one, f"choice{end}")) for one in snapshots]
    return {"fingerprint": first.fingerprint, **found}


def write_ids(out: Path, callback: ForgetCallback) -> None:
    """The ids of all items, in the order in which runs keep their answers."""
    assert callback.monitor is not None
    store = callback.monitor.store
    for name in (probe.name for probe in store.probes()):
        first = store.read(name, store.steps(name)[0])
        whole(out / "items" / f"{name}-{first.fingerprint[:12]}.json", list(map(str, first.ids)))


def portable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without the directories of this machine."""
    found: dict[str, Any] = json.loads(re.sub(r'[^" ,:]*/', "", json.dumps(settings)))
    return found


def confident_conflicts(trainer: Any) -> dict[str, float]:
    """Share of the training tokens on which the model is sure and the data says otherwise (arXiv 2601.02151).

    A token counts where the model's next-token distribution has less than 1 nat of entropy and gives the data's token
    less than 5%; read before training, on the tokens that have a loss in 32 training samples.
    """
    rows = [trainer.train_dataset[place] for place in range(min(CONFLICT_SAMPLES, len(trainer.train_dataset)))]
    sure, tokens = 0, 0
    for start in range(0, len(rows), 8):
        batch = {
            key: value.to(trainer.model.device) for key, value in trainer.data_collator(rows[start : start + 8]).items()
        }
        labels = batch.pop("labels")[:, 1:]
        with torch.no_grad():
            logits = trainer.model(**batch).logits[:, :-1][labels != -100].float()
        log_probabilities = logits.log_softmax(-1)
        entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
        given = log_probabilities.gather(-1, labels[labels != -100][:, None])[:, 0].exp()
        sure += int(((entropy < SURE) & (given < UNLIKELY)).sum())
        tokens += len(given)
    return {"share": sure / tokens, "tokens": tokens}


def whole(path: Path, value: Any) -> None:
    """A file of JSON, whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(value) + "\n", encoding="utf-8")
    part.replace(path)


def read_run(path: Path) -> dict[str, Any]:
    """A run's file."""
    run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return run


def _digits(values: Any) -> str:
    return "".join("-" if np.isnan(value) or value < 0 else f"{value:.0f}" for value in np.asarray(values, float))


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if value is None or not np.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else float(f"{value:.6g}")
