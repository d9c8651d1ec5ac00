"""The categories that a spec of a built-in probe asks for. Knows nothing of what is in them."""

from __future__ import annotations

from collections.abc import Sequence

from forget_callback.probes.quoting import quoted
from forget_callback.probes.suggest import did_you_mean


def chosen_categories(given: str | None, known: Sequence[str]) -> list[str]:
    """Those that are given, separated by commas, in the order of `known`; all of them for None.

    Raises:
        ValueError: If one is unknown.

    >>> chosen_categories("json, tools", ("tools", "json", "code"))
    ['tools', 'json']
    """
    chosen = list(known) if given is None else [key.strip() for key in given.split(",")]
    for key in chosen:
        if key not in known:
            raise ValueError(
                f"category must be one or more of {', '.join(known)}, got {quoted(key)} in {quoted(given)}"
                f"{did_you_mean(key, known)}"
            )
    return [key for key in known if key in chosen]
