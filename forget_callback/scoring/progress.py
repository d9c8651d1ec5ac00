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
# Kinds of work: continuations and prompts to generate from, whose unit is a token of theirs, and texts, whose unit is a
# token that may be generated. Answers are counted, and take no time beside that of their texts; nor do tokens that are
# spared by texts that end before their limit, which are done with these.
Work: TypeAlias = Mapping[str, float]

ROWS, PROMPTS, TEXTS, ANSWERS, SPARED = "rows", "prompts", "texts", "answers", "spared"
# Seconds: what takes less is not announced.
LONG = 20.0
# Seconds: with what takes more, about 6 minutes, it is said how it would take less; sooner if one probe is to blame.
_TOO_LONG, _TOO_LONG_FOR_ONE = 330.0, 120.0
# Share of the time from which on the answers of one probe are what takes long.
_MOST = 0.6
_ADVICE = (
    'to make that shorter, ask fewer items, as in "builtin:facts?limit=300", or one prompt of each, as in '
    '"builtin:facts?variants=off"'
)
# Seconds of one kind of work after which its rate is known.
_ENOUGH = 2.0
# Seconds without a rate after which a line names the work in progress.
_PATIENCE = 10.0
# Seconds between two lines on generated answers, and how many of them there are at most.
_GAP, _LINES = 60.0, 10
# Share of the answers that must have ended before it is said of a probe that its answers take long.
_EARLY = 0.1
# Seconds over which the rate of texts is measured: the fewer are left in a batch, the more a token takes.
_RECENT = 20.0
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass
class Pace:
    """What a unit of each kind of work took at the last scoring, in seconds; shared by scorers of a run.

    Attributes:
        repeated: Whether this is a training, which scores again and again.
        advised: Whether it was said how to make it shorter, once a run.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    repeated: bool = False
    advised: bool = False


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
    what: str, work: Work, wanted: Progress, *, probes: Mapping[str, Work] | None = None, pace: Pace | None = None
) -> Iterator[Callable[[str, float], object]]:
    """Around work that may take long; gives what is called with a kind of work and the units that are done.

    Args:
        what: The work in words, "scoring 865 items of 'facts'".
        work: Units of each kind, on all ranks.
        probes: The part of each probe in it, by name.
        pace: Of the last time, and updated by this one.
    """
    if not wanted:
        yield lambda kind, units: None
        return
    name = ", ".join(probes or ())
    with tqdm(
        total=1.0,
        desc=f"scoring probe {name if len(name) <= 40 else f'{name[:39]}…'}",
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}",
        delay=2,
        leave=False,
        miniters=0,  # the steps are parts of a second
        disable=None if wanted is True else True,  # None: shown on a terminal and in a notebook only
    ) as bar:
        clock = _Clock(what, work, probes or {}, Pace() if pace is None else pace, silent=not bar.disable)
        with clock.running():

            def advance(kind: str, units: float) -> None:
                clock.advance(kind, units)
                if not bar.disable:
                    share, left = clock.shown()
                    bar.set_postfix_str(left, refresh=False)
                    bar.update(share - bar.n)

            yield advance


class _Clock:
    """What is done of some work, and what is said of the time that it takes."""

    def __init__(self, what: str, work: Work, probes: Mapping[str, Work], pace: Pace, *, silent: bool) -> None:
        self.what, self.probes, self.pace, self.silent = what, probes, pace, silent
        self.work = {kind: units for kind, units in work.items() if kind != ANSWERS}
        self.answers, self._answered = work.get(ANSWERS, 0), 0.0
        self._done = dict.fromkeys(self.work, 0.0)
        self._spent = dict.fromkeys(self.work, 0.0)
        self._first: dict[str, float] = {}  # when each kind was begun
        self._spared = 0.0
        # Seconds spent on texts and tokens generated: one time span ago or more, and since.
        self._marks = [(0.0, 0.0), (0.0, 0.0)]
        self._begun = self._last = self._told = time.monotonic()
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
        if kind == ANSWERS:
            self._answered = min(self._answered + units, self.answers)
            return
        if kind == SPARED:
            self._spared += units
            return
        now = time.monotonic()
        self._first.setdefault(kind, self._last if units else now)
        self._done[kind] = min(self._done[kind] + units, self.work[kind])  # a batch may be retried after OOM
        self._spent[kind] += now - self._last if units else 0.0
        self._last = now
        if kind == TEXTS and self._spent[TEXTS] - self._marks[1][0] >= _RECENT:
            self._marks = [self._marks[1], (self._spent[TEXTS], self._generated())]
        self._consider()

    def shown(self) -> tuple[float, str]:
        """For a bar: the share of the time that has passed, of the work where the time is not known; what is left."""
        to_come, known = self._to_come()
        passed = self._last - self._begun
        share = passed / (passed + to_come) if known and passed else self._share_done()
        left = f"{'at most ' * self._bounded()}{tqdm.format_interval(int(to_come))} left" if known else "? left"
        return share, f"{self._answers_shown()} answers, {left}" if self._generates() else left

    def _share_done(self) -> float:
        return sum(self._done.values()) / max(sum(self.work.values()), 1)

    def _generates(self) -> bool:
        """Whether answers are being generated."""
        return bool(self.answers and (self._done.get(PROMPTS) or self._answered))

    def _answers_shown(self) -> str:
        return f"{self._answered:,.0f} of {self.answers:,.0f}"

    def _measured(self, kind: str) -> float | None:
        """Seconds a unit took this time."""
        return self._spent[kind] / self._done[kind] if self._done[kind] else None

    def _rate(self, kind: str) -> float | None:
        """Seconds a unit takes, as measured this time or the last; None while that is not known."""
        since = self._last - self._first.get(kind, self._last)
        enough = since >= _ENOUGH or self._done[kind] >= self.work[kind]
        return self._measured(kind) if enough and self._done[kind] else self.pace.seconds.get(kind)

    def _to_come(self) -> tuple[float, bool]:
        """Seconds that what is left will take, and whether that is all of it: the rate of each kind is known."""
        left = {kind: units - self._done[kind] for kind, units in self.work.items() if units > self._done[kind]}
        rates = {kind: self._rate(kind) for kind in left}
        times = {kind: left[kind] * rate for kind, rate in rates.items() if rate is not None}
        if TEXTS in times:
            times[TEXTS] = left[TEXTS] * self._recent() if self._bounded() else self._last_time() - self._spent[TEXTS]
        return sum(times.values()), None not in rates.values()

    def _bounded(self) -> bool:
        """Whether it is not known how long texts become, so that each of them may reach its limit."""
        return self._done.get(TEXTS, 0.0) < self.work.get(TEXTS, 0.0) and self._spent[TEXTS] >= self._last_time()

    def _last_time(self) -> float:
        """Seconds that the texts would take at the last rate, 0 if there is none."""
        return self.pace.seconds.get(TEXTS, 0.0) * self.work[TEXTS]

    def _generated(self) -> float:
        return self._done[TEXTS] - self._spared

    def _recent(self) -> float:
        """Seconds that a generated token took of late."""
        seconds, tokens = self._marks[0]
        return (self._spent[TEXTS] - seconds) / max(self._generated() - tokens, 1.0)

    def _consider(self) -> None:
        """Says how long the work takes, once that is known and long; of texts perhaps later than of the rest."""
        to_come, known = self._to_come()
        if not to_come and known:
            return
        total = self._last - self._begun + to_come
        if not self.silent:
            self._announce(to_come, total, known=known)
            self._tell(to_come, total, known=known)
        if known and self._answered >= _EARLY * self.answers * self._bounded():
            self._advise(to_come, total)

    def _announce(self, to_come: float, total: float, *, known: bool) -> None:
        if self._said == "all":
            return
        if known and self._said == "part":
            self._say("all", f"generating answers: {self._time(to_come)}", to_come)
        elif known:
            self._say("all", f"{self.what}: {self._time(total)}", total)
        elif to_come and not self._said:
            self._say("part", f"{self.what}: {about(total)}, and then answers are generated", total)

    def _say(self, how_much: str, text: str, seconds: float) -> None:
        if seconds >= LONG:
            self._said, self._told = how_much, self._last
            say(text)

    def _tell(self, to_come: float, total: float, *, known: bool) -> None:
        """Says how many answers there are, from time to time."""
        gap = max(_GAP, total / _LINES) if known else _GAP
        if self._generates() and self._last - self._told >= gap:
            self._told = self._last
            left = f", {self._time(to_come)} left" if known else ""
            say(f"generating answers: {self._answers_shown()}{left}")

    def _time(self, seconds: float) -> str:
        return about(seconds).replace("about", "at most") if self._bounded() else about(seconds)

    def _advise(self, to_come: float, total: float) -> None:
        """Says once how it would take less, and which probe it is that takes long by its answers."""
        if self.pace.advised or total < _TOO_LONG_FOR_ONE:
            return
        texts = {
            name: sum((self._rate(kind) or 0.0) * work.get(kind, 0.0) for kind in (PROMPTS, TEXTS) if kind in self.work)
            for name, work in self.probes.items()
        }
        name = max(texts, key=lambda name: texts[name], default="")
        if name and texts[name] >= _MOST * total:
            self.pace.advised = True
            what = f"takes {_of(texts[name], total)}: it" if len(texts) > 1 else "takes long because it"
            fewer = " or fewer evaluations (every=, max_overhead=)" if self.pace.repeated else ""
            say(f"'{name}' {what} generates answers; fewer of its items (?limit= in its spec){fewer} make that shorter")
        elif to_come >= _TOO_LONG:
            self.pace.advised = True
            say(_ADVICE)

    def _say_what(self) -> None:
        if not self._said and not self.silent and not any(self._done.values()):
            say(f"{self.what}; how long it takes is said after the first batch")


def _of(part: float, whole: float) -> str:
    """A part of a time for people.

    >>> _of(540, 660), _of(100, 5400), _of(655, 660)
    ('about 9 of the 11 minutes', 'about 2 minutes of about 1.5 hours', 'nearly all of the 11 minutes')
    """
    one, other = about(part), about(whole).removeprefix("about ")
    if one.removeprefix("about ") == other:
        return f"nearly all of the {other}"
    number, _, unit = one.rpartition(" ")
    return f"{number} of the {other}" if other.endswith(f" {unit}") else f"{one} of about {other}"
