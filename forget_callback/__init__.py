"""forget_callback: see, item by item and while training runs, what a language model forgets and what it gains."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from forget_callback.probes.console import name_warnings

if TYPE_CHECKING:
    from forget_callback.callback import ForgetCallback as ForgetCallback
    from forget_callback.metrics.bootstrap import bootstrap_change as bootstrap_change
    from forget_callback.metrics.transitions import (
        Transitions as Transitions,
        compare as compare,
        transitions as transitions,
    )
    from forget_callback.probes.item_variants import Variant as Variant
    from forget_callback.probes.items import (
        Generation as Generation,
        MultipleChoice as MultipleChoice,
        Recall as Recall,
        Text as Text,
    )
    from forget_callback.probes.jsonl import dump_items as dump_items
    from forget_callback.probes.judging import register_matcher as register_matcher
    from forget_callback.probes.load import load_probe as load_probe
    from forget_callback.probes.probe import Probe as Probe
    from forget_callback.probes.records import register_item as register_item
    from forget_callback.report import write_report as write_report
    from forget_callback.runs.data_scale import DataScaleFit as DataScaleFit, fit_data_scale as fit_data_scale
    from forget_callback.runs.history import History as History
    from forget_callback.runs.retention import Retention as Retention, retention as retention
    from forget_callback.runs.run_at import open_run as open_run
    from forget_callback.runs.stop_rules import StopRule as StopRule
    from forget_callback.runs.stopping import StopDecision as StopDecision
    from forget_callback.runs.store import Store as Store
    from forget_callback.scoring.engine import Scorer as Scorer, score_probe as score_probe
    from forget_callback.scoring.judge import Judge as Judge
    from forget_callback.scoring.loading import load_model as load_model, load_tokenizer as load_tokenizer
    from forget_callback.snapshots.answers import Answers as Answers
    from forget_callback.snapshots.snapshot import Snapshot as Snapshot
    from forget_callback.training.monitor import ForgetMonitor as ForgetMonitor, Observation as Observation
    from forget_callback.training.trackers import Tracker as Tracker

_NAMES = {
    "callback": "ForgetCallback",
    "metrics.bootstrap": "bootstrap_change",
    "metrics.transitions": "Transitions compare transitions",
    "probes.item_variants": "Variant",
    "probes.items": "Generation MultipleChoice Recall Text",
    "probes.jsonl": "dump_items",
    "probes.judging": "register_matcher",
    "probes.load": "load_probe",
    "probes.probe": "Probe",
    "probes.records": "register_item",
    "report": "write_report",
    "runs.data_scale": "DataScaleFit fit_data_scale",
    "runs.history": "History",
    "runs.retention": "Retention retention",
    "runs.run_at": "open_run",
    "runs.stop_rules": "StopRule",
    "runs.stopping": "StopDecision",
    "runs.store": "Store",
    "scoring.engine": "Scorer score_probe",
    "scoring.judge": "Judge",
    "scoring.loading": "load_model load_tokenizer",
    "snapshots.answers": "Answers",
    "snapshots.snapshot": "Snapshot",
    "training.monitor": "ForgetMonitor Observation",
    "training.trackers": "Tracker",
}
name_warnings()
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used, so that importing the package loads neither torch nor wandb."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
