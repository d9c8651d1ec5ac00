"""Texts have no right and wrong: a document is worse where its bits per byte rose by more than a floor.

The floor is what nobody would notice, or more, where the same model scored twice differs by more. So a document stands
as 1 -> 0 where it got worse, as 0 -> 1 where it got better, else as 1 -> 1, and rates, counts and the numbers over time
are shares of documents.
"""

from __future__ import annotations

import math

import numpy as np

from forget_callback.metrics.pairs import Flags, Floats, Numbers
from forget_callback.snapshots.snapshot import NOISE, Snapshot

# In bits per byte: about one in a hundred of what a small model needs for prose.
FLOOR = 0.01
_BEYOND = 0.99  # of the documents differ by less


def texts_in(snapshot: Snapshot) -> Flags:
    """Which items are texts, ``(n_items,)``."""
    found: Flags = (snapshot.kind == "text") | ~np.isnan(snapshot.bits_per_byte)
    return found


def floor_of(snapshot: Snapshot) -> float:
    """By how much a document's bits per byte must change to count, of a baseline."""
    return max(FLOOR, noise_of(snapshot))


def noise_of(snapshot: Snapshot) -> float:
    """What is known of how much the snapshot's model differs from itself, in bits per byte; 0 if nothing is."""
    noise = snapshot.metadata.get(NOISE, 0.0)
    return float(noise) if isinstance(noise, (int, float)) and math.isfinite(noise) else 0.0


def with_noise(once: Snapshot, again: Snapshot) -> Snapshot:
    """The first of two scorings of one model, of the same items in one order, with what they differ by; not of others.

    99 of 100 documents differ by less: one odd document makes no floor.
    """
    apart = np.abs(once.bits_per_byte - again.bits_per_byte)
    apart = apart[np.isfinite(apart)]
    return once.with_metadata(**{NOISE: float(np.quantile(apart, _BEYOND))}) if len(apart) else once


def bits_of(before: Snapshot, after: Snapshot) -> Numbers:
    """Bits per byte of both, NaN where a text was not measured both times."""
    both = np.isfinite(before.bits_per_byte) & np.isfinite(after.bits_per_byte)
    both &= ~np.isnan(before.correct) & ~np.isnan(after.correct)
    return Numbers(*(np.where(both, side.bits_per_byte, np.nan) for side in (before, after)))


def sides(bits: Numbers, floor: float) -> tuple[Floats, Floats]:
    """Before and after as 1 and 0, see this module's docstring; NaN where a text was not measured both times."""
    change = bits.after - bits.before
    unknown = np.isnan(change)
    return np.where(unknown, np.nan, change >= -floor), np.where(unknown, np.nan, change <= floor)
