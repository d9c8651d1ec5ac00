"""When is forgetting certain and large enough to stop a run: a rule's decision, in one line.

It reads the history's rows and nothing else, so a decision can be made again from stored snapshots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
from numpy.typing import ArrayLike

from forget_callback.probes.plurals import counted
from forget_callback.probes.quoting import printable
from forget_callback.runs import worst
from forget_callback.runs.formatting import NOT_SHARES
from forget_callback.runs.headline import headline
from forget_callback.runs.rows import OF_ALL_PROMPTS, Row
from forget_callback.runs.stop_rules import StopRule
from forget_callback.runs.strict import strict_confidence
from forget_callback.snapshots.snapshot import Snapshot


@dataclass(frozen=True)
class StopDecision:
    """What a rule decided at the last snapshot, and on which numbers.

    Attributes:
        fired: Whether the rule's condition held at `rule.patience` consecutive snapshots. A metric of all prompts must
            have been measured in all of them at the last one.
        triggered: Whether it held by what was asked: where the rule did not fire, the further prompts decide.
        value: The metric now.
        bound: Its one-sided lower bound, NaN for a point rule. Where the first prompts alone were asked, this and the
            value are of these, NaN if they have none.
        confidence: Confidence of that bound, None for a point rule.
        n: Items that were scored both times.
        consecutive: Snapshots in a row, up to now, at which the condition held.
        headline: The sentence that every place says of the last snapshot.
    """

    rule: StopRule
    fired: bool
    triggered: bool
    step: int
    probe: str
    category: str
    value: float
    bound: float
    confidence: float | None
    n: int
    consecutive: int
    headline: str = ""

    @property
    def stop(self) -> bool:
        """Whether training should end."""
        return self.fired and self.rule.action == "stop"

    @property
    def reason(self) -> str:
        """The decision in one line."""
        name = printable("/".join(part for part in (self.probe, self.category, self.rule.metric) if part))
        is_share = self.rule.metric not in NOT_SHARES
        value, bound = (
            "missing" if math.isnan(number) else f"{100 * min(number, 1.0):.1f}%" if is_share else f"{number:.4g}"
            for number in (self.value, self.bound)
        )
        bound = "" if self.confidence is None else f", {100 * self.confidence:.4g}% lower bound {bound}"
        threshold = f"{100 * self.rule.above:g}%" if is_share else f"{self.rule.above:g}"
        relation = "above" if self.consecutive else "not above"
        if self.triggered and not self.fired and self.rule.metric not in _OF_ONE_PROMPT_TOO:
            relation = "not yet known to be above"
        times = f"{self.consecutive} snapshots in a row up to " if self.consecutive > 1 else ""
        asked = ", first prompts only" if self.triggered and not self.fired else ""
        said = f": {self.headline}" if self.headline and self.rule.metric in OF_ALL_PROMPTS else ""
        return (
            f"{name} {value}{bound}, {relation} {threshold} at {times}step {self.step} ({counted(self.n)}{asked}){said}"
        )


def decide(
    rule: StopRule,
    rows: Sequence[Row],
    *,
    planned: int | None = None,
    scores: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
) -> StopDecision:
    """The decision of `rule` after the last of `rows`.

    Args:
        rows: One probe and category, oldest first, at least one; the first is the baseline and never counts.
        planned: Snapshots planned for the whole run, for a strict rule.
        scores: For a strict rule, what each item adds to `knowledge_lost` at each of `rows`, as `History.lost_scores`
            gives it, ``(n_rows, n_items)``: they show how the looks vary together, whatever the rule's metric.
        clusters: Group of each item, for a strict rule.

    Raises:
        ValueError: If the rule is strict and `planned` or `scores` is not given.
    """
    confidence = rule.confidence
    if rule.strict and confidence is not None:
        if planned is None or scores is None:
            raise ValueError(
                "a strict rule spends its error rate over the planned snapshots; pass planned= and scores="
            )
        looks = np.asarray(scores, float)[1:]
        if len(looks):
            confidence = strict_confidence(
                looks, planned=planned, alpha=1 - confidence, patience=rule.patience, clusters=clusters
            )
    later = reversed(rows[1:])
    consecutive = sum(1 for _ in takewhile(lambda row: _tested(rule, row, confidence) > rule.above, later))
    last, triggered = rows[-1], consecutive >= rule.patience
    return StopDecision(
        rule=rule,
        fired=triggered and (last.confirmed or rule.metric not in OF_ALL_PROMPTS),
        triggered=triggered,
        step=last.step,
        probe=last.probe,
        category=last.category,
        value=_shown(rule, last, None),
        bound=float("nan") if confidence is None else _shown(rule, last, confidence),
        confidence=confidence,
        n=last.transitions.n,
        consecutive=consecutive,
        headline=headline(last).sentence,
    )


def can_fire(rule: StopRule, baseline: Sequence[Snapshot]) -> bool:
    """Whether `rule` would fire if every item that is right at the baseline were wrong later, the worst possible case.

    Rules on other metrics than those of `worst.METRICS` have no such limit and can always fire.
    `baseline` holds the first snapshot of every probe.
    """
    if rule.metric not in worst.METRICS:
        return True
    rows = worst.history(baseline).select(*rule.target([snapshot.probe for snapshot in baseline]))
    return decide(replace(rule, patience=1, strict=False), rows).fired


def _by_first_prompt(rule: StopRule, row: Row) -> bool:
    """Whether the rule's metric is one of all prompts, and only the first ones were asked."""
    return not row.confirmed and rule.metric in OF_ALL_PROMPTS


# Of the metrics of all prompts those that the first prompts alone may well show to be above a threshold.
_OF_ONE_PROMPT_TOO = ("knowledge_lost", "knowledge_lost_net")


def _shown(rule: StopRule, row: Row, confidence: float | None) -> float:
    """The metric or its lower bound; where the first prompts alone were asked that of these, NaN if they have none."""
    if not _by_first_prompt(rule, row) or rule.metric in _OF_ONE_PROMPT_TOO:
        return _tested(rule, row, confidence)
    if confidence is None:
        return float(getattr(row.transitions, rule.metric, math.nan))
    return row.transitions.interval(rule.metric, confidence=2 * confidence - 1).low


def _tested(rule: StopRule, row: Row, confidence: float | None) -> float:
    """The number that is compared with the threshold; where the first prompts alone were asked, their estimate."""
    if not _by_first_prompt(rule, row):
        if confidence is None:
            return row.value(rule.metric)
        # The low end of a two-sided interval at 2c - 1 is a one-sided bound at c.
        return row.transitions.interval(rule.metric, confidence=2 * confidence - 1).low
    lost = row.transitions.first_prompt_lost
    found = lost.mean if confidence is None else lost.interval(confidence=2 * confidence - 1).low
    if rule.metric in _OF_ONE_PROMPT_TOO:
        return found
    return math.inf if found > 0 else -math.inf  # whatever it is, the further prompts must say
