"""Continuations with a common prefix as one trie, in which each distinct token stands once. No torch here.

Knows nothing of rows or batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from forget_callback.scoring.likelihood.tokens import Continuation
from forget_callback.scoring.prefixes import common_length

# Tokens that each token attends to at which attention costs about as much as the rest of the forward pass: on one core
# 1,700 at a hidden size of 256, 2,600 at 576, 7,000 at 896.
ATTENTION = 2048


class Trie:
    """Continuations with a common prefix: their tokens in preorder, without the prefix that is cached.

    Attributes:
        skip: Length of the cached prefix.
        ids, positions, ends: As in `Batch`, ``(n_nodes,)``.
        members: Index of each continuation.
        paths: The scored tokens of each continuation, as node indices.
    """

    def __init__(self, depth: int) -> None:
        self.skip = depth
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.ends: list[int] = []
        self.members: list[int] = []
        self.paths: list[list[int]] = []
        self._open: list[int] = []  # nodes of the last continuation

    def add(self, index: int, row: Continuation, shared: int) -> None:
        """Adds a continuation that shares its first `shared` tokens, prefix included, with the last one."""
        # Nothing after the last token is scored, so it is not forwarded.
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
        """Ends the last continuation."""
        for node in self._open:
            self.ends[node] = len(self.ids)

    @property
    def is_chain(self) -> bool:
        """Whether no token has two that follow it."""
        return all(end == len(self) for end in self.ends)

    def scored(self) -> list[int]:
        """The nodes whose logits are needed, ascending."""
        return sorted({node for path in self.paths for node in path})

    def __len__(self) -> int:
        return len(self.ids)


def make_tries(rows: Sequence[Continuation], members: Sequence[int], depth: int, budget: int) -> list[Trie]:
    """Tries of sorted continuations: one per context, or several contexts in one where that saves more than it costs.

    Contexts of n tokens after s that they share cost, k to a trie, k n + s tokens and attention of all of these to each
    other; for each context that is least at k n = (s^2 + s a)^(1/2), where a is `ATTENTION`.
    """
    shared, same = [0] * len(members), [False] * len(members)
    for at, (before, row) in enumerate(pairwise(rows[i] for i in members), 1):
        shared[at] = common_length(before.tokens[:-1], row.tokens[:-1])
        # Of a context of one token, BOS, nothing is saved: documents would share a trie that attends to them all.
        same[at] = row.n_context > 1 and row.tokens[: row.n_context] == before.tokens[: before.n_context]
    new = [len(rows[i].tokens) - 1 - max(n, depth) for i, n in zip(members, shared)]
    whole = list(new)  # with all that follow in the same context
    for at in range(len(members) - 1, 0, -1):
        whole[at - 1] += whole[at] if same[at] else 0
    tries: list[Trie] = []
    for at, i in enumerate(members):
        size, saved = len(tries[-1]) if tries else budget, max(shared[at] - depth, 0)
        joins = same[at] or (size - saved + whole[at]) ** 2 <= saved * (saved + ATTENTION)
        alone = not joins or size + new[at] > budget
        if alone:
            tries.append(Trie(depth))
        tries[-1].add(i, rows[i], 0 if alone else shared[at])
    for trie in tries:
        trie.close()
    return tries
