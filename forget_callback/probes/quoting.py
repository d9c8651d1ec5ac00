"""How other people's text is shown: in one line, short, and with nothing in it that a terminal or a log would obey.

Prompts, ids, categories and paths come from users and models. Whatever prints one, or quotes it in an error, passes it
through here first.
"""

from __future__ import annotations

import re

_JOINERS = "\u200c\u200d"  # of Persian, Hindi and emoji; they move no text


def printable(text: str) -> str:
    r"""The text with every character escaped that has no picture: control characters, escapes, marks of direction.

    >>> printable("\x1b[2Jred\u202e")
    '\\x1b[2Jred\\u202e'
    """
    if text.isprintable():
        return text
    return "".join(c if has_picture(c) else ascii(c)[1:-1] for c in text)


def has_picture(character: str) -> bool:
    """Whether a terminal shows a character, or joins others by it, and does nothing else."""
    return character.isprintable() or character in _JOINERS


def quoted(value: object, limit: int = 80) -> str:
    """A value as an error shows it: its repr, of a long one both ends and its length.

    Args:
        value: Anything.
        limit: Characters at most, beside the note on the length.

    >>> quoted("a" * 1000, 11)
    "'aaaa…aaaa' (1002 characters)"
    """
    shown = printable(repr(value))
    return shown if len(shown) <= limit else f"{shortened(shown, limit)} ({len(shown)} characters)"


def shortened(text: str, limit: int) -> str:
    """A text of at most `limit` characters: of a longer one both ends.

    >>> shortened("abcdefghij", 5)
    'ab…ij'
    """
    if len(text) <= limit:
        return text
    half = (limit - 1) // 2
    return f"{text[: limit - 1 - half]}…{text[-half:]}"


# Of GitHub's Markdown, what begins code, emphasis, a cell, a formula or a link; a word_with_underscores does not.
_INLINE = re.compile(r"[\\`*~|$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|\](?=[(\[:])")
_BLOCK = re.compile(r"^(?:[#>+=-]|\d+(?=[.)]))")
# Mentions, addresses and names of emoji become something else whatever is escaped; a character without width inside of
# one ends it.
_LINKED = re.compile(
    r"@(?=\w)|#(?=\d)|\bGH-(?=\d)|\b(?:https?|ftp|mailto|xmpp):|\bwww(?=\.)|:(?=[a-z+-][a-z0-9_+-]*:)", re.IGNORECASE
)


def markdown(text: str) -> str:
    r"""The text in one line of Markdown that shows it as it is, in a table's cell as well.

    >>> print(markdown("a|b <img src=x> *c*"))
    a\|b &lt;img src=x> \*c\*
    """
    shown = _INLINE.sub(r"\\\g<0>", printable(text).strip().replace("&", "&amp;"))
    shown = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", shown)
    shown = _LINKED.sub("\\g<0>\u200b", shown)
    return _BLOCK.sub(lambda found: f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}", shown)


def code(text: str) -> str:
    r"""The text as code in a line of Markdown, or escaped where it holds what would end or outlive the code.

    >>> print(code("knowledge_lost>0.05"), code("a`b"))
    `knowledge_lost>0.05` a\`b
    """
    shown = markdown(text)
    return f"`{shown}`" if shown == text else shown
