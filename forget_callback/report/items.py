"""Every item's answers over a run, packed small: an answer is stored only where it differs from the previous one.

A column is a checkpoint; the first one is the baseline. An item's trajectory follows from its states alone; guesses
are not corrected for. A document is "wrong" where its bits per byte are above the baseline's by more than its floor.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forget_callback.metrics.texts import bits_of, floor_of, sides, texts_in
from forget_callback.probes.conversation import asked as asked_text, calls_as_text
from forget_callback.probes.items import Generation, Item, MultipleChoice, accepted, in_variant
from forget_callback.probes.probe import Probe
from forget_callback.report.reasons import reasons
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.joined import complete
from forget_callback.snapshots.snapshot import Snapshot

STATES = ("not scored", "correct", "wrong", "unparsed", "truncated")
TRAJECTORIES = ("lost", "format loss", "recovered", "kept", "gained", "came and went", "never known", "not scored")
TEXT_BUDGET = 8_000_000  # characters of all generated texts of one probe together
TEXT_LENGTH = (200, 4_000)  # of one text, at least and at most
PREDICTION_LENGTH = 400
MARGIN_UNIT = 0.01  # nats
NO_MARGIN = -32768
BITS_UNIT = 0.001  # bits per byte
NO_BITS = 65535

States = NDArray[np.uint8]


class Paths:
    """The answers of one probe's items, in its order, a column at a time."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self._ids = np.array(probe.ids, object)
        self._columns: list[States] = []
        self._margins: list[NDArray[np.int16]] = []
        self._bits: list[NDArray[np.uint16]] = []
        self._first: Snapshot | None = None
        self._better = np.zeros(len(probe), bool)  # documents that are better now than at the baseline
        self._changes: list[NDArray[np.int64]] = []
        self._last: NDArray[np.int64] | None = None
        self._texts: dict[str, int] = {}
        self._shown: list[str | None] = [None] * len(probe)  # each item's generated text where its answer last changed
        self._asked: list[tuple[int, tuple[Answers, ...]]] = []  # columns at which further variants were asked

    def add(self, snapshot: Snapshot) -> None:
        """Adds a checkpoint.

        Raises:
            ValueError: If the snapshot is of another probe.
        """
        same = snapshot.fingerprint == self.probe.fingerprint and np.array_equal(snapshot.ids, self._ids)
        now = snapshot if same else complete(snapshot, self.probe)  # which takes its time
        state, said = self._with_texts(now, _states(now)), self._said(now)
        answer = np.column_stack([state, now.choice, said]).astype(np.int64)
        rows = np.arange(len(answer)) if self._last is None else np.flatnonzero((answer != self._last).any(axis=1))
        whole = [-1 if now.text[i] is None else self._intern(now.text[i], TEXT_LENGTH[1]) for i in rows]
        for i in rows:
            self._shown[i] = now.text[i]
        column = np.full(len(rows), len(self._columns))
        self._changes.append(np.column_stack([rows, column, answer[rows], np.array(whole, np.int64)]))
        if now.further:
            self._asked = [*self._asked[:1], (len(self._columns), now.further)]
        self._columns.append(state)
        scaled = np.clip(np.round(now.margin / MARGIN_UNIT), -32767, 32767)
        self._margins.append(np.where(np.isnan(scaled), NO_MARGIN, scaled).astype(np.int16))
        self._last = answer

    def _with_texts(self, now: Snapshot, state: States) -> States:
        """The states with those of documents: what a document is depends on the first column."""
        self._first = now if self._first is None else self._first
        texts = texts_in(now)
        if not texts.any():
            return state
        before, after = sides(bits_of(self._first, now), floor_of(self._first))
        self._better = texts & (before == 0)
        measured = np.isnan(now.bits_per_byte)
        scaled = np.where(measured, NO_BITS, np.clip(np.round(now.bits_per_byte / BITS_UNIT), 0, NO_BITS - 1))
        self._bits.append(scaled.astype(np.uint16))
        found = np.where(np.isnan(after), 0, np.where(after == 0, STATES.index("wrong"), STATES.index("correct")))
        return np.where(texts, found, state).astype(np.uint8)

    def pack(self) -> dict[str, Any]:
        """What the page reads: vectors as base64 of little-endian numbers.

        `counts` answers an item, and of each answer the column it came in at (`at`), its state, the chosen option, and
        the places of the answer and of the whole generated text among `texts`, -1 for none. `margin` is in units of
        `margin_unit` nats, `bits` in units of `bits_unit` bits per byte, items by columns; None where none is a text.
        """
        changes = np.concatenate(self._changes)
        changes = changes[np.lexsort((changes[:, 1], changes[:, 0]))]
        states = np.stack(self._columns, axis=1)
        trajectory, lost_at = trajectories(states), first_lost(states)
        trajectory[self._better & (states[:, -1] == 1)] = TRAJECTORIES.index("gained")
        bits = np.stack(self._bits, axis=1) if self._bits else None
        variants = self._variants()  # whose texts are among the others
        return {
            "columns": len(self._columns),
            "counts": _packed(np.bincount(changes[:, 0], minlength=len(self.probe)), "<u2"),
            "at": _packed(changes[:, 1], "<u2"),
            "state": _packed(changes[:, 2], "u1"),
            "choice": _packed(changes[:, 3], "<i2"),
            "said": _packed(changes[:, 4], "<i4"),
            "whole": _packed(changes[:, 5], "<i4"),
            "texts": self._cut_to_budget(set(changes[:, 5].tolist())),
            "margin": _packed(np.stack(self._margins, axis=1), "<i2"),
            "margin_unit": MARGIN_UNIT,
            "bits": None if bits is None else _packed(bits, "<u2"),
            "bits_unit": BITS_UNIT,
            "trajectory": _packed(trajectory, "u1"),
            "lost_at": _packed(lost_at, "<i2"),
            "order": _packed(grid_order(trajectory, lost_at) if bits is None else worst_documents(bits), "<u4"),
            "variants": variants,
            "why": reasons(self.probe, self._shown, [STATES[i] if i > 1 else None for i in states[:, -1]]),
        }

    def _variants(self) -> dict[str, Any] | None:
        """The answers to further variants at the first and the last checkpoint that asked them; None if none did.

        `right` counts, an item, the variants that were right then, and `asked` those that were asked then, or, of both,
        those that it has, the first prompt among them.
        """
        if not self._asked:
            return None
        asked = 1 + np.sum([one.asked for one in self._asked[0][1]], axis=0)
        sides = []
        for column, further in (self._asked[0], self._asked[-1]):
            right = (self._columns[column] == 1) + np.sum([one.correct > 0.5 for one in further], axis=0)
            then = 1 + np.sum([one.asked & ~one.skipped for one in further], axis=0)
            answers = [
                {
                    "state": _packed(np.where(one.skipped, len(STATES), _states(one)), "u1"),
                    "choice": _packed(one.choice, "<i2"),
                    "said": _packed(np.array(self._said(one)), "<i4"),
                }
                for one in further
            ]
            counts = {"right": _packed(right, "u1"), "asked": _packed(then, "u1")}
            sides.append({"column": column, **counts, "answers": answers})
        return {"asked": _packed(asked, "u1"), "sides": sides}

    def _said(self, now: Snapshot | Answers) -> list[int]:
        """The place of each answer's text, -1 where there is none or it is only the chosen option."""
        return [
            -1 if text is None or _is_choice(item, choice, text) else self._intern(text, PREDICTION_LENGTH)
            for item, choice, text in zip(self.probe.items, now.choice, now.prediction)
        ]

    def _intern(self, text: str, length: int) -> int:
        text = text if len(text) <= length else text[:length] + "…"
        return self._texts.setdefault(text, len(self._texts))

    def _cut_to_budget(self, whole: Iterable[int]) -> list[str]:
        """All texts; whole generated ones are cut where together they would swell the page."""
        texts, generated = list(self._texts), [i for i in whole if i >= 0]
        if sum(len(texts[i]) for i in generated) > TEXT_BUDGET:
            length = max(TEXT_LENGTH[0], TEXT_BUDGET // len(generated))
            for i in generated:
                texts[i] = texts[i] if len(texts[i]) <= length else texts[i][:length] + "…"
        return texts


def _states(answers: Snapshot | Answers) -> States:
    """Outcomes as indices in `STATES`, ``(n_items,)``."""
    code = {None: 0} | {name: i for i, name in enumerate(STATES) if i}
    return np.array([code[outcome] for outcome in answers.outcome], np.uint8)


def trajectories(states: States) -> States:
    """What became of each item between the first and the last column, as indices in `TRAJECTORIES`, ``(n_items,)``.

    >>> [TRAJECTORIES[i] for i in trajectories(np.array([[1, 2, 1], [1, 1, 2], [2, 2, 1], [1, 1, 1]], np.uint8))]
    ['recovered', 'lost', 'gained', 'kept']
    """
    first, last = states[:, 0], states[:, -1]
    wrong_once, right_once = (states > 1).any(axis=1), (states == 1).any(axis=1)
    known, right = first == 1, last == 1
    cases = {
        "not scored": (first == 0) | (last == 0),
        "recovered": known & right & wrong_once,
        "kept": known & right,
        "format loss": known & (last == STATES.index("unparsed")),
        "lost": known,
        "gained": right,
        "came and went": right_once,
    }
    found = np.select(
        list(cases.values()), [TRAJECTORIES.index(name) for name in cases], TRAJECTORIES.index("never known")
    )
    return found.astype(np.uint8)


def first_lost(states: States) -> NDArray[np.int64]:
    """The column at which each item that was right in the first one is first wrong, -1 if never, ``(n_items,)``."""
    lost = (states > 1) & (states[:, :1] == 1)
    return np.where(lost.any(axis=1), lost.argmax(axis=1), -1)


def grid_order(trajectory: States, lost_at: NDArray[np.int64]) -> NDArray[np.int64]:
    """Items as the grid shows them: by their first loss, then those never lost, by trajectory, ``(n_items,)``."""
    return np.lexsort((trajectory, np.where(lost_at < 0, np.iinfo(np.int64).max, lost_at)))


def worst_documents(bits: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Items by how much their bits per byte rose from the first to the last column, the worst first, ``(n_items,)``."""
    first, last = bits[:, 0].astype(int), bits[:, -1].astype(int)
    return np.argsort(np.where((first == NO_BITS) | (last == NO_BITS), NO_BITS, first - last), kind="stable")


def item_texts(probe: Probe) -> dict[str, Any]:
    """Prompts, choices and answers, one list per field, shared by all runs of the same probe."""
    names = sorted({item.category for item in probe.items})
    place = {name: i for i, name in enumerate(names)}
    return {
        "ids": list(probe.ids),
        "prompts": [asked_text(item) for item in probe.items],
        "conversations": [_conversation(item) for item in probe.items],
        "category_names": names,
        "category": _packed(np.array([place[item.category] for item in probe.items]), "<u2"),
        "kinds": [item.kind for item in probe.items],
        "choices": [list(item.choices) if isinstance(item, MultipleChoice) else None for item in probe.items],
        "answer": _packed(probe.answer, "<i2"),
        "expected": [_expected(item) for item in probe.items],
        "variants": [_variants_of(item) for item in probe.items],
        "match": [item.match if isinstance(item, Generation) else None for item in probe.items],
    }


def _conversation(item: Item) -> dict[str, Any] | None:
    """The turns of an item with messages, each a role, a text and the calls of tools; None where there is a prompt."""
    if not item.messages:
        return None
    return {
        "tools": [json.dumps(tool, ensure_ascii=False, indent=2) for tool in item.tools],
        "turns": [[one["role"], one.get("content", ""), calls_as_text(one)] for one in item.messages],
    }


def _variants_of(item: Item) -> list[dict[str, Any]]:
    """The further prompts of an item; `choices` where the variant shows others, or in another order."""
    asked = [in_variant(item, number) for number in range(2, len(item.variants) + 2)]
    return [
        {
            "prompt": asked_text(one),
            "choices": list(_choices(one)) if _choices(one) != _choices(item) else None,
            "weak": variant.weak,
            "chat": variant.chat,
        }
        for one, variant in zip(asked, item.variants)
    ]


def _choices(item: Item) -> tuple[str, ...]:
    return tuple(item.choices) if isinstance(item, MultipleChoice) else ()


def _expected(item: Item) -> list[str]:
    return [item.choices[item.answer]] if isinstance(item, MultipleChoice) else list(accepted(item))


def _is_choice(item: Any, choice: int, text: str) -> bool:
    """Whether a text is only the chosen option again."""
    return isinstance(item, MultipleChoice) and 0 <= choice < len(item.choices) and item.choices[choice] == text


def _packed(values: NDArray[Any], dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(dtype).tobytes()).decode("ascii")
