"""Which items of a probe stand in a text: a shared run of words, as for decontamination. Knows nothing of models.

Punctuation and case do not count. Of an item it is the question, or any part of a document, that is looked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from forget_callback.probes.items import Item

# Words that are shared at least, or the whole question where it is shorter; 13 as for GPT-3 (arXiv 2005.14165,
# Appendix C).
OWN_WORDS = 13
# Runs of words that more than so many items have, or this share of them, are no item's own: examples and instructions.
_SHARED, _SHARE = 2, 0.1
_FRAME = ("question", "answer")


class Overlap:
    """The runs of words by which items are found in texts.

    Args:
        items: To look for.
        fewest: An item of fewer words is not looked for.

    Attributes:
        looked_for: Items with a run of words of their own.
    """

    def __init__(self, items: Sequence[Item], *, fewest: int = 1) -> None:
        self._ids: dict[str, set[str]] = {}
        for item in items:
            words = words_of(question_of(item))
            n = min(len(words), OWN_WORDS)
            for at in range(len(words) - n + 1) if n >= max(fewest, 1) else ():
                self._ids.setdefault(" ".join(words[at : at + n]), set()).add(item.id)
        most = max(_SHARED, _SHARE * len(items))
        self._ids = {run: ids for run, ids in self._ids.items() if len(ids) <= most}
        self.looked_for = len(set().union(*self._ids.values()))
        self._lengths: dict[str, set[int]] = {}  # by first word, so that few runs of a text are looked up
        for run in self._ids:
            words = run.split(" ")
            self._lengths.setdefault(words[0], set()).add(len(words))

    def found(self, text: str) -> set[str]:
        """Ids of the items that stand in a text."""
        words, found = words_of(text), set[str]()
        for at, word in enumerate(words):
            for n in self._lengths.get(word, ()):
                found.update(self._ids.get(" ".join(words[at : at + n]), ()))
        return found


def question_of(item: Item) -> str:
    """The question, without the words that frame it; of a document all of it."""
    said = [message.get("content", "") for message in item.messages if message["role"] != "system"]
    words = (" ".join(said) or item.prompt).split()
    while words and _plain(words[0]) in _FRAME:
        words = words[1:]
    while words and _plain(words[-1]) in _FRAME:
        words = words[:-1]
    return " ".join(words)


def words_of(text: str) -> list[str]:
    """Words without punctuation and case."""
    return [word for word in map(_plain, text.split()) if word]


def texts_of(value: object, key: str = "") -> Iterator[str]:
    """All text within a training example except roles."""
    if isinstance(value, str) and key != "role":
        yield value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from texts_of(part, name)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from texts_of(part)


def _plain(word: str) -> str:
    return re.sub(r"\W+", "", word.casefold())
