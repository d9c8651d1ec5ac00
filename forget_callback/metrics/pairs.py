"""Two answers to each item: right or wrong before and after, the number of options, and the chosen ones.

Of all prompts that an item was asked in both times; the first prompt stands by itself, for all raw numbers are its own.
`paired` validates what callers bring, once; the other modules of this folder rely on it. Knows nothing of snapshots,
or of what the answers mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]
Choices = tuple[Ints, Ints]


@dataclass(frozen=True, eq=False)
class Numbers:
    """A number of each item that is no right or wrong, before and after, ``(n_items,)`` each; NaN where it has none."""

    before: Floats
    after: Floats

    def take(self, rows: slice | Ints | Flags) -> Numbers:
        """The items at `rows`."""
        return Numbers(self.before[rows], self.after[rows])

    def swapped(self) -> Numbers:
        """Before and after exchanged."""
        return Numbers(self.after, self.before)


@dataclass(frozen=True, eq=False)
class Prompts:
    """The answers to every prompt of the items, ``(n_prompts, n_items)`` each; the first row is the first prompt's.

    Attributes:
        before: 1 right, 0 wrong, NaN not scored; of several samples the share that is right.
        after: The same at the later snapshot.
        choices: Chosen option before and after, in the item's own order, as in `Pairs`.
        asked: Whether the item has this prompt; it has the first one.
        weak: Whether the prompt is words around the first one only.
    """

    before: Floats
    after: Floats
    choices: Choices | None
    asked: Flags
    weak: Flags

    def take(self, rows: slice | Ints | Flags) -> Prompts:
        """The items at `rows`."""
        choices = None if self.choices is None else (self.choices[0][:, rows], self.choices[1][:, rows])
        before, after = self.before[:, rows], self.after[:, rows]
        return Prompts(before, after, choices, self.asked[:, rows], self.weak[:, rows])

    def swapped(self) -> Prompts:
        """Before and after exchanged."""
        return replace(self, before=self.after, after=self.before, choices=self.choices and self.choices[::-1])

    @property
    def scored(self) -> Flags:
        """Items scored both times in every prompt that they have, ``(n_items,)``."""
        unscored = (np.isnan(self.before) | np.isnan(self.after)) & self.asked
        return np.logical_not(unscored.any(axis=0))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Validated answers to the same items at two snapshots, ``(n_items,)`` each.

    Attributes:
        before: 1 right, 0 wrong, NaN not scored, in the first prompt; of several samples whether most are right.
        after: The same at the later snapshot.
        n_choices: Options of each item, infinite where it is open-ended.
        choices: Chosen option before and after, -1 where none could be parsed; None if choices were not stored.
        prompts: The answers to all prompts; None where there is only the first, and one answer to it.
        samples: Generated answers of each item; None if one each.
        cluster: Number of the cluster of each item; None if every item stands for itself.
        fact: Number of the fact that each item asks for, -1 if none; None if there are none.
        recall: Whether an item is recalled, not chosen; None if unknown.
        ability: What each item is about, as its place in `abilities.ABILITIES`; None if unknown.
        score: Graded scores; None if there are none.
        bits: Bits per byte; None if there are no texts.
        floor: By how much the bits per byte of a text must change to count.
    """

    before: Floats
    after: Floats
    n_choices: Floats
    choices: Choices | None
    prompts: Prompts | None = None
    samples: Ints | None = None
    cluster: Ints | None = None
    fact: Ints | None = None
    recall: Flags | None = None
    ability: Ints | None = None
    score: Numbers | None = None
    bits: Numbers | None = None
    floor: float = float("nan")

    def __len__(self) -> int:
        return len(self.before)

    @cached_property
    def closed(self) -> Flags:
        """Items with options, which a guess can get right, ``(n_items,)``."""
        return np.isfinite(self.n_choices)

    @cached_property
    def several(self) -> Flags:
        """Items with three options or more, where a guess can move between wrong ones, ``(n_items,)``."""
        return self.closed & (self.n_choices > 2)

    @property
    def by_choice(self) -> bool:
        """Whether the chosen options show how much guesses move."""
        return self.choices is not None and bool(self.several.any())

    @property
    def n_prompts(self) -> int:
        """Prompts that items were asked in both times, at most."""
        return 1 if self.prompts is None else len(self.prompts.before)

    @cached_property
    def sampled(self) -> bool:
        """Whether some item has several sampled answers."""
        return self.samples is not None and bool((self.samples > 1).any())

    @cached_property
    def in_all_prompts(self) -> Prompts:
        """The answers to all prompts, where there is only the first as well."""
        if self.prompts is not None:
            return self.prompts
        choices = self.choices and (self.choices[0][None], self.choices[1][None])
        asked = np.ones((1, len(self)), bool)
        return Prompts(self.before[None], self.after[None], choices, asked, ~asked)

    def take(self, rows: slice | Ints | Flags) -> Pairs:
        """The items at `rows`."""
        choices = None if self.choices is None else (self.choices[0][rows], self.choices[1][rows])
        prompts = None if self.prompts is None else self.prompts.take(rows)
        per_item = {name: getattr(self, name) for name in ("samples", "cluster", "fact", "recall", "ability")}
        rest: dict[str, Any] = {name: None if values is None else values[rows] for name, values in per_item.items()}
        rest |= {name: one and one.take(rows) for name, one in (("score", self.score), ("bits", self.bits))}
        sides = self.before[rows], self.after[rows], self.n_choices[rows]
        return Pairs(*sides, choices, prompts, **rest, floor=self.floor)

    def swapped(self) -> Pairs:
        """The same items with before and after exchanged: what was lost becomes what was gained."""
        return replace(
            self,
            before=self.after,
            after=self.before,
            choices=self.choices and self.choices[::-1],
            prompts=self.prompts and self.prompts.swapped(),
            score=self.score and self.score.swapped(),
            bits=self.bits and self.bits.swapped(),
        )

    def without_unasked(self) -> Pairs:
        """The same without the further prompts if none of these items has one."""
        return self if self.prompts is None or self.prompts.asked[1:].any() else self.first()

    def first(self) -> Pairs:
        """The answers to the first prompts alone."""
        prompts = None
        if self.prompts is not None and self.sampled:
            own, one = self.prompts, slice(0, 1)
            prompts = Prompts(own.before[one], own.after[one], None, own.asked[one], own.weak[one])
        return replace(self, prompts=prompts)

    def scored(self) -> Pairs:
        """The items scored both times in the first prompt.

        Without choices where a closed one of these was right but has none stored.
        """
        scored = ~(np.isnan(self.before) | np.isnan(self.after))
        pairs = self if scored.all() else self.take(scored)
        if pairs.choices is not None and not _stored(pairs.closed, (pairs.before, pairs.after), pairs.choices):
            pairs = replace(pairs, choices=None)  # an imported log, say
        prompts = pairs.prompts
        if prompts is not None and prompts.choices is not None:
            right = tuple(np.where(prompts.asked, side, np.nan) for side in (prompts.before, prompts.after))
            if pairs.choices is None or not _stored(pairs.closed, right, prompts.choices):
                pairs = replace(pairs, prompts=replace(prompts, choices=None))
        return pairs

    def scored_in_all(self) -> Pairs:
        """Of the items `scored`, those scored both times in every prompt that they have."""
        if self.prompts is None:
            return self
        scored = self.prompts.scored
        return self if scored.all() else self.take(scored)


