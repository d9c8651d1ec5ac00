"""What documents can show before any training: by how much their bits per byte must rise to be called lost.

The claim is a paired t-test of the mean change against a floor, so its power is exact given how unlike the documents'
changes are. That is not known before a training, and assumed. Knows nothing of items with right and wrong answers.
"""

from __future__ import annotations

import math

from scipy import stats

from forget_callback.metrics.knowledge import MIN_ITEMS
from forget_callback.metrics.texts import FLOOR
from forget_callback.metrics.verdict import LEVEL
from forget_callback.probes.plurals import counted

POWER = 0.8  # found in four of five runs
# Standard deviation of the documents' changes, in bits per byte: 0.03 to 0.06 after narrow SFT of small models.
SPREAD = 0.05
_MOST = 1_000_000


def share_found(rise: float, n: int, *, floor: float = FLOOR, spread: float = SPREAD) -> float:
    """Share of training runs that raise the mean by `rise` in which the verdict is "lost".

    Power of the one-sided t-test at `LEVEL`, by the noncentral t distribution; of fewer than `MIN_ITEMS` documents
    nothing is claimed.
    """
    if n < MIN_ITEMS:
        return 0.0
    needed = stats.t.ppf(1 - LEVEL, n - 1)
    return float(stats.nct.sf(needed, n - 1, (rise - floor) * math.sqrt(n) / spread))


def smallest_rise(n: int, *, floor: float = FLOOR, spread: float = SPREAD) -> float:
    """The rise in bits per byte that so many documents find in `POWER` of the runs; NaN of too few."""
    if n < MIN_ITEMS:
        return math.nan
    low, high = floor, floor + spread
    while share_found(high, n, floor=floor, spread=spread) < POWER:
        low, high = high, high + spread * (1 + high - floor)
    for _ in range(50):
        middle = (low + high) / 2
        enough = share_found(middle, n, floor=floor, spread=spread) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def documents_needed(rise: float, *, floor: float = FLOOR, spread: float = SPREAD) -> int | None:
    """Documents that find a rise in `POWER` of the runs; None if none do, as it is within the floor."""
    if rise <= floor or share_found(rise, _MOST, floor=floor, spread=spread) < POWER:
        return None
    low, high = MIN_ITEMS - 1, _MOST
    while high - low > 1:
        middle = (low + high) // 2
        enough = share_found(rise, middle, floor=floor, spread=spread) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def sentence(n: int, *, floor: float = FLOOR, spread: float = SPREAD) -> str:
    """What so many documents can show, in one line."""
    rise = smallest_rise(n, floor=floor, spread=spread)
    if math.isnan(rise):
        return f"{counted(n, 'document')}: too few, nothing is claimed of fewer than {MIN_ITEMS}; add documents"
    return f"{n:,} documents: a rise of {rise:.3f} bits per byte is found in four of five runs"
