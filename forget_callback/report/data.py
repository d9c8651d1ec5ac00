"""Runs -> one plain dict of finished numbers, all that the page knows. NaN is None; vectors of items are packed.

Every number comes from a run's `History` and what reads it; here they are only put in order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from forget_callback.metrics.knowledge import MIN_ITEMS
from forget_callback.probes.probe import Probe
from forget_callback.probes.spacing import spacing_problem
from forget_callback.report.differences import difference, runs_sentence, same_items
from forget_callback.report.items import STATES, TRAJECTORIES, item_texts
from forget_callback.report.run import AnyRun, Run
from forget_callback.runs import side_by_side
from forget_callback.runs.abilities import is_mixed
from forget_callback.runs.categories import significant_categories
from forget_callback.runs.comparison import compare_checkpoints, comparison_result, overall
from forget_callback.runs.data_scale import fit_data_scale
from forget_callback.runs.early_warning import early_warning
from forget_callback.runs.headline import METHODS, Headline, headline, worst_first
from forget_callback.runs.history import History
from forget_callback.runs.item_changes import flips
from forget_callback.runs.manifest import run_of
from forget_callback.runs.next_command import next_command
from forget_callback.runs.results import result_json
from forget_callback.runs.rows import COLUMNS, Row
from forget_callback.runs.side_by_side import groups_of_lines
from forget_callback.runs.sides import Side
from forget_callback.runs.task import main_metric
from forget_callback.runs.training import differences
from forget_callback.snapshots.joined import pool
from forget_callback.snapshots.snapshot import Snapshot

FORMAT = 1
CURVE_POINTS = 60
CURVE_CATEGORIES = 40  # more curves are unreadable, and each costs a bootstrap
TASK_POINTS = 400  # of a metric that the trainer logged: more are no finer on any screen
AXES = {"samples": "samples_seen", "steps": "step", "tokens": "tokens_seen"}


def report_data(runs: Sequence[AnyRun], *, stages: bool | None = None) -> dict[str, Any]:
    """All that the page shows.

    Args:
        runs: One or several.
        stages: Whether the runs are stages of one pipeline, in this order; None reads it from their manifests.

    Raises:
        ValueError: If there is no run, or one has nothing to report.
    """
    read = [run if isinstance(run, Run) else Run(run) for run in runs]
    if not read:
        raise ValueError("runs must be one or more, got none")
    pipeline = _is_pipeline(read) if stages is None else stages and len(read) > 1
    if pipeline and stages is None:
        read.sort(key=lambda run: run.stage.number)
    names = _names(read)
    data: dict[str, Any] = {
        "format": FORMAT,
        "version": metadata.version("forget-callback"),
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "pipeline": pipeline,
        "trainings": dict(zip(("differ", "same"), differences([run.training for run in read]))),
        "states": STATES,
        "trajectories": TRAJECTORIES,
        "columns": COLUMNS,
        "methods": METHODS,
        "min_items": MIN_ITEMS,
        "abilities": {"columns": side_by_side.COLUMNS, "legend": side_by_side.LEGEND},
        "items": {_key(probe): item_texts(probe) for run in read for probe in run.probes},
        "runs": [_run(run, name, before) for run, name, before in zip(read, names, _samples_before(read, pipeline))],
        "between": [] if pipeline else _between(read, names),
        "differences": [
            {"first": i, "second": j, "probes": _differences(read[i], read[j])}
            for i, j in combinations(range(len(read)), 2)
        ],
    }
    return {name: _plain(value) for name, value in data.items()}


def _run(run: Run, name: str, samples_before: float) -> dict[str, Any]:
    whole = run.history.select(run.history.probes[0])
    headlines = worst_first([_headline(run.history, name) for name in run.history.probes])
    last = run.history.last_rows
    several = is_mixed(last) and headlines[0].verdict != "baseline"
    own = {probe.name: probe for probe in run.probes}
    axes = {axis: [float(getattr(row, column)) for row in whole] for axis, column in AXES.items()}
    for axis, values in axes.items():
        if axis != "steps" and whole[0].step == 0 and math.isnan(values[0]):
            values[0] = 0.0  # nothing was trained before the first step
    return {
        "name": name,
        "path": run.manifest.get("source", str(run.path)),
        "created": run.manifest["created"],
        "versions": run.manifest["versions"],
        "stage": {"number": run.stage.number, "samples_before": samples_before},
        "training": {"sentence": run.training.sentence, "described": run.training.described},
        "task": _task(run),
        "incomplete": run.incomplete,
        "recheck": _recheck(run),
        "other_baseline": run.other_baseline,
        "steps": [row.step for row in whole],
        "axes": axes,
        "seconds": run.seconds,
        "compare": _compared(run),
        "abilities": _abilities(last) if several else [],
        "joint": asdict(_headline(run.history, overall(last).probe)) if several else None,
        "order": [[row.probe, row.category] for row in run.history.rows if row.step == run.steps[0]],
        "probes": [
            {**_numbers(run, said.probe), **(_answers(run, own[said.probe]) if said.probe in own else {"items": None})}
            | {"headline": asdict(said)}
            for said in headlines
        ],
    }


def _abilities(rows: Sequence[Row]) -> list[list[dict[str, Any]]]:
    """The table of abilities side by side: a group of rows for each, what was lost first."""
    return [
        [{"ability": one.ability, "probe": one.probe, "category": one.category, "cells": one.cells} for one in group]
        for group in groups_of_lines(rows)
    ]


def _recheck(run: Run) -> dict[str, Any] | None:
    """What the lost items answered with help; how to ask them so, where something was lost; else None."""
    if run.recheck is not None:
        return {"step": run.recheck.step, "sentences": run.recheck.sentences, "labels": run.recheck.labels, "how": ""}
    last = [row for row in run.history.rows if row.step == run.steps[-1] and not row.category]
    askable = [row for row in last if row.transitions.ability != "text" and row.transitions.n10]
    if not askable or "source" in run.manifest:  # of logs there is no model
        return None
    how = next_command("recheck", run.path.parent)
    return {"step": run.steps[-1], "sentences": [], "labels": {}, "how": how}


def _task(run: Run) -> dict[str, Any]:
    """The task's own metrics, which of them to show first, and the last value of each before every checkpoint."""
    metrics = {}
    for name, curve in run.task.items():
        kept = np.unique(np.linspace(0, len(curve.steps) - 1, TASK_POINTS).astype(int))
        columns = {
            "steps": curve.steps,
            "samples": curve.samples_seen,
            "tokens": curve.tokens_seen,
            "values": curve.values,
        }
        metrics[name] = {key: values[kept].tolist() for key, values in columns.items()} | {"at": curve.at(run.steps)}
    return {"metric": main_metric(metrics, best=run.training.metric_for_best_model), "metrics": metrics}