def _stored(closed: Flags, right: tuple[Floats, ...], choices: Choices) -> bool:
    """Whether every closed item that is right has its option stored."""
    sides = [(side, choice) for side, choice in zip(right, choices) if choice.size and choice.min() < 0]
    return not any((closed & (side == 1) & (choice < 0)).any() for side, choice in sides)


def mean(values: Floats) -> float:
    """NaN without values."""
    return float(values.sum()) / len(values) if len(values) else float("nan")


def paired(
    before: ArrayLike,
    after: ArrayLike,
    n_choices: ArrayLike | None,
    *,
    before_choice: ArrayLike | None,
    after_choice: ArrayLike | None,
    answer: ArrayLike | None,
    samples: ArrayLike | None = None,
    cluster: ArrayLike | None = None,
    asked: Flags | None = None,
    weak: Flags | None = None,
    fact: NDArray[Any] | None = None,
    recall: Flags | None = None,
    ability: Ints | None = None,
    score: Numbers | None = None,
    bits: Numbers | None = None,
    floor: float = float("nan"),
) -> Pairs:
    """Validates the arguments of `transitions`, which says what it raises; from `asked` on they are of snapshots."""
    a, b = np.asarray(before, float), np.asarray(after, float)
    if a.shape != b.shape or a.ndim not in (1, 2) or a.size == 0:
        raise ValueError(
            "before and after must be vectors (n,), or (W, n) with a row per variant, of one length of at least 1, "
            f"got {a.shape} and {b.shape}"
        )
    n = a.shape[-1]
    many = _per_item("samples", 1 if samples is None else samples, n)
    if not (many >= 1).all():
        raise ValueError(f"samples must be 1 or more, got {many[~(many >= 1)][0]:g}")
    for name, values in (("before", a), ("after", b)):
        valid = np.isnan(values) | (values == 0) | (values == 1) | ((many > 1) & (values >= 0) & (values <= 1))
        if not valid.all():
            raise ValueError(
                f"{name} must hold 1, 0 or NaN (not scored), or where `samples` says several the share of them that is "
                f"right; got {values[~valid][0]}"
            )
    k = _per_item("n_choices", np.inf if n_choices is None else n_choices, n)
    if not ((k >= 2) & (np.isinf(k) | (k == np.floor(k)))).all():
        bad = k[~((k >= 2) & (np.isinf(k) | (k == np.floor(k))))][0]
        raise ValueError(f"n_choices must be 2 or more (None where open-ended), and whole, got {bad}")
    choices = _choices(a, b, before_choice, after_choice, k)
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    asked = np.ones(a.shape, bool) if asked is None else asked
    if choices is not None and answer is not None:
        _require_consistent(np.isfinite(k) & (many == 1), (a, b), choices, np.asarray(answer, np.int64))
    several = many if (many > 1).any() else None
    prompts = None
    if len(a) > 1 or several is not None:
        prompts = Prompts(a, b, choices, asked, np.zeros(a.shape, bool) if weak is None else weak)
    return Pairs(
        _most(a[0]) if several is not None else a[0],
        _most(b[0]) if several is not None else b[0],
        k,
        None if choices is None else (choices[0][0], choices[1][0]),
        prompts,
        samples=None if several is None else several.astype(np.int64),
        cluster=_codes(cluster, n),
        fact=None if fact is None else _numbered(fact, n),
        recall=recall,
        ability=ability,
        score=score,
        bits=bits,
        floor=floor,
    )


