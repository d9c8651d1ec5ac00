"""How other people's text is shown: in one line, short, and with nothing in it that a terminal or a log would obey.

Prompts, ids, categories and paths come from users and models. Whatever prints one, or quotes it in an error, passes it
through here first.
"""

from __future__ import annotations

_JOINERS = "\u200c\u200d"  # of Persian, Hindi and emoji; they move no text


def printable(text: str) -> str:
    r"""The text with every character escaped that has no picture: control characters, escapes, marks of direction.

    >>> printable("\x1b[2Jred\u202e")
    '\\x1b[2Jred\\u202e'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _JOINERS else ascii(c)[1:-1] for c in text)


def quoted(value: object, limit: int = 80) -> str:
    """A value as an error shows it: its repr, of a long one both ends and its length.

    Args:
        value: Anything.
        limit: Characters at most, beside the note on the length.

    >>> quoted("a" * 1000, 11)
    "'aaaa…aaaa' (1002 characters)"
    """
    shown = printable(repr(value))
    if len(shown) <= limit:
        return shown
    half = (limit - 1) // 2
    return f"{shown[: limit - 1 - half]}…{shown[-half:]} ({len(shown)} characters)"
