"""Letters as options: alphabets of other languages and other forms of a letter."""

import json

import pytest

from forget_callback.snapshots.logs import LogOptions, match, read_logs
from forget_callback.snapshots.logs.options import option_letter
from tests.snapshots.logs.test_lm_eval import row, said

LETTERS = {
    "Latin": "ABCD",
    "small": "abcd",
    "Greek": "ΑΒΓΔ",
    "Cyrillic": "АБВГ",
    "Arabic by value": "أبجد",
    "Arabic in order": "أبتث",
    "Hebrew": "אבגד",
    "Devanagari": "कखगघ",
    "Bengali": "কখগঘ",
    "Tamil": "அஆஇஈ",
    "Thai": "กขคง",
    "Georgian": "აბგდ",
    "Armenian": "ԱԲԳԴ",
    "Hangul": "가나다라",
    "jamo": "ㄱㄴㄷㄹ",
    "katakana": "アイウエ",
    "half-width katakana": "ｱｲｳｴ",
    "stems": "甲乙丙丁",
    "full-width": "ＡＢＣＤ",
    "circled": "ⒶⒷⒸⒹ",
    "parenthesized": "⒜⒝⒞⒟",
    "circled numbers": "①②③④",
}


def read(tmp_path, rows, **wanted):
    file = tmp_path / "samples_task_2026-01-01T00-00-00.000000.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes = []
    (log,) = read_logs(file, LogOptions(**wanted, note=notes.append)).values()
    return log, notes


@pytest.mark.parametrize("frame", ["{}", "({})", "{}.", " {})\n", "**{}**", "{}、"])
@pytest.mark.parametrize("alphabet", LETTERS)
def test_every_alphabet_makes_the_same_choices(tmp_path, alphabet, frame):
    """The answer to question i is option i mod 4, and the model says i + i mod 3: four options, all known."""
    letters = LETTERS[alphabet]
    rows = [
        said(i, frame.format(letters[(i + i % 3) % 4]), frame.format(letters[i % 4]), float(i % 3 == 0))
        for i in range(12)
    ]
    log, notes = read(tmp_path, rows, n_choices=4)
    assert [len(item.options) for item in log.items] == [4] * 12
    assert [item.answer for item in log.items] == [i % 4 for i in range(12)]
    assert [item.choice for item in log.items] == [(i + i % 3) % 4 for i in range(12)]
    assert notes == []


@pytest.mark.parametrize("alphabet", ["Greek", "Cyrillic", "Arabic by value", "Devanagari", "circled numbers"])
def test_the_letter_in_a_sentence(tmp_path, alphabet):
    letters = LETTERS[alphabet]
    rows = [said(i, f"x: {letters[3]} y z ({letters[2 * i]}).", letters[1], 0.0) for i in range(2)]
    log, _ = read(tmp_path, [*rows, said(2, "x y", letters[0], 0.0)], n_choices=4)
    assert [item.choice for item in log.items] == [0, 2, -1]
    assert [item.outcome for item in log.items] == [None, None, "unparsed"]


def test_a_note_says_to_how_many_items_the_option_applies(tmp_path):
    words = [said(i, "x", word, 0.0) for i, word in enumerate(["Paris", "7", "E", "", "AB"])]
    log, notes = read(tmp_path, words, n_choices=4)
    assert [item.options for item in log.items] == [()] * 5
    assert "--n-choices 4 applies to none of the 5 items without options" in notes[0]
    log, notes = read(tmp_path, [*words, said(5, "A", "B", 0.0)], n_choices=4)
    assert [len(item.options) for item in log.items] == [0] * 5 + [4]
    assert "--n-choices 4 applies to 1 of the 6 items without options" in notes[0]


def test_a_note_says_so_where_all_items_have_options(tmp_path):
    rows = [row(0), row(1, target="1", right=0.0)]
    assert "--n-choices 5 applies to none: all items have options" in read(tmp_path, rows, n_choices=5)[1][0]
    assert read(tmp_path, rows, n_choices=3)[1] == []


def test_items_without_options_are_said_to_be_open_ended(tmp_path):
    log, _ = read(tmp_path, [said(0, "A", "A", 1.0), said(1, "B", "A", 0.0)])
    notes = []
    match([{"task": log}, {"task": log}], LogOptions(note=notes.append))
    assert notes[0].startswith("task: 'acc' decides what is right; 2 of 2 items without options in the log are treated")
    assert notes[0].endswith("--n-choices")


@pytest.mark.parametrize("text", ["", " ", "1", "12", "A B", "Ab", "ABCDEFGHIJ", "x" * 200_000, "½", "?", "\x1b"])
def test_what_is_no_letter(text):
    assert option_letter(text) == ""
