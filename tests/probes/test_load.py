"""What `load_probe` promises: a spec names one probe; a limit keeps the shares of categories and is one draw a seed."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forget_callback import load_probe
from forget_callback.probes.items import Recall
from forget_callback.probes.jsonl import dump_items
from forget_callback.probes.load import builtin
from forget_callback.probes.probe import Probe
from forget_callback.probes.sampling import stratified


def items_of(sizes):
    """`sizes`: items per category."""
    items = [Recall(f"{name}-{i}", "", "x", name) for name, size in sizes.items() for i in range(size)]
    random.Random(0).shuffle(items)
    return items


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(dump_items(items_of({"geo": 60, "art": 30, "": 10})), encoding="utf-8")
    return str(path)


def test_a_file_is_named_by_its_stem(path):
    probe = load_probe(path)
    assert probe.name == "mine" and len(probe) == 100
    assert load_probe(path, limit=100).fingerprint == load_probe(path, limit=500).fingerprint == probe.fingerprint


def test_a_limit_keeps_shares_and_the_order_of_the_file(path):
    probe = load_probe(path, limit=20)
    assert Counter(item.category for item in probe.items) == {"geo": 12, "art": 6, "": 2}
    everything = load_probe(path).ids
    assert sorted(probe.ids, key=everything.index) == list(probe.ids)


def test_the_seed_decides_the_draw_and_the_order_of_the_file_does_not(path, tmp_path):
    probe = load_probe(path, limit=20, seed=3)
    assert load_probe(path, limit=20, seed=3).ids == probe.ids
    assert set(load_probe(path, limit=20, seed=4).ids) != set(probe.ids)
    turned = tmp_path / "turned.jsonl"
    turned.write_text(dump_items(load_probe(path).items[::-1]), encoding="utf-8")
    assert load_probe(str(turned), limit=20, seed=3).fingerprint == probe.fingerprint


def test_the_draw_is_the_same_on_every_machine(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(dump_items(items_of({"a": 9, "b": 3})), encoding="utf-8")
    assert load_probe(str(file), limit=4, seed=0).ids == ("a-1", "a-8", "b-1", "a-6")


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(1, 25), min_size=1, max_size=6), st.integers(1, 160), st.randoms(use_true_random=False))
def test_every_category_gets_its_share_rounded_up_or_down(sizes, limit, rng):
    things = [(name, i) for name, size in enumerate(sizes) for i in range(size)]
    draw = {thing: rng.random() for thing in things}
    chosen = stratified(things, limit, stratum=lambda thing: thing[0], draw=draw.__getitem__)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(limit, len(things))
    for name, size in enumerate(sizes):
        mine = [thing for thing in things if thing[0] == name]
        taken = [thing for thing in chosen if thing[0] == name]
        assert abs(len(taken) - min(limit / len(things), 1) * size) < 1
        assert sorted(taken, key=draw.__getitem__) == sorted(mine, key=draw.__getitem__)[: len(taken)]


@pytest.mark.parametrize(
    "spec, options",
    [
        ("builtin:facts", {}),
        ("builtin:facts?category=capitals", {"category": "capitals"}),
        ("builtin:facts?category=capitals,elements&kind=recall", {"category": "capitals,elements", "kind": "recall"}),
    ],
)
def test_the_builtin_facts_pass_their_options_on(spec, options):
    probe = load_probe(spec, limit=30, seed=2)
    expected = builtin.load(**options, limit=30, seed=2)
    assert isinstance(probe, Probe) and (probe.name, probe.fingerprint) == (expected.name, expected.fingerprint)


@pytest.mark.parametrize(
    "spec, problem",
    [
        ("facts", "spec 'facts' is not known; expected 'builtin:facts', the path"),
        ("builtin", "is not known"),
        ("facts.json", "is not known"),
        ("web:page", "is not known"),
        ("builtin:quiz", "expected builtin:facts"),
        ("builtin:facts?topic=geo", "expected builtin:facts"),
        ("builtin:facts?category=", "category must be one or more of"),
        ("builtin:facts?kind=essay", "kind must be"),
        ("none.jsonl", r"no probe file at none.jsonl"),
        (None, "spec must be a string"),
        (3, "spec must be a string"),
    ],
)
def test_an_unknown_spec_says_what_was_expected(spec, problem):
    with pytest.raises(ValueError, match=problem):
        load_probe(spec)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(path, limit):
    with pytest.raises(ValueError, match=f"limit must be 1 or more, got {limit}"):
        load_probe(path, limit=limit)
