"""A row's numbers for people: percents, an estimate with its interval, a range, any metric in words.

Rounds as the page's JavaScript does, so that console, tables and page show the same digits.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal

from forget_callback.metrics.transitions import INTERVALS
from forget_callback.runs.rows import Row

# Metrics that are no shares of items: counts, scores, bits, nats, p-values and what is not clipped to [0, 1].
NOT_SHARES = (
    *("n", "n11", "n10", "n01", "n00", "n_unscored", "knowledge_n", "variants", "forgetting_events", "drift", "margin"),
    *("score_before", "score_after", "score_change", "score_lost"),
    *("bits_per_byte_before", "bits_per_byte_after", "bits_per_byte_change", "kl", "kl_error"),
    *("guess_persistence", "p_value", "persistence_p_value", "no_forgetting_p_value", "loss_p_value"),
)
# Differences of shares, which may be below 0; where the method is "net", these are differences as well.
SIGNED = ("net_change", "knowledge_lost_net")
_NET = (
    *("knowledge_lost", "knowledge_gained", "known_lost", "spurious_forgetting"),
    *("macro_knowledge_lost", "stage_knowledge_lost"),
)


def possible(row: Row, metric: str, value: float) -> float:
    """A share, or an end of its interval, as it is shown: cut off where no share can be.

    Estimates are kept unclipped: noise around 0 and few items take them beyond, and their intervals.
    """
    net = metric in SIGNED or (metric in _NET and row.transitions.knowledge_method == "net")
    return value if math.isnan(value) else min(max(value, -1.0 if net else 0.0), 1.0)


def share(row: Row, metric: str) -> str:
    """A share in percent, "9.9%", within what is possible."""
    return percent(possible(row, metric, row.value(metric)))


def estimate(row: Row, metric: str = "knowledge_lost") -> str:
    """A share with its 95% interval, "9.9% [6.3, 13.4]", within what is possible.

    Without the interval where all of it is beyond: [0.0, 0.0] would be sure of what is only known to be no estimate.
    """
    low, high = row.value(f"{metric}_low"), row.value(f"{metric}_high")
    ends = [possible(row, metric, end) for end in (low, high)]
    none = math.isnan(low) or (low < high and ends[0] == ends[1])
    return share(row, metric) + ("" if none else f" [{bare(ends[0])}, {bare(ends[1])}]")


def in_words(row: Row, metric: str) -> str:
    """Any metric for people: shares in percent, with the interval where there is one; "missing" where it is NaN."""
    value = row.value(metric)
    if math.isnan(value) and metric == "known_lost" and row.confirmed:
        return "not defined (next to nothing was known at the baseline)"
    if math.isnan(value):
        return "missing"
    if metric not in NOT_SHARES:
        return estimate(row, metric) if metric in INTERVALS else share(row, metric)
    ends = [row.value(f"{metric}_{end}") for end in ("low", "high")] if metric in INTERVALS else [math.nan]
    return number(value) + ("" if math.isnan(ends[0]) else f" [{', '.join(map(number, ends))}]")


def span(row: Row) -> str:
    """The range of what was lost, "range 4.8 to 22.4%"; "" where there is none."""
    low, high = row.value("knowledge_lost_range_low"), row.value("knowledge_lost_range_high")
    return "" if math.isnan(high) else f"range {bare(low)} to {percent(high)}"


def number(value: float) -> str:
    """A number that is no share, with a real minus sign."""
    text = f"{value:.4g}"
    return f"−{text[1:]}" if text.startswith("-") else text


def percent(value: float, digits: int = 1) -> str:
    """A fraction for people with a real minus sign, never "−0.0%"; "-" where there is none."""
    return "-" if math.isnan(value) else f"{bare(value, digits)}%"


def bare(value: float, digits: int = 1) -> str:
    """As `percent`, without the sign: within an interval."""
    exact = Decimal(100 * value)  # a tie is rounded as the page's JavaScript rounds it, away from 0
    text = str(exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def bits(value: float, digits: int = 2) -> str:
    """Bits per byte for people, "1.02" with a real minus sign; "-" where there is none."""
    if math.isnan(value):
        return "-"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def bits_change(row: Row) -> str:
    """How much bits per byte rose, with its 95% interval: "+0.08 [0.06, 0.10]"."""
    return difference(row, "bits_per_byte_change")


def difference(row: Row, metric: str) -> str:
    """A difference that is no share, with its sign and its 95% interval; small ones with a digit more."""
    change, low, high = (row.value(f"{metric}{end}") for end in ("", "_low", "_high"))
    digits = 2 if not abs(change) < 0.05 else 3
    sign = "+" if change > 0 else ""
    ends = "" if math.isnan(low) else f" [{bits(low, digits)}, {bits(high, digits)}]"
    return f"{sign}{bits(change, digits)}{ends}"


def p_value(value: float) -> str:
    """A p-value with its sign, "= 0.012" or "< 0.001"."""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
