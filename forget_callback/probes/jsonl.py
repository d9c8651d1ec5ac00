"""Items from JSON Lines files, one item a line, and back; errors name the file, the line, the item and the field."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from forget_callback.probes.items import Item
from forget_callback.probes.quoting import quoted
from forget_callback.probes.records import item_record, parse_item
from forget_callback.probes.suggest import beside, did_you_mean
from forget_callback.probes.text_files import read_utf8


def read_items(path: Path) -> list[Item]:
    """Every item of a file; empty lines are skipped.

    Raises:
        ValueError: If the file is missing, or holds no item or a bad one.
    """
    if not path.is_file():
        meant = did_you_mean(path, [one for one in beside(path) if one.suffix == ".jsonl"])
        raise ValueError(f"no probe file at {path}{meant or ';'} expected JSON Lines, one item a line")
    text = read_utf8(path)
    items: list[Item] = []
    first: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            item = parse_item(json.loads(line, object_pairs_hook=_no_repeats))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        if first.setdefault(item.id, number) != number:
            raise ValueError(
                f"{path}, line {number}: item {quoted(item.id)}, field 'id': already used in line {first[item.id]}; "
                "ids must be unique, they join the snapshots"
            )
        items.append(item)
    if not items:
        raise ValueError(f"{path} holds no items; expected JSON Lines, one item a line")
    return items


def dump_items(items: Iterable[Item]) -> str:
    """The text that `read_items` reads back."""
    return "".join(json.dumps(item_record(item), ensure_ascii=False) + "\n" for item in items)


def _no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) != len(pairs):
        twice = next(key for key, _ in pairs if [k for k, _ in pairs].count(key) > 1)
        raise ValueError(f"item {quoted(record.get('id'))}, field {quoted(twice)}: given twice")
    return record
