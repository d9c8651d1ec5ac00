"""`builtin:facts`: general facts that a model should still know after fine-tuning, offline and in the package.

Every fact of `facts.tsv` is there twice: as a choice between four answers and as free recall. A relation is a kind of
fact with its two wordings and belongs to one category; the wrong options are answers of other facts of the relation.
Knows nothing of models. A change to the table or to a wording changes the probe's fingerprint.
"""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from forget_callback.probes.items import MultipleChoice, Recall
from forget_callback.probes.probe import Probe
from forget_callback.probes.sampling import stratified

_KINDS = ("choice", "recall")
_SIGNS = {"+": "plus", "-": "minus", "*": "times"}


@dataclass(frozen=True)
class _Relation:
    """A kind of fact: `question` asks for the answer, `statement` stops just before it; {} is the subject."""

    category: str
    question: str
    statement: str


@dataclass(frozen=True)
class _Fact:
    """A line of the table; answers of one `group` are the hardest to tell apart."""

    relation: str
    group: str
    subject: str
    answer: str

    @property
    def category(self) -> str:
        return _RELATIONS[self.relation].category


_NP = "With NumPy imported as np,"
_EQUATION = ("arithmetic", "What is {}?", "{} =")
_RELATIONS = {
    "capital": _Relation("capitals", "What is the capital of {}?", "The capital of {} is"),
    "us_capital": _Relation(
        "us_states", "What is the capital of the U.S. state of {}?", "The capital of the U.S. state of {} is"
    ),
    "symbol": _Relation(
        "elements", "What is the chemical symbol of the element {}?", "The chemical symbol of the element {} is"
    ),
    "atomic_number": _Relation("elements", "What is the atomic number of {}?", "The atomic number of {} is"),
    "president": _Relation(
        "presidents", "Who was the {} president of the United States?", "The {} president of the United States was"
    ),
    "sum": _Relation(*_EQUATION),
    "difference": _Relation(*_EQUATION),
    "product": _Relation(*_EQUATION),
    "builtin": _Relation(
        "python", "In Python, which built-in function {}?", "In Python, the built-in function that {} is"
    ),
    "module": _Relation(
        "python",
        "In Python, which standard library module is for {}?",
        "In Python, the standard library module for {} is",
    ),
    "exception": _Relation(
        "python", "In Python, which exception is raised when {}?", "In Python, the exception raised when {} is"
    ),
    "method": _Relation("python", "In Python, what is the {}?", "In Python, the {} is"),
    "keyword": _Relation("python", "In Python, which keyword {}?", "In Python, the keyword that {} is"),
    "numpy": _Relation("numpy", f"{_NP} which function {{}}?", f"{_NP} the function that {{}} is"),
    "opposite": _Relation("opposites", "What is the opposite of {}?", "The opposite of {} is"),
    "author": _Relation("authors", "Who wrote {}?", "The author of {} is"),
    "young": _Relation("animals", "What is a young {} called?", "A young {} is called a"),
    "female": _Relation("animals", "What is an adult female {} called?", "An adult female {} is called a"),
    "male": _Relation("animals", "What is an adult male {} called?", "An adult male {} is called a"),
    "group": _Relation("animals", "What is a group of {} called?", "A group of {} is called a"),
    "unit": _Relation("science", "What is the SI unit of {}?", "The SI unit of {} is the"),
    "instrument": _Relation(
        "science", "Which instrument measures {}?", "The name of the instrument that measures {} is"
    ),
    "planet": _Relation("planets", "Which planet of the Solar System {}?", "The planet of the Solar System that {} is"),
    "discovery": _Relation("discoveries", "Who is known for {}?", "The person known for {} is"),
    "year": _Relation("years", "In which year did {} take place?", "The year of {} was"),
}


