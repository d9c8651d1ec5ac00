"""How continuations are forwarded: each distinct token once, in rows that waste little. No torch here.

Continuations that begin alike become one trie: a token attends to the tokens on its own path and to nothing else.
A prefix that many items share (the examples of a few-shot prompt) is forwarded once and cached. Tries are packed into
rows by best fit. Everything follows from the token ids, so every snapshot of a run forwards the same batches: a flip
is never a batching artefact.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forget_callback.scoring.likelihood.tokens import Continuation

Ints = NDArray[np.int64]

# Tokens of a row at which attention costs about as much as all else that a model does for a token.
_ATTENTION = 256
# A prefix is cached if it has as many tokens, and as many contexts share it. Fewer are better off in one trie.
_PREFIX_TOKENS, _PREFIX_CONTEXTS = 32, 8
# Rows are filled up to this many tokens, or to the longest trie in their batch.
_WIDTH = 128
# Scored rows that go through the head together: enough for a product that runs at full speed.
_HEAD_ROWS = 1024


@dataclass(frozen=True)
class Batch:
    """One forward: rows of packed tries, behind a prefix that all share.

    Attributes:
        prefix: Token ids before every row, empty if there are none.
        ids: Token ids, 0 where nothing is left to forward, ``(rows, width)``.
        positions: Place of each token in its own sequence, prefix included, ``(rows, width)``.
        ends: One past the last descendant of each token, which come right after it: token j of a row is seen by the
            tokens j to ends[j] - 1. Padding sees itself. ``(rows, width)``.
        scored: Tokens that predict something that is asked for, as indices into the flattened rows.
        n_tokens: Tokens that are no padding.
        n_continuations: Continuations that end in it.
    """

    prefix: tuple[int, ...]
    ids: Ints
    positions: Ints
    ends: Ints
    scored: Ints
    n_tokens: int
    n_continuations: int


@dataclass(frozen=True)
class Chunk:
    """Some forwards, and what is read from their scored tokens, all at once.

    Attributes:
        order: Reads the scored tokens of all batches; the first `n_greedy` are those whose argmax is asked for.
        wanted: The one token that each of these would have to say, ``(n_greedy,)``.
        edge_row, edge_token: Pairs of a scored token (after `order`) and a token whose probability is asked for,
            ordered by the latter, ``(n_edges,)``.
        path: Indices of the edges of all continuations, one after the other.
        greedy: For each entry of `path`, index into `wanted` for a continuation that asks for the argmax, else -1.
        ends: Where the entries of each continuation end, ``(n_continuations,)``.
        continuations: Their indices.
    """

    batches: list[Batch]
    order: Ints
    wanted: Ints
    edge_row: Ints
    edge_token: Ints
    path: Ints
    greedy: Ints
    ends: Ints
    continuations: Ints


def plan(
    rows: Sequence[Continuation],
    budget: int,
    *,
    cached: int = 2**62,
    share: bool = True,
    pad: bool = True,
    join: bool = True,
    variant: int = 0,
) -> list[Chunk]:
    """Arranges continuations for scoring.

    Args:
        budget: Tokens of one forward, padding included; a single continuation may have more.
        cached: Tokens that the cache of a forward may hold, with the prefix of each row; as many as wanted by default.
        share: False forwards each continuation in a row of its own, with nothing shared: for models that cannot mask.
        pad: False puts only rows of one length into a batch; needs `share` to be False.
        join: False reads every batch by itself, for heads that take all the memory there is.
        variant: Another number, other batches of the same continuations.
    """
    halves = [list(range(len(rows)))]
    if variant:  # split at random in two, so that rows meet others, and less padding or more
        shuffled = random.Random(variant).sample(halves[0], len(rows))
        halves = [shuffled[::2], shuffled[1::2]]
    found: list[tuple[Batch, list[_Trie]]] = []
    for half in halves:
        # The last token of a context predicts, so it is never part of a prefix.
        contexts = [rows[i].tokens[: rows[i].n_context - 1] for i in half]
        for depth, chosen in prefix_groups(contexts) if share else [(0, range(len(half)))]:
            members = sorted((half[at] for at in chosen), key=lambda i: (rows[i].tokens, i))
            tries = _tries(rows, members, depth, budget if share else 0)
            prefix = rows[members[0]].tokens[:depth] if members else ()
            width = min(max(_WIDTH, depth // 2), budget) if share else 0
            found += _batches(tries, prefix, width, budget, cached=cached, pad=pad)
    return _chunks(rows, found, _HEAD_ROWS if join else 1)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the prefix that two sequences share."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    low, high = 0, n  # a[:low] == b[:low], a[:high] != b[:high]
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def prefix_groups(contexts: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """Which contexts share a prefix that is worth caching, so that the fewest tokens are forwarded.

    Returns:
        The prefix' length and the indices of its contexts, sorted by token ids; last, with length 0, all the others.
    """
    distinct: dict[tuple[int, ...], list[int]] = {}
    for i, context in enumerate(contexts):
        distinct.setdefault(tuple(context), []).append(i)
    ordered = sorted(distinct.items())
    shared = [common(a, b) for (a, _), (b, _) in pairwise(ordered)]
    chosen = _prefixes(shared, 0, len(ordered), _PREFIX_TOKENS)[1]
    groups = [(depth, [i for _, own in ordered[low:high] for i in own]) for low, high, depth in chosen]
    grouped = {i for _, members in groups for i in members}
    return [*groups, (0, [i for _, own in ordered for i in own if i not in grouped])]


def _prefixes(shared: list[int], low: int, high: int, least: int) -> tuple[int, list[tuple[int, int, int]]]:
    """Tokens saved at best in contexts `low` to `high`, and by which prefixes: (low, high, length) each.

    `shared[i]` is what contexts i and i + 1 have in common. Either all of them share one prefix, or they are split
    where they have too little in common, and each part may share a longer one.
    """
    if high - low < _PREFIX_CONTEXTS:
        return 0, []
    depth = min(shared[low : high - 1])
    parts, first = [], low
    for at in range(low, high - 1):
        if shared[at] < max(least, depth + _PREFIX_TOKENS):
            parts.append((first, at + 1))
            first = at + 1
    parts.append((first, high))
    saved = 0
    chosen: list[tuple[int, int, int]] = []
    if len(parts) > 1:
        for part in parts:
            more, inner = _prefixes(shared, *part, depth + _PREFIX_TOKENS)
            saved, chosen = saved + more, chosen + inner
    own = (high - low - 1) * depth if depth >= _PREFIX_TOKENS else 0
    return (own, [(low, high, depth)]) if own > 0 and own >= saved else (saved, chosen)


class _Trie:
    """Continuations that begin alike, their tokens in preorder, without the prefix that is cached."""

    def __init__(self, depth: int) -> None:
        self.skip = depth
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.ends: list[int] = []
        self.members: list[int] = []
        self.paths: list[list[int]] = []  # of each member, the nodes that predict its scored tokens
        self._open: list[int] = []  # nodes of the last member

    def add(self, index: int, row: Continuation, shared: int) -> None:
        """Adds a continuation that has `shared` tokens in common with the last one, the prefix included."""
        # The last token predicts nothing that is asked for, so it is not forwarded.
        last = len(row.tokens) - 1
        keep = max(min(shared, last) - self.skip, 0)
        for node in self._open[keep:]:
            self.ends[node] = len(self.ids)
        del self._open[keep:]
        for position in range(self.skip + keep, last):
            self._open.append(len(self.ids))
            self.ids.append(row.tokens[position])
            self.positions.append(position)
            self.ends.append(-1)
        self.members.append(index)
        self.paths.append(self._open[row.n_context - 1 - self.skip : last - self.skip])

    def close(self) -> None:
        for node in self._open:
            self.ends[node] = len(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


def _tries(rows: Sequence[Continuation], members: Sequence[int], depth: int, budget: int) -> list[_Trie]:
    """Tries of sorted continuations: all of one context, and more where that saves more than a wider row costs."""
    tries: list[_Trie] = []
    last: tuple[int, ...] = ()
    context: tuple[int, ...] = ()
    for i in members:
        row = rows[i]
        shared = common(last, row.tokens[:-1]) if tries else 0
        saved, new = max(shared - depth, 0), len(row.tokens) - 1 - max(shared, depth)
        size = len(tries[-1]) if tries else budget
        before, context = context, row.tokens[: row.n_context]
        if not ((context == before or saved * _ATTENTION > new * size) and size + new <= budget):
            tries.append(_Trie(depth))
            shared = 0
        tries[-1].add(i, row, shared)
        last = row.tokens[:-1]
    for trie in tries:
        trie.close()
    return tries


def _batches(
    tries: list[_Trie], prefix: tuple[int, ...], width: int, budget: int, *, cached: int, pad: bool
) -> list[tuple[Batch, list[_Trie]]]:
    """Packs tries into rows of about `width`, longest first, and rows into batches of like length."""
    bins: list[list[_Trie]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for trie in sorted(tries, key=lambda trie: (-len(trie), trie.members)):
        at = bisect_left(room, (len(trie), -1))
        if at < len(room):  # the fullest row that it fits into
            left, row = room.pop(at)
        else:
            left, row = max(width, len(trie)), len(bins)
            bins.append([])
        bins[row].append(trie)
        if left > len(trie):
            insort(room, (left - len(trie), row))
    sized = sorted(((sum(map(len, row)), i) for i, row in enumerate(bins)), key=lambda pair: (-pair[0], pair[1]))
    result: list[tuple[Batch, list[_Trie]]] = []
    at = 0
    while at < len(sized):
        widest = max(sized[at][0], 1)
        n = max(min(budget // widest, cached // (len(prefix) + widest) if prefix else budget), 1)
        chosen = [i for size, i in sized[at : at + n] if pad or size == sized[at][0]]
        result.append(_batch([bins[i] for i in chosen], widest, prefix))
        at += len(chosen)
    return result


def _batch(rows: list[list[_Trie]], width: int, prefix: tuple[int, ...]) -> tuple[Batch, list[_Trie]]:
    ids = np.zeros((len(rows), width), np.int64)
    positions, ends = np.zeros_like(ids), np.tile(np.arange(1, width + 1), (len(rows), 1))
    scored: list[int] = []
    for i, row in enumerate(rows):
        at = 0
        for trie in row:
            here = slice(at, at + len(trie))
            ids[i, here], positions[i, here], ends[i, here] = trie.ids, trie.positions, np.add(trie.ends, at)
            scored += sorted({i * width + at + node for path in trie.paths for node in path})
            at += len(trie)
    tries = [trie for row in rows for trie in row]
    n_tokens, n_continuations = sum(map(len, tries)), sum(len(trie.members) for trie in tries)
    return Batch(prefix, ids, positions, ends, _ints(scored), n_tokens, n_continuations), tries


def _chunks(rows: Sequence[Continuation], found: list[tuple[Batch, list[_Trie]]], least: int) -> list[Chunk]:
    """Joins batches until they have enough scored tokens for the head."""
    chunks: list[Chunk] = []
    first = n = 0
    for at, (batch, _) in enumerate(found):
        n += len(batch.scored)
        if n >= least or at == len(found) - 1:
            chunks.append(_chunk(rows, found[first : at + 1]))
            first, n = at + 1, 0
    return chunks


def _chunk(rows: Sequence[Continuation], found: list[tuple[Batch, list[_Trie]]]) -> Chunk:
    members: list[tuple[int, list[int]]] = []  # a continuation and its scored tokens, counted over all batches
    base = 0
    for _, tries in found:
        for trie in tries:
            own = {node: base + k for k, node in enumerate(sorted({n for path in trie.paths for n in path}))}
            members += [(i, [own[node] for node in path]) for i, path in zip(trie.members, trie.paths)]
            base += len(own)
    # A scored token has one place in `order`, and one more for each further token that it would have to say.
    greedy: dict[tuple[int, int], int] = {}
    for i, path in members:
        if rows[i].greedy:
            for node, token in zip(path, rows[i].tokens[rows[i].n_context :]):
                greedy.setdefault((node, token), len(greedy))
    place = {node: at for (node, _), at in greedy.items()}
    plain = [node for node in range(base) if node not in place]
    place.update({node: len(greedy) + at for at, node in enumerate(plain)})
    edges: dict[tuple[int, int], int] = {}
    path_, greedy_, ends = [], [], []
    for i, path in members:
        for node, token in zip(path, rows[i].tokens[rows[i].n_context :]):
            path_.append(edges.setdefault((token, place[node]), len(edges)))
            greedy_.append(greedy[node, token] if rows[i].greedy else -1)
        ends.append(len(path_))
    ordered = sorted(edges)
    rank = np.empty(len(edges), np.int64)
    rank[[edges[edge] for edge in ordered]] = np.arange(len(edges))
    return Chunk(
        batches=[batch for batch, _ in found],
        order=_ints([*(node for node, _ in greedy), *plain]),
        wanted=_ints([token for _, token in greedy]),
        edge_row=_ints([row for _, row in ordered]),
        edge_token=_ints([token for token, _ in ordered]),
        path=rank[_ints(path_)],
        greedy=_ints(greedy_),
        ends=_ints(ends),
        continuations=_ints([i for i, _ in members]),
    )


def _ints(values: Any) -> Ints:
    return np.array(values, np.int64)
