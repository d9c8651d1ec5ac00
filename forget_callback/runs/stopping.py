"""Stop rules: when is forgetting certain and large enough to stop a run, and the decision in one line.

A rule reads the history's rows and nothing else, so a decision can be made again from stored snapshots.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import takewhile
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from forget_callback.metrics.diagnostics import MIN_SAMPLES
from forget_callback.metrics.transitions import INTERVALS, METRICS
from forget_callback.probes.items import Generation
from forget_callback.probes.plurals import counted
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import printable, quoted
from forget_callback.probes.suggest import closest, did_you_mean
from forget_callback.runs import worst
from forget_callback.runs.formatting import NOT_SHARES
from forget_callback.runs.headline import headline
from forget_callback.runs.rows import OF_ALL_PROMPTS, Row
from forget_callback.runs.series import OVER_TIME
from forget_callback.runs.strict import strict_confidence
from forget_callback.runs.thresholds import RULE, as_number, hint, nearly_a_rule, never, of_verdict, range_of
from forget_callback.snapshots.snapshot import Snapshot

# Metrics that grow as a model gets worse, and only then: what a rule in text may name.
LOSSES = (
    *("knowledge_lost", "knowledge_lost_net", "knowledge_lost_range_low", "knowledge_lost_range_high", "known_lost"),
    *("macro_knowledge_lost", "spurious_forgetting", "recall_lost"),
    *("forgetting", "forgetting_adjusted", "ever_forgotten", "forgetting_events", "churn", "drift"),
    *("unparsed", "format_loss", "stage_forgetting", "stage_knowledge_lost"),
    *("score_lost", "bits_per_byte_change", "bits_per_byte_after", "kl"),
)


@dataclass(frozen=True)
class StopRule:
    """Fires when a metric is above a threshold at `patience` consecutive snapshots.

    Attributes:
        metric: A number of `Transitions` or one over time, such as "forgetting" or "knowledge_lost".
        above: The threshold, a fraction.
        probe: Name of a probe; None is the only probe, or the pool of all.
        category: Category within the probe; None is the whole probe.
        patience: Consecutive snapshots that must all be above.
        confidence: The one-sided lower bound at this confidence must be above; None compares the point estimate, which
            is noisy (it stops most healthy runs) and the only choice for a metric without an interval.
        strict: Spend the error rate ``1 - confidence`` over all planned snapshots, by how they vary together, instead
            of on each, see `strict_confidence`.
        action: "stop" ends training, "warn" only logs that it fired.

    Raises:
        ValueError: If a field is out of range, or the metric has no interval and `confidence` is not None.
    """

    metric: str
    above: float
    _: KW_ONLY
    probe: str | None = None
    category: str | None = None
    patience: int = 2
    confidence: float | None = 0.95
    strict: bool = False
    action: Literal["stop", "warn"] = "stop"

    def __post_init__(self) -> None:
        if self.metric not in (*METRICS, *OVER_TIME):
            raise ValueError(f"stop rule: {unknown_metric(self.metric, (*METRICS, *OVER_TIME))}")
        if isinstance(self.above, bool) or not isinstance(self.above, (int, float)) or not math.isfinite(self.above):
            number = as_number(self.above) if isinstance(self.above, str) else None
            meant = "" if number is None else f"; did you mean {number:g}?"
            raise ValueError(f"above must be a number, and finite, such as 0.05, got {quoted(self.above)}{meant}")
        limits = range_of(self.metric)
        if never(">", self.above, limits):  # below the range it fires at once, which nobody overlooks
            raise ValueError(
                f"a rule on {self.metric!r} above {self.above:g} never fires: a share cannot exceed {limits.high:g}"
                f"{hint(self.above, limits)}"
            )
        if isinstance(self.patience, bool) or not isinstance(self.patience, int) or self.patience < 1:
            raise ValueError(f"patience must be a whole number of 1 or more, got {quoted(self.patience)}")
        if self.confidence is not None and not 0.5 <= self.confidence < 1:
            raise ValueError(
                f"confidence must lie in [0.5, 1), or be None for a point rule, got {quoted(self.confidence)}"
            )
        if self.confidence is not None and self.metric not in INTERVALS:
            raise ValueError(
                f"metric {self.metric!r} has no interval, so confidence must be None (a point rule), got "
                f"{self.confidence}; {', '.join(INTERVALS)} have one"
            )
        if self.strict and self.confidence is None:
            raise ValueError("strict needs a confidence to spend; a point rule (confidence=None) has none")
        if self.action not in ("stop", "warn"):
            raise ValueError(f"action must be 'stop' or 'warn', got {quoted(self.action)}")

    def target(self, probes: Sequence[str]) -> tuple[str, str]:
        """Probe and category whose rows the rule reads, given all probes' names."""
        return self.probe or (probes[0] if len(probes) == 1 else "all"), self.category or ""

    @classmethod
    def parse(cls, text: str) -> StopRule:
        """Reads "METRIC>VALUE", "PROBE/METRIC>VALUE" or "PROBE/CATEGORY/METRIC>VALUE", as in a recipe's YAML.

        METRIC is one of `LOSSES`. One with an interval is tested by its lower bound, one without by the point estimate.

        Raises:
            ValueError: If it is none of these, or the rule is not valid.
        """
        if of_verdict(text):
            raise ValueError(
                f"stop rule {quoted(text)}: a rule compares a number of a loss, and a verdict is a word; stop by "
                "'knowledge_lost>0.05', by 'PROBE/forgetting>VALUE' for behaviour and by 'bits_per_byte_change>VALUE' "
                "for text, and gate what came of it: forget-callback compare --fail-if verdict=lost"
            )
        match = RULE.fullmatch(text)
        if match is None or match[4] != ">":
            meant = "; a rule fires above VALUE" if match else nearly_a_rule(text, (*METRICS, *OVER_TIME))
            raise ValueError(
                f"stop rule {quoted(text)}: expected METRIC>VALUE, PROBE/METRIC>VALUE or PROBE/CATEGORY/METRIC>VALUE "
                f"with a number as VALUE, such as 'knowledge_lost>0.05'{meant}"
            )
        metric, above = match[3], float(match[5])
        if metric in (*METRICS, *OVER_TIME) and metric not in LOSSES:
            raise ValueError(
                f"stop rule on {metric!r}: above a threshold it does not say that something was forgotten; use a loss, "
                "such as 'knowledge_lost>0.05'"
            )
        limits = range_of(metric)
        if metric in LOSSES and limits.high <= 1 and never(">", above, limits):
            raise ValueError(f"stop rule {quoted(text)}: a share cannot exceed {limits.high:g}{hint(above, limits)}")
        confidence = 0.95 if metric in INTERVALS else None
        return cls(metric, above, probe=match[1], category=match[2], confidence=confidence)


