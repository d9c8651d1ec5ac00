"""forget_callback: see, item by item and while training runs, what a language model forgets and what it gains."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forget_callback.callback import ForgetCallback
    from forget_callback.data_scale import DataScaleFit, fit_data_scale
    from forget_callback.history import History
    from forget_callback.monitor import ForgetMonitor, Observation
    from forget_callback.over_time import Retention, retention
    from forget_callback.probes import Generation, MultipleChoice, Probe, Recall
    from forget_callback.scoring import Scorer, score_probe, score_repeats
    from forget_callback.snapshot import Snapshot
    from forget_callback.sources import load_probe
    from forget_callback.stopping import StopDecision, StopRule
    from forget_callback.store import Store
    from forget_callback.transitions import Transitions, compare, transitions

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
    "DataScaleFit": "data_scale",
    "ForgetCallback": "callback",
    "ForgetMonitor": "monitor",
    "Generation": "probes",
    "History": "history",
    "MultipleChoice": "probes",
    "Observation": "monitor",
    "Probe": "probes",
    "Recall": "probes",
    "Retention": "over_time",
    "Scorer": "scoring",
    "Snapshot": "snapshot",
    "StopDecision": "stopping",
    "StopRule": "stopping",
    "Store": "store",
    "Transitions": "transitions",
    "compare": "transitions",
    "fit_data_scale": "data_scale",
    "load_probe": "sources",
    "retention": "over_time",
    "score_probe": "scoring",
    "score_repeats": "scoring",
    "transitions": "transitions",
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
