"""Where probes come from: a spec string names a source, `load_probe` asks it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from forget_callback.probes import answers, builtin, hub, jsonl, lm_eval
from forget_callback.probes.answers import Judgement
from forget_callback.probes.items import Generation, Item
from forget_callback.probes.probe import Probe
from forget_callback.probes.reasoning import by_reasoning
from forget_callback.probes.sampling import stratified


def load_probe(spec: str, *, limit: int | None = None, seed: int = 0) -> Probe:
    """The probe that a spec names.

    Args:
        spec: ``builtin:facts``, ``builtin:facts?category=capitals,elements&kind=recall``, the path of a JSON Lines
            file, which is named by its stem, ``hub:NAME`` (see `forget_callback.probes.hub`) or ``lm-eval:TASK`` (see
            `forget_callback.probes.lm_eval`). After a question mark stand the source's own options and any setting of
            `Probe`, such as ``facts.jsonl?chat=true&system=Be brief.&temperature=0.6&top_p=0.95&seed=1``; ``cot=true``
            asks multiple choice, numbers and mathematics by reasoning in words, and ``name=`` renames the probe.
        limit: At most that many items, a random subset stratified by category.
        seed: Which subset; the same seed gives the same items on every machine.

    Raises:
        ValueError: If the spec or an option is not known, an item is bad, or `limit` is below 1.
        OSError: If a benchmark is neither at hand nor to be downloaded.

    >>> load_probe("builtin:facts?category=capitals&kind=recall", limit=10).name
    'facts-capitals-recall'
    """
    if not isinstance(spec, str):
        raise ValueError(f"spec must be a string such as 'builtin:facts' or 'probe.jsonl', got {spec!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be 1 or more, got {limit}")
    path, _, query = spec.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    settings = {key: _SETTINGS[key](spec, key, options.pop(key)) for key in list(options) if key in _SETTINGS}
    reasoning = {key: options.pop(key) for key in ("cot", "max_new_tokens") if key in options}
    probe = _load(spec, path, options, limit=limit, seed=seed)
    if limit is not None:
        probe = replace(probe, items=_subset(probe.items, limit, seed))
    if _truth(spec, "cot", reasoning.pop("cot", "false")):
        tokens = {key: _number(spec, key, value) for key, value in reasoning.items()}
        probe, reasoning = by_reasoning(probe, **tokens), {}
    if reasoning:
        raise ValueError(f"spec {spec!r}: max_new_tokens goes with cot=true")
    return replace(probe, **settings)


def judge(item: Generation, text: str, *, finished: bool) -> Judgement:
    """The outcome of a generated text, by the item's own `match` or by the benchmark that it names.

    Args:
        finished: False if generation stopped at the token limit.

    Raises:
        ValueError: If the item names a benchmark that is not known here.
    """
    if not item.task:
        return answers.judge(item, text, finished=finished)
    return lm_eval.judge(item, text, finished=finished)


def _load(spec: str, path: str, options: dict[str, str], *, limit: int | None, seed: int) -> Probe:
    source, colon, name = path.partition(":")
    if source == "builtin" and colon:
        if name != "facts" or not set(options) <= {"category", "kind"}:
            raise ValueError(f"spec {spec!r}: expected builtin:facts, with ?category=... and kind=... if wanted")
        return builtin.load(category=options.get("category"), kind=options.get("kind"), limit=limit, seed=seed)
    if source == "hub" and colon:
        return hub.load(name, options)
    if source == "lm-eval" and colon:
        return lm_eval.load(name, options)
    if not path.endswith(".jsonl"):
        raise ValueError(
            f"spec {spec!r} is not known; expected 'builtin:facts', the path of a .jsonl file, 'hub:NAME' or "
            "'lm-eval:TASK'"
        )
    if options:
        raise ValueError(f"spec {spec!r}: {', '.join(options)} not known; expected {', '.join(_SETTINGS)} or cot")
    return jsonl.load(path)


def _truth(spec: str, key: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise ValueError(f"spec {spec!r}: {key} must be true or false, got {value!r}")
    return value.lower() == "true"


def _number(spec: str, key: str, value: str, kind: type[int] | type[float] = int) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"spec {spec!r}: {key} must be a number, got {value!r}") from None


def _text(spec: str, key: str, value: str) -> str:
    return value


_SETTINGS: dict[str, Callable[[str, str, str], Any]] = {
    "name": _text,
    "chat": _truth,
    "system": _text,
    "generation_prompt": _truth,
    "thinking": _truth,
    "normalization": _text,
    "temperature": partial(_number, kind=float),
    "top_p": partial(_number, kind=float),
    "seed": _number,
}


def _subset(items: Sequence[Item], limit: int, seed: int) -> Sequence[Item]:
    """A stratified subset; an item's draw depends on its id alone, not on the order of the file."""
    return stratified(
        items,
        limit,
        stratum=lambda item: item.category,
        draw=lambda item: random.Random(f"{seed}/{item.id}").random(),
    )
