"""Forgotten, or not elicited: the items that a run lost are asked once more, with help.

As many items that were never known get the same help, and so does the baseline model where it can be had. Every help is
scored by the Scorer, as a probe made of the helped items, and written down before the next one: what was asked is not
asked again after a kill. What it all shows is `runs/recheck_summary.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from forget_callback.probes.conversation import asked
from forget_callback.probes.helps import HELPS
from forget_callback.probes.items import MultipleChoice
from forget_callback.probes.plurals import are
from forget_callback.probes.probe import PLAIN, Probe
from forget_callback.probes.quoting import printable
from forget_callback.runs.recheck_summary import summarize
from forget_callback.runs.rechecked import SCHEMA, Rows, read_rows, write_summary
from forget_callback.runs.recorded import Recorded
from forget_callback.runs.run_at import RunAt
from forget_callback.scoring.engine import Scorer
from forget_callback.scoring.likelihood.tokens import Encodings
from forget_callback.scoring.loading import load_model, load_tokenizer
from forget_callback.tools.recheck_items import Chosen, choose, require_names
from forget_callback.tools.saved_models import baseline_model, model_of

NOW, BASELINE = "now", "baseline"
_ANSWERS = ["answer", "correct", "baseline_answer", "baseline_correct"]

Note = Callable[[str], object]


@dataclass(frozen=True)
class Ask:
    """What to ask.

    Attributes:
        step: Of the run; None for the last one of which a model was saved.
        probes: Names of its probes; none for all.
        category: Only items of this category.
        limit: Lost items of a probe, at most; others are drawn by lot.
    """

    step: int | None = None
    probes: Sequence[str] = ()
    category: str | None = None
    limit: int | None = None


def recheck(
    at: RunAt,
    ask: Ask,
    *,
    model: str | None = None,
    baseline: str | None = None,
    tokenizer: str | None = None,
    batch_tokens: int | None = None,
    progress: bool = False,
    note: Note = lambda text: None,
) -> dict[str, Any]:
    """Asks the items that a run lost once more with help, and writes `recheck.parquet` and `recheck.json`.

    Args:
        at: The run.
        ask: Which of its items.
        model: Directory or hub id; by default that which the run saved.
        baseline: The model before training; by default the one that the run names.
        tokenizer: Directory or hub id, if not found with the model.
        batch_tokens: As in `score_probe`.
        progress: As in `score_probe`.
        note: Called with what there is to say.

    Returns:
        The summary.

    Raises:
        ValueError: If no model was saved, nothing was lost, or a name is none of the run's.
    """
    run = at.store
    probes = require_names(run.probes(), ask.probes, ask.category)
    model, step = _model_at(run, probes, ask.step, model, note)
    if baseline is None and (baseline := baseline_model(run)) is None:
        note("the run names no baseline model: --baseline MODEL says what the helps show of the model before training")
    loaded = load_tokenizer(tokenizer or model)
    chosen = choose(RunAt(run, step), probes, ask, loaded, note=note)
    about = {
        "run": run.manifest()["run"]["id"],
        "step": step,
        "model": model,
        "baseline": baseline,
        "probes": {probe.name: probe.fingerprint for probe in probes},
        "category": ask.category,
        "limit": ask.limit,
    }
    work = _Work(run.path, about, chosen, loaded, batch_tokens, progress, note)
    for side, name in ((NOW, model), (BASELINE, baseline)):
        if name is not None and not work.ask(side, name):
            work.about["baseline"] = None
    summary = summarize(work.table, work.about)
    write_summary(run.path, summary)
    return summary


def _model_at(
    run: Recorded, probes: Sequence[Probe], step: int | None, model: str | None, note: Note
) -> tuple[str, int]:
    """The model to ask and the step that it is of."""
    steps = run.steps(*(probe.name for probe in probes))
    if run.read_beside("baseline", probes[0].name) is None:
        steps = steps[1:]  # the first one is the baseline
    if not steps:
        raise ValueError(f"{run.path} has no snapshot of these probes after the baseline: there is nothing to recheck")
    if step is not None and step not in steps:
        raise ValueError(f"{run.path} has no snapshot at step {step} after the baseline; has {steps}")
    if model is not None:
        return model, steps[-1] if step is None else step
    saved = model_of(run, steps, step)
    at = saved.step or 0
    if step is None and at != steps[-1]:
        note(f"the last saved model is of step {at}: what was lost by then is asked, not by step {steps[-1]}")
    return saved.model, at


class _Work:
    """The rows of a recheck as they are filled."""

    def __init__(
        self,
        folder: Any,
        about: dict[str, Any],
        chosen: Sequence[Chosen],
        tokenizer: Any,
        batch_tokens: int | None,
        progress: bool,
        note: Note,
    ) -> None:
        self.about, self._folder, self._chosen, self._note = about, folder, chosen, note
        self._encodings, self._batch_tokens, self._progress = Encodings(tokenizer), batch_tokens, progress
        self.table, self._done = _empty_rows(chosen), []
        before = read_rows(folder)
        sides = (NOW,) if about["baseline"] is None else (NOW, BASELINE)
        units = {(side, help) for side in sides for help in HELPS}
        left = units if before is None else units - set(before.done)
        same = before is not None and before.about == about and _same_questions(before.table, self.table)
        if before is not None and left and same:
            self.table[_ANSWERS], self._done = before.table[_ANSWERS], list(before.done)
            parts = f"{len(self._done)} of {len(units)} parts {are(len(self._done))} there"
            note(f"a recheck that was interrupted goes on: {parts}")

    def ask(self, side: str, model: str) -> bool:
        """Asks a model what is left; False where it is a baseline that cannot be had."""
        left = [help for help in HELPS if (side, help) not in self._done]
        if not left:
            return True
        try:
            network = load_model(model)
        except (ValueError, OSError) as error:
            if side == NOW:
                raise
            self._note(f"the baseline model is not compared: {printable(str(error))}")
            return False
        for help in left:
            self._fill(side, help, network)
            self._done.append((side, help))
            Rows(self.about, self.table, self._done).save(self._folder)
        return True

    def _fill(self, side: str, help: str, network: Any) -> None:
        own = [one for one in self._chosen if one.help == help]
        if not own:
            return
        answers = _scored(help, own, network, self._encodings, self._batch_tokens, self._progress)
        column = "" if side == NOW else "baseline_"
        rows = [i for i, one in enumerate(self._chosen) if one.help == help]
        self.table.loc[rows, f"{column}correct"] = [right for right, _ in answers]
        self.table.loc[rows, f"{column}answer"] = [text for _, text in answers]


def _same_questions(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    names = ["probe", "id", "group", "help", "prompt"]
    return one[names].equals(other[names])


def _empty_rows(chosen: Sequence[Chosen]) -> pd.DataFrame:
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for one in chosen:
        options = [list(item.choices) for item in one.asking.items if isinstance(item, MultipleChoice)]
        values = {
            "probe": one.probe.name,
            "id": one.item.id,
            "category": one.item.category,
            "kind": one.item.kind,
            "cluster": one.item.cluster,
            "group": one.group,
            "help": one.help,
            "prompt": asked(one.asking.items[0]),
            "options": options,
            "shown": one.asking.options,
            "correct": np.nan,
            "baseline_correct": np.nan,
        }
        for name, column in columns.items():
            column.append(values.get(name))
    table = pd.DataFrame(columns)
    return table.astype({name: float if name.endswith("correct") else object for name in _ANSWERS})


def _scored(
    help: str, chosen: Sequence[Chosen], network: Any, encodings: Encodings, batch_tokens: int | None, progress: bool
) -> list[tuple[float, str | None]]:
    """Of each item whether all of its askings were right, NaN where one was not scored, and what was answered."""
    groups: dict[tuple[str, bool], list[Chosen]] = {}
    for one in chosen:
        groups.setdefault((one.probe.name, one.asking.chat), []).append(one)
    probes = [_probe(help, own, chat) for (_, chat), own in groups.items()]
    scorer = Scorer(encodings.tokenizer, probes, batch_tokens=batch_tokens, encodings=encodings)
    taken = scorer.score(network, progress=progress)
    found: dict[tuple[str, str], tuple[float, str | None]] = {}
    for own, snapshot in zip(groups.values(), taken):
        answered = dict(zip(snapshot.ids, zip(snapshot.correct, snapshot.prediction)))
        for one in own:
            parts = [answered[item.id] for item in one.asking.items]
            texts = [text for _, text in parts if text is not None]
            found[one.probe.name, one.item.id] = (float(min(right for right, _ in parts)), " | ".join(texts) or None)
            if any(np.isnan(right) for right, _ in parts):
                found[one.probe.name, one.item.id] = (float("nan"), None)
    return [found[one.probe.name, one.item.id] for one in chosen]


def _probe(help: str, chosen: Sequence[Chosen], chat: bool) -> Probe:
    """The askings as a probe with the settings of their own, but for the template and for sampling."""
    own: Probe = chosen[0].probe
    changed: Mapping[str, Any] = {} if bool(own.chat) == chat else {"chat": True} if chat else PLAIN
    items = [item for one in chosen for item in one.asking.items]
    name = f"{own.name[:70]}-{help}{'-chat' if chat else ''}"
    return replace(own, name=name, items=items, temperature=0.0, **changed)
