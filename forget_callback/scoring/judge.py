"""`scorer=`: a user's function that judges generated texts in place of each item's `match`.

Called as TRL calls a reward function, so that one's own reward function, a judge model or a sandbox works as it is. Its
name and the threshold are part of the probe's fingerprint: what two different scorers judged does not compare.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from forget_callback.probes.answers import Judgement, after_thinking
from forget_callback.probes.exits import exits_as_errors
from forget_callback.probes.items import Generation
from forget_callback.probes.judging import require_matchers
from forget_callback.probes.plurals import counted
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted
from forget_callback.scoring.generation.text import GeneratedText
from forget_callback.scoring.likelihood.rendering import messages_of


@dataclass(frozen=True)
class Judge:
    """A scorer with the value from which on a text is right.

    Attributes:
        function: Called once for all generated texts of a probe, and once more for each further prompt variant (whose
            prompt it gets; several samples of an item are several texts), with the lists `prompts`, `completions` and
            `completion_ids`, and as columns `id`, `answer` (a text, or a list of texts where several are accepted),
            `category` and the keys of the items' `doc` (None where an item lacks one). Prompts and completions are
            texts, or of a chat probe lists of messages. Returns a list with a value for each: right or wrong, or a
            number in [0, 1]; None or NaN leaves the item unscored. It may be async, as TRL's may.
        threshold: A number is right from here on; the number itself is kept as the item's `score`.
        name: What the fingerprint calls it; the function's qualified name by default. Name it if the function's
            behaviour depends on more than its name, such as the model that a judge calls.

    Raises:
        ValueError: If the function cannot be called, or `threshold` does not lie in (0, 1].
    """

    function: Callable[..., Any]
    threshold: float = 0.5
    name: str = ""

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(
                f"scorer must be a function of prompts and completions, or a Judge, got {quoted(self.function)}"
            )
        if not isinstance(self.threshold, (int, float)) or not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], got {quoted(self.threshold)}")
        object.__setattr__(self, "name", self.name or _qualified_name(self.function))

    @classmethod
    def of(cls, scorer: Judge | Callable[..., Any] | None) -> Judge | None:
        """What a user passes as `scorer=`."""
        return scorer if scorer is None or isinstance(scorer, Judge) else cls(scorer)

    def judgements(self, probe: Probe, texts: Sequence[tuple[int, GeneratedText]]) -> list[Judgement | None]:
        """The outcomes of generated texts, None where the function leaves one unscored.

        Args:
            texts: Index of the item and text; of several samples an item has several.

        Raises:
            RuntimeError: If the function fails; names it and the items.
            ValueError: If it returns something else than a right or wrong, or a number in [0, 1], for each text.
        """
        if not texts:
            return []
        items = [probe.items[i] for i, _ in texts]
        owner = f"scorer {self.name!r}, probe {probe.name!r}"
        arguments = _arguments(probe, texts)
        try:
            with exits_as_errors():
                values = self.function(**arguments)
                if inspect.iscoroutine(values):  # in a thread: a notebook has an event loop of its own running here
                    with ThreadPoolExecutor(1) as thread:
                        values = thread.submit(asyncio.run, values).result()
                values = list(values)
        except Exception as error:  # the user's code
            raise RuntimeError(
                f"{owner}, {counted(len(items))} from {quoted(items[0].id)} on: {type(error).__name__}: {error}"
            ) from error
        if len(values) != len(items):
            raise ValueError(f"{owner}: expected a value for each of {len(items)} completions, got {len(values)}")
        found: list[Judgement | None] = []
        for (index, text), value in zip(texts, values):
            number = _number(value, f"{owner}, item {quoted(probe.items[index].id)}")
            answer = after_thinking(text.text).strip() or None
            judged = Judgement.of(number >= self.threshold, answer, finished=text.finish != "length")
            found.append(None if math.isnan(number) else replace(judged, score=number))
        return found


def judged_by(judge: Judge | None, probes: Sequence[Probe]) -> tuple[Probe, ...]:
    """The probes with the scorer in their fingerprints, those that have generated texts to judge.

    Raises:
        ValueError: If there is a scorer and nothing to judge, or none where one or a matcher is needed.
    """
    if judge is None:
        for probe in probes:
            require_matchers(probe)
            if probe.scorer:
                raise ValueError(
                    f"probe {probe.name!r} was judged by {quoted(probe.scorer)}; pass that function as scorer=, or "
                    "the probe "
                    "with scorer=''"
                )
        return tuple(probes)
    written = [any(isinstance(item, Generation) for item in probe.items) for probe in probes]
    if not any(written):
        names = [probe.name for probe in probes]
        raise ValueError(f"scorer= judges generated texts, and probes {names} have no generation items; leave it out")
    label = f"{judge.name} >= {judge.threshold:g}"
    return tuple(replace(probe, scorer=label) if texts else probe for probe, texts in zip(probes, written))


def _arguments(probe: Probe, texts: Sequence[tuple[int, GeneratedText]]) -> dict[str, list[Any]]:
    """What TRL would pass to a reward function: a list for each argument, an entry a text."""
    items = [item for i, _ in texts if isinstance(item := probe.items[i], Generation)]
    written = [text.text for _, text in texts]
    own = {key: [item.doc.get(key) for item in items] for key in dict.fromkeys(k for item in items for k in item.doc)}
    return own | {
        "prompts": [messages_of(item, probe) if probe.chat else item.prompt for item in items],
        "completions": [[{"role": "assistant", "content": text}] for text in written] if probe.chat else written,
        "completion_ids": [list(text.tokens) for _, text in texts],
        "id": [item.id for item in items],
        "answer": [item.answer[0] if len(item.answer) == 1 else list(item.answer) for item in items],
        "category": [item.category for item in items],
    }


def _number(value: Any, owner: str) -> float:
    """A scorer's value, NaN if it is None."""
    try:
        number = math.nan if value is None else float(value)
        if isinstance(value, str) or number < 0 or number > 1:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f"{owner}: expected True, False, a number in [0, 1] or None, got {quoted(value)}") from None
    return number


def _qualified_name(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    named = function if isinstance(getattr(function, "__qualname__", None), str) else type(function)
    return f"{named.__module__}.{named.__qualname__}"
