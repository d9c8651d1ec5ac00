"""The table of abilities: knowledge, behaviour and text side by side, as cells for people and as numbers.

A row is an ability of one probe, or one of its categories, in the order of `abilities`. Computes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from forget_callback.metrics.knowledge import MIN_ITEMS
from forget_callback.probes.abilities import TRAINING
from forget_callback.runs.abilities import Part, side_by_side
from forget_callback.runs.categories import lost_share
from forget_callback.runs.formatting import bits, bits_change, difference, estimate, percent
from forget_callback.runs.rows import Row
from forget_callback.runs.sentences import counts, open_ended

COLUMNS = ("items", "before", "after", "lost", "share [95%]", "verdict")
LEGEND = (
    "lost: how many of those that were right, of text how many documents got worse; share: of what it could do before, "
    "of text the change in bits per byte, of graded answers that of the mean score; "
    "a category is “lost” with all of its ability tested at once (Holm)"
)
_FEW, _LITTLE = "too few", "little known"
# By the unit of a row in JSON: what stands before and after, and what tells of the change.
_METRICS = {
    "share": ("accuracy", "known_lost"),
    "score": ("score", "score_change"),
    "bits_per_byte": ("bits_per_byte", "bits_per_byte_change"),
}


@dataclass(frozen=True)
class Line:
    """A row of the table as people read it.

    Attributes:
        ability: "knowledge", "behaviour", "text", "task", "training data", or "".
        probe: Its name.
        category: "" is the whole ability.
        items: Those scored both times, of how many.
        before: Share right, mean score, or bits per byte.
        after: The same at the later checkpoint.
        lost: Of how many.
        share: Of what it could do before with its interval; of text the change in bits per byte, of graded answers of
            the mean score.
        verdict: "lost", "moved", "none" or "unclear"; "-" of the training data.
    """

    ability: str
    probe: str
    category: str
    items: str
    before: str
    after: str
    lost: str
    share: str
    verdict: str

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands under `COLUMNS`."""
        return self.items, self.before, self.after, self.lost, self.share, self.verdict


def groups_of_lines(rows: Sequence[Row]) -> list[list[Line]]:
    """The table, an ability of a probe at a time, what was lost first.

    Args:
        rows: Of one evaluation, of all probes and categories.
    """
    return [[_line(part) for part in group] for group in side_by_side(rows)]


def _line(part: Part) -> Line:
    row, t = part.row, part.row.transitions
    items = f"{t.n:,} of {t.n + t.n_unscored:,}" if t.n_unscored else f"{t.n:,}"
    if part.ability == "text":
        before, after = (bits(row.value(f"bits_per_byte_{side}")) for side in ("before", "after"))
        lost, share = f"{t.n10:,} of {t.n:,}", bits_change(row)
    elif t.graded:
        before, after = (bits(row.value(f"score_{side}")) for side in ("before", "after"))
        lost, share = f"{t.n10:,} of {t.n11 + t.n10:,}", difference(row, "score_change")
    else:
        before, after = percent(t.accuracy_before), percent(t.accuracy_after)
        lost, share = _of_known(row)
    if t.training:
        return Line("training data", row.probe, row.category, items, before, after, "-", share, "-")
    return Line(part.ability, row.probe, row.category, items, before, after, lost, share, part.verdict)


def _of_known(row: Row) -> tuple[str, str]:
    """How many were lost of those that were known, and their share; of a few items raw counts alone."""
    t = row.transitions
    if not row.confirmed or not t.knowledge_n:
        return f"{t.n10:,} of {t.n11 + t.n10:,}", "-"
    if t.knowledge_n < MIN_ITEMS:
        return f"{t.n10:,} of {t.n11 + t.n10:,}", _FEW
    c = counts(t)
    if math.isnan(row.value("known_lost")):  # a share of next to nothing
        raw = f"{t.n10:,} of {t.n11 + t.n10:,}"
        return raw if open_ended(t) else f"{c.lost:,} of {t.knowledge_n:,} items", _LITTLE
    return f"{c.lost:,} of {c.known:,}", estimate(row, "known_lost")


def abilities_result(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The table as numbers, for JSON: fractions, bits per byte of text, mean scores of graded answers; NaN: missing."""
    return [_numbers(part) for group in side_by_side(rows) for part in group]


def _numbers(part: Part) -> dict[str, Any]:
    row, t = part.row, part.row.transitions
    unit = "bits_per_byte" if part.ability == "text" else "score" if t.graded else "share"
    side, metric = _METRICS[unit]
    change = {end: row.value(f"{metric}_{end}") for end in ("low", "high")}
    return {
        "ability": TRAINING if t.training else part.ability,
        "probe": row.probe,
        "category": row.category,
        "items": t.n,
        "unit": unit,
        "before": row.value(f"{side}_before"),
        "after": row.value(f"{side}_after"),
        "lost_share": lost_share(row),
        "metric": metric,
        "value": row.value(metric),
        **change,
        "verdict": part.verdict,
    }
