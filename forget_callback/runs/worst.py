"""The worst that can happen to a probe's items: every answer that is right now is wrong later, every text is worse.

What even that does not show, these items can never show: a rule that can never fire, a gate that can never fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from forget_callback.metrics.texts import floor_of, texts_in
from forget_callback.runs.history import History
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.snapshot import Snapshot

# What is then as bad as it can be; others, such as `churn` or `format_loss`, have no such limit.
METRICS = (
    *("forgetting", "forgetting_adjusted", "knowledge_lost", "knowledge_lost_net", "known_lost", "recall_lost"),
    *("ever_forgotten", "accuracy_after", "net_change", "score_lost", "score_change", "score_after"),
)


def history(baseline: Sequence[Snapshot]) -> History:
    """The baseline, a snapshot of each probe, and after it a step at which all that was right is wrong."""
    found = History()
    found.append(baseline)
    found.append([_everything_forgotten(snapshot) for snapshot in baseline])
    return found


def _everything_forgotten(baseline: Snapshot) -> Snapshot:
    def forgotten(answers: Snapshot | Answers) -> dict[str, Any]:
        right, chosen = answers.correct > 0, answers.choice >= 0
        options = np.where(chosen, baseline.n_choices, 1)
        return {
            "correct": np.where(right, 0.0, answers.correct),
            "outcome": np.where(right, "wrong", answers.outcome),
            "choice": np.where(right & chosen, (answers.choice + 1) % options, answers.choice).astype(int),
        }

    further = tuple(replace(answers, **forgotten(answers)) for answers in baseline.further)
    texts = texts_in(baseline)
    first = {name: np.where(texts, getattr(baseline, name), found) for name, found in forgotten(baseline).items()}
    return replace(
        baseline,
        step=baseline.step + 1,
        further=further,
        **first,
        score=baseline.score * 0,
        bits_per_byte=baseline.bits_per_byte + 2 * floor_of(baseline),
    )
