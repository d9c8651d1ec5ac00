"""Which prompts share a cached prefix, so that the fewest tokens are forwarded, and which a batch.

Works on token ids alone, for likelihoods and for generation alike; knows neither models nor caches.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from itertools import pairwise

# A prefix is cached if it has at least this many tokens, and at least this many distinct prompts share it. With fewer
# prompts one trie does as well.
MIN_TOKENS, MIN_PROMPTS = 32, 8


def common_length(a: Sequence[object], b: Sequence[object]) -> int:
    """Length of the common prefix of two sequences, or of two texts."""
    low, high = 0, min(len(a), len(b)) + 1  # alike up to `low`, not up to `high`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle)
    return low


def halves(prompts: Sequence[Hashable], replicate: int) -> list[list[int]]:
    """Indices of the prompts that may share a batch: all, or for a replicate above 0 a random half of them each.

    Equal prompts stay together, so that nothing that they share is forwarded twice.
    """
    if not replicate:
        return [list(range(len(prompts)))]
    distinct = list(dict.fromkeys(prompts))
    first = set(random.Random(replicate).sample(distinct, len(distinct) // 2))
    parts = [[i for i, prompt in enumerate(prompts) if (prompt in first) == own] for own in (True, False)]
    return [part for part in parts if part]


def prefix_groups(prompts: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """Groups prompts by the prefix to cache, so that the fewest tokens are forwarded.

    Returns:
        For each group the prefix' length and the indices of its prompts, sorted by token ids; last, with length 0, the
        prompts that share none.
    """
    distinct: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        distinct.setdefault(tuple(prompt), []).append(i)
    ordered = sorted(distinct.items())
    shared = [common_length(a, b) for (a, _), (b, _) in pairwise(ordered)]
    chosen = _best_prefixes(shared, 0, len(ordered), MIN_TOKENS)[1]
    groups = [(depth, [i for _, own in ordered[low:high] for i in own]) for low, high, depth in chosen]
    grouped = {i for _, members in groups for i in members}
    return [*groups, (0, [i for _, own in ordered for i in own if i not in grouped])]


def _best_prefixes(shared: list[int], low: int, high: int, least: int) -> tuple[int, list[tuple[int, int, int]]]:
    """Most tokens that can be saved in sorted prompts `low` to `high`, and by which prefixes: (low, high, length) each.

    `shared[i]` is the length of the common prefix of prompts i and i + 1. Either all prompts share one prefix, or they
    are split where they have too little in common, and each part may share a longer one.
    """
    if high - low < MIN_PROMPTS:
        return 0, []
    depth = min(shared[low : high - 1])
    cuts = [at + 1 for at in range(low, high - 1) if shared[at] < max(least, depth + MIN_TOKENS)]
    saved = 0
    chosen: list[tuple[int, int, int]] = []
    for first, end in pairwise([low, *cuts, high]) if cuts else ():
        more, inner = _best_prefixes(shared, first, end, depth + MIN_TOKENS)
        saved, chosen = saved + more, chosen + inner
    own = (high - low - 1) * depth if depth >= MIN_TOKENS else 0
    return (own, [(low, high, depth)]) if own > 0 and own >= saved else (saved, chosen)
