"""Probes of tables: a list of mappings or items, a pandas DataFrame or a `datasets.Dataset`, a row an item.

Neither pandas nor datasets is imported: nothing is of a class of theirs where nobody has loaded them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import numpy as np

from forget_callback.probes.conversation import without_gaps
from forget_callback.probes.items import Item
from forget_callback.probes.judging import require_matchers
from forget_callback.probes.probe import Probe
from forget_callback.probes.records import parse_item

UNNAMED = "probe"


def of_table(given: Any) -> Probe:
    """The probe of a table of items, named "probe".

    Raises:
        ValueError: Naming the row that is no item, or an item whose matcher is not registered.
    """
    items = []
    for number, row in enumerate(_rows(given)):
        try:
            items.append(row if isinstance(row, get_args(Item)) else parse_item(row))
        except ValueError as error:
            raise ValueError(f"row {number} of a table of items: {error}") from None
    probe = Probe(UNNAMED, items)
    require_matchers(probe)
    return probe


def is_table(given: object) -> bool:
    """Whether these are rows of items: a list of mappings or items, a DataFrame or a `datasets.Dataset`."""
    if _is_a(given, "pandas", "DataFrame") or _is_a(given, "datasets", "Dataset"):
        return True
    # Any row that is no item gets an error with its number, so the first one decides.
    return isinstance(given, (list, tuple)) and bool(given) and isinstance(given[0], (Mapping, *get_args(Item)))


def _is_a(given: object, module: str, name: str) -> bool:
    """Whether it is of a class of a package that need not be loaded: nothing is of a class that nobody loaded."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(given, getattr(loaded, name, ()))


def _rows(table: Any) -> Iterable[Any]:
    """The records of a table; what is missing in a row (None, NaN, NA) is no field of its item."""
    gaps = _is_a(table, "datasets", "Dataset") or _is_a(table, "pandas", "DataFrame")
    if _is_a(table, "pandas", "DataFrame"):
        # A column of numbers with gaps is one of floats, and 8.0 is no number of tokens.
        table = table.convert_dtypes().to_dict("records")
    for row in table:
        if not isinstance(row, Mapping):
            yield row
            continue
        known = {k: _plain(v) for k, v in row.items() if not _is_missing(v)}
        # Arrow gives every rule of a column of docs the fields of all, and None where it has none.
        yield {k: without_gaps(v) if gaps and k == "doc" else v for k, v in known.items()}


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and value != value)


def _plain(value: Any) -> Any:
    """Arrays and numbers of numpy as lists and numbers of Python, within lists and mappings too."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value
