"""Where probes come from: a spec string names a source, `load_probe` asks it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import parse_qsl

from forget_callback.probes import Item, Probe
from forget_callback.sources import builtin, jsonl
from forget_callback.sources.sampling import stratified


def load_probe(spec: str, *, limit: int | None = None, seed: int = 0) -> Probe:
    """The probe that a spec names.

    Args:
        spec: ``builtin:facts``, ``builtin:facts?category=capitals,elements&kind=recall``, or the path of a JSON Lines
            file, which is named by its stem.
        limit: At most that many items, a random subset stratified by category.
        seed: Which subset; the same seed gives the same items on every machine.

    Raises:
        ValueError: If the spec is not known, the file has a bad item, or `limit` is below 1.

    >>> load_probe("builtin:facts?category=capitals&kind=recall", limit=10).name
    'facts-capitals-recall'
    """
    if not isinstance(spec, str):
        raise ValueError(f"spec must be a string such as 'builtin:facts' or 'probe.jsonl', got {spec!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be 1 or more, got {limit}")
    source, colon, rest = spec.partition(":")
    if source == "builtin" and colon:
        name, _, query = rest.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        if name != "facts" or not set(options) <= {"category", "kind"}:
            raise ValueError(f"spec {spec!r}: expected builtin:facts, with ?category=... and kind=... if wanted")
        return builtin.load(category=options.get("category"), kind=options.get("kind"), limit=limit, seed=seed)
    if spec.endswith(".jsonl"):
        probe = jsonl.load(spec)
        return probe if limit is None else replace(probe, items=_subset(probe.items, limit, seed))
    raise ValueError(f"spec {spec!r} is not known; expected 'builtin:facts' or the path of a .jsonl file")


def _subset(items: Sequence[Item], limit: int, seed: int) -> Sequence[Item]:
    """A stratified subset; an item's draw depends on its id alone, not on the order of the file."""
    return stratified(
        items,
        limit,
        stratum=lambda item: item.category,
        draw=lambda item: random.Random(f"{seed}/{item.id}").random(),
    )
