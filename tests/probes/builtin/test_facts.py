"""What `builtin:facts` promises: true facts in all their spellings, balanced positions, one draw a seed."""

import builtins
import keyword
from collections import Counter, defaultdict
from importlib.util import find_spec
from itertools import pairwise
from operator import attrgetter

import numpy as np
import pytest

from forget_callback.probes.answers import by_text
from forget_callback.probes.builtin.facts import load_facts
from forget_callback.probes.items import accepted
from forget_callback.probes.jsonl import dump_items, read_items
from forget_callback.probes.load import load_probe

CATEGORIES = [
    "capitals",
    "us_states",
    "elements",
    "presidents",
    "arithmetic",
    "python",
    "numpy",
    "opposites",
    "authors",
    "animals",
    "science",
    "planets",
    "discoveries",
    "years",
]
SEEDS_AND_LIMITS = [(0, 40), (1, 300), (2, 777), (3, 1500)]


def fact_of(item):
    return item.id.rpartition("/")[0]


def relation_of(item):
    """The id without subject and form: what the wrong options must share with the answer."""
    return item.id.rsplit("/", 2)[0]


def choices_of(probe):
    return [item for item in probe.items if item.kind == "multiple_choice"]


def answers_by_relation(probe):
    answers = defaultdict(set)
    for item in choices_of(probe):
        answers[relation_of(item)].add(item.choices[item.answer])
    return answers


def spread(counts, keys):
    values = [counts[key] for key in keys]
    return max(values) - min(values)


def test_every_fact_is_asked_in_both_forms_side_by_side():
    probe = load_facts()
    assert len(probe) >= 1500 and probe.name == "facts"
    for choice, recall in zip(probe.items[::2], probe.items[1::2], strict=True):
        assert (choice.kind, recall.kind) == ("multiple_choice", "recall")
        assert fact_of(choice) == fact_of(recall) and choice.category == recall.category
        assert choice.choices[choice.answer] == accepted(recall)[0]


def test_categories_keep_the_order_of_the_table():
    assert list(dict.fromkeys(item.category for item in load_facts().items)) == CATEGORIES


def test_ids_and_prompts_are_unique_and_clean():
    probe = load_facts()
    assert len(set(probe.ids)) == len({item.prompt for item in probe.items}) == len(probe)
    for item in probe.items:
        assert item.id.isascii() and " " not in item.id and "//" not in item.id and item.id.startswith(item.category)
        assert item.prompt == item.prompt.strip() and "{" not in item.prompt and "  " not in item.prompt
        for text in item.choices if item.kind == "multiple_choice" else accepted(item):
            assert text == f" {text.strip()}"


@pytest.mark.parametrize("category", [None, *CATEGORIES])
@pytest.mark.parametrize("limit", [None, 301])
def test_right_positions_are_balanced_in_every_category(category, limit):
    items = choices_of(load_facts(category=category, limit=limit))
    for key in {item.category for item in items}:
        assert spread(Counter(item.answer for item in items if item.category == key), range(4)) <= 1


def test_right_positions_are_balanced_overall_and_follow_no_pattern():
    positions = [item.answer for item in choices_of(load_facts())]
    assert spread(Counter(positions), range(4)) <= 1
    steps = Counter((after - before) % 4 for before, after in pairwise(positions))
    assert max(steps.values()) < 0.35 * len(positions)


@pytest.mark.parametrize("seed, limit", [(0, None), *SEEDS_AND_LIMITS])
def test_options_are_four_different_answers_of_the_relation(seed, limit):
    probe = load_facts(limit=limit, seed=seed)
    selected, everything = answers_by_relation(probe), answers_by_relation(load_facts())
    for item in choices_of(probe):
        assert len({choice.strip().casefold() for choice in item.choices}) == 4
        known = selected[relation_of(item)]
        assert set(item.choices) <= (known if len(known) >= 4 else everything[relation_of(item)])


@pytest.mark.parametrize("limit", [None, 400])
def test_no_answer_stands_out_by_how_often_it_is_an_option(limit):
    items = choices_of(load_facts(limit=limit))
    right = Counter((relation_of(item), item.choices[item.answer]) for item in items)
    wrong = Counter((relation_of(item), c) for item in items for c in item.choices if c != item.choices[item.answer])
    answers = defaultdict(list)
    for key in right:
        answers[key[0]].append(key)
    for relation, keys in answers.items():
        if len(keys) >= 4 and all(right[key] == 1 for key in keys):
            assert spread(wrong, keys) == 0, relation


