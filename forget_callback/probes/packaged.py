"""Tables that the package holds, as tab-separated files. Knows nothing of what is in them."""

from __future__ import annotations

from pathlib import Path


def packaged_table(name: str | Path) -> list[list[str]]:
    """The lines of a TSV file, beside this module or at a path, without its header."""
    lines = Path(__file__).parent.joinpath(name).read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines[1:]]
