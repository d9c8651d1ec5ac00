"""What a row of each benchmark holds: the question, its own options, which is right, and the category it belongs to.

Benchmarks and categories are those of arXiv 2510.17776 and its scripts, with three differences: every item has its true
number of options (the scripts count PIQA and CommonsenseQA as four), HellaSwag is taken from its validation split (the
labels of its test split are not public), and options whose right one would always come first are shuffled. Knows
nothing of where rows come from.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from forget_callback.probes.packaged import packaged_table

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """One row, read.

    Attributes:
        options: Texts of the options; empty where the answer is a number or a `task` decides.
        right: Index of the right option.
        listed: Whether `text` lists the options itself, as (A), (B), ...
        shuffle: Whether their order would give the right one away.
        answer: The number, where there are no options.
        task, doc: The benchmark whose own rule decides, and what it reads.
        passage: What several questions may be about. They share it, so a model that loses it loses them together: they
            are one cluster. A subject is none: every run asks the same subjects, nobody draws them.
    """

    text: str
    options: Sequence[str] = ()
    right: int = 0
    listed: bool = False
    shuffle: bool = False
    answer: str = ""
    task: str = ""
    doc: Mapping[str, Any] = field(default_factory=dict)
    passage: str = ""

    def shuffled(self, key: str) -> tuple[Sequence[str], int]:
        """The options as they are shown, the same order for a key on every machine, and where the right one is."""
        order = list(range(len(self.options)))
        if self.shuffle:
            random.Random(key).shuffle(order)
        return [self.options[i] for i in order], order.index(self.right)


class Part(NamedTuple):
    """A line of `benchmarks.tsv`: one configuration and split of a data set.

    Attributes:
        config: "" where the repository has one only, or does not name them and `files` does.
        subject: Of all rows; "" where each row names its own, or there are none.
        category: The paper's category.
        revision: Of the repository, "" for the newest.
    """

    benchmark: str
    repository: str
    split: str
    config: str
    subject: str
    category: str
    files: str
    revision: str


# Of BBH the paper leaves out dyck_languages, word_sorting and multistep_arithmetic_two.
PARTS = [Part(*cells) for cells in packaged_table("benchmarks.tsv")]
# The paper's categories of MMLU's subjects; all others are science_and_technology.
MMLU_CATEGORIES = dict(packaged_table("mmlu.tsv"))
_BBH_OPTIONS = {
    "boolean_expressions": ("False", "True"),
    "causal_judgement": ("Yes", "No"),
    "formal_fallacies": ("valid", "invalid"),
    "navigate": ("Yes", "No"),
    "sports_understanding": ("yes", "no"),
    "web_of_lies": ("Yes", "No"),
}


def _chosen(
    text: str, options: Sequence[str], right: int, *, shuffle: bool = False, passage: str = ""
) -> Question | None:
    """A question with options; None if the right one is not among them or stands there twice."""
    texts = [str(option).strip() for option in options]
    if not 0 <= right < len(texts) or not all(texts) or texts.count(texts[right]) > 1:
        return None
    return Question(text, texts, right, shuffle=shuffle, passage=passage)


def _mmlu(row: Record, subject: str) -> Question | None:
    return _chosen(f"Question: {row['question']}", row["choices"], int(row["answer"]))


def _bbh(row: Record, subject: str) -> Question | None:
    text, target = f"Question: {row['input']}", str(row["target"]).strip()
    if subject == "object_counting":
        return Question(text, answer=target)
    if subject in _BBH_OPTIONS:
        options = _BBH_OPTIONS[subject]
        return _chosen(text, options, options.index(target)) if target in options else None
    listed = re.findall(r"^\(([A-Z])\) ?(.*)$", str(row["input"]), re.MULTILINE)
    letters = [letter for letter, _ in listed]
    if target.strip("()") not in letters or len(set(letters)) < len(letters):  # some rows hold their answer's text
        return None
    return Question(text, [option for _, option in listed], letters.index(target.strip("()")), listed=True)


def _gpqa(row: Record, subject: str) -> Question | None:
    wrong = [row[f"Incorrect Answer {i}"] for i in (1, 2, 3)]
    return _chosen(f"Question: {row['Question']}", [row["Correct Answer"], *wrong], 0, shuffle=True)


def _musr(row: Record, subject: str) -> Question | None:
    passage = row["narrative"].strip()
    text = f"{passage}\n\nQuestion: {row['question']}"
    return _chosen(text, ast.literal_eval(row["choices"]), int(row["answer_index"]), passage=passage)


def _labelled(row: Record, subject: str) -> Question | None:
    """ARC and CommonsenseQA."""
    labels = list(row["choices"]["label"])
    if row["answerKey"] not in labels:
        return None
    return _chosen(f"Question: {row['question']}", row["choices"]["text"], labels.index(row["answerKey"]))


def _hellaswag(row: Record, subject: str) -> Question | None:
    context = f"{row['ctx_a']} {row['ctx_b'].capitalize()}".strip()
    if str(row["label"]) == "":
        return None
    return _chosen(f"What comes next? {row['activity_label']}: {context}", row["endings"], int(row["label"]))


def _truthfulqa(row: Record, subject: str) -> Question | None:
    targets = row["mc1_targets"]
    return _chosen(f"Question: {row['question']}", targets["choices"], list(targets["labels"]).index(1), shuffle=True)


def _social_iqa(row: Record, subject: str) -> Question | None:
    options = [row["answerA"], row["answerB"], row["answerC"]]
    text = f"{row['context']}\nQuestion: {row['question']}"
    return _chosen(text, options, int(row["label"]) - 1, passage=row["context"])


def _mctest(row: Record, subject: str) -> Question | None:
    options = [row["answer_options"][letter] for letter in "ABCD"]
    text = f"{row['story']}\n\nQuestion: {row['question']}"
    return _chosen(text, options, "ABCD".index(row["answer"]), passage=row["story"])


def _piqa(row: Record, subject: str) -> Question | None:
    return _chosen(f"Goal: {row['goal']}\nWhich solution is right?", [row["sol1"], row["sol2"]], int(row["label"]))


def _salad(row: Record, subject: str) -> Question | None:
    right = ["ABCDEFGHIJ".index(a) if isinstance(a, str) else int(a) for a in row["answers"]]
    if len(right) != 1:
        return None
    return _chosen(str(row["question"]), row["choices"], right[0])


def _ifeval(row: Record, subject: str) -> Question | None:
    doc = {name: row[name] for name in ("key", "prompt", "instruction_id_list", "kwargs")}
    return Question(row["prompt"], task="lm-eval:ifeval", doc=doc)


# A row and its subject in, a question out; None for a row without exactly one right answer.
BENCHMARKS: dict[str, Callable[[Record, str], Question | None]] = {
    "mmlu": _mmlu,
    "bbh": _bbh,
    "gpqa": _gpqa,
    "musr": _musr,
    "arc": _labelled,
    "hellaswag": _hellaswag,
    "truthfulqa": _truthfulqa,
    "social_iqa": _social_iqa,
    "mctest": _mctest,
    "piqa": _piqa,
    "commonsense_qa": _labelled,
    "salad": _salad,
    "ifeval": _ifeval,
}
