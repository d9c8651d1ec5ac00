"""Tables that the package holds, as tab-separated files beside this one. Knows nothing of what is in them."""

from __future__ import annotations

from pathlib import Path


def packaged_table(name: str) -> list[list[str]]:
    """The lines of a TSV file beside this one, without its header."""
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines[1:]]
