"""How long scoring takes: a bar on a terminal, elsewhere one line before what takes long.

Nothing is guessed: the rate is that of the last scoring, else of the first batches of this one. Knows no model.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from tqdm.auto import tqdm

from forget_callback.probes.console import say
from forget_callback.probes.probe import Probe

# What a caller wants: nothing; a bar on a terminal and lines elsewhere; or lines everywhere.
Progress: TypeAlias = bool | Literal["lines"]
# Kinds of work: continuations, whose unit is a token of theirs, and texts, whose unit is a token that may be generated.
Work: TypeAlias = Mapping[str, float]

ROWS, TEXTS = "rows", "texts"
# Seconds: what takes less is not announced.
LONG = 20.0
# Seconds: with what takes more, about 6 minutes, it is said how it would take less.
_TOO_LONG = 330.0
_ADVICE = (
    'to make that shorter, ask fewer items, as in "builtin:facts?limit=300", or one prompt of each, as in '
    '"builtin:facts?variants=off"'
)
# Seconds of one kind of work after which its rate is known.
_ENOUGH = 2.0
# Seconds without a rate after which a line names the work in progress.
_PATIENCE = 10.0
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass
class Pace:
    """What a unit of each kind of work took at the last scoring, in seconds; shared by scorers of a run."""

    seconds: dict[str, float] = field(default_factory=dict)
    advised: bool = False  # on how to make it shorter, once a run


def about(seconds: float) -> str:
    """A time for people.

    >>> about(43), about(100), about(5400)
    ('about 45 seconds', 'about 2 minutes', 'about 1.5 hours')
    """
    if seconds < 57.5:
        return f"about {max(5 * round(seconds / 5), 5)} seconds"
    if seconds < 90:
        return "about a minute"
    if seconds < 59.5 * 60:
        return f"about {round(seconds / 60)} minutes"
    hours = f"{seconds / 3600:.1f}".removesuffix(".0")
    return "about an hour" if hours == "1" else f"about {hours} hours"


def what_is_scored(probes: Sequence[Probe], counts: Sequence[int], *, variants: bool) -> str:
    """What a scoring asks, "865 items of 'facts' in two variants".

    Args:
        counts: Items of each probe that are asked.
        variants: Whether their further prompts are asked as well.
    """
    names = [f"'{probe.name}'" for probe in probes]  # of letters and digits
    shown = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    of = shown if len(names) <= 3 and len(shown) <= 60 else f"{len(names)} probes"
    most = max(probe.n_variants for probe in probes) if variants else 1
    number = _WORDS[most] if most < len(_WORDS) else str(most)
    n = sum(counts)
    return f"{n:,} item{'s' * (n != 1)} of {of}" + (f" in {number} variants" if most > 1 else "")


@contextlib.contextmanager
def progress_of(
    what: str, work: Work, wanted: Progress, *, names: Sequence[str] = (), pace: Pace | None = None
) -> Iterator[Callable[[str, float], object]]:
    """Around work that may take long; gives what is called with a kind of work and the units that are done.

    Args:
        what: The work in words, "scoring 865 items of 'facts'".
        work: Units of each kind, on all ranks.
        names: Of the probes, for the bar.
        pace: Of the last time, and updated by this one.
    """
    if not wanted:
        yield lambda kind, units: None
        return
    pace = Pace() if pace is None else pace
    name = ", ".join(names)
    with tqdm(
        total=sum(work.values()),
        desc=f"scoring probe {name if len(name) <= 40 else f'{name[:39]}…'}",
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left",
        delay=2,
        leave=False,
        disable=None if wanted is True else True,  # None: shown on a terminal and in a notebook only
    ) as bar:
        clock = _Clock(what, work, pace, silent=not bar.disable)
        with clock.running():

            def advance(kind: str, units: float) -> None:
                bar.update(min(units, bar.total - bar.n))
                clock.advance(kind, units)

            yield advance


class _Clock:
    """What is done of some work, and what is said of the time that it takes."""

    def __init__(self, what: str, work: Work, pace: Pace, *, silent: bool) -> None:
        self.what, self.work, self.pace, self.silent = what, work, pace, silent
        self._done = dict.fromkeys(work, 0.0)
        self._spent = dict.fromkeys(work, 0.0)
        self._begun = self._last = time.monotonic()
        self._said = ""  # or "part", or "all"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Around the work: where its time stays unknown for long, a line names it all the same."""
        self._consider()
        timer = threading.Timer(_PATIENCE, self._say_what)
        timer.daemon = True
        timer.start()
        try:
            yield
            self.pace.seconds.update({kind: rate for kind in self.work if (rate := self._measured(kind)) is not None})
        finally:
            timer.cancel()

    def advance(self, kind: str, units: float) -> None:
        """Notes that units of a kind of work are done; 0 where it begins: what came before is no part of its rate."""
        now = time.monotonic()
        self._done[kind] = min(self._done[kind] + units, self.work[kind])  # a batch may be retried after OOM
        self._spent[kind] += now - self._last if units else 0.0
        self._last = now
        self._consider()

    def _measured(self, kind: str) -> float | None:
        """Seconds a unit took this time."""
        return self._spent[kind] / self._done[kind] if self._done[kind] else None

    def _rate(self, kind: str) -> float | None:
        """Seconds a unit takes, as measured this time or the last; None while that is not known."""
        enough = self._spent[kind] >= _ENOUGH or self._done[kind] >= self.work[kind]
        return self._measured(kind) if enough and self._done[kind] else self.pace.seconds.get(kind)

    def _consider(self) -> None:
        """Says how long the work takes, once that is known and long; of texts perhaps later than of the rest."""
        left = {kind: units - self._done[kind] for kind, units in self.work.items() if units > self._done[kind]}
        if self.silent or self._said == "all" or not left:
            return
        rates = {kind: self._rate(kind) for kind in left}
        to_come = sum(left[kind] * rate for kind, rate in rates.items() if rate is not None)
        total = self._last - self._begun + to_come
        known = None not in rates.values()
        if known and self._said == "part":
            self._say("all", f"generating answers: {about(to_come)}", to_come)
        elif known or (to_come and not self._said):
            later = "" if known else ", and then answers are generated"
            self._say("all" if known else "part", f"{self.what}: {about(total)}{later}", total)

    def _say(self, how_much: str, text: str, seconds: float) -> None:
        if seconds >= LONG:
            self._said = how_much
            say(text)
        if seconds >= _TOO_LONG and not self.pace.advised:
            self.pace.advised = True
            say(_ADVICE)

    def _say_what(self) -> None:
        if not self._said and not any(self._done.values()):
            say(f"{self.what}; how long it takes is said after the first batch")
