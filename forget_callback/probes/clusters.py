"""Clusters: items about one passage, which a model that loses it loses together.

Knows nothing of where items come from.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from forget_callback.probes.items import Item


def cluster_of(source: str, passage: str) -> str:
    """A short name for the items of a source that are about one passage; "" without a passage."""
    text = " ".join(passage.split())
    return f"{source}/{hashlib.sha256(text.encode()).hexdigest()[:12]}" if text else ""


def only_shared(items: Sequence[Item]) -> list[Item]:
    """The items, without the clusters that hold one item: that is as independent as any other."""
    sizes = Counter(item.cluster for item in items)
    return [replace(item, cluster="") if item.cluster and sizes[item.cluster] == 1 else item for item in items]
