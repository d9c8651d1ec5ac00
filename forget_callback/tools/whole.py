"""Whether a checkpoint's directory is whole: what a training still writes, or writes for itself alone, is not loaded.

Looks at names, sizes and headers, and loads nothing. Trainers write the model first and what belongs to it after; a
file that its writer writes last says that all is there (`trainer_state.json` of the Trainer, `STABLE` of prime-rl).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from forget_callback.probes.quoting import quoted

Kind: TypeAlias = Literal["whole", "unfinished", "foreign"]
# Name, size and time of each file of a directory, and the names of the folders in it.
Listing: TypeAlias = Mapping[str, tuple[int, int]]

TRAINER_STATE = "trainer_state.json"
_WRITTEN_LAST = (TRAINER_STATE, "STABLE")
_OF_TRAINER = "training_args.bin"  # written with the model: then trainer_state.json follows
_TEMPORARY = re.compile(r"^\.|(?:^|[._-])(?:te?mp|temporary|partial|incomplete|staging)(?:[._-]|\d*$)", re.IGNORECASE)
_MODELS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_NUMBERED = re.compile(r".*-\d+-of-\d+\.(?:safetensors|bin)")
# What a training keeps for itself: shards of weights and optimizer that only its own framework reads.
_SHARDS = (
    (re.compile(r"pytorch_model_fsdp_\d+|optimizer_\d+"), "shards of FSDP"),
    (re.compile(r"\.metadata|.*\.distcp|model_and_optim"), "a distributed checkpoint of torch (DCP)"),
    (re.compile(r"global_step\d+|zero_to_fp32\.py|zero_pp_rank_.*"), "shards of DeepSpeed"),
    (re.compile(r"mp_rank_\d+.*|iter_\d+"), "shards of Megatron"),
)
_SAMPLES, _BLOCK = 64, 4096


@dataclass(frozen=True)
class Judged:
    """What a directory is.

    Attributes:
        kind: "whole", "unfinished", or "foreign": no Hugging Face checkpoint.
        why: What is lacking where it is not whole.
        marked: Whether its writer says that it is finished, by a file that comes last.
        weights: Names of the files with the weights.
    """

    kind: Kind
    why: str = ""
    marked: bool = False
    weights: tuple[str, ...] = ()


def is_temporary(path: str) -> bool:
    """Whether any part of a relative path is a name under which something is written before it is renamed.

    >>> [is_temporary(name) for name in ("tmp-checkpoint-4", "step4-tmp", ".step4", "checkpoint-4", "template-4")]
    [True, True, True, False, False]
    """
    return any(_TEMPORARY.search(part) for part in Path(path).parts)


def listing_of(path: Path) -> dict[str, tuple[int, int]]:
    """The files of a directory, each with its size and time in nanoseconds; of folders both are 0.

    Raises:
        OSError: If the directory is gone, or going.
    """
    found = {}
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir():
                found[entry.name] = (0, 0)
            elif not entry.name.startswith(".") or entry.name == ".metadata":  # rsync writes under such names
                stat = entry.stat()
                found[entry.name] = (stat.st_size, stat.st_mtime_ns)
    return found


def judge(path: Path, listing: Listing) -> Judged:
    """What a directory is, as far as its files say.

    Raises:
        OSError: If a file in it cannot be read, as when it is being removed.
    """
    adapter = "adapter_config.json" in listing
    config = _config_problem(path, listing, adapter=adapter)
    try:
        weights = _weights(path, listing, adapter=adapter)
    except _Unfinished as error:
        return Judged("unfinished", str(error))
    if config or not weights:
        shards = next((what for name in listing for of, what in _SHARDS if of.fullmatch(name)), None)
        if shards is not None:
            return Judged("foreign", f"it holds {shards} and no Hugging Face checkpoint; convert or gather it")
        return Judged("unfinished", config or "it has no weights that transformers loads, such as model.safetensors")
    for name in weights:
        if problem := _cut(path / name, listing):
            return Judged("unfinished", problem)
    if _OF_TRAINER in listing and TRAINER_STATE not in listing:
        return Judged("unfinished", f"the Trainer has not written {TRAINER_STATE}, which comes last")
    if TRAINER_STATE in listing and _json(path / TRAINER_STATE) is None:
        return Judged("unfinished", f"its {TRAINER_STATE} is cut")
    newest = max(listing[name][1] for name in weights)
    # careful: where a training writes over a checkpoint of an earlier one, the file of that one is still there.
    marked = any(name in listing and listing[name][1] >= newest for name in _WRITTEN_LAST)
    return Judged("whole", marked=marked, weights=tuple(weights))


def digest_of(path: Path, judged: Judged) -> str:
    """Tells a checkpoint from one that another training wrote in its place: a sample of its weights, and its state.

    Raises:
        OSError: If it is gone.
    """
    sha = hashlib.sha256()
    for name in judged.weights:
        with (path / name).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            sha.update(f"{name} {size}".encode())
            for i in range(_SAMPLES):
                file.seek(size * i // _SAMPLES)
                sha.update(file.read(_BLOCK))
    state = path / TRAINER_STATE
    if state.is_file():
        sha.update(state.read_bytes())
    return sha.hexdigest()[:32]


class _Unfinished(Exception):
    """Why the weights of a directory are not all there."""


def _config_problem(path: Path, listing: Listing, *, adapter: bool) -> str:
    name = "adapter_config.json" if adapter else "config.json"
    if name not in listing:
        return "it has no config.json"
    config = _json(path / name)
    if config is None:
        return f"its {name} is cut"
    key = "peft_type" if adapter else "model_type"
    # Other frameworks keep a config.json of their own beside their shards, as OLMo-core does.
    return "" if isinstance(config, dict) and key in config else f"its {name} has no {key}"


def _json(file: Path) -> Any:
    """What is in a file, None if that is cut."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _weights(path: Path, listing: Listing, *, adapter: bool) -> list[str]:
    """Names of the files with the weights, none where there are none.

    Raises:
        _Unfinished: If some are missing.
    """
    found = next((name for name in (_ADAPTERS if adapter else _MODELS) if name in listing), None)
    if found is None:
        if any(_NUMBERED.fullmatch(name) for name in listing):
            raise _Unfinished("it has shards and no model.safetensors.index.json, which names them")
        return []
    if not found.endswith(".index.json"):
        return [found]
    try:
        names = sorted(set(_json(path / found)["weight_map"].values()))
    except (LookupError, TypeError, AttributeError):
        raise _Unfinished(f"its {found} is cut") from None
    missing = [name for name in names if name not in listing]
    if missing:
        raise _Unfinished(f"{len(missing)} of {len(names)} shards are missing, such as {quoted(missing[0])}")
    return names


def _cut(path: Path, listing: Listing) -> str:
    """What of a file with weights is missing, "" if it is all there."""
    if path.suffix != ".safetensors":  # of torch: a zip, whose directory stands at its end
        return "" if zipfile.is_zipfile(path) else f"its {path.name} is cut"
    size = listing[path.name][0]
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= size - 8:
            return f"its {path.name} is cut: it ends in its header"
        try:
            header = json.loads(file.read(length))
            end = max((one["data_offsets"][1] for key, one in header.items() if key != "__metadata__"), default=0)
        except (ValueError, LookupError, TypeError, AttributeError):
            return f"its {path.name} is damaged: its header is no safetensors'"
    expected = 8 + length + end
    return "" if size >= expected else f"its {path.name} is cut: {size:,} of {expected:,} bytes are there"
