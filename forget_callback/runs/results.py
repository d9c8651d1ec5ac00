"""A result as JSON text, as every command prints it under `--format json` and the page holds it.

docs/json.md and docs/schema.json say what is in it. Knows neither a command nor where the text goes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from forget_callback.probes.quoting import has_picture

FORMAT_VERSION = 1  # raised where a key goes or means something else, not where one is added


def result_json(command: str, result: Mapping[str, Any]) -> str:
    """The one JSON object of a command, with the version of the format and the command's name.

    Args:
        command: Its name.
        result: Numbers, texts, paths, and lists and mappings of these, as in `as_json`.
    """
    return as_json({"format_version": FORMAT_VERSION, "command": command, **result})


def as_json(value: Any) -> str:
    r"""JSON text (RFC 8259): letters as they are, but for what a terminal would obey; paths absolute.

    NaN and infinite numbers, which JSON has not, are null.

    >>> print(as_json({"é": float("nan"), "red": "\x9b31m"}))
    {
      "é": null,
      "red": "\u009b31m"
    }
    """
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    return "".join(c if c == "\n" or has_picture(c) else json.dumps(c)[1:-1] for c in text)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, Path):
        return str(value.absolute())
    return None if isinstance(value, float) and not math.isfinite(value) else value
