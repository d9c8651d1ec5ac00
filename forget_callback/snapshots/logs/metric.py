"""Which metric of a log decides between right and wrong: one that is 0 or 1, or a number from 0 to 1 at a threshold.

A number decides only where answers are generated: an option is right or wrong, and a share there is a damaged log.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from forget_callback.probes.plurals import counted
from forget_callback.probes.quoting import quoted
from forget_callback.snapshots.logs.log import LogOptions, LogRow, listed

# A score from here on is right, as `threshold=` of a scorer has it.
THRESHOLD = 0.5


def decide(
    rows: Sequence[LogRow], source: str, wanted: LogOptions, preferred: Sequence[str] = (), *, graded: bool = False
) -> tuple[list[LogRow], str, list[str]]:
    """The rows with right and wrong as the value of the metric that decides, that metric, and all that could.

    It is the user's choice, else the first of `preferred`, else the only one; one that is 0 or 1 for every item, or if
    there is none a number from 0 to 1, which is kept as the rows' `score`.

    Args:
        preferred: Metrics that are right and wrong by their name, the best first.
        graded: Whether a number may decide, where answers are generated.

    Raises:
        ValueError: If there is none, or several and none is preferred, or the user's choice is no such metric.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    values = {name: np.array([row.value(name) for row in rows]) for name in names}
    usable = [name for name in names if _all_in(values[name], graded=False)]
    numbers = [name for name in names if graded and name not in usable and _all_in(values[name], graded=True)]
    chosen = _chosen(rows, [usable, numbers], values, source, wanted, preferred)
    if chosen in numbers or (graded and chosen not in preferred):
        say_threshold(values[chosen].tolist(), chosen, source, wanted)
        rows = [
            replace(row, score=score, metrics={**row.metrics, chosen: None if math.isnan(score) else right(score)})
            for row, score in zip(rows, values[chosen].tolist())
        ]
    return list(rows), chosen, [*usable, *numbers]


def _chosen(
    rows: Sequence[LogRow],
    groups: Sequence[Sequence[str]],
    values: dict[str, np.ndarray],
    source: str,
    wanted: LogOptions,
    preferred: Sequence[str],
) -> str:
    """The name that `decide` takes, of groups of names of which the first that has any counts."""
    if any(wanted.metric in names for names in groups):
        return str(wanted.metric)
    could = next((names for names in groups if names), ())
    if wanted.metric in values:
        place = int(np.argmax(~np.isnan(values[wanted.metric]) & ~np.isin(values[wanted.metric], (0.0, 1.0))))
        raise ValueError(
            f"{source}, {rows[place].where}: metric {quoted(wanted.metric)} is "
            f"{quoted(rows[place].metrics.get(wanted.metric))}, not 0 or 1, so it does not tell right from wrong; "
            f"metrics of 0 or 1 are {listed(could)}"
        )
    if not could:
        raise ValueError(
            f"{source}: no metric is 0 or 1 for all items, so none tells right from wrong; its metrics are "
            f"{listed(list(values))}"
        )
    chosen = next((name for name in preferred if name in could), None)
    if chosen is None and len(could) > 1:
        missing = f" has no metric {quoted(wanted.metric)}, and" if wanted.metric is not None else ":"
        raise ValueError(
            f"{source}{missing} {len(could)} metrics could decide what is right: {listed(could)}; choose one: --metric"
        )
    return chosen or could[0]


def _all_in(values: np.ndarray, *, graded: bool) -> bool:
    """Whether all that is known is 0 or 1, or from 0 to 1, and something is."""
    known = values[~np.isnan(values)]
    return len(known) > 0 and bool((((known >= 0) & (known <= 1)) if graded else np.isin(known, (0.0, 1.0))).all())


def right(score: float) -> float:
    """1 from the threshold on, else 0."""
    return float(score >= THRESHOLD)


def say_threshold(scores: Iterable[float | None], metric: str, source: str, wanted: LogOptions) -> None:
    """Notes that a number decides, if one does."""
    every = list(scores)
    shares = [score for score in every if score is not None and 0 < score < 1]
    if shares:
        wanted.note(
            f"{source}: {quoted(metric)} is neither 0 nor 1 in {len(shares)} of {counted(len(every), 'row')}, such "
            f"as {shares[0]:g}; {THRESHOLD:g} or more is taken as right"
        )
