"""Items found in texts: against a plain search, and what is no item's own."""

import numpy as np

from forget_callback import Generation, Recall, Text, load_probe
from forget_callback.tools.overlap import Overlap


def plain(words, text):
    """Whether thirteen of these words in a row, or all of fewer, stand in a text."""
    n = min(len(words), 13)
    return any(f" {' '.join(words[at : at + n])} " in f" {text} " for at in range(len(words) - n + 1))


def test_found_is_what_a_plain_search_finds():
    rng = np.random.default_rng(0)
    documents = {f"d{i}": [f"w{k}" for k in rng.integers(0, 40, rng.integers(5, 40))] for i in range(20)}
    overlap = Overlap([Text(name, " ".join(words)) for name, words in documents.items()])
    assert overlap.looked_for == 20
    found = 0
    for trial in range(60):
        own = documents[f"d{trial % 20}"]
        at, size = rng.integers(0, len(own)), rng.integers(5, 20)
        text = " ".join([*(f"w{k}" for k in rng.integers(0, 40, 9)), *own[at : at + size], "end"])
        expected = {name for name, words in documents.items() if plain(words, text)}
        assert overlap.found(text) == expected
        found += len(expected)
    assert found > 10


def test_punctuation_and_case_do_not_count():
    overlap = Overlap([Recall("a", "The capital of France is", " Paris")])
    assert overlap.found("As everybody knows: the CAPITAL of 'France' is far.") == {"a"}
    assert not overlap.found("the capital of all France is")


def test_a_text_with_the_facts_of_a_probe_holds_just_these():
    probe = load_probe("builtin:facts?limit=60")
    asked = [item.messages[-1]["content"] if item.messages else item.prompt for item in probe.items[:5]]
    assert Overlap(probe.items).found(". ".join(asked)) >= set(probe.ids[:5])
    assert not Overlap(probe.items).found("Nothing of this kind is in here, whatever it is.")


def test_short_questions_are_not_looked_for_where_words_are_asked():
    items = [Recall("short", "2 + 2 =", " 4"), Recall("long", "The sum of two and two is", " four")]
    text = "2 2 and the sum of two and two is four"
    assert Overlap(items).found(text) == {"short", "long"}
    overlap = Overlap(items, fewest=5)
    assert (overlap.found(text), overlap.looked_for) == ({"long"}, 1)


def test_examples_that_all_items_begin_with_are_no_items_own():
    shots = "Name the product in one word after these two examples of how that is done: lamp, bike. "
    items = [Generation(f"{i}", f"{shots}My thing number {i} is broken", f"{i}", "contains") for i in range(40)]
    overlap = Overlap(items, fewest=5)
    assert overlap.looked_for == 40
    assert not overlap.found(shots)
    assert overlap.found(items[7].prompt) == {"7"}
    same = [Generation(f"{i}", shots, f"{i}", "contains") for i in range(40)]
    assert Overlap(same).looked_for == 0
