"""Whether a model gives one and the same answer to most items, whatever they ask.

At the baseline such a probe measures which answer the model prefers, and not what it knows; later the model has
collapsed. Pure: answers in, counts and a sentence out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forget_callback.metrics.intervals import upper_tail
from forget_callback.metrics.knowledge import MIN_ITEMS
from forget_callback.probes.quoting import quoted
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.snapshot import Snapshot

# Tested at every snapshot of every probe, so that a healthy run must pass it hundreds of times.
SIGNIFICANT = 0.001
# Of the items: an answer that is right for nine of ten is what they ask for.
LEAST_WRONG = 0.1
# What `collapse` says where the answer may not be quoted.
COLLAPSED = "the answers have collapsed: most items get one and the same"


@dataclass(frozen=True)
class OneAnswer:
    """An answer that most items of one kind get.

    Attributes:
        kind: "choice", "recall" or "text".
        answer: Its text, None where only the position of the option is known.
        position: Of the option, from 0, where that is what the answers share; else -1.
        count: Items that get it.
        n: Scored items of this kind.
        right: Of those that get it, for how many it is right.
        before: Items that got it at the earlier evaluation.
        whole: Whether the probe has no items of another kind.
    """

    kind: str
    answer: str | None
    position: int
    count: int
    n: int
    right: int
    before: int
    whole: bool

    @property
    def lettered(self) -> bool:
        """Whether it is the mark of an option, such as " A" or "(2)"."""
        bare = "" if self.answer is None else self.answer.strip(" ().:")
        return len(bare) == 1 and bare.isascii() and bare.isalnum()

    def __str__(self) -> str:
        """Such as "300 of 300 answers are ' A'"; of recall a snapshot has no more than an answer's beginning."""
        answers = "answers" if self.whole else _ANSWERS[self.kind]
        what = f"option {self.position + 1}" if self.answer is None else quoted(self.answer, 40)
        if self.answer is not None and not self.answer.strip():
            what = "empty"
        elif self.kind == "recall":
            return f"{self.count} of {self.n} {answers} begin with {what}"
        return f"{self.count} of {self.n} {answers} are {what}"


_ANSWERS = {"choice": "chosen answers", "recall": "recalled answers", "text": "generated answers"}


def one_answer(snapshot: Snapshot, before: Snapshot | None = None) -> OneAnswer | None:
    """The answer that most items get, of the kind of items where most do; None where answers vary as they should.

    Items for which it is right say nothing of it: a model may know that they are all "yes". Of the others it must take
    more than half of the way from what is ordinary to all of them. Ordinary is what guessing gives, 1/k of k options
    and nothing where the answer is open; with `before`, the same answer's share then if that is more. So a model that
    gives it is right on at most every other of these items, and every third of four options; a real model on prompts
    that suit it is far from that (a tenth of 865 recalled answers, a quarter of the options at each place).

    Args:
        before: The same items at an earlier evaluation. If most got one answer then already, it is nothing new: None.
    """
    found = [_of_kind(snapshot, snapshot, kind, rows, before) for kind, rows in _kinds(snapshot)]
    most = max(filter(None, found), key=lambda one: one.count, default=None)
    return None if most is None or (before is not None and one_answer(before) is not None) else most


def one_answer_to(further: Answers, snapshot: Snapshot) -> OneAnswer | None:
    """The same of the answers to a further prompt of a snapshot's items."""
    found = [_of_kind(snapshot, further, kind, rows & further.asked, None) for kind, rows in _kinds(snapshot)]
    return max(filter(None, found), key=lambda one: one.count, default=None)


def collapse(before: Snapshot, after: Snapshot) -> str:
    """What to say of answers that varied at the baseline and are one now, "" if they are not."""
    found = one_answer(after, before)
    return "" if found is None else f"the answers have collapsed: {found} ({found.before} at the baseline)"


def _kinds(snapshot: Snapshot) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    closed, recall = np.isfinite(snapshot.n_choices), snapshot.kind == "recall"
    for kind, rows in (("choice", closed), ("recall", recall & ~closed), ("text", ~closed & ~recall)):
        if rows.any():
            yield kind, rows


def _of_kind(
    items: Snapshot, answers: Snapshot | Answers, kind: str, rows: NDArray[np.bool_], before: Snapshot | None
) -> OneAnswer | None:
    """The answer that most of these items get, if that is no ordinary one."""
    scored = ~np.isnan(answers.correct)
    rows = rows & scored
    if rows.sum() < MIN_ITEMS:
        return None
    right = answers.correct[rows] > 0.5
    for read in (_texts, _positions) if kind == "choice" else (_texts,):
        now = read(answers)[rows]
        most = next((one for one, _ in Counter(now.tolist()).most_common(2) if one is not None), None)
        given, earlier = now == most, np.zeros(len(now), bool) if before is None else read(before)[rows] == most
        others = ~(given & right)
        if most is None or not others.any():
            continue
        ordinary = np.maximum(1 / items.n_choices[rows][others], earlier[others].mean())
        wrong = int((given & ~right).sum())
        enough = max(len(ordinary) * (1 + ordinary.mean()) / 2, LEAST_WRONG * len(now))
        if wrong > enough and upper_tail(wrong, ordinary).exact < SIGNIFICANT:
            return OneAnswer(
                kind=kind,
                answer=_shown(answers, rows, most) if read is _texts else None,
                position=most if read is _positions else -1,
                count=int(given.sum()),
                n=len(now),
                right=int((given & right).sum()),
                before=int(earlier.sum()),
                whole=len(now) == int(scored.sum()),
            )
    return None


def _shown(answers: Snapshot | Answers, rows: NDArray[np.bool_], answer: str) -> str:
    """An answer as the model gives it most often, with the space before it."""
    given = [one for one in answers.prediction[rows] if one is not None and str(one).strip() == answer]
    return str(Counter(given).most_common(1)[0][0]) if given else answer


def _texts(answers: Snapshot | Answers) -> NDArray[Any]:
    """What was answered to each item, None where that is not known: the answer that was read, else the whole text."""
    given = [t if p is None else p for p, t in zip(answers.prediction, answers.text)]
    return np.array([one if one is None else str(one).strip() for one in given], object)


def _positions(answers: Snapshot | Answers) -> NDArray[Any]:
    """The chosen option of each item, None where there is none."""
    return np.array([one if one >= 0 else None for one in answers.choice.tolist()], object)
