"""Stop rules that can never fire: on a number that the items do not have, or on a loss that they cannot show.

What the items alone tell is said when the callback is made, all of it at the baseline, a line each. Pure: rules, probes
and snapshots in, text out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from forget_callback.metrics.transitions import INTERVALS
from forget_callback.probes.abilities import TRAINING, ability_of
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import printable
from forget_callback.runs.rows import Row
from forget_callback.runs.series import OF_TEXT, STAGE
from forget_callback.runs.stop_rules import LOSSES, StopRule
from forget_callback.runs.stopping import can_fire
from forget_callback.snapshots.snapshot import Snapshot

# What exists of texts too.
_OF_TEXTS = (
    *("forgetting", "forgetting_adjusted", "ever_forgotten", "forgetting_events", "churn", *OF_TEXT, *STAGE),
    *("bits_per_byte_change", "bits_per_byte_after", "backward_transfer", "net_change"),
)
_ONLY_OF = {
    "recall_lost": ("recall", "only recall items have it; use a rule on knowledge_lost"),
    "drift": ("multiple_choice", "only items with options have it; use a rule on knowledge_lost"),
    "score_lost": ("generation", "only generated answers are graded; use a rule on knowledge_lost"),
}


@dataclass(frozen=True)
class _Items:
    """What a rule reads: the kinds of its items, "training" of the training data, and whether it is several probes."""

    kinds: frozenset[str]
    in_variants: bool
    pooled: bool


def idle_by_items(rules: Sequence[StopRule], probes: Sequence[Probe], *, variants: bool, staged: bool) -> list[str]:
    """The rules on a number that their items do not have, whatever a model answers.

    Args:
        variants: Whether items are asked in their further prompts.
        staged: Whether the run may be a later stage of another one.
    """
    found = ((rule, _lacking(rule.metric, _read(rule, probes), variants, staged)) for rule in rules)
    return [_line(rule, why) for rule, why in found if why]


def idle_rules(
    rules: Sequence[StopRule], probes: Sequence[Probe], baseline: Sequence[Snapshot], rows: Sequence[Row]
) -> Iterator[str]:
    """The rules that nothing could make fire on these items.

    Args:
        probes: Of the run.
        baseline: A snapshot of each.
        rows: Of the baseline.
    """
    row_of = {(row.probe, row.category): row for row in rows}
    for rule in rules:
        row = row_of.get(rule.target([probe.name for probe in probes]))
        has_none = row is not None and math.isnan(row.value(rule.metric))
        if has_none and rule.metric in (*LOSSES, *INTERVALS) and rule.metric != "churn":  # which takes two looks
            items = _read(rule, probes)
            why = _lacking(rule.metric, items, items.in_variants, staged=False)
            yield _line(rule, why or _unseen(rule.metric))
        elif not can_fire(rule, baseline):
            yield (
                f"stop rule {_name(rule)} can never fire: even if every item that is right now were forgotten, these "
                "items could not show it; lower the threshold or add items"
            )


def _lacking(metric: str, items: _Items, variants: bool, staged: bool) -> str:
    """Why items of these kinds have no such number, and what to use; "" if they may have it."""
    texts = items.kinds & {"text", TRAINING}
    bits = metric.startswith("bits_per_byte")
    if (bits or metric in OF_TEXT) and not texts:
        return "only texts have it; add a probe of texts, such as builtin:text"
    if bits and items.pooled and texts == {TRAINING}:
        return "texts of the training data count under their probe's name alone; write it before the metric"
    if metric in STAGE and not staged:
        return "this run is no later stage of another; pass baseline=RUN, or use a rule without stage_"
    if items.kinds <= {"text", TRAINING} and metric in LOSSES and metric not in _OF_TEXTS:
        return "texts have no right and wrong; use a rule on bits_per_byte_change or forgetting"
    if metric == "macro_knowledge_lost" and not items.pooled:
        return "it is a mean over several probes; use a rule on knowledge_lost"
    if metric == "spurious_forgetting" and not (variants and items.in_variants):
        return "they are asked in one prompt; use a rule on knowledge_lost"
    kind, why = _ONLY_OF.get(metric, ("", ""))
    return why if kind and kind not in items.kinds else ""


def _unseen(metric: str) -> str:
    """Why a baseline has no such number, though it is of items that may have it."""
    if metric == "known_lost":
        return "next to nothing of them is known at the baseline; ask easier items, or more of them"
    if metric == "score_lost":
        return "no answer has a graded score; pass a scorer= that gives numbers, or use a rule on knowledge_lost"
    if metric in OF_TEXT:
        return "what the baseline expects of its texts is not kept here; use a rule on bits_per_byte_change"
    return "they are asked in one prompt or are of another kind; use a rule on knowledge_lost"


def _read(rule: StopRule, probes: Sequence[Probe]) -> _Items:
    name, category = rule.target([probe.name for probe in probes])
    items = [
        item
        for probe in probes
        if name in (probe.name, "all")
        for item in probe.items
        if category in ("", item.category)
    ]
    kinds = frozenset(TRAINING if ability_of(item) == TRAINING else item.kind for item in items)
    return _Items(kinds, any(item.variants for item in items), name == "all" and len(probes) > 1)


def _line(rule: StopRule, why: str) -> str:
    return f"stop rule {_name(rule)} can never fire: these items have no such number, because {why}"


def _name(rule: StopRule) -> str:
    where = "/".join(filter(None, (rule.probe, rule.category, rule.metric)))
    return f"{printable(where)} > {rule.above:g}"
