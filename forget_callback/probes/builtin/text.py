"""`builtin:text`: 300 passages of text, to see what a model unlearns of plain language, offline and in the package.

A file of `probes/text/` is a kind of text and its category: prose, code, mathematics, dialogue, and languages other
than English. All passages were written for this package, so no model was trained on them before it was published.
Knows nothing of models. A change to a file changes the probe's fingerprint.
"""

from __future__ import annotations

from pathlib import Path

from forget_callback.probes.builtin.categories import chosen_categories
from forget_callback.probes.jsonl import read_items
from forget_callback.probes.probe import Probe

_FOLDER = Path(__file__).parents[1] / "text"
KINDS = ("prose", "code", "mathematics", "dialogue", "languages")


def load_texts(*, category: str | None = None, limit: int | None = None, seed: int = 0) -> Probe:
    """The built-in passages, or those of some kinds.

    Args:
        category: One kind of text or several, separated by commas; all by default.
        limit: Not applied here: `load_probe` keeps a share of each category.
        seed: Of a `limit`.

    Raises:
        ValueError: If a kind is unknown.

    >>> load_texts(category="code,prose").name
    'text-prose-code'
    """
    kept = chosen_categories(category, KINDS)
    items = [item for kind in kept for item in read_items(_FOLDER / f"{kind}.jsonl")]
    return Probe("-".join(["text", *(kept if category is not None else ())]), items, chat=False)