def test_the_smallest_number_is_right_no_more_often_than_others():
    items = choices_of(load_facts(category="arithmetic"))
    ranks = Counter(sorted(item.choices, key=int).index(item.choices[item.answer]) for item in items)
    assert spread(ranks, range(4)) <= 2


def test_arithmetic_is_right():
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    for item in load_facts(category="arithmetic", kind="recall").items:
        left, sign, right, equals = item.prompt.split()
        assert equals == "=" and int(accepted(item)[0]) == operations[sign](int(left), int(right))


@pytest.mark.parametrize(
    "prompt, answer",
    [
        ("The capital of the Bahamas is the city of", " Nassau"),
        ("The capital of the country of Georgia is the city of", " Tbilisi"),
        ("The capital of the U.S. state of Georgia is the city of", " Atlanta"),
        ("The chemical symbol of the element tungsten is", " W"),
        ("The atomic number of iron is", " 26"),
        ("The 16th president of the United States was", " Abraham Lincoln"),
        ("In Python, the built-in function that returns the length of a list is", " len"),
        ("With NumPy imported as np, the function that joins arrays along an existing axis is", " np.concatenate"),
        ("The opposite of hot is", " cold"),
        ("Pride and Prejudice is a famous work by the writer", " Jane Austen"),
        ("A group of crows is called a", " murder"),
        ("In SI units, force is measured in", " newton"),
        ("The planet of the Solar System that is the largest is the planet", " Jupiter"),
        ("The fall of the Berlin Wall took place in the year", " 1989"),
    ],
)
def test_facts_checked_by_hand(prompt, answer):
    assert accepted({item.prompt: item for item in load_facts(kind="recall").items}[prompt])[0] == answer


def test_python_and_numpy_answers_exist():
    found = {
        "builtin": lambda name: hasattr(builtins, name),
        "module": lambda name: find_spec(name) is not None,
        "exception": lambda name: issubclass(getattr(builtins, name), BaseException),
        "method": lambda name: hasattr(list, name) or hasattr(str, name),
        "keyword": keyword.iskeyword,
    }
    for item in load_facts(category="python", kind="generation").items:
        assert all(map(found[item.id.split("/")[1]], item.answer)), item.id
    for item in load_facts(category="numpy", kind="generation").items:
        assert callable(attrgetter(item.answer[0].removeprefix("np."))(np)), item.id  # others came with NumPy 2
        assert all(answer.startswith("np.") for answer in item.answer)


@pytest.mark.parametrize("arguments", [{}, {"limit": 300, "seed": 5}, {"category": "python", "kind": "choice"}])
def test_the_same_arguments_give_the_same_probe(arguments):
    assert load_facts(**arguments).fingerprint == load_facts(**arguments).fingerprint


def test_the_seed_decides_which_facts_a_limit_keeps_and_nothing_else():
    assert set(load_facts(limit=200, seed=1).ids) != set(load_facts(limit=200, seed=2).ids)
    assert load_facts(seed=1).fingerprint == load_facts(seed=2).fingerprint


def test_an_item_is_the_same_in_the_whole_probe_and_in_its_part():
    whole = {item.id: item for item in load_facts().items}
    for part in (
        load_facts(category="years,capitals"),
        load_facts(kind="choice"),
        load_facts(category="python", kind="recall"),
    ):
        assert all(whole[item.id] == item for item in part.items)


@pytest.mark.parametrize("seed, limit", SEEDS_AND_LIMITS)
def test_a_limit_keeps_the_shares_of_the_categories(seed, limit):
    whole, part = load_facts(), load_facts(limit=limit, seed=seed)
    assert len(part) == limit
    facts = len({fact_of(item) for item in part.items})
    size = Counter(item.category for item in choices_of(whole))
    kept = Counter(item.category for item in choices_of(part))
    for key, n in size.items():
        assert abs(kept[key] - facts * n / size.total()) < 1


def test_an_odd_limit_drops_the_last_recall():
    probe = load_facts(limit=101)
    assert len(probe) == 101 and probe.items[-1].kind == "multiple_choice"
    assert probe.ids == load_facts(limit=102).ids[:-1]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_tiny_limit_still_has_four_options(limit):
    probe = load_facts(limit=limit)
    assert len(probe) == limit and len(probe.items[0].choices) == 4


