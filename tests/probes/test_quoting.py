"""Other people's text, as it is printed and quoted."""

import unicodedata

import pytest
from hypothesis import given, strategies as st

from forget_callback.probes.load import as_probes, load_probe
from forget_callback.probes.quoting import printable, quoted
from forget_callback.probes.records import parse_item


@given(st.text())
def test_nothing_printed_can_steer_a_terminal(text):
    joiners = "\u200c\u200d"
    assert not [c for c in printable(text) if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") and c not in joiners]
    assert not set(printable(text)) & set("\n\r\x1b\u202e")


@pytest.mark.parametrize("text", ["Köln, 東京", "فارسی می‌خواهم", "👩‍🔬", "plain 'quotes' \\ and | pipes"])
def test_what_has_a_picture_stays(text):
    assert printable(text) == text


@pytest.mark.parametrize("size", [1, 77, 78, 79, 200_000])
def test_a_quoted_value_is_short_and_says_how_long_it_was(size):
    shown = quoted("x" * size)
    assert len(shown) < 120
    assert shown == repr("x" * size) if size + 2 <= 80 else str(size + 2) in shown


def test_other_values_are_quoted_too():
    assert quoted(None) == "None"
    assert len(quoted(list(range(10_000)))) < 120


LONG = "x\x1b]0;title\x07\u202e" * 20_000
CHOICE = {"id": "c", "prompt": "Q", "choices": [" a", " b"], "answer": 0}
WRITTEN = {"id": "g", "prompt": "Q", "answer": "a"}


@pytest.mark.parametrize(
    "record",
    [
        {**CHOICE, "id": ""} | {"prompt": [LONG]},
        {**CHOICE, "choices": LONG},
        {**CHOICE, "choices": [LONG, LONG]},
        {**CHOICE, "answer": LONG},
        {**CHOICE, "id": LONG, "answer": 9},
        {**CHOICE, "contexts": [LONG]},
        {**CHOICE, LONG: 1},
        {**CHOICE, "variants": LONG},
        {**CHOICE, "variants": [{"prompt": "P", "order": LONG}]},
        {**CHOICE, "variants": [{"prompt": LONG}, {"prompt": LONG}]},
        {**CHOICE, "kind": LONG},
        {**WRITTEN, "match": LONG},
        {**WRITTEN, "match": "number", "answer": LONG},
        {**WRITTEN, "match": "regex", "answer": "(" + LONG},
        {**WRITTEN, "match": "exact", "answer": LONG + "\n" + LONG},
        {**WRITTEN, "max_new_tokens": LONG},
        {**WRITTEN, "stop": [[LONG]]},
        {**WRITTEN, "category": [LONG]},
    ],
)
def test_an_item_that_is_refused_is_quoted_in_short_and_without_escapes(record):
    with pytest.raises(ValueError, match=r"^item '") as problem:
        parse_item(record)
    assert len(str(problem.value)) < 700
    assert printable(str(problem.value)) == str(problem.value)


@pytest.mark.parametrize("spec", [LONG, "builtin:" + LONG, "hub:m?form=" + LONG, "builtin:facts?category=" + LONG])
def test_a_spec_that_is_refused_is_quoted_in_short(spec):
    with pytest.raises((ValueError, OSError)) as problem:
        load_probe(spec)
    assert len(str(problem.value)) < 900
    assert printable(str(problem.value)) == str(problem.value)


def test_a_file_that_is_no_probe_is_quoted_in_short(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "a", "prompt": "Q", "answer": 1' + "x" * 200_000)
    with pytest.raises(ValueError, match="line 1") as problem:
        load_probe(path)
    assert len(str(problem.value)) < 400 + len(str(path))


@pytest.mark.parametrize("name", [LONG, "a" * 101, "a.", "con", "NUL", "com1.x", "lpt9", ".a", "a/b", "a b", "Ä"])
def test_a_name_that_not_every_file_system_takes_is_refused_in_short(name):
    with pytest.raises(ValueError, match="name must be") as problem:
        as_probes({name: [WRITTEN]})
    assert len(str(problem.value)) < 400 and printable(str(problem.value)) == str(problem.value)


@pytest.mark.parametrize("name", ["a", "a" * 100, "console", "com10", "nul_", "0.5", "mmlu.pro-2"])
def test_other_names_are_taken(name):
    assert as_probes({name: [WRITTEN]})[0].name == name
