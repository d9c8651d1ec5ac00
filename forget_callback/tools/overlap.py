"""Which items of a probe stand in a text: a shared run of words, as for decontamination. Knows nothing of models.

Punctuation, case and how letters are encoded do not count. Of an item it is the question that is looked for, without
what frames it, or any part of a document.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from forget_callback.probes.items import Item

# Words that are shared at least, or the whole question where it is shorter; 13 as for GPT-3 (arXiv 2005.14165,
# Appendix C).
OWN_WORDS = 13
# What more than so many items have, and more than this share, is no item's own: instructions, worked examples.
_SHARED, _SHARE = 2, 0.1
# Dashes are one, and what is not seen is left out.
_SAME = {
    **dict.fromkeys((*range(0x2010, 0x2016), 0x2212), "-"),
    **dict.fromkeys((0xAD, *range(0x200B, 0x2010), 0x2060, 0xFEFF)),
}
# Signs between numbers; letters with their marks and digits; of scripts without spaces a character each.
_NO_SPACES = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_MARKS = r"\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0dff"
_WORD = re.compile(
    rf"(?<=\d)\s*([-+*/=<>^×÷])(?=\s*\d)|[{_NO_SPACES}]|(?:[^\W_{_NO_SPACES}]|[{_MARKS}]|(?<=\d)[.,](?=\d))+"
)
_SENTENCE = re.compile(r"(?<=[.?!:;])\s+|(?<=[。？！])")
_OPTION = re.compile(r"\W?[A-J][.):]\s.*")
_LABEL = re.compile(
    r"\W*(?:question|q|user|human|problem|input|query|answer|a|assistant|response|output|solution)\s*\d*\W*",
    re.IGNORECASE,
)


class Overlap:
    """The runs of words by which items are found in texts.

    Args:
        items: To look for.
        fewest: An item of fewer words is not looked for.

    Attributes:
        looked_for: Items with a run of words of their own.
    """

    def __init__(self, items: Sequence[Item], *, fewest: int = 1) -> None:
        parts = {item.id: [tuple(words_of(part)) for part in _parts(item)] for item in items}
        counts = Counter(part for own in parts.values() for part in set(own))
        most = max(_SHARED, _SHARE * len(items))
        frame = {part for part, n in counts.items() if n > most}
        self._ids: dict[str, set[str]] = {}
        self._lengths: dict[str, set[int]] = {}  # by first word, so that few runs of a text are looked up
        for id, own in parts.items():
            runs = list(_runs(own, frame))
            n = min(max(map(len, runs), default=0), OWN_WORDS)
            for run in runs if n >= max(fewest, 1) else ():
                for at in range(len(run) - n + 1):
                    self._ids.setdefault(" ".join(run[at : at + n]), set()).add(id)
        self._ids = {run: ids for run, ids in self._ids.items() if len(ids) <= most}
        for words in map(str.split, self._ids):
            self._lengths.setdefault(words[0], set()).add(len(words))
        self.looked_for = len(set().union(*self._ids.values()))

    def found(self, words: Sequence[str]) -> set[str]:
        """Ids of the items that stand in the words of a text, see `words_of`."""
        found = set[str]()
        for at, word in enumerate(words):
            for n in self._lengths.get(word, ()):
                found |= self._ids.get(" ".join(words[at : at + n]), set())
        return found


def question_of(item: Item) -> str:
    """The question, without the words that frame it; of a document all of it."""
    return " ".join(_parts(item))


def words_of(text: str) -> list[str]:
    """Words without punctuation and case."""
    plain = unicodedata.normalize("NFKC", text).translate(_SAME).casefold()
    return [found.group(1) or found.group() for found in _WORD.finditer(plain)]


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


def _parts(item: Item) -> list[str]:
    """Its sentences, without lines of options and labels such as "Question:"."""
    said = [message.get("content") or "" for message in item.messages if message["role"] != "system"]
    lines = ("\n".join(said) or item.prompt).splitlines()
    if item.kind == "text":
        return lines
    parts = [part for line in lines if not _OPTION.fullmatch(line) for part in _SENTENCE.split(line)]
    return [part for part in parts if not _LABEL.fullmatch(part)]


def _runs(parts: Sequence[tuple[str, ...]], frame: set[tuple[str, ...]]) -> Iterator[list[str]]:
    """The words between the frames, in order."""
    run: list[str] = []
    for part in parts:
        if part in frame:
            yield run
            run = []
        else:
            run += part
    yield run
