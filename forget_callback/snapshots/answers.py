"""Answers to one prompt of every item, as columns: what a snapshot holds of its first prompts and of each further one.

Validates what callers bring, once. An item that has no such variant is not asked; one that was asked and not scored is
NaN (`correct`) and None (`outcome`), never 0. Knows nothing of probes or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forget_callback.probes.quoting import quoted

# A vector as a caller gives it: numbers, or texts of which some may be None.
Column: TypeAlias = ArrayLike | Sequence[str | None]
# Of each column its numpy dtype, and the value where a caller gives none.
Columns: TypeAlias = Mapping[str, tuple[type, Any]]

OUTCOMES = ("correct", "wrong", "unparsed", "truncated")

ANSWERS: Columns = {
    "correct": (float, np.nan),
    "outcome": (object, None),
    "choice": (int, -1),
    "margin": (float, np.nan),
    "prediction": (object, None),
    "text": (object, None),
}
GRADED: Columns = {  # numbers that are no right or wrong, of the first prompts
    "score": (float, np.nan),
    "bits_per_byte": (float, np.nan),
    "kl": (float, np.nan),
    "kl_error": (float, np.nan),
    "top1": (float, np.nan),
}
FURTHER: Columns = {**ANSWERS, "asked": (bool, True), "skipped": (bool, False), "weak": (bool, False)}
PER_ITEM: Columns = {  # of a snapshot: the answers to the first prompts, and what is known of the items
    "ids": (object, None),
    **ANSWERS,
    **GRADED,
    "category": (object, ""),
    "scores": (object, ()),
    "n_choices": (float, np.inf),
    "answer": (int, -1),
    "cluster": (object, ""),
    "fact": (object, ""),
    "kind": (object, ""),
    "ability": (object, ""),
    "samples": (int, 1),
}
T = TypeVar("T")
NOT_GIVEN: Any = None  # a default is filled in, so no reader sees None


@dataclass(frozen=True, eq=False)
class Answers:
    """One model's answers to a further prompt of each item; vectors are ``(n_items,)``, in the snapshot's item order.

    Attributes:
        fingerprint: Of the variant, see `Probe.variant_fingerprints`: only answers with equal ones compare.
        correct: 1 right, 0 wrong, NaN not scored; of several samples the share that is right.
        outcome: As in `Snapshot`.
        choice: The chosen option, in the item's own order, whatever order the variant lists them in; -1 if none.
        margin: As in `Snapshot`.
        prediction: As in `Snapshot`.
        text: As in `Snapshot`.
        asked: Whether the item has this variant.
        skipped: Whether it has it and was not asked in it, for no answer could count, see `skipped`.
        weak: Whether it is only words around the same prompt, which shares that prompt's damage.

    Raises:
        ValueError: If vectors differ in length, or an item was scored that was not asked.
    """

    fingerprint: str
    correct: NDArray[Any]
    outcome: NDArray[Any] = NOT_GIVEN
    choice: NDArray[Any] = NOT_GIVEN
    margin: NDArray[Any] = NOT_GIVEN
    prediction: NDArray[Any] = NOT_GIVEN
    text: NDArray[Any] = NOT_GIVEN
    asked: NDArray[Any] = NOT_GIVEN
    skipped: NDArray[Any] = NOT_GIVEN
    weak: NDArray[Any] = NOT_GIVEN

    if TYPE_CHECKING:  # what callers may give for the vectors above: any sequence

        def __init__(
            self,
            fingerprint: str,
            correct: Column,
            outcome: Column = ...,
            choice: Column = ...,
            margin: Column = ...,
            prediction: Column = ...,
            text: Column = ...,
            asked: Column = ...,
            skipped: Column = ...,
            weak: Column = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        fill(self, FURTHER, len(self.correct))
        surplus = (~self.asked | self.skipped) & ~np.isnan(self.correct)
        if surplus.any():
            i = int(np.argmax(surplus))
            raise ValueError(f"item {i} was not asked, but has correct {self.correct[i]}; expected NaN")

    def __len__(self) -> int:
        return len(self.correct)

    def select(self, rows: NDArray[Any]) -> Answers:
        """The items at `rows` (a mask or indices), in that order."""
        return changed(self, **{name: getattr(self, name)[rows] for name in FURTHER})

    @staticmethod
    def none(n: int) -> Answers:
        """Of `n` items that have no such variant."""
        return Answers("", np.full(n, np.nan), asked=np.zeros(n, bool))


def fill(owner: Any, columns: Columns, n: int) -> None:
    """Turns the fields of a frozen object into vectors of `n`; an outcome that is not given follows from `correct`."""
    for name, (dtype, default) in columns.items():
        object.__setattr__(owner, name, _vector(name, getattr(owner, name), n, dtype, default))
    if not any(outcome is not None for outcome in owner.outcome):
        scored = ~np.isnan(owner.correct)
        derived = np.full(n, None, object)
        derived[scored] = np.where(owner.correct[scored] > 0.5, "correct", "wrong")
        object.__setattr__(owner, "outcome", derived)


def require_consistent(answers: Any, ids: NDArray[Any], samples: NDArray[Any], prompt: str = "") -> None:
    """Checks `correct` and `outcome` of a snapshot's first prompts, or of further ones.

    Args:
        samples: Samples of each item: of several, `correct` is a share, ``(n_items,)``.
        prompt: Names the columns in errors, such as "_2".

    Raises:
        ValueError: If `correct` or a score is no number that it may be, or an outcome is unknown or contradicts it.
    """
    correct, outcome = answers.correct, answers.outcome
    scored = ~np.isnan(correct)
    possible = np.where(samples > 1, (correct >= 0) & (correct <= 1), (correct == 0) | (correct == 1))
    if not possible[scored].all():
        raise ValueError(
            f"correct{prompt} must hold 1, 0 or NaN (not scored) only, or a share where there are several samples, "
            f"got {correct[scored & ~possible][0]}"
        )
    wrong = np.fromiter((o is None or o in OUTCOMES for o in outcome), bool, len(ids))
    if not wrong.all():
        raise ValueError(f"outcome{prompt} must be one of {OUTCOMES} or None, got {quoted(outcome[~wrong][0])}")
    score = getattr(answers, "score", np.empty(0))
    if ((score < 0) | (score > 1)).any():
        raise ValueError(f"score must lie in [0, 1], or be NaN, got {score[(score < 0) | (score > 1)][0]}")
    given = np.fromiter((o is not None for o in outcome), bool, len(ids))
    bad = (given != scored) | ((outcome == "correct") != (correct > 0.5))
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(
            f"item {quoted(ids[i])}: outcome{prompt} {quoted(outcome[i])} contradicts correct{prompt} {correct[i]}; "
            "1, or more than half of several samples, is 'correct', else it is one of the others, NaN is None"
        )


def changed(owner: T, **fields: Any) -> T:
    """A copy with other fields, which come from what was validated before and are not validated again."""
    found = copy(owner)
    for name, value in fields.items():
        object.__setattr__(found, name, value)
    return found


def _vector(name: str, value: ArrayLike | None, n: int, dtype: type, default: Any) -> NDArray[Any]:
    """`value` as a vector of `n`; object vectors are filled one by one, for numpy would stack equal-length entries."""
    if value is None:
        value = [default] * n
    if dtype is not object:
        vector: NDArray[Any] = np.asarray(value, dtype)
    else:
        entries: Sequence[Any] = value if isinstance(value, (list, tuple)) else list(np.asarray(value, object))
        if name == "scores":
            entries = [np.asarray(entry, float) for entry in entries]
        vector = np.fromiter(entries, object, len(entries))
    if vector.shape != (n,):
        raise ValueError(f"{name} must have one value per id, shape ({n},), got {vector.shape}")
    return vector
