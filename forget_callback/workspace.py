"""A saved W&B workspace for forgetting: what to look at first, in sections, whatever a project's probes are called."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from forget_callback.trackers import X_AXIS

# `forget/<probe>/<metric>` and `forget/<probe>/<category>/<metric>`: how W&B picks what a panel draws.
_OF_PROBE, _OF_CATEGORY = "^forget/[^/]+/{}$", "^forget/[^/]+/[^/]+/{}$"


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

    def lines(title: str, pattern: str, *metrics: str, log: bool = False) -> Any:
        regex = "|".join(pattern.format(metric) for metric in metrics)
        return panels.LinePlot(title=title, x=X_AXIS, metric_regex=regex, log_x=log, title_x="samples seen")

    sections = {
        "Forgetting: overview": [
            lines("Knowledge lost", _OF_PROBE, "knowledge_lost"),
            lines("Knowledge lost, log axis", _OF_PROBE, "knowledge_lost", log=True),
            lines("Knowledge lost: 95% limits", _OF_PROBE, "knowledge_lost_low", "knowledge_lost_high"),
            lines("Forgotten (1→0) and gained (0→1), guesses included", _OF_PROBE, "forgetting", "backward_transfer"),
            lines("Accuracy", _OF_PROBE, "accuracy_after"),
            lines("Ever forgotten, and recovered", _OF_PROBE, "ever_forgotten", "recovered"),
            panels.MediaBrowser(title="Forgetting map", media_keys=["forget/map"]),
        ],
        "Forgetting: per category": [
            lines("Knowledge lost", _OF_CATEGORY, "knowledge_lost"),
            lines("Margin, which falls first", _OF_CATEGORY, "margin"),
            lines("Accuracy", _OF_CATEGORY, "accuracy_after"),
        ],
        "Forgetting: items": [
            panels.WeavePanelSummaryTable(table_name="forget/items"),
            lines("Changed since the last snapshot", _OF_PROBE, "churn"),
            lines("Answers that cannot be read", _OF_PROBE, "unparsed", "format_loss"),
        ],
        "Forgetting: cost": [
            panels.LinePlot(title="Seconds of a snapshot", x=X_AXIS, y=["forget/probe_seconds"]),
            panels.LinePlot(title="Share of the run's time", x=X_AXIS, y=["forget/overhead"]),
            lines("Noise floor", _OF_PROBE, "noise_floor"),
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
