"""lm-eval's own tasks, found by name and built as its `simple_evaluate` builds them, leaving no trace.

`lm_eval` is imported inside functions. Knows nothing of items.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from forget_callback.probes.exits import exits_as_errors
from forget_callback.probes.quoting import quoted
from forget_callback.probes.suggest import did_you_mean

logger = logging.getLogger(__name__)

# Where tasks were last loaded from, by name: what an item does not keep of its task.
_INCLUDED: dict[str, str] = {}


def included(name: str) -> str:
    """The directory of the user's own that a task was last loaded from, "" for lm-eval's own alone."""
    return _INCLUDED.get(name, "")


def set_included(include_path: str, *names: str) -> None:
    """From now on tasks of these names are looked for in a directory as well."""
    _INCLUDED.update(dict.fromkeys(names, include_path))


def load_tasks(name: str, include_path: str | None = None) -> dict[str, Any]:
    """The tasks of a name by their own names, in lm-eval's order: one, or those of a group or tag.

    Args:
        include_path: A directory with YAML tasks, "" for lm-eval's own alone; by default as it was last loaded.

    Raises:
        ImportError, OSError, ValueError: As `load_task` of the package.
    """
    include_path = included(name) if include_path is None else include_path
    if include_path and not Path(include_path).is_dir():
        raise ValueError(
            f"spec 'lm-eval:{name}': include_path must be a directory with YAML tasks, got {quoted(include_path)}"
        )
    with _explained(name):
        manager = _manager(name, include_path)
    if name not in manager.all_tasks:
        raise ValueError(
            f"lm-eval knows no task {quoted(name)}{did_you_mean(name, manager.all_tasks) or ';'} 'lm-eval ls "
            "tasks' lists them, and include_path=DIRECTORY adds YAML tasks of your own"
        )
    with _explained(name):
        tasks = dict(manager.load(name)["tasks"])
    set_included(str(Path(include_path).resolve()) if include_path else "", name)
    return tasks


def load_around(name: str, doc: Mapping[str, Any]) -> Any:
    """A task with one document for its data set, which is then not needed: enough to judge answers.

    Raises:
        ImportError, OSError, ValueError: As `load_task` of the package.
    """
    from datasets import Dataset

    data = Dataset.from_list([dict(doc)])
    # Not {"task": name, ...} alone, which would be a new task; what a group changes in a task is lm-eval's own way.
    changed = {
        "task": name,
        "custom_dataset": lambda **_: defaultdict(lambda: data),  # in every split
        "process_docs": None,
        "fewshot_config": None,
        "num_fewshot": 0,
    }
    with _explained(name):
        manager = _manager(name, included(name))
    if name not in manager.all_subtasks:
        raise ValueError(
            f"lm-eval knows no task {quoted(name)}; if it is a YAML task of your own, load its probe by "
            f"'lm-eval:{name}?include_path=DIRECTORY' first in this process"
        )
    theirs = logging.getLogger("lm_eval.api.task")  # which explains what a `custom_dataset` may do
    level = theirs.level
    theirs.setLevel(logging.ERROR)
    try:
        with _explained(name):
            return next(iter(manager.load({"group": "forget_callback", "task": [changed]})["tasks"].values()))
    finally:
        theirs.setLevel(level)


def build(name: str, task: Any, shots: int | None, seed: int) -> dict[int, list[Any]]:
    """Every request by document: what `simple_evaluate` does between loading a task and querying the model.

    Raises:
        ImportError, OSError, ValueError: As `load_task` of the package.
    """
    own = task.get_config("num_fewshot")
    if shots is not None and own == 0 and shots != own:
        logger.warning("lm-eval:%s: the task sets num_fewshot to 0, which lm-eval does not let anyone change", name)
    elif shots is not None or own is None:
        task.set_config("num_fewshot", shots or 0)
    task.set_fewshot_seed(seed=seed)
    with _explained(name), contextlib.redirect_stderr(io.StringIO()):  # a progress bar for every task
        task.build_all_requests(rank=0, world_size=1)
    rows: defaultdict[int, list[Any]] = defaultdict(list)
    for instance in sorted(task.instances, key=lambda instance: instance.idx):
        rows[instance.doc_id].append(instance)
    return rows


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Errors of every layer below say which task they are about; what is printed goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        _lm_eval()  # where lm-eval itself is missing, its own error says all
    try:
        with contextlib.redirect_stdout(sys.stderr), exits_as_errors():
            yield
    except ImportError as error:
        raise ImportError(
            f"lm-eval task {quoted(name)} needs a package that is missing: {error}; pip install it, or lm-eval's own "
            "extra "
            "for the task, such as 'lm-eval[ifeval]'"
        ) from error
    except OSError as error:
        from datasets import config

        raise OSError(
            f"lm-eval task {quoted(name)} needs a data set that is neither in the cache nor to be downloaded: "
            f"{short(error)}. Load the task once where there is a network; it is then kept in "
            f"{config.HF_DATASETS_CACHE}"
        ) from error
    except Exception as error:  # tasks are other people's code
        raise ValueError(f"lm-eval task {quoted(name)} could not be loaded: {short(error)}") from error


def short(error: Exception) -> str:
    """An error of any layer below on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def _manager(name: str, include_path: str) -> Any:
    """The smallest index that holds a task: that of all of lm-eval's thousands of files takes many seconds."""
    manager, home = _lm_eval()
    parts = name.split("_")
    folders = [home / "_".join(parts[:n]) for n in range(len(parts), 0, -1)]
    for folder in [*([Path(include_path)] if include_path else []), *(f for f in folders if f.is_dir())]:
        own = manager(include_path=str(folder), include_defaults=False)
        if _holds(own, name):
            return own
    return _whole(include_path)


def _holds(manager: Any, name: str) -> bool:
    """Whether an index holds a task, or a group and all that it names; a tag may have tasks in any folder."""
    if name not in manager.all_groups:
        return name in manager.all_subtasks
    return all(_holds(manager, member) for member in _members(manager.task_index[name].cfg))


def _members(group: Mapping[str, Any]) -> Iterator[str]:
    for member in group.get("task") or ():
        if isinstance(member, Mapping) and isinstance(member.get("task"), list):
            yield from _members(member)
        else:
            yield member if isinstance(member, str) else str(member.get("task", member.get("group")))


@cache
def _whole(include_path: str) -> Any:
    return _lm_eval()[0](include_path=include_path or None)


def _lm_eval() -> tuple[Any, Path]:
    """`TaskManager`, and the folder of lm-eval's tasks."""
    try:
        from lm_eval import tasks
    except ImportError as error:
        raise ImportError(f"lm-eval:TASK needs lm-eval ({error}): pip install 'forget-callback[lm-eval]'") from error
    return tasks.TaskManager, Path(tasks.__file__).parent
