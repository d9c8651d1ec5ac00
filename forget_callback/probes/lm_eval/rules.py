"""Right and wrong by lm-eval: a task's filter on the text, then its metric.

An item keeps the name of its task, metric and filter, and the document that the metric reads: any process that has
lm-eval can judge it, without the data set.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any
from urllib.parse import parse_qsl, urlencode

import numpy as np

from forget_callback.probes.answers import Judgement, after_thinking
from forget_callback.probes.generators import generators_kept
from forget_callback.probes.items import Generation
from forget_callback.probes.lm_eval.tasks import load_around, load_tasks, short

_PREFIX = "lm-eval:"
_OPTIONS = {"metric", "filter", "rule", "task", "targets"}
# What lm-eval's regex filters leave where they find nothing.
_NOTHING = "[invalid]"
# Tasks by what items name them.
_KNOWN: dict[str, Any] = {}
# What of a task decides right and wrong.
_RULE = ("output_type", "doc_to_target", "doc_to_choice", "process_results", "metric_list", "filter_list")


def reference(name: str, leaf: str, task: Any, metric: str, chosen: str) -> str:
    """What an item keeps as its `task`, by which `by_task` finds it again, and a digest of the rule."""
    options = {"metric": metric_of(task, metric), "filter": filter_of(task, chosen).name, "rule": _digest(task)}
    if leaf != name:
        options["task"] = leaf
    if several := getattr(task, "multiple_target", 0):  # a class of its own need not have it
        options["targets"] = str(several)
    key = f"{_PREFIX}{name}?{urlencode(options)}"
    _KNOWN[key] = task
    return key


def by_task(item: Generation, text: str, *, finished: bool) -> Judgement:
    """The outcome of a generated text by the task that the item names.

    Blocks of thinking are no part of it. Where the filter finds no answer the text is "unparsed".

    Args:
        item: With a task such as "lm-eval:gsm8k", "lm-eval:gsm8k?metric=exact_match&filter=strict-match" or
            "lm-eval:GROUP?task=TASK"; the task's first metric and filter unless they are named.
        finished: False if generation stopped at the token limit.

    Raises:
        ValueError: If the task is not known, or its metric gives this text anything but right or wrong.
    """
    name, _, query = item.task.removeprefix(_PREFIX).partition("?")
    options = dict(parse_qsl(query))
    if not item.task.startswith(_PREFIX) or not name or not set(options) <= _OPTIONS:
        raise ValueError(
            f"item {item.id!r}, field 'task': expected lm-eval:TASK?metric=...&filter=..., got {item.task!r}"
        )
    with generators_kept():
        if item.task not in _KNOWN:
            _KNOWN[item.task] = _found(item, name, options)
        found, right = _judged(
            _KNOWN[item.task], item, after_thinking(text), options.get("metric", ""), options.get("filter", "")
        )
    if isinstance(found, Iterable) and not isinstance(found, str):
        found = " ".join(map(str, found))
    prediction = None if str(found).strip() in ("", _NOTHING) else str(found)
    return Judgement.of(right, prediction, finished=finished)


def metric_of(task: Any, metric: str) -> str:
    """The metric to decide: the one given, or the task's first.

    Raises:
        ValueError: If the task does not have it, or less of it is better.
    """
    known = list(task.aggregation())
    metric = metric or known[0]
    if metric not in known:
        raise ValueError(f"it has no metric {metric!r}, but {', '.join(known)}")
    if not task.higher_is_better().get(metric, True):
        raise ValueError(f"less {metric!r} is better, which is no right or wrong")
    return metric


def filter_of(task: Any, chosen: str) -> Any:
    """The filter ensemble to apply: the one given, or the task's first.

    Raises:
        ValueError: If the task does not have it.
    """
    known = {ensemble.name: ensemble for ensemble in task._filters}
    if chosen and chosen not in known:
        raise ValueError(f"it has no filter {chosen!r}, but {', '.join(known)}")
    return known[chosen or next(iter(known))]


def _found(item: Generation, name: str, options: Mapping[str, str]) -> Any:
    """The task of an item that this process has not loaded."""
    leaf = options.get("task", name)
    # A group may change its tasks: then only the whole group knows the rule.
    tasks = {leaf: load_around(name, item.doc)} if leaf == name else load_tasks(name)
    if leaf not in tasks or options.get("rule") not in (None, _digest(tasks[leaf])):
        raise ValueError(
            f"item {item.id!r}: lm-eval's {item.task!r} is not what it was when the probe was made; load the probe "
            "again by its spec, or install the lm-eval of that time"
        )
    if "rule" in options:  # lm-eval reads it off the first document, which this one need not be
        tasks[leaf].multiple_target = int(options.get("targets", 0))
    return tasks[leaf]


def _digest(task: Any) -> str:
    rule = [task.get_config(key) for key in _RULE]
    return hashlib.sha256(json.dumps(rule, default=_source).encode()).hexdigest()[:12]


def _source(thing: Any) -> str:
    """The text of a function, for JSON."""
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        return str(getattr(thing, "__qualname__", type(thing).__qualname__))


def _of_template(value: tuple[Any, ...]) -> bool:
    """Right or wrong in what SCORE tasks keep of an answer until all are in: (prompt, right) or (..., answer, gold)."""
    return bool(value[1]) if len(value) == 2 else bool(value[2] == value[3])


def _judged(task: Any, item: Generation, text: str, metric: str, chosen: str) -> tuple[Any, bool]:
    """What the filter leaves of a text, and whether the metric calls that right."""
    from lm_eval.api.instance import Instance

    doc = copy.deepcopy(dict(item.doc))  # a rule may change what it is given
    try:
        metric, ensemble = metric_of(task, metric), filter_of(task, chosen)
        request = Instance(request_type="generate_until", doc=doc, arguments=(item.prompt, {}), idx=0, resps=[text])
        ensemble.apply([request])
        answer = request.filtered_resps[ensemble.name]
        value = task.process_results(doc, [answer])[metric]
        if "prompt_id" in doc and isinstance(value, tuple):
            value = _of_template(value)
    except Exception as error:  # tasks are other people's code
        raise ValueError(
            f"item {item.id!r}: lm-eval's {item.task!r} could not judge {text[:80]!r}: {short(error)}"
        ) from error
    if not isinstance(value, (Real, np.bool_)) or float(value) not in (0.0, 1.0):
        raise ValueError(
            f"item {item.id!r}: metric {metric!r} of {item.task!r} gives {value!r}, neither right (1) nor wrong (0); "
            f"choose another with metric=..., of {', '.join(task.aggregation())}"
        )
    return answer, bool(value)