def unknown_metric(name: str, known: Sequence[str]) -> str:
    """What to say of a metric that does not exist: the one that was probably meant, or all."""
    meant = closest(name, known)
    remedy = f"there are {', '.join(known)}" if meant is None else f"did you mean {meant}? docs/metrics.md lists all"
    return f"no metric is called {quoted(name)}; {remedy}"


def stop_rules(given: StopRule | str | Iterable[StopRule | str]) -> tuple[StopRule, ...]:
    """One rule or several, each a `StopRule` or a text for `StopRule.parse`.

    >>> [rule.metric for rule in stop_rules(["knowledge_lost>0.05", StopRule("forgetting", 0.1)])]
    ['knowledge_lost', 'forgetting']

    Raises:
        ValueError: If one is neither.
    """
    rules = [given] if isinstance(given, (StopRule, str)) else list(given) if isinstance(given, Iterable) else [given]
    for rule in rules:
        if not isinstance(rule, (StopRule, str)):
            raise ValueError(
                f"stop takes StopRules and texts such as 'knowledge_lost>0.05', one or several; got {quoted(rule)}"
            )
    return tuple(rule if isinstance(rule, StopRule) else StopRule.parse(rule) for rule in rules)


def check_targets(rules: Sequence[StopRule], probes: Sequence[Probe]) -> None:
    """That the probes can stand side by side, and each rule names one of them and a category that it has.

    Sampled answers need `MIN_SAMPLES` of each item: of an unchanged model that was sampled once, a rule at 0.05 stopped
    343 of 360 runs of 20 snapshots.

    Raises:
        ValueError: If not, naming the probe or the rule.
    """
    names = [probe.name for probe in probes]
    if not probes or len({name.lower() for name in names}) < len(names):  # file systems may not tell case
        raise ValueError(
            f"probes must be one or more with different names, in whatever case, got {names}; rename one, for example "
            "'builtin:facts?name=facts2'"
        )
    known = {probe.name: {item.category for item in probe.items} for probe in probes} | {"all": set()}
    for rule in rules:
        probe, category = rule.target(names)
        if probe not in known or (probe == "all" and len(probes) == 1):
            raise ValueError(
                f"stop rule on {rule.metric!r}: probe {quoted(probe)} is not among {names}{did_you_mean(probe, names)}"
            )
        if category and category not in known[probe]:
            has = sorted(known[probe] - {""})
            raise ValueError(
                f"stop rule on {rule.metric!r}: probe {quoted(probe)} has no category {quoted(category)}"
                f"{did_you_mean(category, has) or ';'} has {quoted(has, 400)}"
            )
        for one in probes:
            few = [item for item in one.items if isinstance(item, Generation) and item.samples < MIN_SAMPLES]
            if one.temperature > 0 and few and probe in (one.name, "all"):
                raise ValueError(
                    f"stop rule on {rule.metric!r}: the answers of probe {one.name!r} are sampled, {few[0].samples} an "
                    f"item, and a rule would stop on what sampling alone changes; draw {MIN_SAMPLES} or more "
                    f"(samples={MIN_SAMPLES} of its items, or '?samples={MIN_SAMPLES}' in a spec), or set temperature=0"
                )


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