def load_facts(
    *, category: str | None = None, kind: str | None = None, limit: int | None = None, seed: int = 0
) -> Probe:
    """The built-in facts, or a part of them.

    Args:
        category: One category or several, separated by commas; all by default.
        kind: "choice" or "recall"; both by default.
        limit: At most so many items. Facts are drawn at random, each category in proportion to its size.
        seed: Decides which facts a `limit` keeps; nothing else depends on it.

    Raises:
        ValueError: If a category or the kind is unknown, or `limit` is below 1.

    >>> load_facts(category="capitals", kind="recall", limit=20).name
    'facts-capitals-recall'
    """
    known = list(dict.fromkeys(fact.category for fact in _table()))
    chosen = known if category is None else [key.strip() for key in category.split(",")]
    for key in chosen:
        if key not in known:
            raise ValueError(f"category must be one or more of {', '.join(known)}, got {key!r} in {category!r}")
    if kind is not None and kind not in _KINDS:
        raise ValueError(f"kind must be 'choice', 'recall' or None for both, got {kind!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be 1 or more, or None for all items, got {limit!r}")
    kinds = _KINDS if kind is None else (kind,)
    kept = [key for key in known if key in chosen]
    facts = [fact for fact in _table() if fact.category in kept]
    if limit is not None:
        facts = _draw(facts, -(-limit // len(kinds)), seed)
    items = [item for key in kept for item in _items([fact for fact in facts if fact.category == key], kinds)]
    name = "-".join(["facts", *(kept if category is not None else ()), *(kinds if kind is not None else ())])
    return Probe(name=name, items=items[:limit])


@cache
def _table() -> tuple[_Fact, ...]:
    with Path(__file__).with_name("facts.tsv").open(encoding="utf-8", newline="") as lines:
        return tuple(_Fact(**row) for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def _draw(facts: Sequence[_Fact], n: int, seed: int) -> list[_Fact]:
    """Draws `n` facts without replacement, stratified by category, in table order."""
    rng = random.Random(seed)
    # One draw for every fact of the table: whether a fact comes early must not depend on the other categories.
    rank = {fact: rng.random() for fact in _table()}
    return stratified(facts, n, stratum=lambda fact: fact.category, draw=rank.__getitem__)


def _items(facts: Sequence[_Fact], kinds: Sequence[str]) -> Iterable[MultipleChoice | Recall]:
    """Both forms of every fact of one category, each position of the right choice equally often."""
    if not facts:
        return
    category = facts[0].category
    several = sum(relation.category == category for relation in _RELATIONS.values()) > 1
    others = {relation: _others(facts, relation) for relation in {fact.relation for fact in facts}}
    rng = random.Random(category)
    # The offset keeps the whole probe as balanced as each category, also where sizes are not multiples of four.
    offset = next(i for i, fact in enumerate(_table()) if fact.category == category)
    positions = sorted(range(offset, offset + len(facts)), key=lambda _: rng.random())
    for fact, position in zip(facts, positions, strict=True):
        relation = _RELATIONS[fact.relation]
        key = "/".join([category, *([fact.relation] if several else []), _slug(fact.subject)])
        choices = sorted(others[fact.relation][fact.answer], key=lambda _: rng.random())
        choices.insert(position % 4, fact.answer)
        if "choice" in kinds:
            yield MultipleChoice(
                id=f"{key}/choice",
                prompt=f"Question: {relation.question.format(fact.subject)}\nAnswer:",
                choices=tuple(f" {choice}" for choice in choices),
                answer=position % 4,
                category=category,
            )
        if "recall" in kinds:
            prompt = relation.statement.format(fact.subject)
            yield Recall(id=f"{key}/recall", prompt=prompt, answer=f" {fact.answer}", category=category)


def _others(facts: Sequence[_Fact], relation: str) -> dict[str, list[str]]:
    """Three wrong options for every answer of a relation, from `facts` if they have four different answers.

    Answers that are alike lie side by side and are cut into blocks of four, each the options of all its answers. So
    every answer is a wrong option three times and no rank within its block, such as the smallest, is more often right.
    """
    for source in (facts, _table()):
        # Spelled twice, an answer keeps its first group.
        distinct = {fact.answer.casefold(): fact for fact in reversed(source) if fact.relation == relation}
        answers = [fact.answer for fact in sorted(distinct.values(), key=_alike)]
        if len(answers) >= 4:
            break
    others = {}
    for start in range(0, len(answers) - 3, 4):
        # The last block takes in what is left: up to seven answers, each with the three that follow it in a circle.
        block = answers[start : start + 4] if len(answers) - start >= 8 else answers[start:]
        for i, answer in enumerate(block):
            others[answer] = [block[(i + step) % len(block)] for step in (1, 2, 3)]
    return others


def _alike(fact: _Fact) -> tuple[str, int, str]:
    return fact.group, int(fact.answer) if fact.answer.isdigit() else 0, fact.answer.casefold()


def _slug(subject: str) -> str:
    words = " ".join(_SIGNS.get(word, word) for word in subject.casefold().removeprefix("the ").split())
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")
