"""Rows of a recheck -> what came back by each help and by any, beside what help alone explains, in numbers and words.

An item's own label is what was observed: "gone" came back by no help, "there" by some. How many of those that came back
help alone would have brought is known of all of them together only, from the items that were never known. What is right
without any help was not lost in the model at hand: it has no label, and no help is judged by it; where most of the lost
items are so, the model is not the one that was measured, and nothing is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forget_callback.metrics.elicited import elicited, kept
from forget_callback.probes.helps import AGAIN, HELPS, came_back
from forget_callback.probes.plurals import are, counted
from forget_callback.probes.quoting import printable, quoted
from forget_callback.runs.formatting import percent
from forget_callback.runs.rechecked import GONE, THERE

# Shares of lost items right without help: more than rounding explains, and most, which is another model.
_NOT_LOST, _OTHER_MODEL = 0.1, 0.5
_FORMS = {"open-ended": False, "with options": True}


def summarize(rows: pd.DataFrame, about: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `recheck.json` but for its version.

    Args:
        rows: All of them, with the columns of `rechecked.SCHEMA`.
        about: What they are of.
    """
    step, has_baseline = int(about["step"]), about["baseline"] is not None
    rows = _without_help(rows)
    other = _share_without_help(rows) > _OTHER_MODEL
    blocks: dict[str, dict[str, Any]] = {}
    for name in map(str, about["probes"]):
        own = rows[rows["probe"] == name]
        lost = own[own["group"] == "lost"]
        if not len(lost):
            continue
        items = _by_item(own, has_baseline)
        blocks[name] = _block(own, items, name, step, has_baseline, other)
        closed = dict(zip(items["id"], items["closed"]))
        # What has options may be guessed every time, and comes back by another rule: told apart where there is both.
        forms = {form: own[[closed[id] == is_closed for id in own["id"]]] for form, is_closed in _FORMS.items()}
        forms = {form: part for form, part in forms.items() if (part["group"] == "lost").any()}
        blocks[name]["forms"] = {
            form: _block(part, items[items["closed"] == _FORMS[form]], f"{name}, {form}", step, has_baseline, other)
            for form, part in forms.items()
            if len(forms) > 1
        }
        was = {id: right for id, right, group in zip(items["id"], items["correct"], items["group"]) if group == "lost"}
        labels = {id: THERE if right else GONE for id, right in was.items() if not math.isnan(right)}
        blocks[name]["items"] = {} if other else labels
    whole = _block(rows, _by_item(rows, has_baseline), "all", step, has_baseline, other) if blocks else None
    return {"about": dict(about), "warnings": _warnings(whole, about), "probes": blocks, "all": whole}


def _block(
    rows: pd.DataFrame, items: pd.DataFrame, name: str, step: int, has_baseline: bool, other: bool
) -> dict[str, Any]:
    """One probe, a form of its items, or all of them; of another model without what would be claimed of this one."""
    lost = items[items["group"] == "lost"]
    block: dict[str, Any] = {
        "name": name,
        "lost": len(lost),
        "not_lost": int(lost["not_lost"].sum()),
        THERE: 0 if other else int((lost["correct"] == 1).sum()),
        GONE: 0 if other else int((lost["correct"] == 0).sum()),
        "any": _compared(items, has_baseline, other),
        "helps": {
            help: {"label": label, **_compared(own, has_baseline, other)}
            for help, label in HELPS.items()
            if (own := rows[rows["help"] == help])["group"].eq("lost").any()
        },
    }
    return {**block, "sentence": _not_this_model(step, block) if other else _sentence(step, block)}


