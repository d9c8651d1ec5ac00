"""`builtin:facts`: general facts that a model should still know after fine-tuning, offline and in the package.

Every fact of `facts.tsv` is asked as a choice between four answers, as free recall and, on demand, in a chat. A
relation (a line of `relations.tsv`) is a kind of fact with its wordings and its category; the wrong options are answers
of other facts of the relation. `fact` joins the askings of a fact, and `cluster` too, as they are no independent draws.
Knows nothing of models. A change to a table changes the probe's fingerprint.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from forget_callback.probes.builtin.categories import chosen_categories
from forget_callback.probes.item_variants import Variant
from forget_callback.probes.items import Generation, Item, Match, MultipleChoice, Recall
from forget_callback.probes.packaged import packaged_table
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted
from forget_callback.probes.sampling import stratified
from forget_callback.probes.suggest import did_you_mean

_KINDS = ("choice", "recall")  # what is asked where no kind is named
_CHAT = "generation"
_TOKENS = 24  # of a short sentence such as "The capital of the Republic of the Congo is Brazzaville."
_SIGNS = {"+": "plus", "-": "minus", "*": "times"}


@dataclass(frozen=True)
class _Relation:
    """A line of `relations.tsv`: `question` asks for the answer, `statement` stops before it; {} is the subject.

    `match` reads a generated answer, and `before` are texts that a recalled one may begin with, such as a quotation
    mark, apart by |.
    """

    name: str
    category: str
    match: str
    before: str
    question: str
    statement: str


@dataclass(frozen=True)
class _Fact:
    """A line of `facts.tsv`; answers of one `group` are the hardest to tell apart.

    All of `answers` are accepted; the first is the one among the choices.
    """

    relation: _Relation
    group: str
    subject: str
    answers: tuple[str, ...]

    @property
    def answer(self) -> str:
        return self.answers[0]


_RELATIONS = {relation.name: relation for relation in (_Relation(*cells) for cells in packaged_table("relations.tsv"))}
_FACTS = tuple(
    _Fact(_RELATIONS[name], group, subject, tuple(answers.split("|")))
    for name, group, subject, answers in packaged_table("facts.tsv")
)


def load_facts(
    *, category: str | None = None, kind: str | None = None, limit: int | None = None, seed: int = 0
) -> Probe:
    """The built-in facts, or a part of them.

    Args:
        category: One category or several, separated by commas; all by default.
        kind: "choice", "recall", or "generation": the question through the chat template, where the tokenizer has one,
            answered in a short sentence. By default choice and recall; generation takes nearly four times as long.
        limit: At most so many items. Facts are drawn at random, each category in proportion to its size.
        seed: Decides which facts a `limit` keeps; nothing else depends on it.

    Raises:
        ValueError: If a category or the kind is unknown.

    >>> load_facts(category="capitals", kind="recall", limit=20).name
    'facts-capitals-recall'
    """
    known = list(dict.fromkeys(fact.relation.category for fact in _FACTS))
    kept = chosen_categories(category, known)
    if kind is not None and kind not in (*_KINDS, _CHAT):
        raise ValueError(
            f"kind must be 'choice', 'recall', 'generation' or None for choice and recall, got {quoted(kind)}"
            f"{did_you_mean(kind, (*_KINDS, _CHAT))}"
        )
    kinds = _KINDS if kind is None else (kind,)
    facts = [fact for fact in _FACTS if fact.relation.category in kept]
    if limit is not None:
        # One draw for every fact of the table: whether a fact comes early must not depend on the other categories.
        rng = random.Random(seed)
        rank = {fact: rng.random() for fact in _FACTS}
        n_facts = -(-limit // len(kinds))
        facts = stratified(facts, n_facts, stratum=lambda fact: fact.relation.category, draw=rank.__getitem__)
    by_category = {key: [fact for fact in facts if fact.relation.category == key] for key in kept}
    items = [item for key, own in by_category.items() for item in _items(key, own, kinds)]
    name = "-".join(["facts", *(kept if category is not None else ()), *(kinds if kind is not None else ())])
    return Probe(name=name, items=items[:limit], chat=None if kind == _CHAT else False)


def _items(category: str, facts: Sequence[_Fact], kinds: Sequence[str]) -> Iterator[Item]:
    """Every fact of one category in the forms asked for, each position of the right choice equally often."""
    several = sum(relation.category == category for relation in _RELATIONS.values()) > 1
    others = {relation: _others(facts, relation) for relation in {fact.relation for fact in facts}}
    rng = random.Random(category)
    # The offset keeps the whole probe as balanced as each category, also where sizes are not multiples of four.
    offset = next(i for i, fact in enumerate(_FACTS) if fact.relation.category == category)
    positions = sorted(range(offset, offset + len(facts)), key=lambda _: rng.random())
    for fact, position in zip(facts, positions, strict=True):
        key = "/".join([category, *([fact.relation.name] if several else []), _slug(fact.subject)])
        choices = sorted(others[fact.relation][fact.answer], key=lambda _: rng.random())
        choices.insert(position % 4, fact.answer)
        for kind in kinds:
            item = _asked(kind, fact, choices, position % 4)
            yield replace(item, id=f"{key}/{kind}", category=category, cluster=key, fact=key)


def _asked(kind: str, fact: _Fact, choices: Sequence[str], right: int) -> Item:
    question = f"Question: {fact.relation.question.format(fact.subject)}\nAnswer:"
    if kind == "choice":
        return MultipleChoice(kind, question, tuple(f" {choice}" for choice in choices), right)
    if kind == "recall":
        statement = fact.relation.statement.format(fact.subject)
        starts = ["", *filter(None, fact.relation.before.split("|"))]
        answers = tuple(f" {start}{answer}" for start in starts for answer in fact.answers)
        return Recall(kind, statement[0].upper() + statement[1:], answers)
    match = cast(Match, fact.relation.match)
    # A chat model does not go on with a plain text: both prompts go through its template.
    short = Variant(f"{fact.relation.question.format(fact.subject)} Answer in one short sentence.")
    stop = ("Question:",)
    return Generation(kind, question, fact.answers, match, max_new_tokens=_TOKENS, stop=stop, variants=(short,))


def _others(facts: Sequence[_Fact], relation: _Relation) -> dict[str, list[str]]:
    """Three wrong options for every answer of a relation, from `facts` if they have four different answers.

    Answers that are alike lie side by side and are cut into blocks of four, each the options of all its answers. So
    every answer is a wrong option three times and no rank within its block, such as the smallest, is more often right.
    """
    for source in (facts, _FACTS):
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
