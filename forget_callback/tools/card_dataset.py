"""A run's snapshots as a dataset folder that `datasets` loads and the hub shows: Parquet files and a card.

Under "metrics" it holds what was right and wrong, and no prompt, answer or prediction: items are numbered, because an
id may be a text, and the option that was chosen is an answer. Under "all" these are in it, with the items and the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from pyarrow import parquet

from forget_callback.probes.conversation import asked as asked_text
from forget_callback.probes.items import MultipleChoice, accepted
from forget_callback.probes.jsonl import dump_items
from forget_callback.probes.plurals import counted
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import code, markdown
from forget_callback.probes.records import item_record
from forget_callback.report import write_report
from forget_callback.runs.files import write_text, write_whole
from forget_callback.runs.store import Store
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.joined import complete
from forget_callback.snapshots.snapshot import Snapshot
from forget_callback.tools.card import Passport
from forget_callback.tools.card_commands import HOME
from forget_callback.tools.model_card import check_dataset_card

TEXTS = ("items.parquet", "report.html", "probes/*.jsonl")  # what only "all" has
_TAG = "forget-callback"

_NUMBERS = {
    "probe": pa.string(),
    "step": pa.int64(),
    "samples_seen": pa.float64(),
    "baseline": pa.bool_(),
    "item": pa.int32(),
    "variant": pa.int32(),
    "category": pa.string(),
    "correct": pa.float32(),
    "outcome": pa.string(),
    "margin": pa.float32(),
}
_ANSWERS = {
    "id": pa.string(),
    "choice": pa.int32(),
    "prediction": pa.string(),
    "text": pa.string(),
}
_ITEMS = {
    "probe": pa.string(),
    "item": pa.int32(),
    "id": pa.string(),
    "category": pa.string(),
    "kind": pa.string(),
    "prompt": pa.string(),
    "choices": pa.list_(pa.string()),
    "answers": pa.list_(pa.string()),
    "record": pa.string(),
}
_COLUMNS = {
    "probe": "name of the probe",
    "step": "optimizer steps so far",
    "samples_seen": "training samples so far",
    "baseline": "whether it is what is compared against",
    "item": "number of the item in its probe, the same at every step",
    "variant": "which of its prompts, from 1",
    "category": "category of the item",
    "correct": "1 right, 0 wrong, missing where not scored; of sampled answers the share that is right",
    "outcome": "correct, wrong, unparsed or truncated",
    "margin": "nats by which the right answer is ahead of the best wrong one",
    "id": "id of the item",
    "choice": "index of the chosen option, -1 if there is none",
    "prediction": "the answer",
    "text": "the whole generated text",
}


def write_dataset(found: Passport, folder: Path) -> list[Path]:
    """Writes the dataset of a run; what an earlier one with more in it left there is removed.

    Returns:
        The files.

    Raises:
        ValueError: If the folder holds something else, or the card is not one that huggingface_hub reads.
    """
    card = dataset_card(found)
    check_dataset_card(card)
    if folder.exists():
        _clear(folder)
    store = Store(found.run.path)
    write_text(folder / "README.md", card)
    history = found.run.history.arrow.replace_schema_metadata(None)
    _write(folder / "history.parquet", history)
    _write(folder / "snapshots.parquet", _snapshots(found, store))
    if found.texts:
        _write(folder / "items.parquet", _items(found.run.probes))
        for probe in found.run.probes:
            write_text(folder / "probes" / f"{probe.name}.jsonl", dump_items(probe.items))
        write_report(found.run, folder / "report.html")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def dataset_card(found: Passport) -> str:
    """The dataset's card: what `load_dataset` reads, and what the columns are."""
    names = ["history", "snapshots", *(["items"] if found.texts else [])]
    configs: list[dict[str, Any]] = [{"config_name": name, "data_files": f"{name}.parquet"} for name in names]
    configs[0]["default"] = True
    meta = {"pretty_name": "What a training forgot", "tags": [_TAG, "forgetting"], "configs": configs}
    columns = [name for name in _COLUMNS if name in _NUMBERS or found.texts]
    probes = [
        f"- {code(probe.name)}: {counted(len(probe))}, fingerprint {code(probe.fingerprint)}"
        for probe in found.run.probes
    ]
    holds = (
        "`items` holds the items, `probes/` the same as files to measure another model with, `report.html` the page."
        if found.texts
        else "Prompts, answers and predictions are not in it: items are numbered."
    )
    said = [f"- {markdown(one.probe)}: {markdown(one.sentence)}" for one in found.headlines]
    lines = [
        "# What a training forgot, item by item",
        "",
        f"Snapshots of a run, made with [forget-callback]({HOME}). At step {found.step:,}:",
        "",
        *said,
        *(f"- **Not a whole run:** {markdown(gap)}" for gap in found.gaps),
        "",
        '`history` is the table of all metrics, a row a step, probe and category ("" is the whole probe). `snapshots`',
        f"has a row an item, prompt and step. {holds}",
        "",
        *probes,
        "",
        "| column of `snapshots` | |",
        "| --- | --- |",
        *(f"| `{name}` | {_COLUMNS[name]} |" for name in columns),
    ]
    front = yaml.safe_dump(meta, sort_keys=False)
    return f"---\n{front}---\n\n" + "\n".join(lines) + "\n"