def _compared(run: Run) -> str:
    """What `compare RUN RUN --format json` prints."""
    id = run.manifest["run"]["id"]
    before, after = (
        Side("", taken, run=id, step=step) for taken, step in ((run.first, run.steps[0]), (run.last, run.steps[-1]))
    )
    return result_json("compare", comparison_result(compare_checkpoints(run.first, run.last), before, after))


def _headline(history: History, probe: str) -> Headline:
    """Of the last checkpoint of a probe; while there is none but the baseline, of that."""
    rows = history.select(probe)
    changed = rows[-1].transitions
    begun = len(rows) == 1 and changed.n10 + changed.n01 == 0
    return headline(rows[-1], baseline=begun, among=history.last_rows)


def _numbers(run: Run, probe: str) -> dict[str, Any]:
    """What the history says about one probe or the pool of all."""
    categories = sorted({row.category for row in run.history.rows if row.probe == probe})
    series: dict[str, Any] = {}
    for category in categories:
        rows = [row.numbers for row in run.history.select(probe, category)]
        columns = {name: [row[name] for row in rows] for name in COLUMNS if name not in ("probe", "category")}
        # What is NaN throughout is left out.
        series[category] = {name: values for name, values in columns.items() if any(v == v for v in values)}
    fits = {category: _fit(run.history, probe, category) for category in categories[:CURVE_CATEGORIES]}
    return {"name": probe, "series": series, "fits": fits, "significant": _significant(run.history, probe, categories)}


def _significant(history: History, probe: str, categories: Sequence[str]) -> dict[str, list[int]]:
    """Whether each category's loss is significant among all of a checkpoint, 1 or 0, a checkpoint an entry."""
    looks = list(zip(*(history.select(probe, category) for category in categories if category)))
    sure = [{row.category for row in significant_categories(look)} for look in looks]
    return {name: [int(name in found) for found in sure] for name in categories if name}


