"""What `recheck` leaves in a run's `forget/` folder, and what it says of the items that were lost.

    recheck.parquet     a row an item and help: what was asked and answered, now and by the baseline model
    recheck.json        the summary: by help and by item, with what help alone explains

Both say of which run, step and probes they are; those of another one are read as none. Rows are there from the first
help on, the summary once all was asked. Knows nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from forget_callback.probes.quoting import printable, quoted
from forget_callback.runs.files import write_text, write_whole
from forget_callback.runs.recorded import Recorded
from forget_callback.runs.results import as_json

FORMAT = 1
ROWS, SUMMARY = "recheck.parquet", "recheck.json"
GONE, THERE = "gone", "there"
_ABOUT = b"forget_callback.recheck"
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("probe", "id", "category", "kind", "cluster", "group", "help", "prompt")),
        ("options", pa.list_(pa.list_(pa.string()))),
        *((name, pa.int32()) for name in ("shown",)),
        *(
            (name, kind)
            for side in ("", "baseline_")
            for name, kind in ((f"{side}answer", pa.string()), (f"{side}correct", pa.float64()))
        ),
    ]
)


@dataclass(frozen=True)
class Rows:
    """The rows so far.

    Attributes:
        about: What they are of, see `tools/recheck.py`: rows of something else do not go on.
        table: With the columns of `SCHEMA`.
        done: Which were asked: model ("now", "baseline") and help.
    """

    about: Mapping[str, Any]
    table: pd.DataFrame
    done: Sequence[tuple[str, str]]

    def save(self, folder: Path) -> None:
        """Replaces `recheck.parquet`; a summary of other rows goes."""
        told = json.dumps({"about": dict(self.about), "done": [list(one) for one in self.done]})
        table = pa.Table.from_pandas(self.table, schema=SCHEMA, preserve_index=False)
        table = table.replace_schema_metadata({_ABOUT: told.encode()})
        (folder / SUMMARY).unlink(missing_ok=True)
        write_whole(folder / ROWS, lambda temporary: parquet.write_table(table, temporary))


def read_rows(folder: Path) -> Rows | None:
    """What `Rows.save` wrote; None where there is nothing, or a file that is damaged: it can be made again."""
    try:
        with (folder / ROWS).open("rb") as file:
            table = parquet.read_table(file)
        told = json.loads((table.schema.metadata or {})[_ABOUT])
        if table.schema.names != SCHEMA.names:
            return None
        return Rows(told["about"], table.to_pandas(), [(side, help) for side, help in told["done"]])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Writes `recheck.json`."""
    write_text(folder / SUMMARY, as_json({"format_version": FORMAT, **summary}) + "\n")


@dataclass(frozen=True)
class Recheck:
    """What a recheck found.

    Attributes:
        step: At which the items were lost.
        labels: By probe and id of each lost item that was asked, "gone" (it came back by no help) or "there"; none of
            those that are right without help.
        sentences: For people: what warns of another model, and one a probe, or one for each form of its items.
        result: The whole summary.
    """

    step: int
    labels: Mapping[str, Mapping[str, str]]
    sentences: Sequence[str]
    result: Mapping[str, Any]


def told_apart(block: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A probe's open-ended items and those with options, where it has both; else the probe."""
    return list(block["forms"].values()) or [block]


def read_recheck(run: Recorded) -> Recheck | None:
    """The recheck of a run, None where there is none, or one of another run, other probes or a step that is gone.

    Raises:
        ValueError: If the file is damaged.
    """
    path = run.path / SUMMARY
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format_version"] != FORMAT:
            raise ValueError(f"format_version is {found['format_version']!r}, expected {FORMAT}")
        about, blocks = found["about"], found["probes"]
        manifest = run.manifest()
        held = {name: entry["fingerprint"] for name, entry in manifest["probes"].items()}
        same_run = about["run"] == manifest["run"]["id"]
        same_probes = all(held.get(name) == fingerprint for name, fingerprint in about["probes"].items())
        if not (same_run and same_probes and about["step"] in run.steps(*about["probes"])):
            return None
        sentences = [str(warning) for warning in found["warnings"]]
        sentences += [str(one["sentence"]) for block in blocks.values() for one in told_apart(block)]
        labels = {
            str(name): {str(id): str(label) for id, label in block["items"].items()} for name, block in blocks.items()
        }
        return Recheck(int(about["step"]), labels, sentences, found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged: {quoted(printable(str(error)))}; remove it, or run forget-callback recheck again"
        ) from None
