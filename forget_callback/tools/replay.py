"""The replay pack: the training examples nearest to what a run forgot, to be mixed into the next run's data.

Near means the cosine similarity of TF-IDF vectors of words and word pairs (Salton and Buckley 1988). Examples that
share a long enough n-gram with any item of the probe are excluded (decontamination): otherwise the next evaluation
would measure training on the test set. Knows nothing of models.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from forget_callback.probes.data_sets import read_splits, rows_of
from forget_callback.probes.items import Item
from forget_callback.probes.plurals import are, counted
from forget_callback.runs.item_changes import expected
from forget_callback.runs.next_command import next_command
from forget_callback.runs.rechecked import read_recheck
from forget_callback.runs.run_at import RunAt, open_run
from forget_callback.tools.overlap import Overlap, question_of, texts_of, words_of

# An example is near to an item if this share of what the item says stands in it, its rare words counting most. Of 60
# built-in facts, the nearest of 400 support tickets has 2% (5% at most), of 150 word problems 11% (16% in the upper
# quarter), and texts that state the fact have all.
NEAR = 0.25


@dataclass(frozen=True)
class Pack:
    """The selected examples.

    Attributes:
        examples: As they are in the pool, in its order.
        nearest: Id of the forgotten item that selected each.
        similarity: Cosine similarity to that item, from 0 to 1.
        refused: Examples of the pool that were excluded because they contain an item of the probe.
        not_looked_for: Items of the probe without words that few others have: no example is excluded for them.
        forgotten: Items that were right at the baseline and are wrong now.
        covered: How many of these have an example in the pool that is near.
    """

    examples: tuple[Mapping[str, Any], ...]
    nearest: tuple[str, ...]
    similarity: tuple[float, ...]
    refused: int
    not_looked_for: int
    forgotten: int
    covered: int

    def counts(self) -> dict[str, int]:
        """How many items and examples are of which kind."""
        names = ("forgotten", "covered", "refused", "not_looked_for")
        return {name: getattr(self, name) for name in names}

    def summary(self) -> str:
        """The selection as JSON: for each example the item that selected it."""
        chosen = [
            {"nearest": name, "similarity": round(value, 4)} for name, value in zip(self.nearest, self.similarity)
        ]
        return json.dumps({**self.counts(), "examples": chosen}, indent=2)


def replay_pack(run: str, pool: Sequence[Mapping[str, Any]], *, size: int, only: Literal["gone"] | None = None) -> Pack:
    """Selects from a pool the examples that are nearest to what a run forgot.

    Every forgotten item selects its nearest example, then its second, and so on (round robin) up to `size`: a pack
    covers everything that was forgotten and not only what the pool has most of.

    Args:
        run: RUN or RUN@STEP: items right at its baseline and wrong at that step, over all of its probes.
        pool: Training examples; text in any field counts.
        size: Maximum number of examples.
        only: "gone" leaves out what `recheck` found to be there and what it did not ask.

    Raises:
        ValueError: If `size` is below 1, nothing was forgotten, `only` has no recheck of that step, or nothing in the
            pool is near and not excluded: the nearest examples of a pool about other things are no replay of it.
        ImportError: If scikit-learn is not installed.
    """
    if size < 1:
        raise ValueError(f"size must be 1 or more, got {size}")
    items, lost = _forgotten(run, only)
    if not lost:
        what = (
            "forgot nothing that it knew at its baseline" if only is None else "has nothing that came back by no help"
        )
        raise ValueError(f"{run} {what}: there is nothing to replay")
    texts, own = [" ".join(texts_of(example)) for example in pool], Overlap(items)
    allowed = np.array([not own.found(words_of(text)) for text in texts], bool)
    wanted = [f"{question_of(item)} {expected(item)}" for item in lost]
    nearest = list(_nearest(wanted, texts, allowed, size))
    first = [(row, *own[0]) for row, own in enumerate(nearest) if own]
    pairs = [(wanted[row], texts[place]) for row, place, _ in first]
    covered = sum(share >= NEAR for share in _shares_said(pairs, [*wanted, *texts]))
    if not covered:
        similar = [value for _, _, value in first]
        found = f": the nearest examples have a similarity of {min(similar):.3f} to {max(similar):.3f}" if first else ""
        gone, with_items = counted(len(lost), "forgotten item"), int((~allowed).sum())
        raise ValueError(
            f"the pool of {counted(len(pool), 'example')} has nothing near to the {gone} that is not one of "
            f"the probe's own ({with_items} {are(with_items)}){found}; give it data on what was forgotten, such as a "
            "part of the pretraining or instruction data"
        )
    chosen = _in_turn(nearest, size)
    places = sorted(chosen)
    return Pack(
        tuple(pool[place] for place in places),
        tuple(lost[chosen[place][0]].id for place in places),
        tuple(chosen[place][1] for place in places),
        int((~allowed).sum()),
        len(items) - own.looked_for,
        len(lost),
        covered,
    )


def read_pool(source: str, split: str = "train") -> list[dict[str, Any]]:
    """The examples of a file, a directory or a data set of the hub, see `read_splits`.

    Raises:
        ValueError: If there are none.
    """
    splits = read_splits(source, argument="pool", split=split, alone=True)
    return [dict(row) for row in rows_of(splits, split, argument="pool", name=source)]


def _forgotten(run: str, only: str | None) -> tuple[list[Item], list[Item]]:
    """All items of the run's probes, and those right at the baseline and wrong at the step."""
    at = open_run(run)
    found = None if only is None else read_recheck(at.store)
    items: list[Item] = []
    lost: list[Item] = []
    for probe in at.store.probes():
        base, now = RunAt(at.store, None).baseline(probe.name), at.read(probe.name, default="last")
        forgotten = set(base.ids[base.correct == 1]) & set(now.ids[now.correct == 0])
        if only is not None:
            if found is None or found.step != now.step:
                raise ValueError(
                    f"--only {only}: {run} has no recheck of step {now.step}; run "
                    f"{next_command('recheck', f'{at.store.path.parent}@{now.step}')} first"
                )
            forgotten &= {id for id, label in found.labels.get(probe.name, {}).items() if label == only}
        items += probe.items
        lost += [item for item in probe.items if item.id in forgotten]
    return items, lost


