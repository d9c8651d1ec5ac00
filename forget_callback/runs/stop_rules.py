"""Stop rules as they are asked for: of which number, above what, and whether the probes can answer.

Knows no snapshots and no rows; `runs.stopping` decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from forget_callback.metrics.diagnostics import MIN_SAMPLES
from forget_callback.metrics.transitions import INTERVALS, METRICS
from forget_callback.probes.items import Generation
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted
from forget_callback.probes.suggest import closest, did_you_mean
from forget_callback.runs.series import OVER_TIME
from forget_callback.runs.thresholds import RULE, as_number, hint, nearly_a_rule, never, of_verdict, range_of

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
