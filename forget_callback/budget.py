"""How many items a probe can afford, so that probing takes no more than its share of a run's time.

A pure function of times. A run looks less often first; where even a few looks at all items would take too long, it
looks at a fixed part of them.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import sha256

from forget_callback.probes import Item, Probe
from forget_callback.sources.sampling import stratified

# Looks that a run should be able to afford; fewer show no curve.
LOOKS = 8
# Items of a probe, and part of them, below which no number means much.
LEAST, LEAST_PART = 30, 0.01


def allowance(max_overhead: float, *, trained: float, progress: float) -> float:
    """Seconds that probing may take in a whole run.

    Args:
        max_overhead: Share of the run's wall time that probing may take, in (0, 1).
        trained: Seconds of training so far, without probing.
        progress: Part of the training that is done, in (0, 1].

    >>> round(allowance(0.05, trained=19.0, progress=0.02), 6)  # of 950 + 50 seconds
    50.0
    """
    return max_overhead / (1 - max_overhead) * trained / progress


def affordable(left: float, look: float) -> float:
    """Share of the items that can be scored `LOOKS` times in the seconds that are left, from `LEAST_PART` to 1.

    Args:
        left: Seconds.
        look: Seconds that a look at all items takes.

    >>> affordable(40.0, 10.0)
    0.5
    """
    return min(max(left / (LOOKS * look), LEAST_PART), 1.0) if look > 0 else 1.0


def part_of(probe: Probe, share: float) -> Collection[str]:
    """Ids of a random part of a probe's items, the same ones whenever it is asked; of each category its share."""

    def draw(item: Item) -> float:
        return int.from_bytes(sha256(item.id.encode()).digest()[:8], "big")

    limit = max(round(share * len(probe)), min(LEAST, len(probe)))
    return frozenset(item.id for item in stratified(probe.items, limit, stratum=lambda i: i.category, draw=draw))
