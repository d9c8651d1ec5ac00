"""The other items of a probe, as help for one of them: worked examples, and answers to choose from.

Never those of its own fact or cluster, and never its own answer: help must not tell what is asked for. Those come first
that are asked in the words that are most like the item's own. Knows texts only.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from itertools import takewhile

from forget_callback.probes.abilities import ability_of
from forget_callback.probes.conversation import question_of
from forget_callback.probes.items import Generation, Item, MultipleChoice, Recall, accepted, is_own_match, n_options

_EXAMPLES = 2
_OPTION_LENGTH = 60  # characters: a longer answer is no option beside others
_WRONG = 6  # two sets of three
_UNREADABLE = ("regex", "task", "code")  # rules whose `answer` is no text that a model could have written


class Peers:
    """The items of one probe.

    Args:
        items: All of them.
        right: Ids of those that the model at hand answers right, which may be worked examples.
    """

    def __init__(self, items: Sequence[Item], right: Collection[str]) -> None:
        self._right = frozenset(right)
        self._by_category: dict[str, list[Item]] = {}
        for item in items:
            self._by_category.setdefault(item.category, []).append(item)

    def worked(self, item: Item) -> tuple[Item, Item] | None:
        """Two items of its kind and category that are still right; None where there are no two."""
        open_ended = not n_options(item)
        found = []
        for other in self._near(item):
            # Of options or letters the same one may be right in both: leaving it out would tell.
            told = open_ended and ability_of(item) != "behaviour" and _same_answer(item, other)
            fits = other.kind == item.kind and other.id in self._right and bool(answer_of(other)) and is_turn(other)
            if fits and not told:
                found.append(other)
            if len(found) == _EXAMPLES:
                return found[0], found[1]
        return None

    def other_answers(self, item: Item) -> list[str]:
        """Answers of other items of the category that are no answer of this one, six at most, all different."""
        if not _is_option(answer_of(item)):
            return []
        own = {_plain(text) for text in _answers(item)}
        found: dict[str, str] = {}
        for other in self._near(item):
            text = "" if n_options(other) else answer_of(other)
            alike = _is_option(text) and text.strip().isdigit() == answer_of(item).strip().isdigit()
            if alike and _plain(text) not in own:
                found.setdefault(_plain(text), text)
            if len(found) == _WRONG:
                break
        return list(found.values())

    def _near(self, item: Item) -> Iterator[Item]:
        """Others of the category: with the same tools, then in the most similar words first; else by lot."""
        rng, text = random.Random(item.id), question_of(item)
        others = [one for one in self._by_category.get(item.category, ()) if _is_other(item, one)]
        keys = {one.id: (one.tools != item.tools, -_shared(text, question_of(one)), rng.random()) for one in others}
        yield from sorted(others, key=lambda one: keys[one.id])


def answer_of(item: Item) -> str:
    """The right answer as a text that could have been given; "" where the item has none."""
    if isinstance(item, MultipleChoice):
        return "" if item.contexts else item.choices[item.answer]
    if isinstance(item, Generation) and (item.match in _UNREADABLE or is_own_match(item.match)):
        return ""
    if isinstance(item, (Generation, Recall)):
        return next(iter(accepted(item)), "")
    return ""


def follows(item: Item) -> str:
    """A plain item with its answer, as an example."""
    answer = answer_of(item)
    space = " " if isinstance(item, Generation) and item.prompt and not item.prompt[-1].isspace() else ""
    is_sentence = isinstance(item, Recall) and item.prompt[-1:].isalnum() and answer[-1:].isalnum()
    return f"{item.prompt}{space}{answer}{'.' if is_sentence else ''}"


def is_turn(item: Item) -> bool:
    """Whether an item is one question, with a system message before it at most."""
    roles = [message["role"] for message in item.messages]
    return not roles or roles in (["user"], ["system", "user"])


def _is_other(item: Item, other: Item) -> bool:
    return other.id != item.id and not any(
        own and own == getattr(other, name) for name in ("fact", "cluster") for own in [getattr(item, name)]
    )


def _shared(one: str, other: str) -> int:
    """Words that two texts begin and end with alike: those of a common frame."""
    a, b = one.split(), other.split()
    ahead = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(a, b))))
    return ahead + len(list(takewhile(lambda pair: pair[0] == pair[1], zip(a[:ahead:-1], b[:ahead:-1]))))


def _answers(item: Item) -> Sequence[str]:
    return (answer_of(item),) if isinstance(item, MultipleChoice) else accepted(item)


def _same_answer(item: Item, other: Item) -> bool:
    return not {_plain(text) for text in _answers(item)}.isdisjoint(_plain(text) for text in _answers(other))


def _is_option(text: str) -> bool:
    return 0 < len(text.strip()) <= _OPTION_LENGTH and "\n" not in text.strip()


def _plain(text: str) -> str:
    return text.strip(" \"'“”.").casefold()
