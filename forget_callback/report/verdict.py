"""The verdict on one probe: one sentence that claims no more than the interval and the noise floor support."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from forget_callback.report.terminal import percent
from forget_callback.runs.history import Row


@dataclass(frozen=True)
class Verdict:
    """The verdict on one probe.

    Attributes:
        probe: Its name.
        kind: "lost", "noise" (the interval holds 0, or no more than the noise floor), "below zero", "baseline" (no
            later checkpoint) or "nothing" (no item scored both times).
        headline: The finding.
        detail: The numbers behind it.
        value: `knowledge_lost` of the last checkpoint, NaN if there is none.
    """

    probe: str
    kind: str
    headline: str
    detail: str
    value: float


def verdict(rows: Sequence[Row]) -> Verdict:
    """The verdict on one probe from its rows, the baseline first; at least one."""
    last, changed = rows[-1], rows[-1].transitions
    lost, (low, high) = changed.knowledge_lost, changed.knowledge_lost_interval
    floor = math.nan  # of the estimate, which is not measured any more
    if len(rows) == 1 and changed.n10 + changed.n01 == 0:
        right = f"{percent(changed.accuracy_after)} of {changed.n:,} items are right."
        return Verdict(last.probe, "baseline", "only the baseline was measured so far", right, math.nan)
    if math.isnan(lost):
        why = "No item was scored both at the baseline and at the last checkpoint."
        return Verdict(last.probe, "nothing", "nothing can be compared", why, math.nan)
    numbers = f"95% interval {_signed(low)} to {_signed(high)}, {changed.n:,} items, after {_seen(last)}"
    said = f"Knowledge lost is {_signed(lost)} of the items ({numbers})"
    noise = "noise floor not measured" if math.isnan(floor) else f"noise floor {_signed(floor)}"
    if high < 0:
        kind, headline = "below zero", "no forgetting, and the estimate is below zero"
        detail = f"{said}; {noise}. An assumption behind it may not hold: see the warnings."
    elif low <= 0:
        kind, headline = "noise", "nothing lost beyond noise"
        detail = f"{said}: the interval contains 0; {noise}."
    elif lost <= floor:
        kind, headline = "noise", "nothing lost beyond noise"
        detail = f"{said}: no more than the {noise}."
    else:
        kind, headline = "lost", f"{percent(lost)} of the items were known and are no longer"
        detail = f"{numbers}; {noise}."
    return Verdict(last.probe, kind, headline, detail, lost)


def worst_first(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The largest loss first, those without a number last; the pool of all probes, "all", at the very end."""
    return sorted(
        verdicts, key=lambda v: (v.probe == "all", math.isnan(v.value), -v.value if v.value == v.value else 0)
    )


def _seen(row: Row) -> str:
    if math.isnan(row.samples_seen):
        return f"step {row.step:,}"
    return f"{row.samples_seen:,.0f} sample{'' if row.samples_seen == 1 else 's'}"


def _signed(value: float) -> str:
    """A percentage with a real minus sign; never "-0.0"."""
    return percent(value + 0.0 if abs(value) >= 0.0005 else 0.0).replace("-", "−")
