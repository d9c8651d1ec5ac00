"""Judging what may take for ever, in a process of its own: every call comes back, and says which texts did not.

A text gets a short deadline in processor time, and once all are through some that failed get a long one: what one text
costs does not change what becomes of another, and a busy machine hardly decides.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from forget_callback.probes import judge_process, lm_eval
from forget_callback.probes.answers import Judgement
from forget_callback.probes.conversation import asked
from forget_callback.probes.items import Generation
from forget_callback.probes.judge_process import JudgeProcess, ProcessLost
from forget_callback.probes.judges.rules import RULES

logger = logging.getLogger(__name__)

# Processor time: hundreds of times what an ordinary answer takes.
SECONDS, LONG_SECONDS = 1.0, 5.0
# Matches that parsers and regular expressions decide, of ours or of lm-eval's tasks.
APART = ("math", "regex", "task", *(match for match, rule in RULES.items() if rule.apart))

# Item, text, and whether it ended before the token limit.
Text: TypeAlias = tuple[Generation, str, bool]

_said: set[str] = set()


@dataclass
class Patience:
    """What texts that run away may still cost: some 2 minutes in all, and one more where they are code.

    Attributes:
        texts: So many may fail the short deadline; what comes after them is not judged.
        retries: So many may fail the long one; what comes after them does not get it.
        losses: So many may end the process in another way than by a deadline.
        code_seconds: By the clock, so long may code run that comes to no end; what comes after it is not run.
    """

    texts: int = 100
    retries: int = 4
    losses: int = 3
    code_seconds: float = 50.0


@dataclass
class Verdicts:
    """What became of texts, by their places.

    Attributes:
        judgements: None where a text could not be judged.
        overdue: The deadlines, in seconds, of those that were over and count as unparsed.
        unjudged: Why others could not be judged.
        failed: Those of them whose own rule failed.
    """

    judgements: list[Judgement | None]
    overdue: dict[int, float] = field(default_factory=dict)
    unjudged: dict[int, str] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)


def judge_apart(texts: Sequence[Text], patience: Patience) -> Verdicts:
    """The outcomes of generated texts whose items' `match` is one of `APART`.

    Raises:
        ImportError: If a package that a rule needs is not installed.
        ValueError: If an item names a benchmark that is not known here, or is not what it was.
    """
    same: dict[tuple[int, str, bool], list[int]] = {}
    for i, (item, text, finished) in enumerate(texts):
        same.setdefault((id(item), text, finished), []).append(i)  # samples of an item are often alike
    with judge_process.reserved():
        batch = _Batch(texts, patience)
        for first, *_ in same.values():
            batch.judge(first, SECONDS)
        for late in list(batch.found.overdue):
            if patience.retries > 0:
                batch.judge(late, LONG_SECONDS)
    found = batch.found
    for first, *others in same.values():
        for i in others:
            found.judgements[i] = found.judgements[first]
            if first in found.overdue:
                found.overdue[i] = found.overdue[first]
            if first in found.unjudged:
                found.unjudged[i] = found.unjudged[first]
            if first in found.failed:
                found.failed.add(i)
    return found


class _Batch:
    """Texts while they are judged."""

    def __init__(self, texts: Sequence[Text], patience: Patience) -> None:
        self.texts, self.patience = texts, patience
        self.found = Verdicts([None] * len(texts))
        self._lost = ""
        self._needs: dict[str, Any] = {}
        for item, _, _ in texts:
            if _rule(item) not in self._needs:
                self._needs[_rule(item)] = _need(item)

    def judge(self, i: int, seconds: float) -> None:
        """Judges one text, with a deadline."""
        try:
            judgement = self._judgement(i, seconds)
        except (ProcessLost, ValueError) as error:
            if i not in self.found.overdue:
                self.found.unjudged[i] = str(error)
                self.found.failed |= {i} if isinstance(error, ValueError) else set()
            return
        if judgement is not None:
            self.found.judgements[i] = judgement
            self.found.overdue.pop(i, None)
            return
        self.found.judgements[i], self.found.overdue[i] = Judgement("unparsed", None), seconds
        if seconds == SECONDS:
            self.patience.texts -= 1
        else:
            self.patience.retries -= 1

    def _judgement(self, i: int, seconds: float) -> Judgement | None:
        """What becomes of a text, None if it takes too long.

        Raises:
            ProcessLost: If it cannot be judged.
            ValueError: If its rule fails.
        """
        item, text, finished = self.texts[i]
        if self.patience.texts <= 0 and i not in self.found.overdue:
            raise ProcessLost("too many answers before it took too long to judge")
        for again in (True, False):
            process = self._process(item)
            if process is None:
                try:
                    return lm_eval.by_task(item, text, finished=finished)
                except (MemoryError, RecursionError):
                    return None
            try:
                reply = process.ask({"item": _plain(item), "text": text, "finished": finished}, seconds)
                break
            except ProcessLost as error:  # perhaps somebody freed memory; a text of itself ends only a copy of it
                if not again:
                    self.patience.losses -= 1
                    raise ProcessLost(f"the process that judges answers failed twice: {error}") from error
        if reply is None:
            return None
        if "problem" in reply:
            raise ValueError(reply["problem"])
        return Judgement(reply["outcome"], reply["prediction"], reply["why"])

    def _process(self, item: Generation) -> JudgeProcess | None:
        """The process with all that is needed; None where it cannot load the rule of an item and this one has it.

        Raises:
            ProcessLost: If there is none.
        """
        if self._lost or self.patience.losses <= 0:
            raise ProcessLost(self._lost or "the process that judges answers failed too often")
        try:
            process = judge_process.current()
            problem = process.load(self._needs)[_rule(item)]
        except ProcessLost as error:
            self._lost = f"the process that judges answers does not start: {error}"
            raise ProcessLost(self._lost) from error
        if not problem:
            return process
        if not item.task:
            raise ImportError(problem)
        if problem not in _said:
            _said.add(problem)
            logger.warning(
                "%s: its answers are judged without a deadline, in this process: another one cannot load the rule (%s)",
                item.task,
                problem,
            )
        return None


def _rule(item: Generation) -> str:
    """The name of what is needed to judge an item."""
    return item.task or item.match


def _need(item: Generation) -> dict[str, Any]:
    """What the process is told to load, an item of its rule."""
    return {"item": _plain(item), "include_path": lm_eval.load_rule(item) if item.task else ""}


def _plain(item: Generation) -> dict[str, Any]:
    """What judging reads of an item, for JSON."""
    own = {"id": item.id, "prompt": "-", "answer": list(item.answer), "match": item.match}
    if item.match in RULES:
        return own | {"doc": dict(item.doc)}
    return own | ({"prompt": asked(item), "task": item.task, "doc": dict(item.doc)} if item.task else {})
