"""Gates such as `knowledge_lost>0.05`: conditions under which a comparison fails, and their JUnit XML for CI.

A gate fails closed: a number that does not exist fails it, and an unknown probe, category or metric is an error.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias
from xml.etree import ElementTree

from forget_callback.metrics.transitions import INTERVALS
from forget_callback.runs.comparison import overall
from forget_callback.runs.headline import headline, in_words, span
from forget_callback.runs.history import ALL_METRICS, Row
from forget_callback.runs.stopping import RULE, unknown_metric

Bound: TypeAlias = Literal["value", "lower"]
_FAILS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


@dataclass(frozen=True)
class GateResult:
    """The outcome of one gate.

    Attributes:
        text: The gate as the user wrote it.
        failed: Whether it fails.
        message: The number with interval and items, of a loss also its range and headline, human-readable.
    """

    text: str
    failed: bool
    message: str


@dataclass(frozen=True)
class Gate:
    """`[PROBE/[CATEGORY/]]METRIC>VALUE`; without a probe it reads the pool of all.

    Attributes:
        bound: "value" compares the number itself; "lower" the end of its 95% interval that is nearer to passing: the
            lower one for > and >=, the upper one for < and <=. Then a gate fails only where the data are sure, at
            97.5% on that side.
    """

    text: str
    probe: str | None
    category: str
    metric: str
    relation: str
    threshold: float
    bound: Bound = "value"

    @staticmethod
    def parse(text: str, *, bound: Bound = "value") -> Gate:
        """Reads a gate.

        Raises:
            ValueError: If it is no gate, or wants the bound of a metric without an interval.
        """
        match = RULE.fullmatch(text)
        if match is None:
            raise ValueError(
                f"--fail-if {text!r}: expected METRIC>VALUE with a number as VALUE, such as 'knowledge_lost>0.05'"
            )
        if match[3] not in ALL_METRICS:
            raise ValueError(f"--fail-if {text!r}: {unknown_metric(match[3], ALL_METRICS)}")
        if bound == "lower" and match[3] not in INTERVALS:
            raise ValueError(
                f"--fail-if {text!r} with --bound lower: {match[3]!r} has no interval; {', '.join(INTERVALS)} have one"
            )
        return Gate(text, match[1], match[2] or "", match[3], match[4], float(match[5]), bound)

    def judge(self, rows: Sequence[Row]) -> GateResult:
        """Tests a comparison, the rows that `compare_checkpoints` returns.

        Raises:
            ValueError: If there is no such probe or category.
        """
        probe = self.probe or overall(rows).probe
        row = next((row for row in rows if (row.probe, row.category) == (probe, self.category)), None)
        if row is None:
            known = sorted({"/".join(filter(None, (row.probe, row.category))) for row in rows})
            raise ValueError(f"--fail-if {self.text!r}: no such probe or category; there are {', '.join(known)}")
        end = "" if self.bound == "value" else "_low" if ">" in self.relation else "_high"
        number = float(row.numbers[self.metric + end])
        failed = math.isnan(number) or _FAILS[self.relation](number, self.threshold)
        return GateResult(self.text, failed, _message(row, self.metric))


def _message(row: Row, metric: str) -> str:
    """The number as every place shows it, with its items; of a loss also the range and the headline."""
    said = headline(row)
    t = row.transitions
    n = t.knowledge_n if metric.startswith(("knowledge", "known", "spurious")) else t.n
    items = said.name if metric.startswith("recall") else f"{n} items of {said.name}"
    parts = [f"{metric} is {in_words(row, metric)}", items]
    if metric == "knowledge_lost":
        parts.insert(1, span(row))
        parts.append(said.sentence)
    return ", ".join(filter(None, parts))


def junit(results: Sequence[GateResult], *, title: str) -> str:
    """JUnit XML, which CI systems display: a test case per gate, with its message.

    Raises:
        ValueError: If there is no gate.
    """
    if not results:
        raise ValueError("--junit needs a gate: give at least one --fail-if")
    counts = {"tests": str(len(results)), "failures": str(sum(one.failed for one in results)), "errors": "0"}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": title, **counts, "skipped": "0", "time": "0"})
    for one in results:
        case = ElementTree.SubElement(suite, "testcase", classname="forget_callback", name=one.text, time="0")
        if one.failed:
            ElementTree.SubElement(case, "failure", {"message": one.message, "type": "gate"}).text = one.message
        ElementTree.SubElement(case, "system-out").text = one.message
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
