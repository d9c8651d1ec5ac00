"""What somebody meant who misspelled a name: of a metric, a category, an option, a field, a key.

Every "did you mean" of the package comes from here, so that all are equally bold. Knows nothing of what is named.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from forget_callback.probes.quoting import quoted

_ALIKE = 0.7  # a letter too many, too few or in another place, of a name of four and more
_WORD = 4  # letters: "of" and "the" are like nothing
_LONGEST = 100  # characters that are compared: a name may be a whole file by mistake


def closest(given: object, known: Iterable[object]) -> str | None:
    """The known name that is most like what was given, or a word of it, whatever its case and hyphens; None if none is.

    >>> closest("Knowlege-lost", ["forgetting", "knowledge_lost"]), closest("world capitals", ["capitals", "years"])
    ('knowledge_lost', 'capitals')
    """
    plain: dict[str, str] = {}
    for name in map(str, known):
        if name == given:  # an error that is worded before it is known that there is one costs nothing
            return name
        plain.setdefault(_plain(name), name)
    words = [word for word in str(given)[:_LONGEST].split() if len(word) >= _WORD][::-1]  # what it is comes last
    for text in (str(given), *words):
        if found := get_close_matches(_plain(text), plain, n=1, cutoff=_ALIKE):
            return plain[found[0]]
    return None


def did_you_mean(given: object, known: Iterable[object]) -> str:
    """The end of an error on an unknown name, "; did you mean 'limit'?"; "" where nothing is alike.

    >>> f"unknown option 'limt'{did_you_mean('limt', ['seed', 'limit']) or ';'} known are seed, limit"
    "unknown option 'limt'; did you mean 'limit'? known are seed, limit"
    """
    meant = closest(given, known)
    return "" if meant is None else f"; did you mean {quoted(meant)}?"


def beside(path: Path) -> list[Path]:
    """What lies where a path that does not exist would, in the form in which the path was given."""
    return sorted(path.parent.iterdir()) if os.path.isdir(path.parent) else []


def _plain(name: str) -> str:
    return name[:_LONGEST].casefold().replace("-", "_").replace(" ", "_")