def _fit(history: History, probe: str, category: str) -> dict[str, Any]:
    fit = fit_data_scale(history, probe=probe, category=category)
    if not fit.fitted:
        return {"reason": fit.reason}
    samples = fit.limit * np.linspace(0, 1, CURVE_POINTS) ** 2  # more of them where the curve bends
    curve = fit.forecast(samples)
    begun = history.select(probe, category)[0].samples_seen
    return {
        "reason": "",
        "family": fit.family,
        "parameters": dict(fit.parameters),
        "confidence": fit.confidence,
        "seen": float(fit.samples_seen[-1]),
        "samples": (samples + (0.0 if math.isnan(begun) else begun)).tolist(),
        "knowledge_lost": curve.knowledge_lost.tolist(),
        "low": curve.low.tolist(),
        "high": curve.high.tolist(),
    }


def _answers(run: Run, probe: Probe) -> dict[str, Any]:
    """A probe's items, how they were scored, and what each one answered."""
    first, last, again = run.first[probe.name], run.last[probe.name], run.again.get(probe.name)
    return {
        "items": _key(probe),
        "fingerprint": probe.fingerprint,
        "settings": probe.settings,
        "kinds": dict(Counter(item.kind for item in probe.items)),
        "advice": _advice(run, probe, last),
        "flips": None if again is None else len(flips(first, again)),
        "scored": [{name: how[name] for name in how if name != "seconds"} for how in (first.metadata, last.metadata)],
        "path": run.paths[probe.name].pack(),
    }


def _advice(run: Run, probe: Probe, last: Snapshot) -> list[dict[str, str]]:
    """What there is to know about a probe and its answers."""
    problem = spacing_problem(probe)
    early = early_warning(run.history.select(probe.name)[-1], planned_steps=run_of(run.manifest).planned_steps)
    found = [{"key": one.key, "text": one.text} for one in (*early, *run.history.advice(probe, last))]
    return [*([{"key": "spacing", "text": problem}] if problem else []), *found]


def _between(runs: Sequence[Run], names: Sequence[str]) -> list[dict[str, str]]:
    """What is said first of several runs: of each probe that all have, which lost more."""
    shared = [name for name in runs[0].last if all(name in run.last for run in runs)] if len(runs) > 1 else []
    found = []
    for probe in shared:
        text, finding = runs_sentence([run.history for run in runs], names, probe, [run.last[probe] for run in runs])
        found.append({"probe": probe, "sentence": text, "finding": finding})
    return found


def _differences(one: Run, two: Run) -> list[dict[str, Any]]:
    """The second run less the first, on every probe that both have."""
    found = []
    for name in [name for name in one.history.probes if name in two.history.probes]:
        if one.history.select(name)[-1].transitions.training:  # what was learned is no loss
            continue
        a, b = (run.last[name] if name != "all" else pool(list(run.last.values())) for run in (one, two))
        gap = difference(one.history, two.history, name, (a, b) if same_items(a, b) else None)
        between = None if gap.between is None else gap.between.as_dict()
        entry = {"probe": name, "lost": gap.lost, "low": gap.interval.low, "high": gap.interval.high}
        found.append({**entry, "finding": gap.finding, "paired": between is not None, "between": between})
    return found


def _is_pipeline(runs: Sequence[Run]) -> bool:
    """Whether the manifests say so: different stages, each with more samples behind it than the one before."""
    stages = sorted((run.stage for run in runs), key=lambda stage: stage.number)
    return len(runs) > 1 and all(
        a.number < b.number and a.samples_before < b.samples_before for a, b in pairwise(stages)
    )


def _samples_before(runs: Sequence[Run], pipeline: bool) -> list[float]:
    """Samples trained on before each run: as its manifest says, else all of the runs before it."""
    told = [run.stage.samples_before for run in runs]
    if not pipeline or all(a < b for a, b in pairwise(told)):
        return told
    seen = [run.history.rows[-1].samples_seen for run in runs]
    return [float(sum(seen[:i])) for i in range(len(runs))]


def _names(runs: Sequence[Run]) -> list[str]:
    """The directories' names, with as much of the path as tells them apart."""
    parts = [run.path.resolve().parent.parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{own[-1]} ({i})" for i, own in enumerate(parts, start=1)]


def _key(probe: Probe) -> str:
    return f"{probe.name} {probe.fingerprint}"


def _plain(value: Any) -> Any:
    """The same with what JSON cannot hold as None."""
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float):  # numpy's floats are floats
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return _plain(value.item())
    return value
