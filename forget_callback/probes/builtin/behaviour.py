"""`builtin:behaviour`: how a model answers, rather than what it knows: offline and in the package.

A file of `probes/behaviour/` is an ability and the category of its items: calling tools, JSON, instructions, a second
turn, refusing harm and nothing else, languages, a needle in a text, reading, code. Written for this package; the rules
in `probes/judges/` decide. Knows nothing of models. A change to a file changes the probe's fingerprint.
"""

from __future__ import annotations

from pathlib import Path

from forget_callback.probes.builtin.categories import chosen_categories
from forget_callback.probes.jsonl import read_items
from forget_callback.probes.probe import Probe

_FOLDER = Path(__file__).parents[1] / "behaviour"
CODE = "code"  # judged by running what a model wrote
ABILITIES = (
    "tools",
    "json",
    "instructions",
    "second_turn",
    "refusal",
    "over_refusal",
    "language",
    "needle",
    "reading",
    CODE,
)


def load_behaviour(
    *, category: str | None = None, run_code: bool = False, limit: int | None = None, seed: int = 0
) -> Probe:
    """The built-in items of behaviour, or those of some abilities.

    Args:
        category: One ability or several, separated by commas; all by default.
        run_code: Whether code that a model writes may run; else the items of the ability "code" are left out.
        limit: Not applied here: `load_probe` keeps a share of each category.
        seed: Of a `limit`.

    Raises:
        ValueError: If an ability is unknown, or "code" is asked for and code may not run.

    >>> load_behaviour(category="json,tools").name
    'behaviour-tools-json'
    """
    chosen = chosen_categories(category, ABILITIES)
    if category is not None and CODE in chosen and not run_code:
        raise ValueError(
            "category 'code' is judged by running what the model writes, in a process with limits and without "
            "network; allow it with run_code=true, or leave the category out"
        )
    kept = [ability for ability in chosen if run_code or ability != CODE]
    items = [item for ability in kept for item in read_items(_FOLDER / f"{ability}.jsonl")]
    return Probe("-".join(["behaviour", *(kept if category is not None else ())]), items, chat=None)
