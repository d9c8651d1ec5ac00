"""From lm-eval's requests to items that are right and wrong where lm-eval says so. Refuses what is not.

Knows nothing of how tasks are found (`tasks.py`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from forget_callback.probes.clusters import cluster_of, only_shared
from forget_callback.probes.items import Generation, Item, MultipleChoice, Recall, Text
from forget_callback.probes.lm_eval.prompts import by_question, passage_of, templates, unseen
from forget_callback.probes.lm_eval.rules import by_task, metric_of, reference
from forget_callback.probes.quoting import quoted

_LENGTHS: dict[str, Callable[[str], int]] = {"acc": len, "acc_norm": len, "acc_bytes": lambda text: len(text.encode())}
_MAX_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # in lm-eval's order
_MAX_TOKENS_DEFAULT = 256
# What else a task may say of generation without changing greedy answers.
_IDLE = {"num_beams": 1, "repetition_penalty": 1.0, "num_return_sequences": 1}
_OF_SAMPLING = ("top_k", "min_p", "typical_p")

BITS = "bits_per_byte"  # what documents are measured in, under lm-eval's own name

Sampling = tuple[float, float]


def items_of(
    name: str, leaf: str, task: Any, rows: Mapping[int, Sequence[Any]], metric: str, chosen: str, category: str
) -> tuple[list[Item], set[Sampling], list[str]]:
    """The items of a task.

    Args:
        name: What was loaded, the task itself or a group.
        leaf: The task's own name.
        rows: Its requests by document.
        metric, chosen: Names of the metric and the filter, "" for the task's first.

    Returns:
        The items; how they are sampled, (temperature, top_p), nothing if greedily; and why others cannot be items.

    Raises:
        ValueError: Naming the task, if its right and wrong cannot be had item by item.
    """
    try:
        make, sampling = _maker(name, leaf, task, metric, chosen)
    except ValueError as error:
        raise ValueError(f"lm-eval task {quoted(leaf)} cannot be a probe: {error}") from None
    items: list[Item] = []
    problems = []
    for doc_id, (requests, *others) in by_question(rows).items():
        try:
            item = make(f"{leaf}/{doc_id}", requests, category)
            variants = templates([other[0].args[0] for other in others]) or unseen(item, task.config.num_fewshot)
            passage = cluster_of(leaf, passage_of(requests[0].doc))
            items.append(replace(item, variants=variants, cluster=passage))
        except ValueError as error:
            problems.append(str(error))
    items = only_shared(items)
    for item in items[:1]:
        if isinstance(item, Generation):  # what is missing or gives neither right nor wrong shows now, not in training
            for text in ("", f"{item.answer[0]} and more"):
                by_task(item, text, finished=True)
    return items, sampling, problems


Make = Callable[[str, Sequence[Any], str], Item]


def _maker(name: str, leaf: str, task: Any, metric: str, chosen: str) -> tuple[Make, set[Sampling]]:
    """What makes an item of requests, and how the task samples.

    Raises:
        ValueError: Why the task cannot be a probe.
    """
    kind, config = task.OUTPUT_TYPE, task.config
    if config.doc_to_image is not None or config.doc_to_audio is not None:
        raise ValueError("it shows images or plays sound")
    if config.unsafe_code:
        raise ValueError("it runs the code that a model writes")
    if kind == "generate_until":
        return _generation(name, leaf, task, metric, chosen)
    if kind == "loglikelihood_rolling":
        return _documents(task, metric, chosen), set()
    if kind not in ("multiple_choice", "loglikelihood"):
        raise ValueError(f"{quoted(kind)} has no right and wrong")
    if type(task).__module__ != "lm_eval.api.task" or config.process_results is not None:
        raise ValueError("it has rules of its own for right and wrong (process_results or a class)")
    if chosen:
        raise ValueError(f"filter={quoted(chosen)} is for generate_until tasks")
    if any(step["function"] != "take_first" for each in config.filter_list or () for step in each["filter"]):
        raise ValueError("it filters log-probabilities")
    if kind == "loglikelihood":
        if metric_of(task, metric or "acc") != "acc":
            raise ValueError(f"metric {metric!r} has no right and wrong; expected acc")
        return lambda key, requests, category: Recall(key, requests[0].args[0], requests[0].args[1], category), set()
    if metric and metric not in _LENGTHS:
        raise ValueError(f"metric {metric!r} is not known for multiple choice; expected one of {', '.join(_LENGTHS)}")
    if task.multiple_target:
        raise ValueError("a question has several right choices")
    return lambda key, requests, category: _choice(key, requests, category, task, _LENGTHS[metric or "acc"]), set()


def _documents(task: Any, metric: str, chosen: str) -> Make:
    if metric not in ("", BITS) or chosen:
        given = f"metric={quoted(metric)}" if metric else f"filter={quoted(chosen)}"
        raise ValueError(f"{given} does not go with documents, which are scored in bits per byte; leave it out")

    def make(key: str, requests: Sequence[Any], category: str) -> Text:
        text, doc = requests[0].args[0], requests[0].doc
        # What lm-eval divides by may be another form of the document: (log-likelihood, bytes) of each metric.
        found = task.process_results(doc, (0.0,))
        length = next((int(found[name][1]) for name in (BITS, "byte_perplexity") if name in found), 0)
        own = len(text.encode())
        return Text(key, text, category, length=0 if length == own else length)

    return make


def _choice(
    key: str, requests: Sequence[Any], category: str, task: Any, length: Callable[[str], int]
) -> MultipleChoice:
    doc = requests[0].doc
    texts = task.doc_to_choice(doc)
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if isinstance(gold, str):
        gold = texts.index(gold) if gold in texts else -1
    if not isinstance(gold, int):
        raise ValueError(f"item {key!r}: expected one right choice, got {quoted(gold)}")
    pairs = [request.args for request in requests[: len(texts)]]  # acc_mutual_info has each once more, alone
    # Of equal choices lm-eval takes the first: one that repeats the right choice after it changes nothing.
    kept = [i for i in range(len(pairs)) if i <= gold or pairs[i] != pairs[gold]]
    contexts = [pairs[i][0] for i in kept]
    shared = contexts[0]
    if differ := len(set(contexts)) > 1:  # from the first word that does: a conversation has the rest in its answer
        shared = re.sub(r"\S*\Z", "", os.path.commonprefix(contexts))  # noqa: RUF071 - texts, not paths
    return MultipleChoice(
        id=key,
        prompt=shared,
        choices=[pairs[i][1] for i in kept],
        answer=int(gold),
        category=category,
        contexts=[context[len(shared) :] for context in contexts] if differ else (),
        lengths=[length(texts[i]) for i in kept],
    )


def _generation(name: str, leaf: str, task: Any, metric: str, chosen: str) -> tuple[Make, set[Sampling]]:
    if task.config.repeats > 1:
        raise ValueError(f"it judges {task.config.repeats} answers to a question together (repeats)")
    tokens, stop, sampling = _settings(task.config.generation_kwargs or {})
    rule = reference(name, leaf, task, metric, chosen)

    def make(key: str, requests: Sequence[Any], category: str) -> Generation:
        if len(requests) > 1 or len(requests[0].args) != 2:
            raise ValueError(f"item {key!r}: it needs several requests, or more than text")
        doc, target = requests[0].doc, task.doc_to_target(requests[0].doc)
        shown = [str(t) for t in (target if isinstance(target, (list, tuple)) else [target]) if str(t).strip()]
        return Generation(
            id=key,
            prompt=requests[0].args[0],
            answer=shown or ["see doc"],
            match="task",
            category=category,
            max_new_tokens=tokens,
            stop=stop,
            task=rule,
            doc=_json(key, doc),
        )

    return make, sampling


def _settings(given: Mapping[str, Any]) -> tuple[int, list[str], set[Sampling]]:
    """The token limit, the stops and the sampling, as lm-eval's HFLM reads the settings of a task."""
    until = given.get("until") or []
    stop = [text for text in ([until] if isinstance(until, str) else until) if text]
    limits = [given[key] for key in _MAX_TOKENS if given.get(key) is not None]
    temperature, drawn = float(given.get("temperature") or 0.0), given.get("do_sample")
    drawn = temperature > 0 if drawn is None else drawn
    for key, value in given.items():
        known = key in ("until", "do_sample", "temperature", "top_p", *_MAX_TOKENS)
        idle = value is None or _IDLE.get(key) == value or (key in _OF_SAMPLING and not drawn)
        if not known and not idle:
            raise ValueError(f"generation_kwargs {key}={quoted(value)} is not known here")
    if drawn and temperature == 0:
        raise ValueError("it samples without a temperature")
    sampling = {(temperature, float(given.get("top_p") or 1.0))} if drawn else set()
    return int(limits[0]) if limits else _MAX_TOKENS_DEFAULT, stop, sampling


def _json(key: str, doc: Any) -> dict[str, Any]:
    """The document as JSON gives it back, which is all that another process has to judge by."""
    try:
        copy: dict[str, Any] = json.loads(json.dumps(doc))
    except (TypeError, ValueError) as error:
        raise ValueError(f"item {key!r}: its document is not JSON ({error})") from None
    if repr(copy) != repr(doc):
        raise ValueError(f"item {key!r}: its document is not JSON, which keeps of it only {str(copy)[:200]}")
    return copy
