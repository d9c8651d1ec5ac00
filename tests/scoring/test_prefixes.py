"""Cached prompt prefixes save as many tokens as any grouping can, against a slow search over all of them."""

import numpy as np
from hypothesis import given, settings, strategies as st

from forget_callback.scoring.prefixes import common_length, prefix_groups

LONG = tuple(np.random.default_rng(0).integers(3, 90, 150).tolist())


@given(a=st.lists(st.integers(0, 1), max_size=12), b=st.lists(st.integers(0, 1), max_size=12))
def test_common_length_is_the_length_of_the_shared_prefix(a, b):
    expected = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    assert common_length(tuple(a), tuple(b)) == expected
    assert common_length((7,) * 200 + tuple(a), (7,) * 200 + tuple(b)) == 200 + expected


def best_saving(contexts, depth=0):
    """Tokens saved at best by disjoint groups of 8 or more contexts that share 32 tokens or more, by trying all.

    A group is cached at the depth where its contexts part; whatever does not belong to it is searched further down.
    """
    if len(contexts) < 8:
        return 0
    shared = depth
    while all(len(context) > shared for context in contexts) and len({context[shared] for context in contexts}) == 1:
        shared += 1
    own = (len(contexts) - 1) * shared if shared >= 32 else 0
    children = {}
    for context in contexts:
        if len(context) > shared:
            children.setdefault(context[shared], []).append(context)
    return max(own, sum(best_saving(child, shared + 1) for child in children.values()))


def saving(contexts, groups):
    """Tokens saved by groups, with all that must hold for them."""
    assert sorted(i for _, members in groups for i in members) == list(range(len(contexts)))
    *cached, (rest_depth, _) = groups
    assert rest_depth == 0
    saved = 0
    for depth, members in cached:
        own = {contexts[i] for i in members}
        assert depth >= 32 and len(own) >= 8
        assert all(len(context) >= depth for context in own) and len({context[:depth] for context in own}) == 1
        assert [contexts[i] for i in members] == sorted(contexts[i] for i in members)
        saved += (len(own) - 1) * depth
    return saved


@st.composite
def spelled(draw, size):
    """Contexts of a few words of `size` tokens, so that they part where a word ends; and a tail of their own."""
    words = st.lists(st.integers(0, 2), max_size=4)
    n = draw(st.integers(0, 40))
    contexts = []
    for i in range(n):
        spell = [token for word in draw(words) for token in range(100 + 100 * word, 100 + 100 * word + size)]
        contexts.append((*spell, *[1000 + i] * draw(st.integers(0, 2))))
    return contexts


@settings(max_examples=100, deadline=None)
@given(contexts=spelled(32))
def test_prefix_groups_save_the_most_where_contexts_part_at_multiples_of_32(contexts):
    assert saving(contexts, prefix_groups(contexts)) == best_saving(sorted(set(contexts)))


@settings(max_examples=100, deadline=None)
@given(contexts=spelled(11))
def test_prefix_groups_never_save_less_than_nothing_or_one_prefix_for_all(contexts):
    saved = saving(contexts, prefix_groups(contexts))
    distinct = sorted(set(contexts))
    depth = common_length(distinct[0], distinct[-1]) if distinct else 0
    one_for_all = (len(distinct) - 1) * depth if depth >= 32 and len(distinct) >= 8 else 0
    assert max(one_for_all, 0) <= saved <= best_saving(distinct)


def test_nested_prefixes_are_cached_at_the_subject():
    """57 subjects with five examples each behind one instruction, as MMLU asks: the longer prefix saves more."""
    rng = np.random.default_rng(0)
    contexts = []
    for _ in range(57):
        examples = tuple(rng.integers(3, 900, 300).tolist())
        contexts += [(*LONG[:40], *examples, *rng.integers(3, 900, 20).tolist()) for _ in range(12)]
    groups = prefix_groups(contexts)
    assert saving(contexts, groups) == 57 * 11 * 340
    assert [depth for depth, _ in groups] == [340] * 57 + [0] and groups[-1][1] == []


def test_an_instruction_is_cached_where_the_subjects_are_too_small():
    rng = np.random.default_rng(0)
    contexts = []
    for _ in range(20):
        examples = tuple(rng.integers(3, 900, 50).tolist())
        contexts += [(*LONG[:40], *examples, *rng.integers(3, 900, 20).tolist()) for _ in range(3)]
    assert [depth for depth, _ in prefix_groups(contexts)] == [40, 0]


def test_a_stranger_does_not_cost_the_others_their_prefix():
    contexts = [(*LONG[:64], 1000 + i) for i in range(20)] + [(5, 6, 7), (9,)]
    (depth, members), (_, rest) = prefix_groups(contexts)
    assert depth == 64 and sorted(members) == list(range(20)) and sorted(rest) == [20, 21]
