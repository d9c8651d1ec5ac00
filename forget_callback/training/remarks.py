"""What there is to say of a run before it trains, a line each.

How its probes are written, what its baseline differs in, by what its best model is chosen.

Pure: probes, snapshots and rows in, text out. The monitor logs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from forget_callback.probes.plurals import counted
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted
from forget_callback.probes.spacing import spacing_problem
from forget_callback.probes.suggest import closest
from forget_callback.runs.rows import ALL_METRICS, Row
from forget_callback.runs.stop_rules import LOSSES
from forget_callback.snapshots.snapshot import Snapshot


def spacing(probes: Sequence[Probe]) -> Iterator[str]:
    """The probes whose answers lack the space before them."""
    for probe in probes:
        if problem := spacing_problem(probe):
            yield f"probe {probe.name!r}: {problem}"


def differences(baseline: Sequence[Snapshot], first: Sequence[Snapshot], rows: Sequence[Row]) -> Iterator[str]:
    """In what the first snapshots of a run differ from their baseline, where that is of another run.

    Args:
        baseline: Of each probe what all is compared against, in the order of `first`.
        first: The first snapshots of this run.
        rows: Of these.
    """
    for before, now in zip(baseline, first):
        both = len({one.fingerprint for one in before.further} & {one.fingerprint for one in now.further})
        if max(len(before.further), len(now.further)) > both:
            yield (
                f"probe {now.probe!r}: the baseline was asked in {counted(before.n_variants, 'prompt')} and this run "
                f"in {now.n_variants}; they are compared in the {1 + both} that both have"
            )
        if both and any(one.skipped.any() for one in before.further):
            yield (
                f"probe {now.probe!r}: the baseline skipped further prompts, as variants='changed' does between the "
                "first evaluation and the last; this run is compared with it in the first prompt alone: name a step "
                "that asked all, RUN@STEP"
            )
    for row in rows:
        changed = row.transitions
        whole = not row.category and row.probe != "all" and not changed.training
        if whole and changed.n10 + changed.n01:
            yield (
                f"probe {row.probe!r}: the model of step {row.step} differs from the baseline before this run: "
                f"{changed.n10} of {counted(changed.n)} forgotten, {changed.n01} gained; stage_forgetting counts from "
                "this model on"
            )


def unknown_best(key: str | None, metrics: Mapping[str, str]) -> str:
    """What to say where the best model is chosen by a key of ours that no evaluation has, "" where it is not.

    Args:
        key: The Trainer's `metric_for_best_model`.
        metrics: The metric of each key of ours; none where another process measures.
    """
    wanted = f"eval_{(key or '').removeprefix('eval_')}".replace("/", "_")
    own = wanted.startswith("eval_forget_") or wanted.removeprefix("eval_").removeprefix("forget_") in ALL_METRICS
    if not own or f"eval_{(key or '').removeprefix('eval_')}" in metrics:
        return ""
    if not metrics:
        return (
            f"metric_for_best_model={quoted(key)} is not known while a training with remote=True runs, because another "
            "process measures it afterwards, so no checkpoint is kept as the best; set a metric of the task, and "
            "choose by the record of `forget-callback watch`"
        )
    named = max((one for one in ALL_METRICS if wanted.endswith(f"_{one}")), key=len, default=None)
    alike = [one for one, metric in metrics.items() if named in (None, metric)]
    meant = closest(wanted, alike) or (None if named is None else alike[0])
    remedy = f"there are {', '.join(list(metrics)[:2])}, ..." if meant is None else f"did you mean {meant!r}?"
    return (
        f"metric_for_best_model={quoted(key)} is no metric of any evaluation of this run, so the Trainer ends with a "
        f"KeyError at the first one; {remedy}"
    )


def best_model(key: str | None, metrics: Mapping[str, str], *, greater: bool | None) -> str:
    """What to say where the best model is chosen by what it forgot alone, "" where it is not.

    Args:
        key: The Trainer's `metric_for_best_model`.
        metrics: The metric of each key of ours.
        greater: Its `greater_is_better`, True by default for our keys.
    """
    metric = metrics.get(f"eval_{(key or '').removeprefix('eval_')}")
    if metric is None or metric.removesuffix("_low").removesuffix("_high") not in LOSSES:
        return ""
    if greater:
        return (
            f"metric_for_best_model={key!r} with greater_is_better=True keeps the checkpoint that forgot most: set "
            "greater_is_better=False"
        )
    return (
        f"metric_for_best_model={key!r} keeps the checkpoint that forgot least, and that is mostly the earliest, which "
        "learned least; choose among checkpoints that learned the task as well, as examples/best_checkpoint.py does"
    )
