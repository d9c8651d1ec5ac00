"""What the items of a run can show, and which of its rules can hardly fire: said before the first step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forget_callback.metrics.texts import floor_of, texts_in
from forget_callback.runs import power, text_power
from forget_callback.runs.power import AT_START, hardly_found, items_of_baseline, smallest_loss
from forget_callback.runs.stop_rules import StopRule
from forget_callback.snapshots.joined import pool
from forget_callback.snapshots.snapshot import Snapshot


def start_lines(baseline: Sequence[Snapshot], rules: Sequence[StopRule] = ()) -> list[str]:
    """What to say before training: what all items together can show, and which rule can hardly fire.

    Args:
        baseline: A snapshot of each probe.
        rules: Those on knowledge lost are judged by a loss well beyond their threshold, as in `rule_power`.
    """
    whole = pool(baseline) if len(baseline) > 1 else baseline[0]
    texts = texts_in(whole)
    shown = []
    if not texts.all():
        items = items_of_baseline(whole.select(~texts))
        shown.append(power.sentence(items, smallest_loss(items, n_runs=AT_START)))
    if n := int((texts & ~np.isnan(whole.correct)).sum()):
        shown.append(text_power.sentence(n, floor=max(map(floor_of, baseline))))
    lines = ["; ".join(shown)]
    for rule in rules:
        if why := hardly_found(rule, baseline, limit="its threshold", of="runs"):
            lines.append(
                f"stop rule {rule.metric} > {rule.above:g} can hardly fire: {why}; add items, or raise the threshold "
                "to what they can show"
            )
    return lines