def test_a_limit_above_the_size_is_everything():
    assert load_facts(limit=10**6).fingerprint == load_facts().fingerprint
    assert len(load_facts(category="planets", kind="recall", limit=7)) == 7


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"category": "capitals"}, "facts-capitals"),
        ({"kind": "recall"}, "facts-recall"),
        ({"category": "capitals", "kind": "recall"}, "facts-capitals-recall"),
        ({"category": "us_states, capitals", "kind": "choice"}, "facts-capitals-us_states-choice"),
    ],
)
def test_the_name_tells_the_filters(arguments, name):
    probe = load_facts(**arguments)
    assert probe.name == name
    kinds = {"choice": {"multiple_choice"}, "recall": {"recall"}}
    assert {item.kind for item in probe.items} == kinds.get(arguments.get("kind"), {"multiple_choice", "recall"})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"category": "capital"}, r"category must be .*capitals, us_states.*got 'capital'"),
        ({"category": "capitals,"}, r"category must be .*got '' in 'capitals,'"),
        ({"kind": "choise"}, r"got 'choise'; did you mean 'choice'\?"),
        ({"kind": "essay"}, r"kind must be 'choice', 'recall', 'generation'.*got 'essay'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_facts(**arguments)


def askings():
    """Each fact as it is asked: a choice, recall, and in a chat."""
    kinds = [load_facts(kind=kind).items for kind in ("choice", "recall", "generation")]
    return list(zip(*kinds, strict=True))


def test_each_fact_is_asked_in_three_forms_that_its_fact_and_cluster_join():
    for asked in askings():
        (fact,) = {item.fact for item in asked}
        assert fact and {item.cluster for item in asked} == {fact} and len({item.category for item in asked}) == 1
        assert [item.id for item in asked] == [f"{fact}/{kind}" for kind in ("choice", "recall", "generation")]


def test_no_wrong_option_is_accepted_and_no_spelling_stands_twice():
    for choice, recall, chat in askings():
        right = choice.choices[choice.answer].strip()
        wrong = {option.strip().casefold() for option in choice.choices} - {right.casefold()}
        for texts in (accepted(recall), chat.answer):
            spellings = [text.strip().casefold() for text in texts]
            assert spellings[0] == right.casefold() and len(set(spellings)) == len(spellings), recall.id
            bare = {spelling.strip("\"`'") for spelling in spellings}
            assert not bare & wrong, recall.id


def test_a_recalled_answer_is_what_a_choice_would_be_or_a_spelling_of_the_fact():
    """What may stand before a spelling of the fact is an article or a mark."""
    for _, recall, chat in askings():
        for text in accepted(recall):
            starts = {text.strip().removesuffix(spelling) for spelling in chat.answer if text.endswith(spelling)}
            assert starts & {"", '"', "`", "a ", "an ", "a `", "an `"}, text


@pytest.mark.parametrize(
    "fact, texts",
    [
        ("presidents/18th", ["Ulysses S. Grant", "Ulysses Grant"]),
        ("discoveries/formulating-the-three-laws-of-motion", ["Isaac Newton", "Sir Isaac Newton", "Newton"]),
        ("us_states/minnesota", ["St. Paul", "Saint Paul"]),
        ("authors/hobbit", ["J. R. R. Tolkien", "J.R.R. Tolkien", "Tolkien"]),
        ("science/unit/length", ["meter", "metre", "meters"]),
        ("opposites/loud", ["quiet", "soft", '"quiet']),
        ("animals/group/bees", ["swarm", "colony"]),
        ("python/builtin/returns-the-length-of-a-list", ["len", "`len"]),
        ("python/exception/an-imported-module-cannot-be-found", ["a `ModuleNotFoundError", "ImportError"]),
        ("numpy/creates-an-identity-matrix", ["np.eye", "np.identity", "`np.eye"]),
    ],
)
def test_right_answers_in_other_words_are_accepted(fact, texts):
    recalls = {item.fact: accepted(item) for item in load_facts(kind="recall").items}
    assert {f" {text}" for text in texts} <= set(recalls.get(fact, ()))


def outcome(item, text):
    return by_text(item, text, finished=True).outcome


def test_a_chat_answer_in_a_short_sentence_is_right_and_one_that_names_another_option_is_wrong():
    for choice, _, chat in askings():
        right = choice.choices[choice.answer].strip()
        assert outcome(chat, right) == outcome(chat, f"The answer is {right}.") == "correct", chat.id
        assert (
            outcome(chat, f"It is called **{right}**.") == outcome(chat, f"{right}\n\nI hope that helps!") == "correct"
        )
        for option in choice.choices:
            if option.strip() != right:
                assert outcome(chat, f"The answer is {option.strip()}.") != "correct", (chat.id, option)


@pytest.mark.parametrize(
    "text",
    [
        "I don't know.",
        "I am not sure about any of this, sorry.",
        "He is asking at the right time, as always; in all, be open and pass it on.",
        "In Python, you can return to it with a function.",
    ],
)
def test_a_chat_text_without_an_answer_is_never_right(text):
    for item in load_facts(kind="generation").items:
        assert outcome(item, text) != "correct", item.id


RIGHT = {
    "elements/symbol/indium": [
        "It's In.",
        "That's In, a soft metal.",
        "It would be In",
        "The symbol is In and it is a metal.",
        "It is not I. It is In.",
    ],
    "elements/symbol/iodine": ["The symbol is I.", "It's I, I think.", 'It is "I", not "Io".', "It is I for iodine"],
    "elements/symbol/potassium": ["It is K, not P", 'It is not "Po"; it is "K".'],
    "elements/atomic_number/zinc": [
        "Zinc has the atomic number 30 and a mass of 65.38",
        "Zinc has an atomic number of 30 and 35 neutrons.",
        "The atomic number of zinc is 30, its mass 65.38.",
        "Zinc (atomic number: 30) has a mass of 65.38",
        "It is 30.",
        "Zinc has 30 protons.",
    ],
    "capitals/france": [
        "Paris, not Lyon.",
        "It is not only Paris but all of it.",
        "Not Lyon, Paris.",
        "It was Paris until 1940, and is Paris today.",
    ],
    "presidents/16th": ["It was Abraham Lincoln until he was shot in 1865."],
    "animals/young/cat": ["A young cat is called a kitten until it is a year old."],
    "python/builtin/returns-the-length-of-a-list": [
        "It's len().",
        "It is the len function",
        "Use `len(x)`, not `size`",
    ],
}
WRONG = {
    "elements/symbol/indium": ["It's In the table.", "It isn't In.", "It is in the table", "It's I, not In"],
    "elements/symbol/iodine": [
        "The answer is I don't know.",
        "The answer is I’m not sure",
        "The answer is: I think it is Io",
        '"I do not know"',
        "It is Io instead of I.",
    ],
    "elements/symbol/helium": ["The answer is He is a gas"],
    "elements/symbol/potassium": [
        'The symbol is Po, not "K".',
        "It is Po rather than K",
        "It is not called `K`.",
        '"K" is not the symbol',
        "It is never K.",
    ],
    "elements/atomic_number/zinc": [
        "Zinc has the atomic number 29 and 30 neutrons",
        "The atomic number of zinc is 65, with 30 protons",
    ],
    "capitals/france": [
        "Lyon, not Paris.",
        "It was Paris until 1940; today it is Vichy.",
        "It isn't Paris",
        "Neither Paris nor Lyon",
        "It is no longer **Paris**",
        "Paris is not the capital.",
        "It used to be Paris, it is Vichy",
    ],
    "years/fall-of-the-berlin-wall": ["It was in 1990, not in 1989.", "1990 rather than 1989"],
    "animals/young/cat": ["A young cat is a puppy, not a kitten.", "It isn't a 'kitten'."],
    "python/builtin/returns-the-length-of-a-list": ["It is `size` instead of `len`", "It is not `len()`"],
}


@pytest.mark.parametrize("texts, right", [(RIGHT, True), (WRONG, False)])
def test_a_chat_answer_is_what_is_stated_not_what_is_denied(texts, right):
    items = {item.fact: item for item in load_facts(kind="generation").items}
    judged = {(fact, text): outcome(items[fact], text) for fact, own in texts.items() for text in own}
    assert [asked for asked, found in judged.items() if (found == "correct") is not right] == []


def test_chat_questions_survive_a_file(tmp_path):
    probe = load_probe("builtin:facts?kind=generation&limit=60")
    path = tmp_path / "facts.jsonl"
    path.write_text(dump_items(probe.items), encoding="utf-8")
    assert read_items(path) == list(probe.items)


def test_the_chat_form_is_asked_in_a_second_prompt_of_its_kind():
    """A plain text is nothing that a chat model goes on with, so neither prompt is fixed to one."""
    for item in load_probe("builtin:facts?kind=generation").items:
        (second,) = item.variants
        assert second.chat is None and second.prompt != item.prompt
        assert item.prompt.split("\n")[0].removeprefix("Question: ") in second.prompt
