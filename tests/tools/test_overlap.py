"""Items found in texts: against a plain search, and what is no item's own."""

import numpy as np
import pytest

from forget_callback import Generation, Recall, Text, load_probe
from forget_callback.tools.overlap import Overlap, words_of


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
        assert overlap.found(words_of(text)) == expected
        found += len(expected)
    assert found > 10


@pytest.mark.parametrize(
    "one, other",
    [
        ("the CAPITAL of 'France'", "The capital, of France!"),
        ("twenty-first", "Twenty first"),
        ("a river\u2014a town", "a river \u2014 a town"),
        ("_France_ and **Spain**", "France and Spain"),
        ("Cafe\u0301 \uff21\uff22", "caf\u00e9 ab"),
        ("Fr\u200bance", "France"),
        ("1999\u20132001", "1999-2001"),
        ("法国的首都", "法国的首都。"),
    ],
)
def test_what_does_not_count(one, other):
    assert words_of(one) == words_of(other) != []


@pytest.mark.parametrize(
    "one, other",
    [
        ("3 + 4 * 5", "3 - 4 / 5"),
        ("3.5", "35"),
        ("कि", "की"),
        ("法国", "法西"),
    ],
)
def test_what_counts(one, other):
    assert words_of(one) != words_of(other)


def test_scripts_without_spaces_have_a_word_a_character():
    overlap = Overlap([Recall("a", "法国的首都是哪座城市", "巴黎")], fewest=5)
    assert overlap.looked_for == 1
    assert overlap.found(words_of("问：法国的首都是哪座城市？答：巴黎")) == {"a"}


@pytest.mark.parametrize(
    "frame",
    [
        "### Question: {}\n### Answer:",
        "Question 1: {}",
        "Q: {}\nA:",
        "User: {}\nAssistant:",
        "Question: {}\nA. Lyon\nB. Paris\nC. Nice\nD. Metz\nAnswer:",
        "{}\n(A) Lyon\n(B) Paris",
    ],
)
def test_labels_and_options_are_no_part_of_a_question(frame):
    question = "What is the capital city of France?"
    overlap = Overlap([Generation("a", frame.format(question), "Paris", "contains")], fewest=5)
    assert overlap.found(words_of(f"We ask you. {question} It is Paris.")) == {"a"}
    assert not overlap.found(words_of("What is the capital city of Spain? It is Madrid."))


@pytest.mark.parametrize(
    "frame, other",
    [
        (
            "Ann has {} apples and gives a third of them to her friends, who eat how many dollars? Please think "
            "step by step and then give only the final number as your answer.",
            "What does it cost in dollars? Please think step by step and then give only the final number as "
            "your answer.",
        ),
        (
            "The following are multiple choice questions with answers about high school biology and science. "
            "Which enzyme of number {} is the one that does it?",
            "The following are multiple choice questions with answers about high school biology and science. "
            "Which animals lay eggs?",
        ),
    ],
)
def test_instructions_that_all_items_have_are_no_items_own(frame, other):
    items = [Generation(f"{i}", frame.format(i), "1", "contains") for i in range(30)]
    overlap = Overlap(items, fewest=5)
    assert overlap.looked_for == 30 and not overlap.found(words_of(other))
    assert overlap.found(words_of(items[4].prompt)) == {"4"}


def test_a_text_with_the_facts_of_a_probe_holds_just_these():
    probe = load_probe("builtin:facts?limit=60")
    asked = [item.messages[-1]["content"] if item.messages else item.prompt for item in probe.items[:5]]
    assert Overlap(probe.items).found(words_of(". ".join(asked))) >= set(probe.ids[:5])
    assert not Overlap(probe.items).found(words_of("Nothing of this kind is in here, whatever it is."))


def test_short_questions_are_not_looked_for_where_words_are_asked():
    items = [Recall("short", "2 + 2 =", " 4"), Recall("long", "The sum of two and two is", " four")]
    text = "2 + 2 and the sum of two and two is four"
    assert Overlap(items).found(words_of(text)) == {"short", "long"}
    overlap = Overlap(items, fewest=5)
    assert (overlap.found(words_of(text)), overlap.looked_for) == ({"long"}, 1)


def test_examples_that_all_items_begin_with_are_no_items_own():
    shots = "Name the product in one word after these two examples of how that is done: lamp, bike. "
    items = [Generation(f"{i}", f"{shots}My thing number {i} is broken", f"{i}", "contains") for i in range(40)]
    overlap = Overlap(items, fewest=5)
    assert overlap.looked_for == 40
    assert not overlap.found(words_of(shots))
    assert overlap.found(words_of(items[7].prompt)) == {"7"}
    same = [Generation(f"{i}", shots, f"{i}", "contains") for i in range(40)]
    assert Overlap(same).looked_for == 0
