"""Why a model or data set that a name stands for cannot be had: no such directory, no network, nothing of that name.

Each layer below says it in its own way, after a minute of retries. Knows nothing of what is in a model or data set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from forget_callback.probes.quoting import printable, quoted
from forget_callback.probes.suggest import beside, did_you_mean

_SECONDS = 10.0  # to hear from the hub
# Classes of huggingface_hub, datasets, requests and whatever its httpx is called, by name: none need be loaded.
_NOT_THERE = {"RepositoryNotFoundError", "DatasetNotFoundError", "RevisionNotFoundError"}
_NO_NETWORK = {"ConnectError", "ConnectTimeout", "ReadTimeout", "ConnectionError", "ProxyError", "gaierror", "Timeout"}
_SUFFIXES = {".jsonl", ".json", ".csv", ".parquet", ".txt", ".gz"}  # of files with data: no hub id ends so
_ADAPTER = "adapter_config.json"
_LOG_IN = "log in with 'hf auth login'"


def hub_problem(name: str, error: BaseException) -> str | None:
    """What kept a model or data set of the hub away, None where the error is about something else.

    Args:
        name: Its id.
        error: Of whichever layer.
    """
    classes = {cls.__name__ for one in _chain(error) for cls in type(one).__mro__}
    text = " ".join(map(str, _chain(error)))
    if "GatedRepoError" in classes:
        return f"{quoted(name)} is gated on the hub; accept its terms there and {_LOG_IN}"
    if _NOT_THERE & classes:
        return f"the hub has no {quoted(name)} that you may read; check the spelling, or {_LOG_IN} if it is private"
    if "OfflineMode" in f"{classes} {text}":
        return f"cannot reach the hub for {quoted(name)}: it is switched off, unset HF_HUB_OFFLINE"
    if _NO_NETWORK & classes or "Couldn't reach" in text or "couldn't connect to" in text:
        reason = next((str(one).splitlines()[0] for one in _chain(error) if str(one).strip()), type(error).__name__)
        return f"cannot reach the hub for {quoted(name)}: {printable(reason)[:160].rstrip('.')}"
    return None


def model_problem(name: str) -> str | None:
    """Why there is no model under a name, found out at once; None where there may be one.

    Args:
        name: A directory or hub id.
    """
    if not name.strip():
        return "expected a directory or a hub id, such as org/name"
    path = Path(name)
    if path.is_dir():
        return _directory_problem(path)
    if path.is_file():
        return "that is a file; give the directory that holds it, with config.json"
    near = [one for one in beside(path) if one.is_dir()]
    if looks_like_path(name):
        return f"no such directory{did_you_mean(path, near)}"
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            HfApi().model_info(name, timeout=_SECONDS)
        return None
    except Exception as error:  # of any layer; what is no problem of the hub is met again when the model is loaded
        if type(error).__name__ == "HFValidationError":
            return f"neither a directory here nor a hub id, such as org/name{did_you_mean(name, near)}"
        problem = hub_problem(name, error)
        here = did_you_mean(name, near) or "; and there is no such directory here"
        return None if problem is None else problem + here


def require_model(name: str) -> None:
    """That there may be a model under a name, before anything is loaded.

    Raises:
        ValueError: If there is none.
    """
    path = Path(name)
    problem = model_problem(name)
    if problem is None and not (path / "config.json").is_file():
        problem = _base_problem(path)
    if problem is not None:
        raise ValueError(f"no model at {quoted(name, 200)}: {problem}")


def file_problem(name: str) -> str | None:
    """Why a name stands for no data, found out at once: it is that of a file or path that is not there.

    Args:
        name: A file, directory or hub id.
    """
    path = Path(name)
    if path.exists() or not (path.suffix.casefold() in _SUFFIXES or looks_like_path(name)):
        return None
    return f"no such file or directory{did_you_mean(path, beside(path))}"


def looks_like_path(name: str) -> bool:
    """Whether a name is none of the hub's, org/name or name, but a path."""
    separators = name.count("/") + name.count(os.sep) * (os.sep != "/")
    return name.startswith((".", "/", "~")) or separators > 1 or name.endswith(("/", os.sep))


def _directory_problem(path: Path) -> str | None:
    """What a directory lacks to be a model's or a tokenizer's; an adapter needs its base model as well."""
    if (path / "config.json").is_file() or any(path.glob("tokenizer*")):
        return None
    if (path / _ADAPTER).is_file():
        return _base_problem(path)
    inside = sorted(str(one.parent) for one in path.glob("*/config.json"))
    return "it has no config.json" + (f"; did you mean {quoted(inside[-1], 200)}?" if inside else "")


def _base_problem(path: Path) -> str | None:
    """Why the base model of an adapter cannot be had; None of a directory that holds no adapter."""
    seen: set[Path] = set()
    base = str(path)
    while (Path(base) / _ADAPTER).is_file() and not (seen and (Path(base) / "config.json").is_file()):
        if Path(base).resolve() in seen:
            return f"its {_ADAPTER} leads back to {quoted(base)} as the base model; name a model there"
        seen.add(Path(base).resolve())
        try:
            config = json.loads((Path(base) / _ADAPTER).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # no UTF-8 and no JSON are ValueErrors
            config = None
        if not isinstance(config, dict):
            return f"{quoted(str(Path(base) / _ADAPTER), 200)} is no JSON object; save the adapter again"
        named = config.get("base_model_name_or_path")
        if not isinstance(named, str) or not named:
            return None
        base = named
    problem = model_problem(base) if seen else None
    if problem is None:
        return None
    return (
        f"the base model of this adapter, {quoted(base)}: {problem}; if it is a directory, go to where training was "
        f"started, or correct its {_ADAPTER}"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that led to it."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__
