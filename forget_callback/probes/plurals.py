"""The word for so many of something, one or several, and its verb."""

from __future__ import annotations


def items(n: int) -> str:
    """The word for so many items."""
    return "item" if n == 1 else "items"


def counted(n: int, one: str = "item", several: str = "") -> str:
    """So many of something, items by default.

    >>> counted(1), counted(1200), counted(2, "category", "categories")
    ('1 item', '1,200 items', '2 categories')
    """
    return f"{n:,} {one if n == 1 else several or one + 's'}"


def documents(n: int) -> str:
    """The word for so many items of text."""
    return "document" if n == 1 else "documents"


def have(n: int) -> str:
    """The verb of so many."""
    return "has" if n == 1 else "have"


def are(n: int) -> str:
    """The verb of so many."""
    return "is" if n == 1 else "are"


def were(n: int) -> str:
    """The verb of so many."""
    return "was" if n == 1 else "were"
