"""Where probes come from: `load_probe` reads what a spec names, `as_probes` whatever a user may call a probe.

A spec names a source: one of ours, or one that an installed package declares under the entry point group
`forget_callback.probes`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args
from urllib.parse import parse_qsl

from forget_callback.probes.benchmarks import BENCHMARKS
from forget_callback.probes.builtin import BUILTIN
from forget_callback.probes.corpus import load_corpus
from forget_callback.probes.exits import exits_as_errors
from forget_callback.probes.hub import ALL, OPTIONS as HUB_OPTIONS, load_benchmark
from forget_callback.probes.items import Generation, Item
from forget_callback.probes.jsonl import read_items
from forget_callback.probes.judging import require_matchers
from forget_callback.probes.lm_eval import OPTIONS as LM_EVAL_OPTIONS, load_task
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted
from forget_callback.probes.reasoning import by_reasoning
from forget_callback.probes.sampling import stratified
from forget_callback.probes.suggest import beside, closest, did_you_mean
from forget_callback.probes.tables import is_table, of_table
from forget_callback.probes.training_data import load_training_rows
from forget_callback.probes.variants import with_variants

if TYPE_CHECKING:
    import datasets
    import pandas as pd

GROUP = "forget_callback.probes"

Table: TypeAlias = "Sequence[Item | Mapping[str, Any]] | pd.DataFrame | datasets.Dataset"
OneProbe: TypeAlias = "str | os.PathLike[str] | Probe | Table"
Probes: TypeAlias = "OneProbe | Sequence[OneProbe] | Mapping[str, OneProbe]"


def as_probes(given: Probes) -> tuple[Probe, ...]:
    """One or several probes, in whatever form they are given.

    Args:
        given: A `Probe`; a spec or a path for `load_probe`; a table with the fields of an item as columns (a list of
            dicts or items, a `datasets.Dataset`, a pandas DataFrame), which is named "probe"; a sequence of these; or
            a mapping from names to these, which are then named so.

    Raises:
        ValueError: If there is none, one is none of these, several tables have no name, or as `load_probe` does.

    >>> [probe.name for probe in as_probes({"sums": [{"id": "a", "prompt": "2 + 2 =", "answer": "4"}]})]
    ['sums']
    """
    if isinstance(given, (Mapping, list, tuple)) and not given:
        raise ValueError("probes is empty; give at least one")
    if isinstance(given, Mapping) and not ("id" in given and {"prompt", "messages", "text"} & set(given)):
        return tuple(replace(_one(value), name=name) for name, value in given.items())
    whole = isinstance(given, (str, os.PathLike, Probe, Mapping)) or is_table(given)
    if whole or not isinstance(given, Iterable):
        return (_one(given),)
    several = list(given)
    if sum(map(is_table, several)) > 1:
        raise ValueError(
            "probes: several tables without a name; name each, as in probes={'maths': rows, 'law': other_rows}, or "
            "make a Probe(name, items) of each"
        )
    return tuple(map(_one, several))


def load_probe(spec: str | os.PathLike[str], *, limit: int | None = None, seed: int = 0) -> Probe:
    """The probe that a spec names; its items get variants where they have none, see `forget_callback.probes.variants`.

    Args:
        spec: ``builtin:facts``, ``builtin:facts?category=capitals,elements&kind=recall``, ``builtin:text``, the path
            of a JSON Lines file, which is named by its stem, ``corpus:FILE`` with documents (see
            `forget_callback.probes.corpus`), ``train:`` with rows of the training data (see
            `forget_callback.probes.training_data`), ``hub:NAME`` (see `forget_callback.probes.hub`),
            ``lm-eval:TASK`` (see `forget_callback.probes.lm_eval`) or ``SCHEME:NAME`` of an installed package with an
            entry point of that name. After a question mark stand the source's own options and any setting of `Probe`,
            such as ``facts.jsonl?chat=true&system=Be brief.&temperature=0.6&top_p=0.95&seed=1``; ``limit=100`` is
            `limit`; ``cot=true`` makes multiple choice, numbers and mathematics questions to reason about in words,
            ``variants=off`` asks each item in its own prompt alone (``variants=2`` in at most two), ``samples=8``
            draws so many answers to each item where the probe samples, ``run_code=true`` runs the code of answers that
            match "code", and ``name=`` renames the probe.
        limit: At most that many items, a random subset stratified by category; with one in the spec the smaller holds.
        seed: Which subset; the same seed gives the same items on every machine.

    Raises:
        ValueError: If the spec or an option is not known, an item is bad, or `limit` is below 1.
        OSError: If a benchmark is neither in the cache nor to be downloaded.

    >>> load_probe("builtin:facts?category=capitals&kind=recall&limit=10").name
    'facts-capitals-recall'
    """
    if not isinstance(spec, (str, os.PathLike)):
        remedy = "; for rows of a table use Probe(name, items), or ForgetCallback(rows)" if is_table(spec) else ""
        raise ValueError(
            f"spec must be a string such as 'builtin:facts' or 'probe.jsonl', got {type(spec).__name__} "
            f"{str(spec)[:80]}{remedy}"
        )
    spec = os.fspath(spec)
    path, _, query = spec.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    ours = {key: _value(spec, key, options.pop(key), kind) for key, kind in _OURS.items() if key in options}
    limit = min((n for n in (limit, ours.pop("limit", None)) if n is not None), default=None)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be 1 or more, got {limit}")
    cot, tokens = ours.pop("cot", False), ours.pop("max_new_tokens", None)
    if tokens is not None and not cot:
        raise ValueError(f"spec {quoted(spec)}: max_new_tokens goes with cot=true")
    variants, samples = _prompts(spec, ours.pop("variants", "")), ours.pop("samples", None)
    probe = _load(spec, path, options, limit=limit, seed=seed, ours=ours)
    if limit is not None:  # an item's draw depends on its id alone, not on the order of the file
        draw = {item.id: random.Random(f"{seed}/{item.id}").random() for item in probe.items}
        kept = stratified(probe.items, limit, stratum=lambda item: item.category, draw=lambda item: draw[item.id])
        probe = replace(probe, items=kept)
    if cot:
        probe = by_reasoning(probe) if tokens is None else by_reasoning(probe, max_new_tokens=tokens)
    require_matchers(probe)
    probe = replace(probe, **ours)
    if samples is not None:
        probe = _sampled(spec, probe, samples)
    probe = with_variants(probe) if variants != 1 else probe
    return probe if variants is None else _with_at_most(probe, variants)


def _prompts(spec: str, value: str) -> int | None:
    """In how many prompts an item is asked at most, None for all that it has."""
    if value == "":
        return None
    if value == "off":
        return 1
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(
            f"spec {quoted(spec)}: variants must be off or a number of prompts from 1 on, got {quoted(value)}"
        )
    return int(value)


def _with_at_most(probe: Probe, prompts: int) -> Probe:
    return replace(probe, items=[replace(item, variants=item.variants[: prompts - 1]) for item in probe.items])


def _sampled(spec: str, probe: Probe, samples: int) -> Probe:
    """The probe with so many sampled answers to each item that is generated."""
    if samples > 1 and not probe.sampled:
        raise ValueError(
            f"spec {quoted(spec)}: samples={samples} needs answers that are sampled; give generation items (or "
            "cot=true) and "
            "a temperature above 0"
        )
    items = [replace(item, samples=samples) if isinstance(item, Generation) else item for item in probe.items]
    return replace(probe, items=items)


def _load(
    spec: str, path: str, options: dict[str, str], *, limit: int | None, seed: int, ours: Mapping[str, Any]
) -> Probe:
    source, colon, name = path.partition(":")
    if source == "builtin" and colon:
        if name not in BUILTIN:
            known = ", ".join(f"builtin:{one}" for one in BUILTIN)
            raise ValueError(f"spec {quoted(spec)}: expected one of {known}{_meant(path, ())}")
        one = BUILTIN[name]
        _require_known(spec, options, one.options)
        code = {"run_code": ours.get("run_code", False)} if one.has_code else {}
        return one.load(**{key: options[key] for key in one.options if key in options}, **code, limit=limit, seed=seed)
    if source == "hub" and colon:
        _require_known(spec, options, HUB_OPTIONS)
        return load_benchmark(name, options)
    if source == "corpus" and colon:
        _require_known(spec, options, ())
        return load_corpus(name)
    if source == "train" and colon:
        _require_known(spec, options, ())
        return load_training_rows(name, limit=limit)
    if source == "lm-eval" and colon:
        _require_known(spec, options, LM_EVAL_OPTIONS)
        return load_task(name, options)
    installed = metadata.entry_points(group=GROUP) if colon or not path.endswith(".jsonl") else ()
    for entry in installed:
        if colon and entry.name == source:
            return _installed(spec, entry, name, options)
    if not colon and path.endswith((".csv", ".tsv", ".parquet", ".xlsx")):
        raise ValueError(
            f"spec {quoted(spec)} is a table; read it with pandas and pass the DataFrame, or write it as "
            "JSON Lines, one item a line"
        )
    if not path.endswith(".jsonl"):
        own = sorted({entry.name for entry in installed})
        builtin = ", ".join(f"'builtin:{name}'" for name in BUILTIN)
        known = ", ".join(f"'{scheme}:NAME'" for scheme in ["hub", *own])
        raise ValueError(
            f"spec {quoted(spec)} is not known; expected {builtin}, a .jsonl file, 'corpus:FILE', 'train:', "
            f"{known} or 'lm-eval:TASK'; a source of your own is an entry point of the group {GROUP}{_meant(path, own)}"
        )
    _require_known(spec, options, ())
    return Probe(
        Path(path).stem, read_items(Path(path)), chat=ours.get("chat", False)
    )  # variants may differ from the prompt in it alone


def _meant(path: str, own: Sequence[str]) -> str:
    """What a spec that names no source probably meant: a source, a name without its source, a file beside."""
    ours = {**{name: f"builtin:{name}" for name in BUILTIN}, **{name: f"hub:{name}" for name in (ALL, *BENCHMARKS)}}
    ours |= {spec: spec for spec in ours.values()}
    meant = closest(path, ours)
    scheme, colon, name = path.partition(":")
    if (
        meant is None
        and colon
        and (source := closest(scheme, ["builtin", "corpus", "hub", "lm-eval", *own])) not in (None, scheme)
    ):
        return f"; did you mean {quoted(f'{source}:{name}')}?"
    if meant is not None:
        return f"; did you mean {quoted(ours[meant])}?"
    if os.path.isfile(path):  # a text that is no path at all is no file either
        return "; a file of items is JSON Lines, one item a line, and its name ends in .jsonl"
    if os.path.isfile(f"{path}.jsonl"):
        return f"; did you mean {quoted(f'{path}.jsonl')}?"
    return did_you_mean(path, [str(one) for one in beside(Path(path)) if one.suffix == ".jsonl"])


def _require_known(spec: str, options: Iterable[str], own: Sequence[str]) -> None:
    """Names the first option that is neither the source's own nor one of every spec, and what may be meant."""
    known = [*own, *_OURS]
    for name in options:
        if name not in known:
            raise ValueError(
                f"spec {quoted(spec)}: unknown option {quoted(name)}{did_you_mean(name, known) or ';'} known are "
                f"{', '.join(known)}"
            )