def _nearest(
    texts: Sequence[str], pool: Sequence[str], allowed: NDArray[np.bool_], size: int
) -> Iterator[list[tuple[int, float]]]:
    """For each text the `size` nearest allowed examples, nearest first: (index in the pool, cosine similarity)."""
    vectors = _tfidf([*texts, *pool])
    theirs, count = vectors[len(texts) :], min(size, len(pool))
    for row in range(len(texts)):
        cosine = (theirs @ vectors[row].T).toarray()[:, 0] * allowed
        places = np.argpartition(-cosine, count - 1)[:count]
        places = places[np.lexsort((places, -cosine[places]))]
        yield [(int(place), float(cosine[place])) for place in places if cosine[place] > 0]


def _shares_said(pairs: Sequence[tuple[str, str]], texts: Sequence[str]) -> list[float]:
    """How much of the first text of each pair stands in the second: of its words, weighted by their rarity in `texts`.

    Unlike the cosine, this does not fall with the length of the second (containment, Broder 1997).
    """
    counts = Counter(word for text in texts for word in set(words_of(text)))
    weight = {word: (1 + log((1 + len(texts)) / (1 + count))) ** 2 for word, count in counts.items()}
    shares = []
    for one, other in pairs:
        own, there = set(words_of(one)), set(words_of(other))
        total = sum(weight[word] for word in own)
        shares.append(sum(weight[word] for word in own & there) / total if total else 0.0)
    return shares


def _tfidf(texts: Sequence[str]) -> Any:
    """TF-IDF vectors of length 1 of words and word pairs, sparse ``(n_texts, n_terms)``."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise ImportError("a replay pack needs scikit-learn: pip install 'forget-callback[replay]'") from error
    words = {"tokenizer": words_of, "token_pattern": None, "lowercase": False}
    return TfidfVectorizer(**words, ngram_range=(1, 2), sublinear_tf=True).fit_transform(texts)


def _in_turn(nearest: Iterable[list[tuple[int, float]]], size: int) -> dict[int, tuple[int, float]]:
    """Selected indices in the pool, each with its row and similarity: every row its nearest one left, round robin."""
    left = deque((row, iter(own)) for row, own in enumerate(nearest))
    chosen: dict[int, tuple[int, float]] = {}
    while left and len(chosen) < size:
        row, own = left.popleft()
        best = next(((place, near) for place, near in own if place not in chosen), None)
        if best is not None:
            chosen[best[0]] = (row, best[1])
            left.append((row, own))
    return chosen
