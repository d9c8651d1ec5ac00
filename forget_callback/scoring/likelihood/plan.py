"""Batches for scoring continuations: each distinct token is forwarded once, with little padding. No torch here.

Continuations with a common prefix become one trie (tree attention): a token attends to the tokens on its own path only.
A prompt prefix that many items share (few-shot examples) is forwarded once and cached. Tries are packed into rows by
best fit. Everything follows from the token ids, so every snapshot of a run forwards the same batches: a flip is never a
batching artefact.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forget_callback.scoring.likelihood.tokens import Continuation
from forget_callback.scoring.likelihood.tries import ATTENTION, Trie, make_tries
from forget_callback.scoring.prefixes import halves, prefix_groups

Ints = NDArray[np.int64]

# Tokens up to which tries are packed into one row, whichever is cheapest; at 1 each has a row of its own.
_WIDTHS = (1, 64, 96, 128, 192, 256, 512)
# A context of more tokens that several continuations follow is a cached prefix of its own: it needs no mask then, which
# would have as many elements as its tokens squared, and is forwarded once whatever the budget.
_LONG = 4096
# A forward pass costs about one part in so many of its largest batch, whatever it holds.
_PER_BATCH = 64
_FORWARD = 32  # the same in tokens, where the budget is not known
# Scored tokens that are joined for the LM head: enough for a matrix product at full speed.
_HEAD_ROWS = 1024
# Ranks share chunks. A chunk has about one part in so many of all tokens, so that they can be shared evenly, but at
# least as many as keep a matrix product at full speed: that of the decoder, and that of the head.
_PARTS, _PART, _PER_HEAD = 32, 512, 1600


@dataclass(frozen=True)
class Batch:
    """One forward pass: rows of packed tries behind a cached prefix.

    Attributes:
        prefix: Token ids of the cached prefix of all rows, empty without one.
        ids: Token ids, 0 for padding, ``(rows, width)``.
        positions: Position of each token in its own sequence, prefix included, ``(rows, width)``.
        ends: One past the last descendant of each token; descendants follow their token directly, so tokens j to
            ends[j] - 1 of a row attend to token j. Padding attends to itself. ``(rows, width)``.
        scored: Tokens whose logits are needed, as indices into the flattened rows.
        continuations: Index of each continuation that ends in this batch.
        chains: Whether each row is one sequence with nothing before it, so that causal attention needs no mask.
    """

    prefix: tuple[int, ...]
    ids: Ints
    positions: Ints
    ends: Ints
    scored: Ints
    continuations: Ints
    chains: bool = False


@dataclass(frozen=True)
class Chunk:
    """Batches whose scored tokens pass the LM head together, and what is read from their logits.

    An edge is a pair of a scored token and a next token whose log-probability is needed: an edge of the trie.

    Attributes:
        batches: The forward passes.
        order: Scored token of each row of logits, counted over all batches; the first `n_targets` rows need the argmax.
        targets: The next token that the argmax is compared with, ``(n_targets,)``.
        edge_row, edge_token: Row of logits and next token of each edge, sorted by token, ``(n_edges,)``.
        edge_index: Edges of all continuations, one continuation after the other, as indices, ``(n_steps,)``.
        target_index: The target of each of these, -1 where the continuation needs no argmax, ``(n_steps,)``.
        ends: Where the steps of each continuation end, ``(n_continuations,)``.
        continuations: Index of each continuation.
    """

    batches: list[Batch]
    order: Ints
    targets: Ints
    edge_row: Ints
    edge_token: Ints
    edge_index: Ints
    target_index: Ints
    ends: Ints
    continuations: Ints

    @property
    def prefixes(self) -> dict[tuple[int, ...], int]:
        """The cached prefixes and their lengths."""
        return {batch.prefix: len(batch.prefix) for batch in self.batches if batch.prefix}

    def cost(self, head: float) -> float:
        """Work in tokens of the decoder, padding included, without cached prefixes.

        Args:
            head: As in `plan`.
        """
        return sum(batch.ids.size + _FORWARD for batch in self.batches) + head * len(self.order)


def plan(
    rows: Sequence[Continuation],
    budget: int,
    *,
    cached: int = 2**62,
    share: bool = True,
    pad: bool = True,
    join: bool = True,
    replicate: int = 0,
    head: float = 0.0,
) -> list[Chunk]:
    """Plans the batches that score these continuations.

    Args:
        budget: Tokens of one batch, padding included; a single continuation may have more.
        cached: Tokens that the KV cache of a batch may hold, the prefix of each row included; unlimited by default.
        share: False forwards each continuation in a row of its own, with nothing shared: for models without 4-D masks.
        pad: False batches only rows of one length; needs `share` to be False.
        join: False reads the logits of every batch by itself, for heads that need all the memory there is.
        replicate: Another number gives other batches of the same continuations: two random halves share none.
        head: What a token costs in the LM head, where it costs 1 in the decoder.
    """
    groups: list[tuple[list[Trie], tuple[int, ...]]] = []
    # The last context token is a scored token, so it is never part of a cached prefix.
    contexts = [row.tokens[: row.n_context - 1] for row in rows]
    for depth, chosen in prefix_groups(contexts) if share else [(0, range(len(rows)))]:
        members = sorted(chosen, key=lambda i: (rows[i].tokens, i))
        # A budget of 1 is the last resort on OOM: a cache takes memory that a plain forward pass does not.
        for prefix, own in _by_prefix(rows, members, depth, share and budget > 1).items():
            # Options behind one context share a trie, unless it is the cached prefix itself.
            together = [(rows[i].item, contexts[i]) if len(prefix) == depth else rows[i].tokens for i in own]
            for half in halves(together, replicate):
                tries = make_tries(rows, [own[at] for at in half], len(prefix), budget if share else 0)
                groups.append((tries, prefix))
    total = sum(len(prefix) + sum(map(len, tries)) for tries, prefix in groups)
    part = max(total // _PARTS, _PART, round(_PER_HEAD * head))
    found: list[tuple[Batch, list[Trie]]] = []
    for tries, prefix in groups:
        widths = {min(width, budget) for width in (_WIDTHS if share else (1,))}
        how: dict[str, Any] = {"cached": cached, "overhead": budget // _PER_BATCH, "pad": pad}
        found += _batches(tries, prefix, sorted(widths), min(budget, part), **how)
    return _chunks(rows, found, _HEAD_ROWS if join else 1, part)


def _by_prefix(
    rows: Sequence[Continuation], members: Sequence[int], depth: int, share: bool
) -> dict[tuple[int, ...], list[int]]:
    """Sorted continuations by the tokens that are cached before them: `depth`, or their whole context if it is long."""
    contexts = [rows[i].tokens[: rows[i].n_context] for i in members]
    shared = Counter(context for context in contexts if share and len(context) - depth > _LONG)
    found: dict[tuple[int, ...], list[int]] = {}
    for i, context in zip(members, contexts):
        found.setdefault(context[:-1] if shared[context] > 1 else context[:depth], []).append(i)
    return found


def renumbered(chunk: Chunk, numbers: Sequence[int]) -> Chunk:
    """A chunk of a plan of some continuations, with their indices among all of them.

    Args:
        numbers: The index of each continuation that was planned, ascending.
    """
    at = _ints(numbers)
    batches = [replace(batch, continuations=at[batch.continuations]) for batch in chunk.batches]
    return replace(chunk, batches=batches, continuations=at[chunk.continuations])


def _batches(
    tries: list[Trie],
    prefix: tuple[int, ...],
    widths: Sequence[int],
    budget: int,
    *,
    cached: int,
    overhead: int,
    pad: bool,
) -> list[tuple[Batch, list[Trie]]]:
    """Packs tries into rows, and rows of similar length into batches, at the row width that costs least."""

    def most(widest: int) -> int:
        return max(min(budget // widest, cached // (len(prefix) + widest) if prefix else budget), 1)

    def batched(rows: list[list[Trie]]) -> tuple[int, list[int]]:
        sizes = [max(sum(map(len, row)), 1) for row in rows]
        return _cuts(sizes, most, overhead, depth=len(prefix), pad=pad)

    ordered = sorted(tries, key=lambda trie: (-len(trie), trie.members))
    packed = [_packed(ordered, width) for width in widths]
    (_, cuts), rows = min(((batched(rows), rows) for rows in packed), key=lambda one: one[0][0])
    result: list[tuple[Batch, list[Trie]]] = []
    at = 0
    for n in cuts:
        result.append(_batch(rows[at : at + n], max(sum(map(len, rows[at])), 1), prefix))
        at += n
    return result


def _packed(tries: Sequence[Trie], width: int) -> list[list[Trie]]:
    """Rows of tries, the longest first, of `width` tokens at most where no trie is longer; by best fit.

    Args:
        tries: The longest first.
    """
    rows: list[list[Trie]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for trie in tries:
        at = bisect_left(room, (len(trie), -1))
        if at < len(room):  # the fullest row with enough room
            left, row = room.pop(at)
        else:
            left, row = max(width, len(trie)), len(rows)
            rows.append([])
        rows[row].append(trie)
        if left > len(trie):
            insort(room, (left - len(trie), row))
    return sorted(rows, key=lambda row: -sum(map(len, row)))


def _cuts(
    sizes: Sequence[int], most: Callable[[int], int], overhead: int, *, depth: int, pad: bool
) -> tuple[int, list[int]]:
    """What batches of rows, the longest first, cost at least, and how many rows each of them has then.

    A batch costs its tokens, padding included, with what they attend to, and what a forward pass costs besides.

    Args:
        sizes: Tokens of each row, descending.
        most: Rows that a batch of some width may have.
        overhead: Of a forward pass, in tokens.
        depth: Tokens of the cached prefix.
        pad: Whether rows of a batch may differ in length.
    """
    cost, rows = [0] * (len(sizes) + 1), [0] * len(sizes)
    for at in range(len(sizes) - 1, -1, -1):
        width = sizes[at]
        one = width * (ATTENTION + depth + width)
        for n in range(1, min(most(width), len(sizes) - at) + 1):
            if not pad and sizes[at + n - 1] != width:
                break
            own = n * one + overhead * ATTENTION + cost[at + n]
            if n == 1 or own <= cost[at]:
                cost[at], rows[at] = own, n
    cuts, at = [], 0
    while at < len(sizes):
        cuts.append(rows[at])
        at += rows[at]
    return cost[0], cuts


def _batch(rows: list[list[Trie]], width: int, prefix: tuple[int, ...]) -> tuple[Batch, list[Trie]]:
    ids = np.zeros((len(rows), width), np.int64)
    positions, ends = np.zeros_like(ids), np.tile(np.arange(1, width + 1), (len(rows), 1))
    scored: list[int] = []
    for i, row in enumerate(rows):
        at = 0
        for trie in row:
            here = slice(at, at + len(trie))
            ids[i, here], positions[i, here], ends[i, here] = trie.ids, trie.positions, np.add(trie.ends, at)
            scored += [i * width + at + node for node in trie.scored()]
            at += len(trie)
    tries = [trie for row in rows for trie in row]
    members = [i for trie in tries for i in trie.members]
    chains = not prefix and all(len(row) == 1 and row[0].is_chain for row in rows)
    return Batch(prefix, ids, positions, ends, _ints(scored), _ints(members), chains), tries


def _chunks(rows: Sequence[Continuation], found: list[tuple[Batch, list[Trie]]], least: int, part: int) -> list[Chunk]:
    """Joins batches, of `part` tokens at most, until they have at least `least` scored tokens for the head."""
    chunks: list[Chunk] = []
    first = n = size = 0
    for at, (batch, _) in enumerate(found):
        n, size = n + len(batch.scored), size + batch.ids.size
        last = at == len(found) - 1
        if last or n >= least or size + found[at + 1][0].ids.size > part:
            chunks.append(_chunk(rows, found[first : at + 1]))
            first, n, size = at + 1, 0, 0
    return chunks


def _chunk(rows: Sequence[Continuation], found: list[tuple[Batch, list[Trie]]]) -> Chunk:
    """Numbers the rows of logits, targets and edges of some batches, each distinct one once."""
    steps: list[tuple[int, list[tuple[int, int]]]] = []  # of each continuation: (scored token, next token)
    n_scored = 0
    for trie in (trie for _, tries in found for trie in tries):
        number = {node: n_scored + at for at, node in enumerate(trie.scored())}
        for i, path in zip(trie.members, trie.paths):
            steps.append((i, list(zip([number[node] for node in path], rows[i].tokens[rows[i].n_context :]))))
        n_scored += len(number)
    targets: dict[tuple[int, int], int] = {}
    for i, pairs in steps:
        for pair in pairs if rows[i].greedy else ():
            targets.setdefault(pair, len(targets))
    # One row of logits for each scored token, and one more for each further target of the same token.
    order = [token for token, _ in targets]
    order += sorted(set(range(n_scored)).difference(order))
    row_of = {token: row for row, token in enumerate(order)}
    edges = sorted({(following, row_of[token]) for _, pairs in steps for token, following in pairs})
    edge_at = {edge: at for at, edge in enumerate(edges)}
    return Chunk(
        batches=[batch for batch, _ in found],
        order=_ints(order),
        targets=_ints([following for _, following in targets]),
        edge_row=_ints([row for _, row in edges]),
        edge_token=_ints([following for following, _ in edges]),
        edge_index=_ints([edge_at[following, row_of[token]] for _, pairs in steps for token, following in pairs]),
        target_index=_ints([targets[pair] if rows[i].greedy else -1 for i, pairs in steps for pair in pairs]),
        ends=np.cumsum([len(pairs) for _, pairs in steps], dtype=np.int64),
        continuations=_ints([i for i, _ in steps]),
    )


def _ints(values: Any) -> Ints:
    return np.array(values, np.int64)
