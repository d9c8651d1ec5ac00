"""Results as JSON, as every command prints them under `--format json` and the page holds them.

docs/json.md and docs/schema.json say what is in them. Knows neither a command nor where the text goes.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from forget_callback.metrics.transitions import transitions
from forget_callback.probes.quoting import has_picture
from forget_callback.snapshots.answers import OUTCOMES
from forget_callback.snapshots.snapshot import Snapshot

FORMAT_VERSION = 1  # raised where a key goes or means something else, not where one is added


def result_json(command: str, result: Mapping[str, Any]) -> str:
    """The one JSON object of a command, with the version of the format and the command's name.

    Args:
        command: Its name.
        result: Numbers, texts, paths, and lists and mappings of these, as in `as_json`.
    """
    return as_json({"format_version": FORMAT_VERSION, "command": command, **result})


def snapshot_result(snapshot: Snapshot) -> dict[str, Any]:
    """What one model answered on one probe: accuracy with its 95% interval, outcomes, and the same by category."""
    names = [name for name in dict.fromkeys(map(str, snapshot.category)) if name]
    return {
        "probe": snapshot.probe,
        "fingerprint": snapshot.fingerprint,
        "step": snapshot.step,
        "samples_seen": snapshot.samples_seen,
        "tokens_seen": snapshot.tokens_seen,
        "variants": snapshot.n_variants,
        **_accuracy(snapshot),
        "seconds": snapshot.metadata.get("seconds"),
        "categories": {name: _accuracy(snapshot.select(snapshot.category == name)) for name in names},
    }


def _accuracy(snapshot: Snapshot) -> dict[str, Any]:
    """Of the first prompt; the interval is that of 0→1 from a model that has nothing right, which knows of clusters."""
    right, outcomes = np.asarray(snapshot.correct, float), Counter(snapshot.outcome)
    nothing = np.where(np.isnan(right), np.nan, 0.0)
    gained = transitions(nothing, right, samples=snapshot.samples, cluster=snapshot.cluster)
    low, high = gained.backward_transfer_interval
    return {
        "n": gained.n,
        "n_unscored": gained.n_unscored,
        "accuracy": snapshot.accuracy,
        "accuracy_low": max(low, 0.0),  # by t over clusters an end may lie beyond
        "accuracy_high": min(high, 1.0),
        "outcomes": {name: outcomes[name] for name in OUTCOMES},
        "unparsed": outcomes["unparsed"] / gained.n if gained.n else math.nan,
        "margin": float(np.nanmean(snapshot.margin)) if np.isfinite(snapshot.margin).any() else math.nan,
    }


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
