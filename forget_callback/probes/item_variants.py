"""The variants of an item: further prompts that ask the same, and what they may hold.

Checked here when an item is built, see `items.py`; how a variant is made of a prompt is in `variants.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from forget_callback.probes.checks import is_whole, require, require_one_right, require_text, require_texts
from forget_callback.probes.conversation import question_of
from forget_callback.probes.quoting import quoted
from forget_callback.probes.suggest import did_you_mean


@dataclass(frozen=True)
class Variant:
    """A further way to ask an item: the same question and right answer in another prompt.

    Attributes:
        choices: Of multiple choice, where they are other texts than the item's; in the variant's own order.
        order: Option j here is option ``order[j]`` of the item; the item's own order if not given.
        chat: Whether this prompt goes through the chat template; None does as the probe does.
        weak: The same frame with words around it, which shares the damage of the frame.
        stop: Of generation, further texts that end the answer in this prompt.
    """

    prompt: str
    choices: Sequence[str] = ()
    order: Sequence[int] = ()
    chat: bool | None = None
    weak: bool = False
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("choices", "order", "stop"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))


def set_variants(item: Any) -> None:
    """Checks the variants of an item whose other fields are right, and keeps them as `Variant`."""
    is_list = isinstance(item.variants, (list, tuple))
    require(
        is_list, item, "variants", f"expected a list of prompts or of objects with one, got {quoted(item.variants)}"
    )
    variants = tuple(_variant(item, f"variants[{i}]", given) for i, given in enumerate(item.variants))
    # Another order of the same options after the same prompt is no other question: each is scored by itself.
    same = getattr(item, "choices", ())
    seen: dict[tuple[str, bool | None, frozenset[str]], str] = {}
    seen[question_of(item), None, frozenset(same)] = "the item itself"
    for i, variant in enumerate(variants):
        key = (variant.prompt, variant.chat, frozenset(variant.choices or same))
        problem = f"asks as {seen.get(key)} does, {quoted(variant.prompt)}; give it another prompt or chat, or drop it"
        require(seen.setdefault(key, f"variants[{i}]") == f"variants[{i}]", item, f"variants[{i}]", problem)
    object.__setattr__(item, "variants", variants)


def _variant(item: Any, name: str, given: object) -> Variant:
    """One variant of an item, whatever form it is given in."""
    if isinstance(given, Mapping):
        known = [f.name for f in fields(Variant)]
        unknown = next((key for key in given if key not in known), None)
        remedy = did_you_mean(unknown, known) or "; drop it"
        problem = f"unknown; known are {', '.join(known)}{remedy}"
        require(unknown is None, item, f"{name}.{unknown}", problem)
        require("prompt" in given, item, f"{name}.prompt", "missing")
        given = Variant(**{key: value for key, value in given.items() if value is not None or key == "prompt"})
    variant = Variant(given) if isinstance(given, str) else given
    expected = f"expected a prompt or an object with one, got {type(variant).__name__} {quoted(variant)}"
    require(isinstance(variant, Variant), item, name, expected)
    assert isinstance(variant, Variant)
    require_text(item, f"{name}.prompt", variant.prompt, empty=item.kind != "generation")
    require(
        variant.chat in (None, True, False), item, f"{name}.chat", f"expected true or false, got {quoted(variant.chat)}"
    )
    require(isinstance(variant.weak, bool), item, f"{name}.weak", f"expected true or false, got {quoted(variant.weak)}")
    require_texts(item, f"{name}.choices", variant.choices)
    require_texts(item, f"{name}.stop", variant.stop)
    for field_name, kind in (("choices", "multiple_choice"), ("stop", "generation")):
        fits = item.kind == kind or not getattr(variant, field_name)
        require(fits, item, f"{name}.{field_name}", f"goes with {kind}, this is {item.kind}; drop it")
    closed = item.kind == "multiple_choice"
    n = len(item.choices) if closed else getattr(item, "options", 0)
    require(n > 0 or not variant.order, item, f"{name}.order", "goes with options, and the item has none; drop it")
    is_order = isinstance(variant.order, tuple) and all(map(is_whole, variant.order))
    problem = f"expected the numbers 0 to {n - 1}, each once, got {quoted(variant.order)}"
    require(is_order and sorted(variant.order) in ([], list(range(n))), item, f"{name}.order", problem)
    if closed:
        problem = f"expected {n} as the item has, got {len(variant.choices)}; give one for each, or none to keep them"
        require(len(variant.choices) in (0, n), item, f"{name}.choices", problem)
        for choice in variant.choices:
            require_text(item, f"{name}.choices", choice)
        order = variant.order or tuple(range(n))
        contexts = [item.contexts[i] for i in order] if item.contexts else ()
        choices = variant.choices or [item.choices[i] for i in order]
        require_one_right(item, f"{name}.choices", choices, contexts, order.index(item.answer))
    return variant
