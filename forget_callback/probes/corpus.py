"""`corpus:FILE`: the documents of a text or JSON Lines file as a probe of `Text` items.

A `.jsonl` file has a document a line, under `text`; any other file is one document, or several that form feeds part. A
document's id follows from its text, so it stays the same when others come before it. Knows nothing of models.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forget_callback.probes.checks import is_whole
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import printable, quoted
from forget_callback.probes.text_files import missing_file, read_utf8
from forget_callback.probes.text_items import Text

logger = logging.getLogger(__name__)

_FIELDS = ("category", "cluster")


def load_corpus(name: str) -> Probe:
    """The documents of a file; empty ones and copies of an earlier one are left out, and that is said.

    Args:
        name: Path of the file. The probe is named by its stem.

    Raises:
        ValueError: If the file is missing, is not text, or has no document, or a line is not one.
    """
    path = Path(name)
    if not name or not path.is_file():
        raise ValueError(
            f"spec {quoted(f'corpus:{name}')}: {missing_file(name, path) if name else 'no file is named;'} "
            "expected a text file, or JSON Lines with a document a line under 'text'"
        )
    content = read_utf8(path)
    found = _of_lines(path, content) if path.suffix == ".jsonl" else _of_text(content)
    items: dict[str, Text] = {}
    texts: set[str] = set()
    empty = copies = 0
    for where, item in found:
        if item is None:
            empty += 1
        elif item.text in texts:
            copies += 1
        elif item.id in items:
            raise ValueError(f"{where}: document {quoted(item.id)}, field 'id': used before; ids must be unique")
        else:
            texts.add(item.text)
            items[item.id] = item
    if not items:
        raise ValueError(f"{path} holds no document; expected text, or JSON Lines with a document a line under 'text'")
    left_out = [f"{n} {what}" for n, what in ((empty, "empty"), (copies, "the same as an earlier one")) if n]
    if left_out:
        n = len(items) + empty + copies
        logger.warning("corpus:%s: of %d documents are left out: %s", printable(name), n, ", ".join(left_out))
    return Probe(re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("._-")[:100] or "corpus", list(items.values()))


def _of_text(content: str) -> Iterator[tuple[str, Text | None]]:
    """The documents of a text file; what parts them, and the line ends around it, are part of none."""
    for number, text in enumerate(content.split("\f"), 1):
        document = text.strip("\r\n")
        yield f"document {number}", Text(_id(document), document) if document.strip() else None


def _of_lines(path: Path, content: str) -> Iterator[tuple[str, Text | None]]:
    for number, line in enumerate(content.split("\n"), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, Mapping):
                raise ValueError(f"expected an object with the field 'text', got {quoted(record)}")
            yield where, _document(record)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: {error}") from None


def _document(record: Mapping[str, Any]) -> Text | None:
    """The document of a record, None of an empty one; fields that other tools keep beside it are not read.

    Raises:
        ValueError: If it has no text, or a field is no text.
    """
    if "text" not in record:
        raise ValueError(f"no field 'text' with the document; there are {', '.join(map(quoted, record)) or 'none'}")
    text = record["text"]
    if isinstance(text, str) and not text.strip():
        return None
    key = record.get("id")
    key = str(key) if is_whole(key) else key
    own = {name: record[name] for name in _FIELDS if record.get(name) is not None}
    return Text(_id(text) if key is None else key, text, **own)


def _id(text: object) -> str:
    return f"text-{hashlib.sha256(str(text).encode(errors='replace')).hexdigest()[:12]}"
