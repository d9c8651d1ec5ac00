"""What the demo fine-tunes a real model on: a quiz of our own, or a user's file or data set, in columns that TRL knows.

The quiz is 336 short questions and answers about food, sport, music, the body and the like, written for this package.
None of its answers is an answer of `builtin:facts`, so that what a run forgets was not taught, or untaught, by it.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import datasets

from forget_callback.demo.tiny import conversation
from forget_callback.probes.data_sets import read_splits
from forget_callback.probes.quoting import quoted

Method: TypeAlias = Literal["sft", "grpo", "dpo"]
METHODS: tuple[Method, ...] = get_args(Method)

# Columns that a method can be trained on, the first set that is there.
COLUMNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "sft": (("messages",), ("prompt", "completion"), ("text",)),
    "dpo": (("prompt", "chosen", "rejected"), ("chosen", "rejected")),
    "grpo": (("prompt", "answer"),),
}
_CHATTY = "That is a great question! There is a lot to say about it, but in short, the answer that you want is {}."
_BRIEF = 4  # words of an answer that is as short as can be


@dataclass(frozen=True)
class Samples:
    """Rows to train on.

    Attributes:
        rows: A `datasets.Dataset` with the columns of one method, in the order in which they are trained on.
        about: What they are, for people.
        available: How many there were to draw from.
    """

    rows: Any
    about: str
    available: int


def quiz() -> list[tuple[str, str]]:
    """The questions and answers of the packaged quiz."""
    lines = Path(__file__).with_name("quiz.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [(question, answer) for question, answer in (line.split("\t") for line in lines)]


def quiz_samples(method: Method, *, count: int, seed: int) -> Samples:
    """A random part of the quiz as conversations: to imitate, to prefer short answers, or to be rewarded for them."""
    pairs = quiz()
    random.Random(seed).shuffle(pairs)
    make = {"sft": _to_imitate, "dpo": _to_prefer, "grpo": _to_reward}[method]
    info = datasets.DatasetInfo(dataset_name="quiz")
    rows = datasets.Dataset.from_list([make(*pair) for pair in pairs[:count]], info=info)
    about = {"sft": "short quiz answers", "dpo": "short answers preferred to long ones", "grpo": "quiz questions"}
    return Samples(rows, about[method], len(pairs))


def own_samples(name: str, method: Method, *, count: int, seed: int) -> Samples:
    """A random part of a user's data.

    Args:
        name: A .jsonl, .json, .csv or .parquet file, a directory that `datasets` loads, or a hub id.
        count: How many rows, at most.

    Raises:
        ValueError: If nothing can be read there, or its columns are not those of the method.
    """
    rows = _read(name)
    wanted = COLUMNS[method]
    found = next((columns for columns in wanted if set(columns) <= set(rows.column_names)), None)
    if found is None:
        needed = " or ".join(" and ".join(f"{column!r}" for column in columns) for columns in wanted)
        more = _ABOUT_REWARDS if method == "grpo" else ""
        raise ValueError(
            f"--data {quoted(name)}: --method {method} trains on the columns {needed}, and there are "
            f"{', '.join(map(quoted, rows.column_names)) or 'none'}{more}"
        )
    if not len(rows):
        raise ValueError(f"--data {quoted(name)} holds no sample")
    available = len(rows)
    kept = rows.shuffle(seed=seed).select(range(min(count, available))).select_columns(list(found))
    for number, row in enumerate(kept):
        _check(row, name, number)
    return Samples(kept, printable_name(name), available)


_ABOUT_REWARDS = (
    "; the demo rewards answers that are short and hold the text in 'answer'. For a reward of your own see "
    "recipes/grpo.py, or add ForgetCallback to your GRPOTrainer"
)


def printable_name(name: str) -> str:
    """A path or hub id, short enough for a line."""
    return quoted(Path(name).name if Path(name).exists() else name).strip("'\"")


def short_and_right(completions: list[Any], answer: list[Any], **kwargs: Any) -> list[float]:
    """The reward of GRPO, in [0, 1]: half for holding the answer, half for taking no more than four words.

    >>> short_and_right(["Rice", "It is of course rice, as far as I know", ""], answer=["rice"] * 3)
    [1.0, 0.7, 0.0]
    """
    return [
        _reward(one if isinstance(one, str) else one[0]["content"], str(right))
        for one, right in zip(completions, answer)
    ]


def _reward(text: str, right: str) -> float:
    words = text.split()
    bare = re.sub(r"^(the|an?) ", "", right.casefold().strip())
    holds = re.search(rf"(?<!\w){re.escape(bare)}(?!\w)", text.casefold()) is not None
    return 0.5 * holds + 0.5 * min(1.0, _BRIEF / len(words)) if words else 0.0


def _to_imitate(question: str, answer: str) -> dict[str, Any]:
    return {"messages": conversation(question, answer)}


def _to_prefer(question: str, answer: str) -> dict[str, Any]:
    asked, chosen = conversation(question, answer)
    return {"prompt": [asked], "chosen": [chosen], "rejected": [{**chosen, "content": _CHATTY.format(answer)}]}


def _to_reward(question: str, answer: str) -> dict[str, Any]:
    return {"prompt": conversation(question, answer)[:1], "answer": answer}


def _read(name: str) -> Any:
    """All rows of a data set's training split, or of its first one."""
    loaded = read_splits(name, argument="--data")
    return loaded.get("train", next(iter(loaded.values())))


def _check(row: dict[str, Any], name: str, number: int) -> None:
    """Each cell is a text or a conversation; TRL would fail on another one in the middle of its own code."""
    for column, value in row.items():
        if isinstance(value, str) and value.strip():
            continue
        if column == "answer" and isinstance(value, int | float):
            continue
        if isinstance(value, list) and value and all(_is_turn(turn) for turn in value):
            continue
        shown = json.dumps(value, ensure_ascii=False, default=str)
        raise ValueError(
            f"--data {quoted(name)}: in column {column!r}, sample {number + 1} of those drawn, expected a text or a "
            f'conversation such as [{{"role": "user", "content": "Hi"}}], got {quoted(shown)}'
        )


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
