"""What `builtin:text` promises: some 300 passages of five kinds, none like another, the code of which is correct."""

import json
import subprocess
import unicodedata
from collections import Counter
from importlib.resources import files
from itertools import combinations

import pytest

from forget_callback.probes.builtin.text import KINDS, load_texts
from forget_callback.probes.load import load_probe

AT_LEAST = {"prose": 60, "code": 60, "mathematics": 50, "dialogue": 50, "languages": 60}
LANGUAGES = {"de", "fr", "es", "it", "pt", "ru", "zh", "ja", "ar", "hi", "ko"}
SCRIPTS = {"ru": "CYRILLIC", "zh": "CJK", "ja": "HIRAGANA", "ar": "ARABIC", "hi": "DEVANAGARI", "ko": "HANGUL"}


def language_of(item):
    return item.id.partition("/")[2].partition("-")[0]


def shingles(text):
    """All runs of eight characters, whatever the spacing."""
    text = " ".join(text.casefold().split())
    return {text[i : i + 8] for i in range(len(text) - 7)}


def test_every_kind_has_its_passages():
    probe = load_probe("builtin:text")
    counts = Counter(item.category for item in probe.items)
    assert list(counts) == list(KINDS) == list(AT_LEAST)
    assert all(counts[kind] >= n for kind, n in AT_LEAST.items()), counts
    assert (probe.name, len(probe), probe.chat) == ("text", 300, False)
    assert {item.kind for item in probe.items} == {"text"}


def test_ids_say_the_kind_and_are_unique_and_lengths_are_those_of_a_passage():
    items = load_texts().items
    assert len({item.id for item in items}) == len(items)
    for item in items:
        kind, _, slug = item.id.partition("/")
        assert kind == item.category and slug == slug.lower() and slug.replace("-", "").isalnum(), item.id
        assert 300 <= len(item.text) <= 900, (item.id, len(item.text))
        assert item.text == item.text.strip("\n") and unicodedata.is_normalized("NFC", item.text), item.id


def test_no_passage_is_like_another():
    pieces = {item.id: shingles(item.text) for item in load_texts().items}
    alike = {
        (a, b): share
        for (a, one), (b, other) in combinations(pieces.items(), 2)
        if (share := len(one & other) / min(len(one), len(other))) > 0.25
    }
    assert not alike


def test_other_languages_are_written_in_their_own_script():
    items = load_texts(category="languages").items
    counts = Counter(map(language_of, items))
    assert set(counts) >= LANGUAGES and all(counts[language] >= 5 for language in LANGUAGES), counts
    for item in items:
        script = SCRIPTS.get(language_of(item))
        letters = [unicodedata.name(c, "") for c in item.text if c.isalpha()]
        assert script is None or sum(name.startswith(script) for name in letters) > len(letters) / 4, item.id


@pytest.mark.parametrize("item", load_texts(category="code").items, ids=lambda item: item.id)
def test_code_that_python_and_bash_can_read_is_correct(item):
    language = language_of(item)
    if language in ("python", "regex"):
        compile(item.text, item.id, "exec")
    elif language == "json":
        json.loads(item.text)
    elif language == "bash":
        subprocess.run(["bash", "-n"], input=item.text, text=True, check=True)


def test_some_kinds_of_text_are_a_probe_of_their_own():
    probe = load_probe("builtin:text?category=dialogue, code")
    assert probe.name == "text-code-dialogue" and {item.category for item in probe.items} == {"code", "dialogue"}


def test_a_limit_takes_a_share_of_every_kind():
    counts = Counter(item.category for item in load_probe("builtin:text?limit=50").items)
    assert sum(counts.values()) == 50 and min(counts.values()) >= 8


def test_an_unknown_kind_of_text_says_what_is_known():
    with pytest.raises(ValueError, match=r"one or more of prose, code, .* got 'prosa'.*did you mean 'prose'"):
        load_probe("builtin:text?category=prosa")


def test_the_passages_are_in_the_package():
    folder = files("forget_callback.probes").joinpath("text")
    assert {f"{kind}.jsonl" for kind in KINDS} == {file.name for file in folder.iterdir()}
