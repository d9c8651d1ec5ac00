"""Gates such as `knowledge_lost>0.05`: conditions under which a comparison fails, and their JUnit XML for CI.

A gate fails closed: a number that does not exist, too few scored items or a probe that was not measured fail it, and an
unknown probe, category or metric, or a threshold that nothing can pass, is an error.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal, TypeAlias
from xml.etree import ElementTree

from forget_callback.metrics.intervals import Interval
from forget_callback.metrics.knowledge import MIN_ITEMS
from forget_callback.metrics.transitions import INTERVALS
from forget_callback.probes.plurals import counted
from forget_callback.probes.quoting import printable, quoted
from forget_callback.runs import worst
from forget_callback.runs.formatting import in_words, percent, possible, span
from forget_callback.runs.gate_rows import not_scored, option, row_of, shown
from forget_callback.runs.headline import headline
from forget_callback.runs.power import hardly_found
from forget_callback.runs.rows import ALL_METRICS, Row
from forget_callback.runs.stop_rules import LOSSES, StopRule, unknown_metric
from forget_callback.runs.thresholds import COUNTS, RULE, always, hint, nearly_a_rule, never, outside, range_of
from forget_callback.snapshots.snapshot import Snapshot

MIN_SCORED = 0.95
Bound: TypeAlias = Literal["value", "lower"]
Outcome: TypeAlias = Literal["passed", "failed", "inconclusive"]
_FAILS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
# What is worse the larger it is, and what is better: change alone (churn, drift, kl) is neither.
_WORSE = {*LOSSES} - {"churn", "drift", "kl"}
_BETTER = (
    *("accuracy_after", "net_change", "backward_transfer", "knowledge_gained", "recovered", "n01", "n11", "scored"),
    *("score_after", "score_change", "top1_agreement"),
)
# Of texts, which are counted beside the other items.
_OF_TEXTS = ("bits_per_byte", "kl", "top1")


@dataclass(frozen=True)
class GateResult:
    """The outcome of one gate.

    Attributes:
        text: The gate as the user wrote it.
        outcome: "inconclusive" only where that was asked for.
        message: The number with interval, items and how many of them were scored, of a loss also its range and
            headline, and what else failed the gate; human-readable.
        too_few: Why it can never fail, or hardly, on these items, or shows little by passing; "" where it can.
    """

    text: str
    outcome: Outcome
    message: str
    too_few: str = ""

    @property
    def whole_message(self) -> str:
        """The message, and what the items cannot show."""
        return "; ".join(filter(None, (self.message, self.too_few)))

    @property
    def failed(self) -> bool:
        """Whether the gate fails."""
        return self.outcome == "failed"


@dataclass(frozen=True)
class Gate:
    """`[PROBE/[CATEGORY/]]METRIC>VALUE`; without a probe it reads the pool of all.

    Attributes:
        bound: "value" compares the number itself; "lower" the end of its 95% interval that is nearer to passing: the
            lower one for > and >=, the upper one for < and <=. Then a gate fails only where the data are sure, at
            97.5% on that side.
        min_scored: The share of the items that must have been scored both times; with less a gate fails. Of the pool
            of several probes it holds for each of them.
        inconclusive: Whether a gate that does not fail is "inconclusive" where its limit is not shown to be kept: the
            other end of the interval is beyond the threshold, or nothing can be said of a loss (too few items, too
            little known). A metric without an interval is taken as it is.
    """

    text: str
    probe: str | None
    category: str
    metric: str
    relation: str
    threshold: float
    _: KW_ONLY
    bound: Bound = "value"
    min_scored: float = MIN_SCORED
    inconclusive: bool = False

    @staticmethod
    def parse(text: str, *, bound: Bound = "value", min_scored: float = MIN_SCORED, inconclusive: bool = False) -> Gate:
        """Reads a gate.

        Raises:
            ValueError: If it is no gate, wants the bound of a metric without an interval, or the threshold is one that
                the metric cannot have.
        """
        match = RULE.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{option(text)}: expected METRIC>VALUE with a fraction as VALUE, such as 'knowledge_lost>0.05', or "
                f"verdict=lost{nearly_a_rule(text, ALL_METRICS)}"
            )
        metric, threshold = match[3], float(match[5])
        if metric not in ALL_METRICS:
            raise ValueError(f"{option(text)}: {unknown_metric(metric, ALL_METRICS)}")
        if bound == "lower" and metric not in INTERVALS:
            raise ValueError(
                f"{option(text)} with --bound lower: {metric!r} has no interval; {', '.join(INTERVALS)} have one"
            )
        if problem := outside(threshold, _limits(metric)):
            raise ValueError(f"{option(text)}: {problem}")
        where = match[1], match[2] or ""
        return Gate(
            text, *where, metric, match[4], threshold, bound=bound, min_scored=min_scored, inconclusive=inconclusive
        )

    def require_sense(self) -> None:
        """That the gate does not fail a model for losing little.

        Raises:
            ValueError: If it does.
        """
        if "<" in self.relation and self.metric in _WORSE:
            raise ValueError(
                f"{option(self.text)} fails what loses little, for a gate fails where its condition holds; to fail "
                f"what loses more: {quoted(self._turned('>'), 200)}"
            )

    def on(self, probe: str) -> str:
        """The same gate on one probe, as it is written."""
        return f"{probe}/{self.metric}{self.relation}{self.threshold:g}"

    def can_read(self, row: Row) -> bool:
        """Whether a row has what the gate compares."""
        return math.isfinite(float(row.numbers[self.metric]))

    def _turned(self, relation: str) -> str:
        return "/".join(filter(None, (self.probe, self.category, f"{self.metric}{relation}{self.threshold:g}")))

    def judge(
        self, rows: Sequence[Row], *, not_measured: Sequence[str] = (), before: Sequence[Snapshot] = ()
    ) -> GateResult:
        """Tests a comparison.

        Args:
            rows: What `compare_checkpoints` returns.
            not_measured: What to say of probes that a side should have measured and has not: they fail a gate over all.
            before: The snapshots that were compared against, one of each probe: whether its items can fail the gate.

        Raises:
            ValueError: If there is no such probe or category, or on these items the gate could never or always fail.
        """
        row = row_of(rows, self.probe, self.category, gate=self.text)
        self._require_open(row)
        number = float(row.numbers[self.metric + self._end])
        gaps = [
            *not_scored(rows, row, self.metric, least=self.min_scored),
            *(not_measured if self.probe in (None, "all") else ()),
        ]
        doubts = self._doubts(row) if self.inconclusive else []
        if not math.isfinite(number) or _FAILS[self.relation](number, self.threshold) or gaps:
            if ">" in self.relation and self.metric in _BETTER:  # what was meant may be the opposite
                turned = quoted(self._turned("<"), 200)
                gaps.append(f"a gate fails where its condition holds: to demand more than that, write {turned}")
            return GateResult(self.text, "failed", "; ".join([_message(row, self.metric), *gaps]))
        too_few = (self._too_few_to_fail(before, row) if before else "") or self._too_few_to_show(row)
        outcome: Outcome = "inconclusive" if doubts else "passed"
        return GateResult(self.text, outcome, "; ".join([_message(row, self.metric), *doubts]), too_few)

    def _too_few_to_fail(self, before: Sequence[Snapshot], row: Row) -> str:
        """Why the gate would pass whatever is lost, or nearly so; "" where a loss can fail it."""
        worse = "<" if self.metric in ("accuracy_after", "net_change", "score_after", "score_change") else ">"
        if self.metric not in worst.METRICS or worse not in self.relation:
            return ""
        lost = worst.history(before).select(row.probe, row.category)[-1]
        number = float(lost.numbers[self.metric + self._end])
        if not _FAILS[self.relation](number, self.threshold) and math.isfinite(number):
            end = {"": "", "_low": "the lower end of ", "_high": "the upper end of "}[self._end]
            t, limit = lost.transitions, "lower" if worse == ">" else "higher"
            return (
                f"can never fail: even if all {t.n10} of {counted(t.n)} of {shown(headline(row).name)} that were right "
                f"before were wrong after, {end}{self.metric} would be {percent(number)}; give it more items, or ones "
                f"that the model knows, or a {limit} limit"
            )
        if self.bound == "value" or worse == "<" or self.threshold <= 0:
            return ""
        rule = StopRule(self.metric, self.threshold, probe=row.probe, category=row.category or None, confidence=0.975)
        why = hardly_found(rule, before, limit="the limit", of="comparisons")
        return f"can hardly fail: {why}; give it more items, or a limit that they can show" if why else ""

    def _too_few_to_show(self, row: Row) -> str:
        """That passing is no evidence, where of so few items nothing is claimed; a count claims nothing."""
        if lost := _lost_beside(row, self.metric):
            other = "bits_per_byte_change>" if lost == ["text"] else "forgetting>"
            return (
                f"passes, though {' and '.join(lost)} was lost, which {self.metric} is not of; gate it by "
                f"{other}VALUE, or whatever was lost by verdict=lost"
            )
        n = _n(row, self.metric)
        if self.metric in COUNTS or n >= MIN_ITEMS:
            return ""
        few = "1 scored item is" if n == 1 else f"{n} scored items are"
        return f"passes, which shows little: {few} too few ({MIN_ITEMS} at least); give it more items"

    @property
    def _end(self) -> str:
        """Which end of the interval is compared, as its column's name ends."""
        return "" if self.bound == "value" else "_low" if ">" in self.relation else "_high"

    def _require_open(self, row: Row) -> None:
        """Raises ValueError if the outcome is known before the numbers are."""
        limits = _limits(self.metric)
        items = row.transitions.n + row.transitions.n_unscored
        here = Interval(limits.low, items) if self.metric in COUNTS else limits
        open_low, open_high = map(math.isinf, here)
        here_is = (
            f"at most {here.high:g}" if open_low else f"{here.low:g} {'or more' if open_high else f'to {here.high:g}'}"
        )
        span_here = f"{self.metric} is {here_is} here{hint(self.threshold, limits)}"
        if never(self.relation, self.threshold, here):
            raise ValueError(f"{option(self.text)} can never fail: {span_here}")
        if always(self.relation, self.threshold, limits):  # but more items than there are may be demanded
            raise ValueError(f"{option(self.text)} always fails: {span_here}")

    def _doubts(self, row: Row) -> list[str]:
        """Why a gate whose number is within its limit does not show that the limit is kept."""
        if self.metric not in INTERVALS:
            return []
        far = float(row.numbers[self.metric + ("_high" if ">" in self.relation else "_low")])
        if math.isnan(far) or _FAILS[self.relation](far, self.threshold):
            end = "has no end" if math.isnan(far) else f"goes to {percent(possible(row, self.metric, far))}"
            return [f"not shown to be kept, the interval {end}"]
        unclear = ">" in self.relation and self.metric in LOSSES and row.transitions.verdict == "unclear"
        return ["not shown to be kept, a loss could not be seen here"] if unclear else []


