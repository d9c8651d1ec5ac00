"""What all rules of a run say after its last step.

Reads a history and nothing else, so the decisions of a run can be made again from its stored snapshots.
"""

from __future__ import annotations

from collections.abc import Sequence

from forget_callback.runs.history import History
from forget_callback.runs.rows import Row
from forget_callback.runs.stop_rules import StopRule
from forget_callback.runs.stopping import StopDecision, decide


def decide_all(
    rules: Sequence[StopRule], history: History, probes: Sequence[str], *, planned: int | None = None
) -> tuple[StopDecision, ...]:
    """The decision of each rule, in their order; none at the baseline.

    Args:
        probes: Names of the run's probes.
        planned: Snapshots planned for the whole run, for strict rules.
    """
    read = [(rule, history.select(*rule.target(probes))) for rule in rules]
    return tuple(_decision(rule, history, rows, planned) for rule, rows in read if len(rows) > 1)


def fired_so_far(
    rules: Sequence[StopRule], history: History, probes: Sequence[str], *, planned: int | None = None
) -> set[StopRule]:
    """The rules that fired after any step of a history, as `decide_all` would have found them there."""
    read = [(rule, history.select(*rule.target(probes))) for rule in rules]
    return {
        rule
        for rule, rows in read
        if any(_decision(rule, history, rows[:n], planned).fired for n in range(2, len(rows) + 1))
    }


def _decision(rule: StopRule, history: History, rows: Sequence[Row], planned: int | None) -> StopDecision:
    if not rule.strict:
        return decide(rule, rows)
    target = rows[0].probe, rows[0].category
    scores, clusters = history.lost_scores(*target, unconfirmed=True)[: len(rows)], history.clusters(*target)
    return decide(rule, rows, planned=planned, scores=scores, clusters=clusters)
