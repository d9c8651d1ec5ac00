"""The badge: what it says is the headline's, and it is never green where a loss could be."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from forget_callback import MultipleChoice, Probe, Recall, Snapshot
from forget_callback.report.badge import _LABEL_COLOUR, COLOURS, Badge, badge, svg
from forget_callback.runs.comparison import compare_checkpoints
from forget_callback.runs.headline import headline


def rows_of(lost, gained=0, *, n=200, unscored=0, name="quiz", fact=False, recall=False, categories=1, part=0):
    """The rows of a comparison; the first `lost` are lost, and `part` of the first category."""
    cls = Recall if recall else MultipleChoice
    how = (lambda i: (f" w{i}",)) if recall else (lambda i: (list("abcd"), 0))
    items = [
        cls(f"{i}", f"{i}?", *how(i), f"c{i % categories}", **({"fact": f"f{i}"} if fact else {})) for i in range(n)
    ]
    probe = Probe(name, items)
    correct = np.ones((2, n))
    correct[0, n - gained :] = 0
    correct[1, :lost] = 0
    correct[1, : part * categories : categories] = 0
    correct[1, n - unscored :] = np.nan
    sides = []
    for step, right in enumerate(correct):
        choice = np.where(right == 1, 0, 1 + np.arange(n) % 3)
        more = {} if recall else {"choice": choice, "answer": probe.answer}
        more |= {"category": [item.category for item in items], "fact": [item.fact for item in items]}
        kinds = [item.kind for item in items]
        sides.append(
            Snapshot(
                name, probe.fingerprint, step, list(probe.ids), right, n_choices=probe.n_choices, kind=kinds, **more
            )
        )
    return compare_checkpoints({name: sides[0]}, {name: sides[1]})


@pytest.mark.parametrize(
    "rows, label, value, tone",
    [
        (rows_of(60), "quiz lost", "%", "lost"),
        (rows_of(60, fact=True), "facts lost", "%", "lost"),
        (rows_of(60, recall=True), "quiz no longer answered", "%", "lost"),
        (rows_of(0), "quiz lost", "0.0%", "none"),
        (rows_of(12, 12), "quiz lost", "not established", "moved"),
        (rows_of(0, n=20), "quiz lost", "unclear", "unknown"),
        (rows_of(0, 200), "quiz lost", "not established", "moved"),
        (rows_of(0, unscored=200), "quiz lost", "not measured", "unknown"),
        (rows_of(0, unscored=50), "quiz lost", "75% scored", "unknown"),
    ],
)
def test_each_finding_has_its_words_and_its_colour(rows, label, value, tone):
    found = badge(rows)
    said = headline(rows[0] if not rows[0].category else next(row for row in rows if not row.category))
    assert found.label == label and value in found.value
    assert found.tone == tone
    assert said.sentence in found.title
    if found.tone == "none":
        assert said.verdict == "none"


def test_a_category_that_was_lost_is_not_green():
    rows = rows_of(0, 0, n=400, categories=8, part=0)
    assert badge(rows).tone == "none"
    lost = rows_of(0, 32, n=1600, categories=8, part=24)
    assert headline(next(row for row in lost if not row.category)).verdict == "none"
    assert badge(lost).tone == "moved"


def test_the_worst_of_several_is_shown_and_what_was_not_measured_hides_behind_no_green():
    good, bad, few = rows_of(0, name="good"), rows_of(60, name="bad"), rows_of(0, n=20, name="few")
    assert badge([*good, *bad]).label == badge([*bad, *good]).label == "bad lost"
    assert badge([*good, *few]).text == "few lost: unclear"
    assert badge(good, dropped=["gone"]).text == "gone lost: not measured"
    assert badge([*bad, *few], dropped=["gone"]).tone == "lost"
    assert badge([], dropped=[]).value == "not measured"


def test_of_a_run_that_is_not_whole_it_is_not_green():
    found = badge(rows_of(0), incomplete=["training has not ended"])
    assert found.tone == "unknown" and "not the whole run" in found.value and "training has not ended" in found.title


def luminance(colour):
    """Relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))


@pytest.mark.parametrize("colour", [*COLOURS.values(), _LABEL_COLOUR])
def test_white_text_can_be_read_on_every_colour(colour):
    assert 1.05 / (luminance(colour) + 0.05) >= 4.5


@pytest.mark.parametrize("label", ["facts lost", "<b>&\"' lost", "x" * 90 + " lost", "\u202e\x1b[2J lost", "探査 lost"])
def test_the_picture_is_valid_small_and_asks_for_nothing(label):
    text = svg(Badge(label, "5.7% [2.9, 8.9]", "lost", f'{label}: "lost" & <more>'))
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    assert root.get("role") == "img" and root.get("aria-label") == root.find(f"{space}title").text
    assert len(text) < 2000 and set(re.findall(r"https?://[^\"]*", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"href|<script|<style|@import|<image|<foreignObject", text)
    shown = [one.text for one in root.iter(f"{space}text")]
    assert shown[1] == "5.7% [2.9, 8.9]" and shown[0].endswith(" lost") and len(shown[0]) <= 60
    right = max(float(one.get("x")) + float(one.get("textLength")) for one in root.iter(f"{space}text"))
    assert right < float(root.get("width"))
