"""Reading a user's text files: what is not there, is a directory, or is compressed is said as that.

Knows nothing of what stands in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from forget_callback.probes.quoting import quoted
from forget_callback.probes.suggest import beside, did_you_mean

# How compressed files begin, and what unpacks them.
_PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"PK\x03\x04": ("zip", "unzip"),
}
_SHOWN = 5  # files of a directory


def missing_file(name: str, path: Path, known: Iterable[Path] | None = None) -> str:
    """Why there is no file at a path, up to where what was expected follows.

    Args:
        name: The path as it was given.
        known: What may have been meant; by default all that lies beside it.
    """
    if path.is_dir():
        inside = [quoted(one.name) for one in sorted(path.iterdir()) if one.is_file() and one.name[:1] != "."]
        more = f" and {len(inside) - _SHOWN} more" if len(inside) > _SHOWN else ""
        there = f"one of its files: {', '.join(inside[:_SHOWN])}{more};" if inside else "a file; it holds none;"
        return f"{quoted(name)} is a directory; name {there}"
    return f"no file at {quoted(name)}{did_you_mean(path, beside(path) if known is None else known) or ';'}"


def read_utf8(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        ValueError: If it is compressed or no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        with path.open("rb") as file:
            start = file.read(8)
        for mark, (kind, unpack) in _PACKED.items():
            if start.startswith(mark):
                raise ValueError(f"{path} is compressed ({kind}); unpack it first, with {unpack}") from None
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None