def _without_help(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with `not_lost`: items right without help, whose answers with help then say nothing of it."""
    again = rows[(rows["help"] == AGAIN) & (rows["correct"] == 1)]
    known = set(zip(again["probe"], again["id"]))
    marked = rows.assign(not_lost=[pair in known for pair in zip(rows["probe"], rows["id"])])
    return marked.assign(correct=rows["correct"].where(~marked["not_lost"] | (rows["help"] == AGAIN)))


def _share_without_help(rows: pd.DataFrame) -> float:
    """Of the lost items that were asked without help, those that are right; 0 where none was asked."""
    again = rows[(rows["help"] == AGAIN) & (rows["group"] == "lost") & rows["correct"].notna()]
    return float((again["correct"] == 1).mean()) if len(again) else 0.0


def _by_item(rows: pd.DataFrame, has_baseline: bool) -> pd.DataFrame:
    """A row an item: whether it came back, NaN where no help was scored, and the options of its easiest guess."""
    found = []
    for (probe, id), own in rows.groupby(["probe", "id"], sort=False):
        shown = dict(zip(own["help"], own["shown"]))
        one = {"probe": probe, "id": id, "group": own["group"].iloc[0], "cluster": own["cluster"].iloc[0]}
        one["shown"] = min((n for n in shown.values() if n), default=0)
        one["closed"] = all(shown.values())
        one["not_lost"] = bool(own["not_lost"].iloc[0])
        for column in ("correct", *(["baseline_correct"] if has_baseline else [])):
            # Without help the baseline model answers them all, as does this one what it did not lose.
            by_help = column != "correct" or one["not_lost"]
            counted = own[own["help"] != AGAIN] if by_help else own
            right = {help: was == 1 for help, was in zip(counted["help"], counted[column]) if not math.isnan(was)}
            one[column] = float(came_back(right, shown)) if right else math.nan
        found.append(one)
    return pd.DataFrame(found)


def _compared(rows: pd.DataFrame, has_baseline: bool, other: bool) -> dict[str, Any]:
    """Lost items beside those never known; and beside the same items of the baseline model where that was asked."""
    lost, control = rows[rows["group"] == "lost"], rows[rows["group"] == "control"]
    shown = lost["shown"].to_numpy(float)
    chance = np.where(shown > 0, 1 / np.maximum(shown, 1), 0.0)
    if not len(control) and "closed" in lost:  # what open-ended helps give by themselves is not known
        chance = np.where(lost["closed"], chance, 0.0)
    found = elicited(
        lost["correct"], control["correct"], chance, cluster=_clusters(lost), control_cluster=_clusters(control)
    )
    numbers: dict[str, Any] = found.as_dict()
    if other:
        numbers |= dict.fromkeys(("there", "there_low", "there_high"), math.nan)
    before = kept(lost["baseline_correct"], lost["correct"], cluster=_clusters(lost)) if has_baseline else None
    return {**numbers, "baseline": None if before is None else before.as_dict()}


def _clusters(rows: pd.DataFrame) -> NDArray[Any]:
    """What items share that are no independent draws; an item without a cluster is one by itself."""
    own = [
        f"{probe}\0{cluster}" if cluster else f"{probe}\0\0{id}"
        for probe, cluster, id in zip(rows["probe"], rows["cluster"], rows["id"])
    ]
    return np.array(own, object).astype(str)


def _items(n: int) -> str:
    return counted(n, "lost item")


def _kept(n: int) -> str:
    return f"{n:,} {are(n)} right without any help, and so not lost in this model, " if n else ""


def _not_this_model(step: int, block: Mapping[str, Any]) -> str:
    return (
        f"{printable(block['name'])}: {block['not_lost']:,} of {_items(block['lost'])} at step {step} are right "
        "without any help: the model that was asked is not the model that was measured at that step, so what is gone "
        "is not known"
    )


def _warnings(whole: Mapping[str, Any] | None, about: Mapping[str, Any]) -> list[str]:
    """What does not fit: models that do not answer as those of the run did."""
    again = {} if whole is None else whole["helps"].get(AGAIN, {})
    found = []
    if again.get("right", 0.0) > _NOT_LOST:
        found.append(
            f"{percent(again['right'])} of the lost items are right without any help: {quoted(about['model'], 200)} "
            "is not the model that was measured at that step, or was saved in another precision; name that one with "
            "--model"
        )
    before = again.get("baseline") or {}
    missed = before.get("n", 0) * (1 - before.get("before", 1.0))
    if missed > max(2, _NOT_LOST * before.get("n", 0)):  # of few items one or two flip by rounding
        found.append(
            f"without help {quoted(about['baseline'], 200)} answers only {percent(before['before'])} of the lost "
            "items, all of which the run's baseline answered: it may be another model, and what is said of the "
            "baseline is of that one"
        )
    return found


def _sentence(step: int, block: Mapping[str, Any]) -> str:
    """What a block says, and no more than it shows."""
    found, n = block["any"], block["lost"]
    said = (
        f"{printable(block['name'])}: of {_items(n)} at step {step}, {_kept(block['not_lost'])}"
        f"{block[THERE]:,} came back with help and {block[GONE]:,} did not (gone, as far as these helps show)"
    )
    before = found["baseline"]
    if before is not None and before["n"]:
        said += f", where the baseline model gives {percent(before['before'])} with the same help"
    if math.isnan(found["there"]):
        choice = block["helps"].get("choice")
        known = choice is not None and choice["there_low"] > 0
        shown = f", but as a choice {beyond(choice)} more come right than guesses" if known else ""
        return f"{said}; none was never known, so what help alone brings back is not known{shown}"
    alone = [f"of {found['control_n']:,} never known {percent(found['control'])} come right with it"]
    if not found["control_n"] or found["chance"] > found["control"]:
        alone.append(f"guesses may in up to {percent(found['chance'])}")
    by = " and ".join(alone[0 if found["control_n"] else 1 :])
    if not found["there_low"] > 0:
        return f"{said}; {by}: this is not shown to be more than help alone gives"
    return f"{said}; {by}: {beyond(found)} of the lost are there, but not said, beyond what help alone gives"


def beyond(found: Mapping[str, Any]) -> str:
    """What is above help alone, "40.7% [23.7, 54.2]", within what a share can be; no interval where none of it is."""
    low, centre, high = (found[name] for name in ("there_low", "there", "there_high"))
    if math.isnan(centre):
        return "not known"
    ends = [percent(min(max(end, 0.0), 1.0)).removesuffix("%") for end in (low, high)]
    return percent(max(centre, 0.0)) + (f" [{', '.join(ends)}]" if high > 0 else "")
