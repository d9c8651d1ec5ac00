"""One row of the history: the numbers of one step, probe and category, by the names that everything else knows.

Pure: what computes them and keeps them in order is `history.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from forget_callback.metrics.transitions import INTERVALS, METRICS, Transitions
from forget_callback.runs.series import OVER_TIME

ALL_METRICS = (*METRICS, *(f"{name}_{end}" for name in INTERVALS for end in ("low", "high")), *OVER_TIME)
KEYS = ("step", "samples_seen", "tokens_seen", "probe", "category")
COLUMNS = (*KEYS, *ALL_METRICS, "knowledge_method", "verdict", "stage", "total_samples_seen")
# What is of all prompts of an item, so that a look at the first prompts alone has none of it.
OF_ALL_PROMPTS = tuple(
    name for name in ALL_METRICS if any(part in name for part in ("knowledge_", "known_", "spurious_", "still_chosen"))
)


@dataclass(frozen=True)
class Stage:
    """Which stage of a pipeline a run is, such as SFT and then GRPO; the first one by default.

    Attributes:
        number: From 1.
        samples_before: Training samples of the stages before.
    """

    number: int = 1
    samples_before: float = 0.0


@dataclass(frozen=True)
class Row:
    """One step of one probe and category ("" is the whole probe).

    Attributes:
        confirmed: Whether all prompts of the baseline were asked. Where only the first ones were, `transitions` is of
            these, and the row's numbers of all prompts are NaN.
        collapse: What to say of a whole probe whose answers have become one, "" where they have not.
        skipped: Whether further prompts of the probe were not asked, for no answer to them could count.
    """

    step: int
    samples_seen: float
    tokens_seen: float
    probe: str
    category: str
    transitions: Transitions
    over_time: dict[str, float]
    stage: Stage = Stage()
    confirmed: bool = True
    collapse: str = ""
    skipped: bool = False

    @property
    def total_samples_seen(self) -> float:
        """Training samples of this stage so far and of all stages before it."""
        return self.stage.samples_before + self.samples_seen

    def value(self, metric: str) -> float:
        """The number of one metric of `ALL_METRICS`."""
        return float(self.numbers[metric])

    @cached_property
    def numbers(self) -> Mapping[str, Any]:
        """The row of the table, by the names of its columns; computed once."""
        keys = {name: getattr(self, name) for name in KEYS}
        stage = {"stage": self.stage.number, "total_samples_seen": self.total_samples_seen}
        unknown = {} if self.confirmed else {**dict.fromkeys(OF_ALL_PROMPTS, float("nan")), "verdict": ""}
        return {**keys, **self.transitions.as_dict(), **self.over_time, **unknown, **stage}


def table_of(rows: Sequence[Row]) -> pd.DataFrame:
    """The table, a row per (step, probe, category).

    Columns: step, samples_seen, tokens_seen, probe, category, every metric, knowledge_method, verdict ("" where the
    first prompts alone were asked), and of a pipeline the stage and the samples seen in all stages so far.
    """
    table = pd.DataFrame([row.numbers for row in rows], columns=list(COLUMNS))
    return table.astype({"knowledge_n": float})  # a count that may be missing; files have one type a column
