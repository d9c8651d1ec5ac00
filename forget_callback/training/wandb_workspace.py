"""The saved W&B workspace of `forget-callback workspace`: which panels show what `wandb_tracker` logs, in which order.

Headlines come first, abilities side by side beside them, then text, categories, items and cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from forget_callback.runs.rows import ALL_METRICS
from forget_callback.training.trackers import TASK, X_AXIS

# How W&B picks what a panel draws: the keys of whole probes, and those of categories.
_OF_PROBE, _OF_CATEGORY = "^forget/[^/]+/{}$", "^forget/[^/]+/.+/{}$"

# The panels of log="main", by section, as (title, metrics): each section opens with its headline.
_OVERVIEW = (
    ("Knowledge lost", ("knowledge_lost", "knowledge_lost_net")),
    ("Knowledge lost, 95% confidence interval", ("knowledge_lost_low", "knowledge_lost_high")),
    ("Knowledge gained", ("knowledge_gained",)),
    ("Spurious forgetting", ("spurious_forgetting",)),
    ("Right to wrong (1→0) and wrong to right (0→1), guesses included", ("forgetting", "backward_transfer")),
    ("Accuracy", ("accuracy_after",)),
    ("Recall lost", ("recall_lost",)),
    ("Mean score", ("score_after",)),
)
# Text has no right and wrong: its metrics have a section of their own.
_OF_TEXT = (
    ("Text: change in bits per byte", ("bits_per_byte_change",)),
    (
        "Text: change in bits per byte, 95% confidence interval",
        ("bits_per_byte_change_low", "bits_per_byte_change_high"),
    ),
    ("Text: bits per byte", ("bits_per_byte_after",)),
    ("Text: KL to the baseline, nats per token", ("kl",)),
    ("Text: same most likely token as the baseline", ("top1_agreement",)),
)
_CATEGORIES = (
    ("Knowledge lost", ("knowledge_lost", "knowledge_lost_net")),
    ("Right to wrong (1→0), guesses included", ("forgetting",)),
    ("Accuracy", ("accuracy_after",)),
    ("Text: change in bits per byte", ("bits_per_byte_change",)),
)
_TASKS = tuple(f"{TASK}/{name}" for name in ("reward", "eval_loss", "loss"))


def make_workspace(entity: str, project: str) -> Any:
    """The workspace, not saved yet: `.save()` sends it to W&B.

    Raises:
        ImportError: Without `wandb-workspaces`; says what to install.
    """
    try:
        panels: Any = import_module("wandb_workspaces.reports.v2")
        views: Any = import_module("wandb_workspaces.workspaces")
    except ImportError as error:
        raise ImportError("a workspace needs wandb-workspaces; pip install 'forget-callback[workspace]'") from error

    def lines(pattern: str, titled: Sequence[tuple[str, Sequence[str]]]) -> list[Any]:
        found = []
        for title, metrics in titled:
            regex = "|".join(pattern.format(metric) for metric in metrics if metric in ALL_METRICS)
            if regex:
                found.append(panels.LinePlot(title=title, x=X_AXIS, metric_regex=regex, title_x="samples seen"))
        return found

    overview = lines(_OF_PROBE, _OVERVIEW)
    # Under the headline what was learned for it; by full names, for what a trainer logs of the task is the user's.
    task = panels.LinePlot(title="The task itself: reward, loss", x=X_AXIS, y=list(_TASKS), title_x="samples seen")
    overview.insert(1, task)
    overview.insert(2, panels.WeavePanelSummaryTable(table_name="forget/abilities"))  # what was lost first
    sections = {
        "Forgetting: overview": [*overview, panels.MediaBrowser(title="Forgetting map", media_keys=["forget/map"])],
        "Forgetting: text": lines(_OF_PROBE, _OF_TEXT),
        "Forgetting: per category": lines(_OF_CATEGORY, _CATEGORIES),
        "Forgetting: items": [panels.WeavePanelSummaryTable(table_name="forget/items")],
        "Forgetting: cost": [
            panels.LinePlot(title="Seconds of a snapshot", x=X_AXIS, y=["forget/probe_seconds"]),
            panels.LinePlot(title="Share of the run's time", x=X_AXIS, y=["forget/overhead"]),
        ],
    }
    return views.Workspace(
        entity=entity,
        project=project,
        name="Forgetting",
        sections=[views.Section(name=name, panels=own, is_open=True) for name, own in sections.items()],
        settings=views.WorkspaceSettings(x_axis=X_AXIS),
    )


def as_json(workspace: Any) -> str:
    """What `save` would send, for people without a server: the package has no public way to it."""
    text: str = workspace._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=2)
    return text + "\n"
