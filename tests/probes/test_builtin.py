"""What `builtin:facts` promises: true facts, balanced positions, options as familiar as the answer, one draw a seed."""

import builtins
import keyword
from collections import Counter, defaultdict
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest

from forget_callback.probes.builtin import load_facts

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
        assert choice.choices[choice.answer] == recall.answer


def test_categories_keep_the_order_of_the_table():
    assert list(dict.fromkeys(item.category for item in load_facts().items)) == CATEGORIES


def test_ids_and_prompts_are_unique_and_clean():
    probe = load_facts()
    assert len(set(probe.ids)) == len({item.prompt for item in probe.items}) == len(probe)
    for item in probe.items:
        assert item.id.isascii() and " " not in item.id and "//" not in item.id and item.id.startswith(item.category)
        assert item.prompt == item.prompt.strip() and "{" not in item.prompt and "  " not in item.prompt
        for text in getattr(item, "choices", [item.answer]):
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
        assert equals == "=" and int(item.answer) == operations[sign](int(left), int(right))


@pytest.mark.parametrize(
    "prompt, answer",
    [
        ("The capital of the Bahamas is", " Nassau"),
        ("The capital of the country of Georgia is", " Tbilisi"),
        ("The capital of the U.S. state of Georgia is", " Atlanta"),
        ("The chemical symbol of the element tungsten is", " W"),
        ("The atomic number of iron is", " 26"),
        ("The 16th president of the United States was", " Abraham Lincoln"),
        ("In Python, the built-in function that returns the length of a list is", " len"),
        ("With NumPy imported as np, the function that joins arrays along an existing axis is", " np.concatenate"),
        ("The opposite of hot is", " cold"),
        ("The author of Pride and Prejudice is", " Jane Austen"),
        ("A group of crows is called a", " murder"),
        ("The SI unit of force is the", " newton"),
        ("The planet of the Solar System that is the largest is", " Jupiter"),
        ("The year of the fall of the Berlin Wall was", " 1989"),
    ],
)
def test_facts_checked_by_hand(prompt, answer):
    assert {item.prompt: item.answer for item in load_facts(kind="recall").items}[prompt] == answer


def test_python_and_numpy_answers_exist():
    found = {
        "builtin": lambda name: hasattr(builtins, name),
        "module": lambda name: find_spec(name) is not None,
        "exception": lambda name: issubclass(getattr(builtins, name), BaseException),
        "method": lambda name: hasattr(list, name) or hasattr(str, name),
        "keyword": keyword.iskeyword,
    }
    for item in load_facts(category="python", kind="recall").items:
        assert found[item.id.split("/")[1]](item.answer.strip()), item.id
    for item in load_facts(category="numpy", kind="recall").items:
        target = np
        for name in item.answer.strip().split(".")[1:]:
            target = getattr(target, name)
        assert callable(target), item.id


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
        ({"kind": "generation"}, r"kind must be 'choice', 'recall'.*got 'generation'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_facts(**arguments)
