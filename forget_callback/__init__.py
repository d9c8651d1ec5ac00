"""forget_callback: see, item by item and while training runs, what a language model forgets and what it gains."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forget_callback.callback import ForgetCallback
    from forget_callback.metrics.transitions import Transitions, compare, transitions
    from forget_callback.probes.items import Generation, MultipleChoice, Recall
    from forget_callback.probes.load import load_probe
    from forget_callback.probes.probe import Probe
    from forget_callback.runs.data_scale import DataScaleFit, fit_data_scale
    from forget_callback.runs.history import History
    from forget_callback.runs.retention import Retention, retention
    from forget_callback.runs.stopping import StopDecision, StopRule
    from forget_callback.runs.store import Store
    from forget_callback.scoring.engine import Scorer, score_probe, score_repeats
    from forget_callback.snapshots.snapshot import Snapshot
    from forget_callback.training.monitor import ForgetMonitor, Observation

__all__ = [
    "DataScaleFit",
    "ForgetCallback",
    "ForgetMonitor",
    "Generation",
    "History",
    "MultipleChoice",
    "Observation",
    "Probe",
    "Recall",
    "Retention",
    "Scorer",
    "Snapshot",
    "StopDecision",
    "StopRule",
    "Store",
    "Transitions",
    "compare",
    "fit_data_scale",
    "load_probe",
    "retention",
    "score_probe",
    "score_repeats",
    "transitions",
]

_HOME = {
    "DataScaleFit": "runs.data_scale",
    "ForgetCallback": "callback",
    "ForgetMonitor": "training.monitor",
    "Generation": "probes.items",
    "History": "runs.history",
    "MultipleChoice": "probes.items",
    "Observation": "training.monitor",
    "Probe": "probes.probe",
    "Recall": "probes.items",
    "Retention": "runs.retention",
    "Scorer": "scoring.engine",
    "Snapshot": "snapshots.snapshot",
    "StopDecision": "runs.stopping",
    "StopRule": "runs.stopping",
    "Store": "runs.store",
    "Transitions": "metrics.transitions",
    "compare": "metrics.transitions",
    "fit_data_scale": "runs.data_scale",
    "load_probe": "probes.load",
    "retention": "runs.retention",
    "score_probe": "scoring.engine",
    "score_repeats": "scoring.engine",
    "transitions": "metrics.transitions",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used, so that importing the package loads neither torch nor wandb."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