def _clear(folder: Path) -> None:
    """Removes what an earlier dataset of ours may have left.

    Raises:
        ValueError: If the folder is not ours.
    """
    if any(folder.iterdir()):
        card = folder / "README.md"
        if not card.is_file() or f"- {_TAG}\n" not in card.read_text(encoding="utf-8"):
            raise ValueError(f"{folder} holds something else than a dataset of forget-callback; give another --out")
    for pattern in TEXTS:
        for path in folder.glob(pattern):
            path.unlink()
    if (folder / "probes").is_dir() and not any((folder / "probes").iterdir()):
        (folder / "probes").rmdir()


def _write(path: Path, table: pa.Table) -> None:
    write_whole(path, lambda temporary: parquet.write_table(table, temporary))


def _snapshots(found: Passport, store: Store) -> pa.Table:
    """A row an item, prompt and step, of all probes."""
    schema = pa.schema(_NUMBERS | (_ANSWERS if found.texts else {}))
    run = found.run
    tables = [
        pa.table(columns, schema=schema)
        for snapshot, is_baseline in _taken(store, run.probes, run.steps[0])
        for columns in _prompts(snapshot, is_baseline, list(schema.names))
    ]
    return pa.concat_tables(tables).combine_chunks()


def _taken(store: Store, probes: Sequence[Probe], first: int) -> Iterator[tuple[Snapshot, bool]]:
    """Every snapshot, what is compared against first, with whether it is that."""
    known = {probe.name: probe for probe in probes}
    other = [complete(one, known[one.probe]) for one in store.beside("baseline", probes)]
    yield from ((one, True) for one in other)
    for snapshots, _ in store.evaluations(probes):
        yield from ((one, not other and one.step == first) for one in snapshots)


def _prompts(snapshot: Snapshot, is_baseline: bool, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The columns of each prompt's answers; items that do not have that prompt are left out."""
    asked: list[Snapshot | Answers] = [snapshot, *snapshot.further]
    for variant, answers in enumerate(asked, 1):
        kept = np.arange(len(snapshot))
        if isinstance(answers, Answers):
            kept = np.flatnonzero(answers.asked & ~answers.skipped)
        columns: dict[str, Any] = {
            "probe": [snapshot.probe] * len(kept),
            "step": [snapshot.step] * len(kept),
            "samples_seen": pa.array([snapshot.samples_seen] * len(kept), pa.float64(), from_pandas=True),
            "baseline": [is_baseline] * len(kept),
            "item": kept,
            "variant": [variant] * len(kept),
            "category": [str(snapshot.category[i]) for i in kept],
            "id": [str(snapshot.ids[i]) for i in kept],
        }
        for name in ("correct", "outcome", "choice", "margin", "prediction", "text"):
            values = getattr(answers, name, None)
            columns[name] = pa.array(
                [None] * len(kept) if values is None else [values[i] for i in kept],
                {**_NUMBERS, **_ANSWERS}[name],
                from_pandas=True,
            )
        yield {name: columns[name] for name in names}


def _items(probes: Sequence[Probe]) -> pa.Table:
    rows = [
        {
            "probe": probe.name,
            "item": number,
            "id": item.id,
            "category": item.category,
            "kind": item.kind,
            "prompt": asked_text(item),
            "choices": list(item.choices) if isinstance(item, MultipleChoice) else [],
            "answers": [item.choices[item.answer]] if isinstance(item, MultipleChoice) else list(accepted(item)),
            "record": json.dumps(item_record(item), ensure_ascii=False, default=str),
        }
        for probe in probes
        for number, item in enumerate(probe.items)
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(_ITEMS))
