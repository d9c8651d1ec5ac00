"""`lm-eval:TASK`: tasks and groups of lm-eval's as probes, with lm-eval's own prompts, examples and rules.

Multiple choice becomes `MultipleChoice`, `loglikelihood` becomes `Recall`, `generate_until` becomes `Generation` that
lm-eval's filters and metric judge, `loglikelihood_rolling` becomes `Text`. What has no right and wrong of its own for
each item is refused by name.
`tasks.py` gets lm-eval's tasks, `items.py` turns their requests into items, `rules.py` applies their rules.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from forget_callback.probes.generators import generators_kept
from forget_callback.probes.items import Item
from forget_callback.probes.lm_eval.items import items_of
from forget_callback.probes.lm_eval.rules import by_task, load_rule
from forget_callback.probes.lm_eval.tasks import build, load_tasks
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted

__all__ = ["by_task", "load_rule", "load_task"]

logger = logging.getLogger(__name__)

OPTIONS = ("num_fewshot", "fewshot_seed", "metric", "filter", "include_path")


def load_task(name: str, options: Mapping[str, str]) -> Probe:
    """A task; or a group or tag with its tasks as categories.

    Args:
        name: As lm-eval knows it.
        options: `num_fewshot` examples before each question (the task's own number by default) drawn with
            `fewshot_seed` (1234, as lm-eval does); the `metric` that says right and wrong ("acc", "acc_norm" or
            "acc_bytes" of multiple choice, else the task's first) of the answers that the `filter` leaves (the task's
            first); `include_path`, a directory with custom YAML tasks.

    Returns:
        A probe with the ids ``TASK/DOC_ID``. Its normalization is "length" where the metric is acc_norm or acc_bytes;
        a task that samples gives it its temperature and top_p.

    Raises:
        ImportError: If lm-eval, or a package that the task needs, is not installed.
        OSError: If the data set is neither in the cache nor to be downloaded.
        ValueError: If the task is not known, an option is wrong, or its items cannot be scored one by one.
    """
    numbers = _numbers(name, options)
    metric, chosen = options.get("metric", ""), options.get("filter", "")
    items: list[Item] = []
    left_out: list[str] = []
    sampling = set()
    with generators_kept():
        found = load_tasks(name, options.get("include_path", ""))
        several = list(found) != [name]
        for leaf, task in found.items():
            rows = build(leaf, task, numbers.get("num_fewshot"), numbers["fewshot_seed"])
            new, drawn, problems = items_of(name, leaf, task, rows, metric, chosen, leaf if several else "")
            items += new
            sampling |= drawn
            left_out += problems
    if not items:
        raise ValueError(f"lm-eval task {quoted(name)} has no item that can be scored: {left_out[0]}")
    if left_out:
        logger.warning(
            "lm-eval:%s: %d of %d items are left out, though lm-eval counts them: %s",
            name,
            len(left_out),
            len(left_out) + len(items),
            "; ".join(left_out[:3]) + ("; ..." if len(left_out) > 3 else ""),
        )
    if len(sampling) > 1:
        raise ValueError(
            f"lm-eval tasks {quoted(name)} sample in several ways, (temperature, top_p) {sorted(sampling)}, and a "
            "probe in "
            "one; load them one by one"
        )
    temperature, top_p = next(iter(sampling), (0.0, 1.0))
    versions = {str(task.VERSION) for task in found.values()} - {"Yaml", "None"}
    return Probe(
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-"),
        items=items,
        normalization="length" if metric in ("acc_norm", "acc_bytes") else "sum",
        temperature=temperature,
        top_p=top_p,
        revision="+".join(sorted(versions)),
    )


def _numbers(name: str, options: Mapping[str, str]) -> dict[str, int]:
    """`num_fewshot` and `fewshot_seed`."""
    numbers = {"fewshot_seed": 1234}
    for key, value in options.items():
        if key in ("num_fewshot", "fewshot_seed"):
            if not value.isdecimal():
                raise ValueError(
                    f"spec 'lm-eval:{name}': {key} must be a whole number of 0 or more, got {quoted(value)}"
                )
            numbers[key] = int(value)
    return numbers
