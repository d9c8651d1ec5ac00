"""What followed in the runs of our study where a number was as high after an eighth of the run.

The runs, on SmolLM2-135M, are in `early_warnings.tsv`, which `recipes/study_tables.py` writes. Of the numbers that are
known so early only those are here that went with all three losses in the end (see docs/study.md). It is evidence of one
small model, and no probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from forget_callback.metrics.diagnostics import Advice
from forget_callback.metrics.intervals import Interval
from forget_callback.probes.packaged import packaged_table
from forget_callback.probes.plurals import counted
from forget_callback.runs.formatting import bare, percent
from forget_callback.runs.rows import Row

MODEL = "SmolLM2-135M"
PART = 1 / 8  # of a run, after which the study took the early numbers
NUMBERS = ("text_worse", "kl", "drift")


@dataclass(frozen=True)
class StudyRun:
    """A run of the study.

    Attributes:
        name: Regime and seed.
        text_worse: By which share the bits per byte of other texts had risen.
        text_worse_low: Lower end of its 95% interval.
        kl: To the model before, on texts of the new task, in nats per token.
        drift: Of the probabilities of the options, on built-in facts.
        text_worse_last: As `text_worse`, at the end.
        lost: Of "knowledge", "behaviour" and "text" what was lost at the end, its 95% interval above 0.
    """

    name: str
    text_worse: float
    text_worse_low: float
    kl: float
    drift: float
    text_worse_last: float
    lost: tuple[str, ...]


@cache
def study() -> tuple[StudyRun, ...]:
    """The runs of the study."""
    rows = packaged_table(Path(__file__).with_name("early_warnings.tsv"))
    runs = []
    for name, *numbers, lost in rows:
        worse, low, kl, drift, last = map(float, numbers)
        runs.append(StudyRun(name, worse, low, kl, drift, last, tuple(lost.split())))
    return tuple(runs)


@dataclass(frozen=True)
class Followed:
    """How many runs of the study had as much of a number or more, and how many of them ended with a loss.

    Attributes:
        lost: Runs with as much or more that ended with a loss that shows.
        runs: Runs with as much or more.
        lost_below, runs_below: The same of those with less.
    """

    lost: int
    runs: int
    lost_below: int
    runs_below: int

    def __str__(self) -> str:
        if not self.runs:
            return f"no run of the study of {MODEL} had as much"
        below = f", of {self.runs_below} with less {self.lost_below}" if self.runs_below else ""
        return (
            f"of {counted(self.runs, 'run')} of the study of {MODEL} with as much or more after an eighth, {self.lost} "
            f"ended with a loss{below}"
        )


def followed(number: str, value: float) -> Followed:
    """What followed where one of `NUMBERS` was as high."""
    high = [getattr(run, number) >= value for run in study()]
    lost = [bool(run.lost) for run in study()]
    among, below = [a for a, b in zip(lost, high) if b], [a for a, b in zip(lost, high) if not b]
    return Followed(sum(among), len(among), sum(below), len(below))


def text_worse(row: Row) -> tuple[float, Interval]:
    """By which share the bits per byte of documents have risen, with its 95% interval; NaN where the row has none."""
    change, low, high = (row.value(f"bits_per_byte_change{end}") for end in ("", "_low", "_high"))
    before = row.value("bits_per_byte_before")
    return change / before, Interval(low / before, high / before)


def got_worse(row: Row) -> bool:
    """Whether documents got worse by more than noise, and are enough to say so."""
    return row.transitions.verdict != "unclear" and text_worse(row)[1].low > 0


def forecast(worse: float) -> Interval | None:
    """Between which shares texts will have got worse at the end if that goes on as in the study.

    None for a rise that is higher than in any of its runs.

    Args:
        worse: By which share they have after an eighth of the run, beyond noise: of a rise within it nothing can be
            said.
    """
    rose = [run for run in study() if run.text_worse_low > 0]
    if worse > max(run.text_worse for run in rose):
        return None
    times = [run.text_worse_last / run.text_worse for run in rose]
    return Interval(worse * min(times), worse * max(times))


def early_warning(row: Row, *, planned_steps: int | None) -> tuple[Advice, ...]:
    """What there is to know of texts that have got worse within the first eighth of a run; most often nothing.

    Args:
        row: Of the last snapshot of a whole probe.
        planned_steps: Of the training; None where that is not known.
    """
    t = row.transitions
    if t.ability != "text" or t.training or planned_steps is None or not 0 < row.step <= PART * planned_steps:
        return ()
    if not got_worse(row):
        return ()
    change, interval = text_worse(row)
    text = (
        f"texts got worse by {percent(change)} [{bare(interval.low)}, {bare(interval.high)}] within the first "
        f"{row.step:,} of {planned_steps:,} steps: {followed('text_worse', change)}"
    )
    return (Advice("early_warning", row.probe, text),)
