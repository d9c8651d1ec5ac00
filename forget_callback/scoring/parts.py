"""The prompts of a probe, in parts that are probes themselves: each holds the items that one variant asks alike.

So whatever scores a probe scores a further variant of it too. Knows how variants are put together from items, and
nothing of models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forget_callback.probes.item_variants import Variant
from forget_callback.probes.items import in_variant
from forget_callback.probes.probe import PLAIN, Probe
from forget_callback.probes.quoting import quoted


@dataclass(frozen=True, eq=False)
class Part:
    """Items of a probe in one of their prompts.

    Attributes:
        number: 1 for the first prompts, 2 for the first further variant, and so on.
        probe: The items as that prompt asks them: all of them through the chat template, or none.
        places: Index of each among the items of the whole probe, ``(n,)``.
        orders: Option j here is option ``orders[i][j]`` of item i; empty where they are in the item's own order.
        weak: Whether a prompt is only words around the item's first one, ``(n,)``.
    """

    number: int
    probe: Probe
    places: NDArray[np.int64]
    orders: tuple[tuple[int, ...], ...]
    weak: NDArray[np.bool_]

    @property
    def name(self) -> str:
        """What warnings call it."""
        return f"probe {quoted(self.probe.name)}" + (f", variant {self.number}" if self.number > 1 else "")


def first_part(probe: Probe) -> Part:
    """All items of a probe in their own prompts."""
    n = len(probe)
    return Part(1, probe, np.arange(n), ((),) * n, np.zeros(n, bool))


def further_parts(probe: Probe, bind: Callable[[Probe], Probe]) -> list[Part]:
    """The further variants of a probe's items, in order; one that some ask through the chat template is two parts.

    Args:
        bind: Gives a chat probe its template.
    """
    parts = []
    for number in range(2, probe.n_variants + 1):
        asked = [
            (i, item.variants[number - 2]) for i, item in enumerate(probe.items) if len(item.variants) > number - 2
        ]
        for chat in (False, True):
            own = [(i, variant) for i, variant in asked if _through_chat(probe, variant) == chat]
            if not own:
                continue
            items = [in_variant(probe.items[i], number) for i, _ in own]
            alike = replace(probe, items=items, **_settings(probe, chat))
            places, weak = np.array([i for i, _ in own]), np.array([variant.weak for _, variant in own])
            orders = tuple(tuple(variant.order) for _, variant in own)
            parts.append(Part(number, bind(alike), places, orders, weak))
    return parts


def _through_chat(probe: Probe, variant: Variant) -> bool:
    return bool(probe.chat if variant.chat is None else variant.chat)


def _settings(probe: Probe, chat: bool) -> Mapping[str, Any]:
    """What changes where a variant goes through the chat template and the probe does not, or the reverse."""
    if chat == probe.chat:
        return {}
    if chat:
        return {"chat": True}
    return PLAIN


def variant_fingerprint(probe: Probe, parts: list[Part]) -> str:
    """The fingerprint of one further variant, given its parts.

    That of the items, and the chat template where the probe's own fingerprint does not have it.
    """
    own = probe.variant_fingerprints[parts[0].number - 2]
    templates = [part.probe.template for part in parts if part.probe.chat and not probe.chat]
    return hashlib.sha256("\0".join([own, *templates]).encode()).hexdigest() if templates else own
