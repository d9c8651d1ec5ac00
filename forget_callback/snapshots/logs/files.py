"""What stands in a file, however it is packed: compression, byte order mark, JSON lines or one JSON array.

Every error names file and line. Knows nothing of what the rows mean.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from forget_callback.probes.quoting import printable, quoted

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
_LONGEST_START = 4096  # bytes in which a JSON array shows what it is an array of


class Record(NamedTuple):
    """One JSON object of a file, and its place there, such as "line 3"."""

    where: str
    raw: dict[str, Any]


def suffix_of(file: Path) -> str:
    """The suffix in lower case, of x.jsonl.gz ".jsonl"."""
    return (Path(file.stem) if file.suffix.lower() in PACKED else file).suffix.lower()


def stem_of(file: Path) -> str:
    """The name without its suffix, of x.jsonl.gz "x"."""
    return Path(file.stem).stem if file.suffix.lower() in PACKED else file.stem


def read_text(file: Path) -> str:
    """The text of a file, unpacked by what it begins with; UTF-8, or UTF-16 and UTF-32, with a byte order mark or not.

    Raises:
        ValueError: If it is packed and damaged.
    """
    raw = file.read_bytes()
    try:
        data = _unpacked(raw)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{printable(str(file))} is damaged, or was cut off: {error}") from None
    return data.decode(json.detect_encoding(data), errors="replace").removeprefix("\ufeff")


def _unpacked(raw: bytes) -> bytes:
    if raw.startswith(b"\x1f\x8b"):
        return gzip.decompress(raw)
    if raw.startswith(b"BZh"):
        return bz2.decompress(raw)
    if raw.startswith(b"\xfd7zXZ\x00"):
        return lzma.decompress(raw)
    if raw.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(raw)) as packed:
            (name,) = packed.namelist()  # of several none is the log
            return packed.read(name)
    if raw.startswith(b"\x28\xb5\x2f\xfd"):
        with pa.CompressedInputStream(pa.BufferReader(raw), "zstd") as stream:
            return bytes(stream.read())
    return raw


def parsed(text: str, place: str, *, cut: bool = False) -> Any:
    """What a JSON text holds.

    Args:
        place: File and line, for the error.
        cut: Whether the file ends within the text, if that is no JSON.

    Raises:
        ValueError: If it is no JSON, or nested deeper than can be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{place}: JSON that is nested too deep to be read") from None
    except ValueError as error:
        problem = "the file ends within this line: it was cut off" if cut else f"not JSON ({error})"
        raise ValueError(f"{place}: {problem}; write or copy the log again") from None


def records(file: Path) -> list[Record]:
    """The objects of a file with one a line, or with one JSON array of them.

    Raises:
        ValueError: If something in it is no JSON object, such as a last line that was cut off.
    """
    text, name = read_text(file), printable(str(file))
    if text.lstrip()[:1] == "[":
        found = _array(text, name)
        if found is not None:
            return [_record(name, f"entry {number}", raw) for number, raw in enumerate(found, start=1)]
    return [_record(name, where, raw) for where, raw in _lines(text, name)]


def _array(text: str, name: str) -> list[Any] | None:
    """The entries of a file that is one array; None if it is lines, of which the first is an array and so no row."""
    try:
        found: list[Any] = json.loads(text)
        return found
    except (ValueError, RecursionError) as error:
        problem = error
    try:
        json.loads(text.lstrip().partition("\n")[0])
        return None
    except (ValueError, RecursionError):
        raise ValueError(f"{name}: a JSON array that is damaged, or was cut off ({problem}); copy it again") from None


def _lines(text: str, name: str) -> Iterator[tuple[str, Any]]:
    lines = text.split("\n")  # not splitlines: JSON may hold the other separators of lines as they are
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"line {number}", parsed(line, f"{name}, line {number}", cut=number == len(lines))


def _record(name: str, where: str, raw: Any) -> Record:
    if not isinstance(raw, dict):
        raise ValueError(f"{name}, {where}: expected a JSON object with an item, got {quoted(raw)}")
    return Record(where, raw)


def first_record(file: Path) -> dict[str, Any]:
    """The first object of a file of records, empty where there is none; for telling whose file it is."""
    text = read_text(file).lstrip()
    try:
        raw, _ = json.JSONDecoder().raw_decode(text[1:].lstrip() if text.startswith("[") else text)
    except (ValueError, RecursionError):
        return {}
    return raw if isinstance(raw, dict) else {}


def start_of(file: Path) -> str:
    """The first characters of a file, without reading the rest of one that is not packed."""
    with file.open("rb") as opened:
        data = opened.read(_LONGEST_START)
    if file.suffix.lower() in PACKED:
        return read_text(file)[:_LONGEST_START].lstrip()
    return data.decode(json.detect_encoding(data), errors="replace").removeprefix("\ufeff").lstrip()


def columns_of(file: Path) -> list[str]:
    """The columns of a Parquet file.

    Raises:
        ValueError: If it is none.
    """
    try:
        with file.open("rb") as opened:
            return list(pq.read_schema(opened).names)
    except (OSError, ValueError) as error:
        problem = printable(str(error).splitlines()[0])
        raise ValueError(f"{printable(str(file))} is not a Parquet file, or was cut off: {problem}") from None
