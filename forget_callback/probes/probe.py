"""A probe: a fixed list of items, how their prompts are put to a model, and a fingerprint of both.

Everything is validated when it is built, so that nothing downstream needs to check again. Knows nothing of models,
tokenizers or files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from forget_callback.probes.conversation import question_of
from forget_callback.probes.items import Generation, Item, Text, n_options, right_option
from forget_callback.probes.quoting import quoted
from forget_callback.probes.records import item_record, variant_record

Normalization: TypeAlias = Literal["sum", "length", "token"]

# The settings of a probe whose prompts go through no template.
PLAIN: Mapping[str, Any] = {"chat": False, "template": "", "system": "", "generation_prompt": True, "thinking": None}

# Of a name files are made, on every file system: with room for what they add, and none that Windows keeps to itself.
_NAME = re.compile(r"(?!(?i:con|prn|aux|nul|com\d|lpt\d)(?:\.|$))[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")


def is_probe_name(text: str) -> bool:
    """Whether a probe may have this name."""
    return _NAME.fullmatch(text) is not None and text != "all"


@dataclass(frozen=True)
class Probe:
    """A fixed list of items and how they are put to a model.

    Attributes:
        name: Letters, digits, dot, dash and underscore, 100 at most: it names metrics and files.
        items: At least one, with unique ids.
        chat: Prompts go through the tokenizer's chat template, as one user message an item. None leaves it to the
            tokenizer: through its template if it has one, else as they are. True where an item is a conversation.
        system: With `chat`, a system message before each item that has none of its own.
        generation_prompt: With `chat`, whether the template opens the assistant's turn.
        revision: Of the data set that the items came from, if any.
        thinking: With `chat`, what templates read as `enable_thinking`; None leaves it to the template.
        normalization: How choices of unlike length compare: "sum" of log-probabilities, per byte ("length",
            lm-eval's acc_bytes, and its acc_norm for ASCII) or per "token".
        template: The chat template's text, bound when a chat probe is first scored and part of the fingerprint.
        temperature: 0 decodes generation items greedily; above 0 samples, with `top_p` and `seed`.
        scorer: Whose function judges the generated texts in place of `match`, and from which value on they are right;
            bound when the probe is scored with `scorer=`, and part of the fingerprint.
        run_code: Whether what a model writes is run, for items that match "code". No part of the fingerprint, and not
            kept with a run: whoever reads one does not run code unless they say so themselves.
    """

    name: str
    items: Sequence[Item]
    chat: bool | None = False
    normalization: Normalization = "sum"
    template: str = ""
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    system: str = ""
    generation_prompt: bool = True
    thinking: bool | None = None
    revision: str = ""
    scorer: str = ""
    run_code: bool = field(default=False, kw_only=True, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not is_probe_name(self.name):
            raise ValueError(
                "name must be letters, digits, '.', '_' and '-', 100 at most, such as every file system takes, "
                f"and not 'all' (the pool of several probes), got {quoted(self.name)}"
            )
        object.__setattr__(self, "items", tuple(self.items))
        if not self.items:
            raise ValueError(f"probe {quoted(self.name)} has no items; give it at least one")
        for position, item in enumerate(self.items):
            if not isinstance(item, get_args(Item)):
                raise ValueError(f"probe {quoted(self.name)}, item {position}: expected an item, got {quoted(item)}")
        if any(item.messages for item in self.items):
            object.__setattr__(self, "chat", True)
        seen: dict[str, int] = {}
        for position, item in enumerate(self.items):
            _require_prompts_differ(self, item)
            if seen.setdefault(item.id, position) != position:
                raise ValueError(
                    f"probe {quoted(self.name)}, item {quoted(item.id)}, field 'id': used by items {seen[item.id]} "
                    f"and {position}; "
                    "ids must be unique, they join the snapshots"
                )
        if self.normalization not in get_args(Normalization):
            known = ", ".join(get_args(Normalization))
            raise ValueError(f"normalization must be one of {known}, got {quoted(self.normalization)}")
        if not isinstance(self.temperature, (int, float)) or not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 (greedy) or more, got {quoted(self.temperature)}")
        if not isinstance(self.top_p, (int, float)) or not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {quoted(self.top_p)}")
        if all(isinstance(item, Text) for item in self.items):
            self._require_settings_of_texts()
        if not isinstance(self.run_code, bool):
            raise ValueError(f"run_code must be True or False, got {quoted(self.run_code)}")
        if self.chat is False and (self.system or not self.generation_prompt or self.thinking is not None):
            raise ValueError(f"probe {quoted(self.name)}: system, generation_prompt and thinking need chat=True")
        for name in ("temperature", "top_p"):  # 0 and 0.0 are one setting and must have one fingerprint
            object.__setattr__(self, name, float(getattr(self, name)))

    def _require_settings_of_texts(self) -> None:
        """Documents are scored as they are: settings of prompts and answers would do nothing there."""
        if self.chat is None:
            object.__setattr__(self, "chat", False)
        defaults = {f.name: f.default for f in fields(self)}
        for name in ("chat", "normalization", "temperature", "system", "scorer"):
            if getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"probe {quoted(self.name)} has documents alone, which are scored as they are: "
                    f"{name}={quoted(getattr(self, name))} goes with prompts and answers; drop it"
                )

    def __len__(self) -> int:
        return len(self.items)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything but the name, the items and `run_code`, as JSON can hold it."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("name", "items", "run_code")}

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the items' own prompts and the settings: equal on every machine, and for any order of the items.

        Variants, clusters, facts and abilities are no part of it: what the first prompts ask stays comparable without
        them.
        """
        items = [_asked_record(item) for item in self.items]
        return _digest({**self.settings, "items": sorted(items, key=lambda record: str(record["id"]))})

    @cached_property
    def variant_fingerprints(self) -> tuple[str, ...]:
        """One for each further variant, 2 to `n_variants`: sha256 of how the items that have it are asked in it."""
        digests = []
        for place in range(self.n_variants - 1):
            asked = [(item.id, item.variants[place]) for item in self.items if len(item.variants) > place]
            digests.append(_digest(sorted([key, variant_record(variant)] for key, variant in asked)))
        return tuple(digests)

    @property
    def n_variants(self) -> int:
        """In how many prompts the item is asked that has most, its own counted."""
        return 1 + max(len(item.variants) for item in self.items)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The items' ids, in order."""
        return tuple(item.id for item in self.items)

    @property
    def sampled(self) -> bool:
        """Whether there are answers that are sampled, so that the same model answers differently twice."""
        return self.temperature > 0 and any(isinstance(item, Generation) for item in self.items)

    @property
    def samples(self) -> NDArray[np.int64]:
        """Answers that are generated to each item: one where it is not sampled, ``(n_items,)``."""
        drawn = [item.samples if self.temperature > 0 and isinstance(item, Generation) else 1 for item in self.items]
        return np.array(drawn, np.int64)

    @property
    def n_choices(self) -> NDArray[np.float64]:
        """Options per item, infinite where the answer is open-ended, ``(n_items,)``."""
        return np.array([n_options(item) or np.inf for item in self.items], float)

    @property
    def answer(self) -> NDArray[np.int64]:
        """Index of the right choice, -1 where the answer is open-ended, ``(n_items,)``."""
        return np.array([right_option(item) for item in self.items], np.int64)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()


def _asked_record(item: Item) -> dict[str, Any]:
    """What is asked of a model in an item's own prompt, and what is right."""
    record = item_record(replace(item, variants=(), cluster="", fact="", ability=""))
    for name in ("messages", "tools"):  # as texts: a template writes a tool in the order in which it is given
        if name in record:
            record[name] = json.dumps(record[name])
    return record


def _require_prompts_differ(probe: Probe, item: Item) -> None:
    """What an item cannot know: that `chat` of a variant says what the probe says anyway."""
    asked: list[tuple[str, bool | None, tuple[int, ...]]] = [(question_of(item), probe.chat, ())]
    for i, variant in enumerate(item.variants):
        key = (variant.prompt, probe.chat if variant.chat is None else variant.chat, tuple(variant.order))
        if key in asked:
            raise ValueError(
                f"probe {probe.name!r}, item {quoted(item.id)}, field 'variants[{i}].chat': the item is asked so "
                "already in "
                f"a probe with chat={probe.chat}: {quoted(variant.prompt)}; give it another prompt, or drop it"
            )
        asked.append(key)
