"""What becomes of a generated text: the one `judge`, by the item's `match`, its benchmark or a registered matcher.

Knows nothing of models. A user's function that judges all texts of a probe at once is `scoring/judge.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from forget_callback.probes.answers import Judgement, after_thinking, by_text
from forget_callback.probes.apart import APART, Patience, Text, Verdicts, judge_apart
from forget_callback.probes.exits import exits_as_errors
from forget_callback.probes.items import Generation, is_own_match
from forget_callback.probes.judges.code_limits import CPU_SECONDS
from forget_callback.probes.probe import Probe

NOT_RUN = "its code is not run; Probe(..., run_code=True), or ?run_code=true in the spec, allows it"

_TOO_SLOW = "its code is not run: that of answers before it ran into its limits, which took too long in all"

_MATCHERS: dict[str, Callable[[str, Generation], bool | None]] = {}


def register_matcher(name: str, function: Callable[[str, Generation], bool | None]) -> None:
    """Adds a matcher: items with ``"match": name`` are right where `function` says so.

    Args:
        name: With a dot, such as "mylab.close"; registered again it is replaced.
        function: From the generated text, without blocks of thinking, and the item to True, False, or None where the
            text holds no answer ("unparsed"). What it needs beside `item.answer` can stand in `item.doc`.

    Raises:
        ValueError: If the name has no dot, or `function` cannot be called.
    """
    if not is_own_match(name):
        raise ValueError(f"name must be words joined by dots, such as 'mylab.close', got {name!r}")
    if not callable(function):
        raise ValueError(f"function must map a text and an item to True, False or None, got {function!r}")
    _MATCHERS[name] = function


def require_matchers(probe: Probe) -> None:
    """That this process can judge every item of a probe.

    Raises:
        ValueError: Naming an item whose matcher is not registered here.
    """
    for item in probe.items:
        if isinstance(item, Generation) and is_own_match(item.match) and item.match not in _MATCHERS:
            raise ValueError(
                f"probe {probe.name!r}, item {item.id!r}, field 'match': {item.match!r} is not registered in this "
                f"process; call register_matcher({item.match!r}, ...), or import what calls it, before scoring"
            )


def not_run(probe: Probe) -> dict[int, str]:
    """Why items whose answers are code cannot be judged, by index: nothing runs unless it is allowed."""
    if probe.run_code or probe.scorer:
        return {}
    return {i: NOT_RUN for i, item in enumerate(probe.items) if isinstance(item, Generation) and item.match == "code"}


def judge(item: Generation, text: str, *, finished: bool, run_code: bool = False) -> Judgement:
    """The outcome of a generated text, by the item's own `match` or by the benchmark that it names.

    Args:
        finished: False if generation stopped at the token limit.
        run_code: Whether the text may be run, where the item's `match` is "code".

    Returns:
        "unparsed" as well if judging takes longer than a deadline, see `judge_all`.

    Raises:
        ValueError: If the item names a benchmark or a matcher that is not known here, its rule fails, or it would have
            to run code and may not.
        ImportError: If a package that its rule needs is not installed.
    """
    found = judge_all([(item, text, finished)], run_code=run_code)
    if found.unjudged:
        raise ValueError(found.unjudged[0])
    judgement = found.judgements[0]
    assert judgement is not None
    return judgement


def judge_all(texts: Sequence[Text], patience: Patience | None = None, *, run_code: bool = False) -> Verdicts:
    """The outcomes of several generated texts. It always comes back, whatever a model wrote.

    What can run away, a parser of mathematics, a regular expression that backtracks and the rules of lm-eval's tasks,
    is judged in a process of its own, with a deadline in processor time: how busy the machine is does not decide. A
    registered matcher is the user's own code, and runs here and without a deadline. Code runs in processes of its own.

    Args:
        texts: Item, text, and whether it ended before the token limit, each.
        patience: What texts that run away may still cost; of this call alone by default.
        run_code: Whether texts may be run whose items' `match` is "code"; they are not judged else.

    Raises:
        ImportError: If a package that a rule needs is not installed.
        ValueError: If an item names a benchmark that is not known here, or is not what it was.
    """
    found = Verdicts([None] * len(texts))
    patience = patience or Patience()
    apart, code = [], []

    def judge_here(i: int) -> None:
        item, text, finished = texts[i]
        try:
            found.judgements[i] = (_by_matcher if is_own_match(item.match) else by_text)(item, text, finished=finished)
        except ValueError as error:
            found.unjudged[i] = str(error)
            found.failed.add(i)

    for i, (item, _, _) in enumerate(texts):
        if item.match in APART:
            apart.append(i)
        elif item.match != "code":
            judge_here(i)
        elif run_code:
            code.append(i)
        else:
            found.unjudged[i] = NOT_RUN
    if code:  # each in processes of its own, for which its thread waits
        threads = min(len(code), os.cpu_count() or 1, 8)

        def run(i: int) -> None:
            if patience.code_seconds <= 0:
                found.unjudged[i] = _TOO_SLOW
                return
            began = time.monotonic()
            judge_here(i)
            seconds, judgement = time.monotonic() - began, found.judgements[i]
            # By the clock alone, a busy machine or an answer that sleeps and ends would count as one without end.
            if seconds >= CPU_SECONDS and judgement is not None and judgement.ran_out:
                patience.code_seconds -= seconds / threads

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, code))
    if apart:
        own = judge_apart([texts[i] for i in apart], patience)
        for j, i in enumerate(apart):
            found.judgements[i] = own.judgements[j]
        found.overdue |= {apart[j]: seconds for j, seconds in own.overdue.items()}
        found.unjudged |= {apart[j]: why for j, why in own.unjudged.items()}
        found.failed |= {apart[j] for j in own.failed}
    return found


def _by_matcher(item: Generation, text: str, *, finished: bool) -> Judgement:
    answer = after_thinking(text).strip()
    try:
        with exits_as_errors():
            right = _MATCHERS[item.match](answer, item)
    except Exception as error:  # other people's code
        problem = f"{type(error).__name__}: {error}" if item.match in _MATCHERS else "not registered in this process"
        raise ValueError(
            f"item {item.id!r}: matcher {item.match!r} could not judge {answer[:80]!r}: {problem}"
        ) from error
    if right is not None and not isinstance(right, (bool, np.bool_)):
        raise ValueError(f"item {item.id!r}: matcher {item.match!r} must return True, False or None, got {right!r}")
    return Judgement.of(bool(right), None if right is None else answer, finished=finished)