def _limits(metric: str) -> Interval:
    """What a metric can be in a comparison of two snapshots, between which an item is lost once at most."""
    return Interval(0.0, 1.0) if metric == "forgetting_events" else range_of(metric)


def _n(row: Row, metric: str) -> int:
    """The scored items that a metric is of."""
    t = row.transitions
    if metric.startswith(_OF_TEXTS):
        return t.bits.n if t.bits else 0
    if metric.startswith("score_"):
        return t.score.n if t.score else 0
    return t.knowledge_n if metric.startswith(("knowledge", "known", "spurious")) else t.n


def _lost_beside(row: Row, metric: str) -> list[str]:
    """The abilities that the verdict says were lost and a metric of knowledge does not see."""
    t = row.transitions
    if not metric.startswith(("knowledge", "known", "spurious")):
        return []
    return [one for one in t.lost_abilities if one == "text" or ("knowledge" in t.abilities and one != "knowledge")]


def _message(row: Row, metric: str) -> str:
    """The number as every place shows it, with its items; of a loss also the range and the headline."""
    said = headline(row)
    t = row.transitions
    n = _n(row, metric)
    name = shown(said.name)
    of_texts = metric.startswith(_OF_TEXTS)
    called = "text" if of_texts else "item"
    items = name if metric.startswith("recall") else f"{n} {called}{'' if n == 1 else 's'} of {name}"
    if n < t.n and row.probe == "all" and not of_texts:
        items = f"{n} of {counted(t.n)} of {name} (those of other kinds do not enter: gate their probes by name)"
    parts = [f"{metric} is {in_words(row, metric)}", items, f"{percent(t.scored)} scored"]
    if metric == "knowledge_lost":
        parts.insert(1, span(row))
    if metric in ("knowledge_lost", "known_lost"):
        parts.append(said.sentence)
    return ", ".join(filter(None, parts))


