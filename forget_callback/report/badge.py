"""The badge: one finding as a small SVG picture, to stand in a README. Needs no font and no network.

Its words and numbers are those of the headline. It is green only where a whole probe was measured and shows no loss, so
that what is unclear, or was not measured, is never taken for good news. Computes no number.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from forget_callback.metrics.transitions import Transitions
from forget_callback.probes.quoting import printable
from forget_callback.runs.categories import significant_categories
from forget_callback.runs.formatting import bits_change, difference, estimate, percent, span
from forget_callback.runs.gate import MIN_SCORED
from forget_callback.runs.headline import Headline, headline, worst_first
from forget_callback.runs.rows import Row
from forget_callback.runs.sentences import words_of

# White text on each of them has a contrast of 4.5 or more, and each stands out from a white and from a black page.
COLOURS = {"lost": "#b3261e", "moved": "#8a5700", "unknown": "#626a73", "none": "#18732f"}
_LABEL_COLOUR = "#3d444d"
_ORDER = ("lost", "unknown", "moved", "none")  # which of several findings is shown: the first
_LONGEST = 48  # characters of a label
_HEIGHT, _PAD, _SIZE = 20, 7, 11  # pixels


@dataclass(frozen=True)
class Badge:
    """What a badge says.

    Attributes:
        label: Its left part, such as "facts lost".
        value: Its right part, such as "5.7% [2.9, 8.9]".
        tone: One of `COLOURS`.
        title: The finding in a sentence, for who cannot see it, and as what a pointer over it shows.
    """

    label: str
    value: str
    tone: str
    title: str

    @property
    def text(self) -> str:
        """Both parts in a line."""
        return f"{self.label}: {self.value}"


def badge(rows: Sequence[Row], *, incomplete: Sequence[str] = (), dropped: Sequence[str] = ()) -> Badge:
    """The badge of one evaluation: of several probes, that with the worst finding.

    Args:
        rows: Of one step, of all probes and categories.
        incomplete: In which ways the record is not that of a whole run.
        dropped: Probes that were to be measured and were not.
    """
    whole = [row for row in rows if not row.category and row.probe != "all" and not row.transitions.training]
    said = worst_first([headline(row) for row in whole])
    of = {row.probe: row for row in whole}
    found = [_of(one, of[one.probe], rows, len(of)) for one in said]
    found += [Badge(f"{name} lost", "not measured", "unknown", f"{name}: not measured") for name in dropped]
    if not found:
        return Badge("forgetting", "not measured", "unknown", "forgetting: not measured")
    shown = min(found, key=lambda one: _ORDER.index(one.tone))
    others = f" (1 of {len(found)} probes)" if len(found) > 1 else ""
    tone = "unknown" if incomplete and shown.tone == "none" else shown.tone
    value = shown.value + (", not the whole run" if incomplete and shown.value != "not measured" else "")
    return Badge(shown.label, value, tone, shown.title + others + "".join(f"; {why}" for why in incomplete))


def _of(said: Headline, row: Row, rows: Sequence[Row], n_probes: int) -> Badge:
    t = row.transitions
    what = "facts" if t.knowledge.facts and n_probes == 1 else said.probe
    gone = (
        "lost"
        if not t.n
        else "bits per byte"
        if t.ability == "text"
        else "score"
        if _by_score(said, t)
        else words_of(t).gone
    )
    label = f"{what} {gone}"
    tone = {"lost": "lost", "moved": "moved", "none": "none"}.get(said.verdict, "unknown")
    value = {"lost": _number(said, row), "moved": "not established", "none": _number(said, row)}.get(
        said.verdict, "unclear"
    )
    if t.n == 0 or (tone != "unknown" and not value):
        tone, value = "unknown", "not measured"
    elif tone == "none" and not row.value("scored") >= MIN_SCORED:
        tone, value = "unknown", f"unclear, {percent(row.value('scored'), 0)} scored"
    elif tone == "none" and (row.collapse or any(one.probe == said.probe for one in significant_categories(rows))):
        tone = "moved"  # of a part, or in another way than the whole shows
    return Badge(label, value, tone, f"{said.probe}: {said.sentence}")


def _number(said: Headline, row: Row) -> str:
    """The estimate, or the range where there is no estimate of the loss itself; "" where there is neither.

    Of text the change in bits per byte, of graded answers that of the mean score where that is what is told.
    """
    if _by_score(said, row.transitions):
        return difference(row, "score_change")
    if row.transitions.ability == "text":
        return "" if math.isnan(row.value("bits_per_byte_change")) else bits_change(row)
    inside = said.range.low <= said.number <= said.range.high
    if math.isnan(said.number):
        return ""
    return estimate(row) if said.verdict == "none" or (said.method != "net" and inside) else span(row)


def _by_score(said: Headline, t: Transitions) -> bool:
    """Whether it is the mean score that tells."""
    return t.told_by_score or (t.graded and said.verdict == "none")


def svg(shown: Badge) -> str:
    """The picture, 20 pixels high, of two parts."""
    label, value = _cut(printable(shown.label)), printable(shown.value)
    widths = [_width(text) for text in (label, value)]
    left, right = (width + 2 * _PAD for width in widths)
    title = printable(shown.title)
    texts = "".join(
        f'<text x="{x:g}" y="14" textLength="{width:g}" lengthAdjust="spacingAndGlyphs">{escape(text)}</text>'
        for text, x, width in ((label, _PAD, widths[0]), (value, left + _PAD, widths[1]))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right:g}" height="{_HEIGHT}" '
        f'viewBox="0 0 {left + right:g} {_HEIGHT}" role="img" aria-label={quoteattr(title)}>\n'
        f"<title>{escape(title)}</title>\n"
        f'<clipPath id="r"><rect width="{left + right:g}" height="{_HEIGHT}" rx="4"/></clipPath>\n'
        f'<g clip-path="url(#r)"><rect width="{left:g}" height="{_HEIGHT}" fill="{_LABEL_COLOUR}"/>'
        f'<rect x="{left:g}" width="{right:g}" height="{_HEIGHT}" fill="{COLOURS[shown.tone]}"/></g>\n'
        f'<g fill="#fff" font-family="Verdana,DejaVu Sans,Geneva,sans-serif" font-size="{_SIZE}">{texts}</g>\n'
        "</svg>\n"
    )


def _cut(text: str) -> str:
    """A label of both of its ends where it is too long: the last words say what was lost."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 21]}…{text[-20:]}"


def _width(text: str) -> float:
    """About the pixels that a text takes; `textLength` makes it so where the font is another one."""
    return round(sum(map(_advance, text)), 1)


def _advance(letter: str) -> float:
    if unicodedata.east_asian_width(letter) in "WF":
        return float(_SIZE)
    if letter in "il.,:;'|![]()jft I-":
        return 4.6
    if letter in "mwMW%@…":
        return 10.5
    return 7.5 if letter.isupper() else 6.9
