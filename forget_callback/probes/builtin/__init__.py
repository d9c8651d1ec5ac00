"""`builtin:NAME`: the probes that are in the package, for which nothing is downloaded.

A line of `BUILTIN` is a probe, with the options that its spec may have. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from forget_callback.probes.builtin.behaviour import load_behaviour
from forget_callback.probes.builtin.facts import load_facts
from forget_callback.probes.builtin.text import load_texts
from forget_callback.probes.probe import Probe


@dataclass(frozen=True)
class Builtin:
    """A probe of the package.

    Attributes:
        load: Takes the options, as text, and `limit` and `seed`; one may leave it to the caller to keep fewer items.
        options: Their names.
        has_code: Whether it also takes `run_code`: items that are judged by running what a model writes.
    """

    load: Callable[..., Probe]
    options: tuple[str, ...]
    has_code: bool = False


BUILTIN: Mapping[str, Builtin] = {
    "facts": Builtin(load_facts, ("category", "kind")),
    "behaviour": Builtin(load_behaviour, ("category",), has_code=True),
    "text": Builtin(load_texts, ("category",)),
}
