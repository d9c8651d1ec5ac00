"""lm-eval's results file: what it says of the log beside it, such as the order of filters and the number of documents.

Its form differs by version, and a part that is missing or of another form says nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forget_callback.probes.quoting import printable
from forget_callback.snapshots.logs.files import parsed, read_text, stem_of
from forget_callback.snapshots.logs.log import task_and_time


@dataclass(frozen=True)
class Results:
    """What the results file beside a log says of it, nothing if there is none.

    Attributes:
        task: The task, as far as the file's own name tells.
        model: Tells the logs of models apart that are in one directory.
        known: Whether there is a results file.
    """

    task: str
    model: str
    known: bool = False
    content: Mapping[str, Any] = field(default_factory=dict)

    def of_task(self, *names: str) -> Any:
        """What stands under the first of these names for the task; None if nothing does."""
        return next((table.get(self.task) for name in names if (table := table_in(self.content.get(name)))), None)

    @property
    def filters(self) -> list[str]:
        """The names of the task's filters, in the order in which they were applied."""
        applied = table_in(self.of_task("configs")).get("filter_list")
        filters = applied if isinstance(applied, list) else []
        names = [str(one["name"]) for one in filters if isinstance(one, dict) and "name" in one]
        scores = (key.partition(",") for key in table_in(self.of_task("results")))
        return names or list(dict.fromkeys(name for metric, _, name in scores if name and "_stderr" not in metric))

    @property
    def group(self) -> str:
        """The outermost group that the task belongs to, "" if there is none or more than one."""
        table = table_in(self.content.get("group_subtasks"))
        groups = {name: children for name, children in table.items() if isinstance(children, list)}
        tops, seen = {self.task}, {self.task}
        while above := {name for name, own in groups.items() if any(top in own for top in tops)} - seen:
            tops = above
            seen |= above
        return tops.pop() if len(tops) == 1 and tops != {self.task} else ""

    @property
    def evaluated(self) -> int | None:
        """How many documents were evaluated; not known before 0.4.3."""
        number = table_in(self.of_task("n-samples", "n_samples")).get("effective")
        return number if isinstance(number, int) else None


def results_of(file: Path) -> Results:
    """What the results file beside a log says.

    It is results_<time>.json, or with ``--output_path base.json`` base_<time>.json; of 0.4.0 to 0.4.2 it has no time.

    Raises:
        ValueError: If it is damaged.
    """
    task, time = task_and_time(file)
    if time:
        beside = sorted(file.parent.glob(f"*_{time}.json"), key=lambda one: (not one.name.startswith("results_"), one))
        if not beside:
            return Results(task, str(file.parent))
        content = parsed(read_text(beside[0]), printable(str(beside[0])))
        name = task_and_time(beside[0])[0]
        model = str(file.parent if name == "results" else file.parent / name)
        return Results(task, model, True, content if isinstance(content, dict) else {})
    for other in sorted(file.parent.glob("*.json")):
        try:
            content = json.loads(read_text(other))
        except (ValueError, RecursionError):
            continue  # whatever it is, nothing says that it belongs to the log
        setup = content.get("config") if isinstance(content, dict) else None
        if isinstance(setup, dict) and isinstance(content.get("configs"), dict):
            model = re.sub("/|=", "__", str(setup.get("model_args")))
            own = stem_of(file).removeprefix(f"{model}_")
            if own in content["configs"]:
                return Results(own, str(file.parent / model), True, content)
    return Results(task, str(file.parent))


def table_in(value: Any) -> dict[str, Any]:
    """A part of the results that should be an object, empty where it is none."""
    return value if isinstance(value, dict) else {}
