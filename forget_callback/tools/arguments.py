"""The arguments of `ForgetCallback` as text: what forget.yaml, a recipe, a plugin and `FORGET_CALLBACK` may say.

One place for all of them: which keys there are, how a wrong one is refused, and how a callback is made of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from forget_callback.probes.load import load_probe
from forget_callback.probes.quoting import quoted
from forget_callback.probes.specs import absolute, limited
from forget_callback.probes.suggest import did_you_mean

if TYPE_CHECKING:
    from typing_extensions import Self

    from forget_callback.callback import ForgetCallback

ENVIRONMENT = "FORGET_CALLBACK"  # the variable with the arguments, as a JSON object


@dataclass
class CallbackArguments:
    """Arguments of `ForgetCallback`, which explains them, in the types that YAML, JSON and a command line have.

    Attributes:
        probes: Specs for `load_probe`.
        probe_limit: Maximum items per probe, stratified by category.
        every: A number of steps, several separated by commas, "log2", or empty: at each evaluation.
        stop: Rules such as "knowledge_lost>0.05", "PROBE/METRIC>VALUE" or "PROBE/CATEGORY/METRIC>VALUE".
        baseline: "start", "base" or a RUN directory.
        probe_batch_tokens: `batch_tokens` of the callback.
        max_overhead, variants, log, upload, evaluation_metrics, on_error, remote: As in `ForgetCallback`.
        output_dir: Where `forget/` goes; the Trainer's output_dir by default.

    Raises:
        ValueError: If a list is neither a list of texts nor one text.
    """

    probes: list[str] = field(default_factory=lambda: ["builtin:facts"])
    probe_limit: int | None = None
    every: str | None = None
    stop: list[str] = field(default_factory=list)
    baseline: str = "start"
    max_overhead: float | None = None
    variants: str = "all"
    probe_batch_tokens: int | None = None
    log: str = "main"
    upload: str = "metrics"
    evaluation_metrics: list[str] = field(default_factory=list)
    on_error: str = "warn"
    output_dir: str | None = None
    remote: bool = False

    def __post_init__(self) -> None:
        for name in ("probes", "stop", "evaluation_metrics"):
            given: Any = getattr(self, name)
            several = [given] if isinstance(given, str) else given or []
            if not isinstance(several, list) or not all(isinstance(one, str) for one in several):
                raise ValueError(f"{name} must be a text or a list of texts, got {quoted(given)}")
            setattr(self, name, several)
        if not self.probes:
            raise ValueError("probes is empty; give at least one spec, such as builtin:facts")
        if not (self.probe_limit is None or type(self.probe_limit) is int):
            raise ValueError(f"probe_limit must be a whole number of 1 or more, got {quoted(self.probe_limit)}")

    @classmethod
    def of(cls, given: Mapping[str, Any], *, source: str = "arguments of ForgetCallback") -> Self:
        """The arguments that a mapping names, the rest by default.

        Args:
            source: Where the mapping comes from, for an error.

        Raises:
            ValueError: If a key is not known, or a list is none.
        """
        known = [one.name for one in fields(cls) if one.init]
        require_known(given, known, source, f"known are {', '.join(known)}")
        try:
            return cls(**given)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """The arguments in a YAML file, such as forget.yaml.

        Raises:
            ValueError: If the file is missing or no YAML, or as `of` does.
        """
        return cls.of(read_yaml(path, example="every: 100"), source=os.fspath(path))

    @classmethod
    def of_json(cls, text: str, *, source: str = ENVIRONMENT) -> Self:
        """The arguments in a JSON object, such as the variable `FORGET_CALLBACK` holds.

        Raises:
            ValueError: If it is no JSON object, or as `of` does.
        """
        try:
            given = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{source} is no JSON: {error}, got {quoted(text)}") from None
        if not isinstance(given, dict):
            raise ValueError(f'{source} must be a JSON object such as {{"every": 100}}, got {quoted(given)}')
        return cls.of(given, source=source)

    def as_json(self) -> str:
        """The arguments as a JSON object, for `of_json`."""
        return json.dumps(asdict(self))

    def absolute(self) -> Self:
        """The same with absolute paths, for a process with another working directory."""
        run = self.baseline if self.baseline in ("start", "base") else os.path.abspath(self.baseline)
        out = None if self.output_dir is None else os.path.abspath(self.output_dir)
        return replace(self, probes=[absolute(spec) for spec in self.probes], baseline=run, output_dir=out)

    def callback(self, **more: Any) -> ForgetCallback:
        """The callback with these arguments; `more` overrides them. Where another process measures, no probe is loaded.

        Raises:
            ValueError: If an argument is out of range, a probe is not valid or a rule has nothing to read.
        """
        from forget_callback.callback import ForgetCallback  # seconds to import

        own = {one.name: getattr(self, one.name) for one in fields(CallbackArguments)} | more
        specs, limit, batch_tokens = (own.pop(name) for name in ("probes", "probe_limit", "probe_batch_tokens"))
        if own["remote"]:
            return ForgetCallback([limited(spec, limit) for spec in specs], **{"batch_tokens": batch_tokens, **own})
        probes = [load_probe(spec, limit=limit) for spec in specs]
        return ForgetCallback(probes, **{"batch_tokens": batch_tokens, **own})


def read_yaml(path: str | os.PathLike[str], *, example: str) -> dict[str, Any]:
    """What a YAML file says.

    Args:
        example: A line of such a file, for an error.

    Raises:
        ValueError: If it is missing, no YAML, or no mapping.
    """
    if not Path(path).is_file():
        problem = "is a directory" if Path(path).is_dir() else "no such file"
        raise ValueError(f"config {quoted(os.fspath(path))}: {problem}; expected YAML such as {example!r}")
    try:
        text = Path(path).read_text(encoding="utf-8")
        top = yaml.compose(text, yaml.SafeLoader)
        given = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{os.fspath(path)} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, (dict, type(None))):
        raise ValueError(f"{os.fspath(path)}: expected keys with values, such as {example!r}, got {quoted(given)}")
    keys = [key.value for key, _ in top.value] if isinstance(top, yaml.MappingNode) else []
    if twice := [key for key in keys if keys.count(key) > 1]:  # of which YAML would take the last in silence
        raise ValueError(f"{os.fspath(path)}: key {quoted(twice[0])} is there twice; keep one of them")
    return given or {}


def require_known(given: Iterable[object], known: Sequence[str], source: str | os.PathLike[str], rest: str) -> None:
    """Refuses the first key that is not known.

    Args:
        source: Where the keys come from.
        rest: Which there are, said where no known one is alike.

    Raises:
        ValueError: Names the key, and what was probably meant.
    """
    for key in given:
        if key not in known:
            raise ValueError(f"{os.fspath(source)}: unknown key {quoted(key)}{did_you_mean(key, known) or f'; {rest}'}")
