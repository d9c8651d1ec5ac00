"""How a rule is written, and which values a metric can take: a threshold that nothing can pass is an error.

The commonest mistake is a percentage where a fraction is meant: 5, or 5%, for 0.05.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from forget_callback.metrics.intervals import Interval
from forget_callback.probes.quoting import quoted
from forget_callback.probes.suggest import closest

# [PROBE/[CATEGORY/]]METRIC>VALUE; a category may hold a slash, a probe's name may not.
RULE = re.compile(r"\s*(?:([^/<>]+)/)?(?:(.+)/)?(\w+)\s*(>=|<=|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")
# [PROBE/[CATEGORY/]]verdict and whatever is said of it, in any case: what a verdict's rule is, or was meant to be.
_OF_VERDICT = re.compile(r"\s*((?:[^/<>]+/)?(?:.+/)?)verdict\s*(?:([=<>!~:]+)\s*([^/<>=]*?)\s*)?", re.IGNORECASE)
_NEARLY = re.compile(r"\s*((?:[^<>=]+/)?)\s*(\w[\w-]*)\s*([<>=]{1,2})\s*([-+]?\d*[.,]?\d+)\s*(%?)\s*")

COUNTS = ("n", "n11", "n10", "n01", "n00", "n_unscored", "knowledge_n")
# Differences, and estimates that are not clipped at 0.
_SIGNED = (
    *("net_change", "knowledge_lost", "knowledge_gained", "knowledge_lost_net", "macro_knowledge_lost"),
    *("known_before", "spurious_forgetting", "stage_knowledge_lost", "guess_persistence"),
    *("score_change", "score_lost"),
)
_OF_TEXT = ("bits_per_byte_before", "bits_per_byte_after", "kl", "kl_error")
_UNBOUNDED = {
    **dict.fromkeys((*COUNTS, "variants", "forgetting_events", "drift", *_OF_TEXT), Interval(0.0, math.inf)),
    **dict.fromkeys(("margin", "bits_per_byte_change"), Interval(-math.inf, math.inf)),
    "known_lost": Interval(-math.inf, 1.0),  # a share of next to nothing
}


def of_verdict(text: str) -> tuple[str, str, str] | None:
    """Where, relation and word of a text about a verdict, which is no number; None if it is about a metric.

    >>> of_verdict("p/c/verdict = lost"), of_verdict("verdict>0.1"), of_verdict("verdict/forgetting>0.1")
    (('p/c/', '=', 'lost'), ('', '>', '0.1'), None)
    """
    found = _OF_VERDICT.fullmatch(text)
    return None if found is None else (found[1], found[2] or "", found[3] or "")


def range_of(metric: str) -> Interval:
    """The least and the largest value that a metric, or an end of its interval, can have; a share by default.

    >>> range_of("forgetting"), range_of("knowledge_lost_high"), range_of("drift")
    (Interval(low=0.0, high=1.0), Interval(low=-1.0, high=1.0), Interval(low=0.0, high=inf))
    """
    if metric.startswith("knowledge_lost_range"):
        return Interval(0.0, 1.0)
    name = metric.removesuffix("_low").removesuffix("_high")
    return Interval(-1.0, 1.0) if name in _SIGNED else _UNBOUNDED.get(name, Interval(0.0, 1.0))


def outside(threshold: float, limits: Interval) -> str:
    """What is wrong with a threshold that lies outside of what a metric can be, "" if it does not."""
    if math.isfinite(threshold) and limits.low <= threshold <= limits.high:
        return ""
    if limits.high > 1 and math.isinf(threshold):
        return "a threshold must be finite"
    if limits.high > 1:
        return f"it is never below {limits.low:g}"
    wrong = "exceed 1" if threshold > limits.high else f"be below {limits.low:g}"
    return f"a share cannot {wrong}{hint(threshold, limits) or '; give a fraction, such as 0.05'}"


def hint(threshold: float, limits: Interval) -> str:
    """The fraction that was probably meant by a percentage, "; did you mean 0.05?"; "" where there is none."""
    meant = threshold / 100
    return f"; did you mean {meant:g}?" if max(limits.low, -1) < meant < min(limits.high, 1) and meant else ""


def never(relation: str, threshold: float, limits: Interval) -> bool:
    """Whether no number within the limits is `relation` the threshold."""
    if relation in (">", ">="):
        return threshold > limits.high or (relation == ">" and threshold == limits.high)
    return threshold < limits.low or (relation == "<" and threshold == limits.low)


def always(relation: str, threshold: float, limits: Interval) -> bool:
    """Whether every number within the limits is."""
    opposite = {">": "<=", ">=": "<", "<": ">=", "<=": ">"}[relation]
    return never(opposite, threshold, limits)


def nearly_a_rule(text: str, metrics: Iterable[str]) -> str:
    """What a text that is no rule probably meant, from "; " on; "" where nothing tells.

    >>> nearly_a_rule("knowledge-lost>5%", ["knowledge_lost"]), nearly_a_rule("p/drift=0,5", ["drift"])
    ("; did you mean 'knowledge_lost>0.05'?", "; did you mean 'p/drift>0.5'?")
    """
    if re.fullmatch(r"\s*(?:[^<>=]+/)?[A-Za-z]\w*\s*", text):
        return (
            "; there is no condition: was it without quotes, so that the shell took > for the name of a file to write?"
        )
    found = _NEARLY.fullmatch(text[:500])
    if found is None:
        return ""
    where, name, relation, number, percent = found.groups()
    metric = closest(name, metrics) or name
    value = float(number.replace(",", ".")) / (100 if percent and range_of(metric).high <= 1 else 1)
    meant = {"=>": ">=", "=<": "<="}.get(relation, relation if relation in (">", "<", ">=", "<=") else ">")
    place = re.sub(r"\s*/\s*", "/", where)
    return f"; did you mean {quoted(f'{place}{metric}{meant}{value:g}', 200)}?"


def as_number(text: str) -> float | None:
    """The number that a text such as "5%" or "0,05" was meant to be, None if it is none."""
    found = re.fullmatch(r"\s*(\d*[.,]?\d+)\s*(%?)\s*", text)
    return None if found is None else float(found[1].replace(",", ".")) / (100 if found[2] else 1)