def _installed(spec: str, entry: metadata.EntryPoint, name: str, options: Mapping[str, str]) -> Probe:
    """The probe of a source that an installed package declares: a function of the name and the options."""
    try:
        with exits_as_errors():
            source = entry.load()
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"spec {quoted(spec)}: the entry point {entry.name!r} ({entry.value}) cannot be imported: "
            f"{type(error).__name__}: {error}; install again the package that declares it"
        ) from error
    try:
        with exits_as_errors():
            made = source(name, dict(options))
        return replace(of_table(made), name=name) if is_table(made) else _one(made)
    except (ImportError, OSError):
        raise
    except Exception as error:  # other people's code
        raise ValueError(
            f"spec {quoted(spec)}: the source {entry.name!r} ({entry.value}) failed: {type(error).__name__}: {error}"
        ) from error


def _one(given: Any) -> Probe:
    if isinstance(given, Probe):
        return given
    if isinstance(given, (str, os.PathLike)):
        return load_probe(given)
    if isinstance(given, (Mapping, *get_args(Item))):
        raise ValueError(f"probes: got one item; wrap it in a list: [{str(given)[:80]}]")
    if not is_table(given):
        raise ValueError(
            "probes must be a Probe, a spec such as 'builtin:facts', a path, a list of dicts, a datasets.Dataset, a "
            f"DataFrame, or several of these, got {type(given).__name__} {str(given)[:80]}"
        )
    return with_variants(of_table(given))


# What may stand in any spec: settings of `Probe`, and what is done with its items.
_OURS: dict[str, type] = {
    **dict.fromkeys(("name", "system", "normalization", "variants"), str),
    **dict.fromkeys(("chat", "generation_prompt", "thinking", "cot", "run_code"), bool),
    **dict.fromkeys(("temperature", "top_p"), float),
    **dict.fromkeys(("seed", "limit", "max_new_tokens", "samples"), int),
}


def _value(spec: str, key: str, value: str, kind: type) -> Any:
    """What the text of an option stands for."""
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise ValueError(f"spec {quoted(spec)}: {key} must be true or false, got {quoted(value)}")
        return value.lower() == "true"
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"spec {quoted(spec)}: {key} must be a number, got {quoted(value)}") from None