def _per_item(name: str, value: ArrayLike, n: int) -> Floats:
    """One number for all items or one each, as ``(n,)``."""
    values = np.asarray(value, float)
    if values.shape not in ((), (n,)):
        raise ValueError(f"{name} must be one number, or one for each of the {n} items, got shape {values.shape}")
    return np.broadcast_to(values, (n,))


def _choices(a: Floats, b: Floats, before: ArrayLike | None, after: ArrayLike | None, k: Floats) -> Choices | None:
    """Both choices as ``(n_prompts, n_items)``, None if there are none."""
    if (before is None) != (after is None):
        raise ValueError("before_choice and after_choice go together: give both, or none")
    if before is None or after is None:
        return None
    x, y = np.asarray(before, float), np.asarray(after, float)
    if x.shape != a.shape or y.shape != b.shape:
        raise ValueError(f"choices must have the shape of before {a.shape}, got {x.shape} and {y.shape}")
    for name, choice in (("before_choice", x), ("after_choice", y)):
        valid = (choice == np.floor(choice)) & (choice >= -1) & (choice < k)
        if not valid.all():
            raise ValueError(
                f"{name} must hold indices of options, from 0 to n_choices - 1, or -1 where none could be read; got "
                f"{choice[~valid][0]}"
            )
    x, y = x.astype(np.int64), y.astype(np.int64)
    return np.atleast_2d(x), np.atleast_2d(y)


def _require_consistent(closed: Flags, correct: tuple[Floats, Floats], choices: Choices, answer: Ints) -> None:
    for name, right, choice in zip(("before", "after"), correct, choices):
        bad = closed & ~np.isnan(right) & (choice >= 0) & ((choice == answer) != (right == 1))
        if bad.any():
            prompt, i = map(int, np.argwhere(bad)[0])
            where = f"item {i}, variant {prompt + 1}" if prompt else f"item {i}"
            raise ValueError(
                f"{where}: {name}_choice {choice[prompt, i]} and answer {answer[i]} contradict {name} "
                f"{right[prompt, i]}"
            )


def _most(share: Floats) -> Floats:
    """1 where more than half of the samples are right, NaN where there are none."""
    return np.where(np.isnan(share), np.nan, share > 0.5)


def _codes(cluster: ArrayLike | None, n: int) -> Ints | None:
    """Clusters by number, items without one each their own. None where every item stands alone."""
    if cluster is None:
        return None
    names = np.asarray(cluster, object)
    if names.shape != (n,):
        raise ValueError(f"cluster must have one value per item, shape ({n},), got {names.shape}")
    codes = _numbered(names, n)
    if codes is None:
        return None
    codes = np.where(codes < 0, np.arange(n) + n, codes)
    return codes if len(np.unique(codes)) < n else None


def _numbered(names: NDArray[Any], n: int) -> Ints | None:
    """Different names by number, -1 where an item has none ("" or None); None where no item has one."""
    named = np.fromiter((name is not None and name != "" for name in names), bool, n)
    if not named.any():
        return None
    codes = np.full(n, -1)
    codes[named] = np.unique(names[named].astype(str), return_inverse=True)[1]
    return codes
