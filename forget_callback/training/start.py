"""What is checked before a run trains: which probes can be measured, which rules then have something to read.

Functions of probes and snapshots; each gives what is fine and, by name, why the others are not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from forget_callback.probes.probe import Probe
from forget_callback.runs.rows import Stage
from forget_callback.runs.run_at import open_run
from forget_callback.runs.stop_rules import StopRule, check_targets
from forget_callback.scoring.likelihood.rendering import bind
from forget_callback.snapshots.joined import complete
from forget_callback.snapshots.snapshot import Snapshot
from forget_callback.training.unmeasured import reason


def tokenizer_of(model: Any, processing_class: Any) -> Any:
    """The tokenizer of a trainer.

    Raises:
        ValueError: If the trainer gave none, or no model.
    """
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    if model is None or tokenizer is None:
        raise ValueError(
            f"the trainer gave no {'model' if model is None else 'tokenizer'}; pass processing_class= to it"
        )
    return tokenizer


def bound(probes: Sequence[Probe], tokenizer: Any, *, strict: bool) -> tuple[list[Probe], dict[str, str]]:
    """The probes with their chat templates, and those that need one where there is none.

    Raises:
        ValueError: If one does, and `strict`.
    """
    found, failed = [], {}
    for probe in probes:
        try:
            found.append(bind(probe, tokenizer))
        except ValueError as error:
            if strict:
                raise
            failed[probe.name] = reason(error)
    return found, failed


def measured_before(probes: Sequence[Probe], steps: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """The probes that a run which goes on has no baseline of.

    Args:
        steps: At which each was measured.
    """
    if not any(steps.values()):
        return {}
    return {probe.name: "it was not measured when this run started" for probe in probes if not steps[probe.name]}


def without_numbers(snapshots: Sequence[Snapshot]) -> dict[str, str]:
    """The probes of which no item was scored."""
    return {
        one.probe: ": ".join(filter(None, ("no item could be scored", "; ".join(one.metadata.get("not_scored", ())))))
        for one in snapshots
        if np.isnan(one.correct).all()
    }


def run_baseline(
    run: str | os.PathLike[str], probes: Sequence[Probe], *, strict: bool
) -> tuple[list[Snapshot], Stage, dict[str, str]]:
    """What another run has of these probes, the stage after it, and the probes that it does not have.

    Raises:
        ValueError: If it lacks the only one, or one and `strict`.
    """
    opened = open_run(run)
    found, failed = [], {}
    for probe in probes:
        try:
            found.append(complete(opened.baseline(probe.name), probe))
        except ValueError as error:
            if strict or len(probes) == 1:
                raise
            failed[probe.name] = reason(error)
    return found, opened.next_stage(found[0].probe) if found else Stage(), failed


def require_start(step: int, *, trained: bool) -> None:
    """That the model is the one with which training started.

    Args:
        trained: Whether an earlier start of this training, which did not end, changed its weights.

    Raises:
        ValueError: If not: then its state is no baseline.
    """
    if not trained and step == 0:
        return
    what = (
        f"training resumed at step {step}, but there is no baseline of its start; resume in the run's own output_dir, "
        "with the probes that it was recorded with"
    )
    if trained:
        what = (
            "training starts again with weights that an earlier start of it had trained, and of that there is no "
            "baseline; make a new trainer with the model as it was"
        )
    raise ValueError(f"{what}, or pass baseline=RUN, or baseline='base' for adapters")


def rules_of(rules: Sequence[StopRule], probes: Sequence[Probe]) -> tuple[StopRule, ...]:
    """The rules that read one of these probes."""
    return tuple(rule for rule in rules if not _fault(rule, probes))


def idle_lines(rules: Sequence[StopRule], probes: Sequence[Probe]) -> list[str]:
    """The rules that read none of these probes, a line each."""
    return [f"NOT WATCHED: {fault}, which is not measured" for rule in rules if (fault := _fault(rule, probes))]


def _fault(rule: StopRule, probes: Sequence[Probe]) -> str:
    try:
        check_targets([rule], probes)
    except ValueError as error:
        return str(error)
    return ""