def junit(results: Sequence[GateResult], *, title: str, about: Sequence[str] = ()) -> str:
    """JUnit XML, which CI systems display: a test case per gate, with its message.

    An inconclusive gate is a failure of type "inconclusive", not "skipped": many systems show a skipped test as green.

    Args:
        about: Lines on what was compared, in the output of each test case.

    Raises:
        ValueError: If there is no gate.
    """
    if not results:
        raise ValueError("--junit needs a gate: give at least one --fail-if")
    counts = {"tests": str(len(results)), "failures": str(sum(one.outcome != "passed" for one in results))}
    root = ElementTree.Element("testsuites", counts | {"errors": "0"})
    suite = {"name": printable(title), **counts, "errors": "0", "skipped": "0", "time": "0"}
    cases = ElementTree.SubElement(root, "testsuite", suite)
    for one in results:
        named = {"classname": "forget_callback", "name": printable(one.text), "time": "0"}
        case = ElementTree.SubElement(cases, "testcase", named)
        message = printable(one.whole_message)  # XML has no form for most control characters
        if one.outcome != "passed":
            kind = "gate" if one.failed else one.outcome
            ElementTree.SubElement(case, "failure", {"message": message, "type": kind}).text = message
        ElementTree.SubElement(case, "system-out").text = "\n".join([message, *map(printable, about)])
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
