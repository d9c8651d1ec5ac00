"""Right and wrong by lm-eval: a task's filter on the text, then its metric.

An item keeps the name of its task, metric and filter, and the document that the metric reads: any process that has
lm-eval can judge it, without the data set.
"""

from __future__ import annotations

import contextlib
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
from forget_callback.probes.conversation import asked
from forget_callback.probes.exits import exits_as_errors
from forget_callback.probes.generators import generators_kept
from forget_callback.probes.items import Generation
from forget_callback.probes.lm_eval.tasks import included, load_around, load_tasks, set_included, short
from forget_callback.probes.quoting import quoted

_PREFIX = "lm-eval:"
_OPTIONS = {"metric", "filter", "rule", "task", "targets"}
# What lm-eval's regex filters leave where they find nothing.
_NOTHING = "[invalid]"
# Tasks by what items name them, and the directories that those of the user's own are from.
_KNOWN: dict[str, Any] = {}
_FROM: dict[str, str] = {}
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
    _FROM[key] = included(name)
    return key


def load_rule(item: Generation, include_path: str | None = None) -> str:
    """Makes sure that this process can judge an item's answers.

    Args:
        include_path: The directory with the user's own tasks; by default where the task was loaded from here.

    Returns:
        That directory, "" if there is none: another process needs it to load the same rule.

    Raises:
        ImportError: If lm-eval, or a package that the task needs, is not installed.
        ValueError: If the task is not known, or not what it was.
    """
    name, options = _parts(item)
    if include_path is not None:
        set_included(include_path, name, options.get("task", name))
    if item.task not in _KNOWN:
        with generators_kept():
            _KNOWN[item.task] = _found(item, name, options)
        _FROM[item.task] = included(name)
    return _FROM.get(item.task, "")


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
    load_rule(item)
    _, options = _parts(item)
    with generators_kept():
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
        raise ValueError(f"it has no filter {quoted(chosen)}, but {', '.join(known)}")
    return known[chosen or next(iter(known))]


def _parts(item: Generation) -> tuple[str, dict[str, str]]:
    """The name and the options of an item's task."""
    name, _, query = item.task.removeprefix(_PREFIX).partition("?")
    options = dict(parse_qsl(query))
    if not item.task.startswith(_PREFIX) or not name or not set(options) <= _OPTIONS:
        raise ValueError(
            f"item {quoted(item.id)}, field 'task': expected lm-eval:TASK?metric=...&filter=..., got "
            f"{quoted(item.task)}"
        )
    return name, options


def _found(item: Generation, name: str, options: Mapping[str, str]) -> Any:
    """The task of an item that this process has not loaded."""
    leaf, rule = options.get("task", name), options.get("rule")
    task = load_around(name, item.doc) if leaf == name else _member(name, leaf, rule, item.doc)
    if task is None or rule not in (None, _digest(task)):
        raise ValueError(
            f"item {quoted(item.id)}: lm-eval's {quoted(item.task)} is not what it was when the probe was made; load "
            "the probe "
            "again by its spec, or install the lm-eval of that time"
        )
    if rule is not None:  # lm-eval reads it off the first document, which this one need not be
        task.multiple_target = int(options.get("targets", 0))
    return task


def _member(group: str, leaf: str, rule: str | None, doc: Mapping[str, Any]) -> Any:
    """A task of a group, None if it is none of it."""
    if rule is not None:
        with contextlib.suppress(OSError, ValueError):
            task = load_around(leaf, doc)
            if _digest(task) == rule:
                return task
    # A group may change its tasks: then only the whole group, with all its data sets, knows the rule.
    return load_tasks(group).get(leaf)


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
        request = Instance(request_type="generate_until", doc=doc, arguments=(asked(item), {}), idx=0, resps=[text])
        with exits_as_errors():
            ensemble.apply([request])
            answer = request.filtered_resps[ensemble.name]
            value = task.process_results(doc, [answer])[metric]
        if "prompt_id" in doc and isinstance(value, tuple):
            value = _of_template(value)
    except (MemoryError, RecursionError):  # says nothing of the task
        raise
    except Exception as error:  # tasks are other people's code
        raise ValueError(
            f"item {quoted(item.id)}: lm-eval's {quoted(item.task)} could not judge {quoted(text[:80])}: {short(error)}"
        ) from error
    if not isinstance(value, (Real, np.bool_)) or float(value) not in (0.0, 1.0):
        raise ValueError(
            f"item {quoted(item.id)}: metric {metric!r} of {quoted(item.task)} gives {quoted(value)}, neither right "
            "(1) nor wrong (0); "
            f"choose another with metric=..., of {', '.join(task.aggregation())}"
        )
    return answer, bool(value)
