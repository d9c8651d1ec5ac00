"""What was said of the models, read from what each tool printed, and its table. Quotes verdicts and judges none."""

import json
import math
import re
from pathlib import Path
from typing import Any

from scipy import stats

ALPHA = 0.05  # of lm-eval's scripts/model_comparator.py
OURS = ("accuracy_before", "accuracy_after", "n", "n10", "n01", "forgetting_adjusted", "headline")
LOST = ("knowledge_lost", "knowledge_lost_low", "knowledge_lost_high")


def quoted(pattern: str, text: str) -> str:
    """What a pattern's group matched, in one line.

    Raises:
        ValueError: If the tool printed something else; the message shows its end.
    """
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"nothing in what was printed is like {pattern!r}: {text[-2000:]}")
    return " ".join(match[1].split())


def read_ftcheck(said: dict[str, Any], model: str) -> dict[str, Any]:
    """The verdict, the pattern, and each category's scores before and after."""
    text = said[f"ftcheck-{model}"]["printed"]
    rows = re.findall(r"[│┃]\s*(\w+)\s*│\s*([\d.]+)\s*│\s*([\d.]+)\s*│", text)
    return {
        "verdict": quoted(r"Verdict: ([A-Z ]+?)\s+\|", text),
        "roi": quoted(r"ROI Score: (\S+)", text),
        "pattern": quoted(r"Forgetting pattern: (\w+)", text),
        "backward_transfer": quoted(r"Backward transfer: (\S+)", text),
        "scores": {name: [float(before), float(after)] for name, before, after in rows},
    }


def read_pyrecall(said: dict[str, Any], model: str) -> dict[str, Any]:
    """The line that it ends with, and each category's scores before and after."""
    report = json.loads(said[f"pyrecall-{model}-json"]["printed"])
    return {
        "verdict": quoted(r"((?:⚠|✓)[^\n]*)", said[f"pyrecall-{model}"]["printed"]),
        "status": said[f"pyrecall-{model}"]["status"],
        "scores": {one["category"]: [one["score_before"], one["score_after"]] for one in report["comparisons"]},
        "severity": {one["category"]: one["severity"] for one in report["comparisons"]},
    }


def read_lm_eval(said: dict[str, Any], model: str) -> dict[str, Any]:
    """The accuracies and standard errors, and the unpaired z-test that model_comparator.py makes of them."""
    row = r"\|acc\s*\|[^|]*\|\s*([\d.]+\|±\s*\|\s*[\d.]+)\|"
    (before, error), (after, other) = (
        map(float, re.split(r"\|±\s*\|", quoted(row, said[f"lm_eval-{name}"]["printed"]))) for name in ("base", model)
    )
    z = (before - after) / math.hypot(error, other)
    p = 2 * float(stats.norm.sf(abs(z)))
    mark = "✓" if p > ALPHA else "×"
    return {"verdict": mark, "accuracy": [before, after], "standard_error": [error, other], "z": z, "p_value": p}


def read_ours(said: dict[str, Any], model: str) -> dict[str, Any]:
    """The verdict with its number and interval, and the raw counts."""
    row = json.loads(said[f"forget_callback-{model}"]["printed"])["all"]
    return {name: row[name] for name in ("verdict", *OURS, *LOST)}


def read_one(said: dict[str, Any], model: str) -> dict[str, Any]:
    """The same of the first prompt alone."""
    return read_ours(said, f"one-{model}")


def failed(one: dict[str, Any]) -> str | None:
    """The last line of a Python error, of a command that failed."""
    lines = one["errors"].strip().splitlines()
    return lines[-1] if one["status"] and "Traceback" in one["errors"] else None


# What reads a tool, and the last command that it needs for a model.
READERS = {
    "ftcheck": (read_ftcheck, "ftcheck-{}"),
    "pyrecall": (read_pyrecall, "pyrecall-{}-json"),
    "lm_eval": (read_lm_eval, "lm_eval-{}"),
    "one_prompt": (read_one, "forget_callback-one-{}"),
    "forget_callback": (read_ours, "forget_callback-{}"),
}


def read(directory: Path, models: list[str]) -> dict[str, Any]:
    """What every tool that was run on all models says of each, and the commands with what they took."""
    said = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.json"))}
    says = {
        tool: {model: reader(said, model) for model in models}
        for tool, (reader, last) in READERS.items()
        if all(last.format(model) in said for model in models)
    }
    kept = ("tool", "command", "status", "seconds", "processor_seconds")
    commands = [{name: one[name] for name in kept} | {"error": failed(one)} for one in said.values()]
    return {"says": says, "commands": commands}


def raw(one: dict[str, Any]) -> str:
    """Accuracy, and what went each way."""
    counts = f"{one['n10']} right → wrong, {one['n01']} wrong → right"
    return f"{one['accuracy_before']:.1%} → {one['accuracy_after']:.1%}; {counts}"


def of_ftcheck(one: dict[str, Any]) -> str:
    """Its verdict, its pattern, and the categories that changed."""
    return f"`{one['verdict']}`, pattern `{one['pattern']}`; {changes(one['scores'])}"


def of_pyrecall(one: dict[str, Any]) -> str:
    """The line that it ends with, its status, and the categories that fell most."""
    return f"`{one['verdict']}`, exit status {one['status']}; {changes(one['scores'])}"


def of_lm_eval(one: dict[str, Any]) -> str:
    """Accuracies, and the comparator's test of them."""
    before, after = one["accuracy"]
    return f"{before:.1%} → {after:.1%}, p = {one['p_value']:.2g} (`{one['verdict']}`)"


def of_paper(one: dict[str, Any]) -> str:
    """1→0 less what independent guesses would give."""
    return f"{one['forgetting_adjusted']:.1%}"


def of_ours(one: dict[str, Any]) -> str:
    """The verdict, with knowledge lost and its interval."""
    value, low, high = (100 * one[name] for name in LOST)
    return f"`{one['verdict']}`, {value:.1f}% [{low:.1f}, {high:.1f}]"


def changes(scores: dict[str, list[float]], most: int = 3) -> str:
    """The scores that moved most, before and after."""
    most_first = sorted(scores.items(), key=lambda pair: -abs(pair[1][1] - pair[1][0]))
    shown = [(name, f"{before:.3f}", f"{after:.3f}") for name, (before, after) in most_first[:most]]
    moved = [f"{name} {before} → {after}" for name, before, after in shown if before != after]
    return ", ".join(moved) or "no score changed by 0.001"


ROWS = {
    "the items, in the first prompt": (raw, "forget_callback", None),
    "FineTuneCheck 2.0.2, `ftcheck quick`": (of_ftcheck, "ftcheck", "ftcheck"),
    "pyrecall 0.12.0, `snapshot` and `check`": (of_pyrecall, "pyrecall", "pyrecall"),
    "lm-eval 0.4.13, z-test of `model_comparator.py`": (of_lm_eval, "lm_eval", "lm_eval"),
    "forgetting of arXiv 2510.17776": (of_paper, "forget_callback", None),
    "ours, the first prompt alone": (of_ours, "one_prompt", None),
    "ours, `snapshot` and `compare`": (of_ours, "forget_callback", "forget_callback"),
}


def table(result: dict[str, Any]) -> str:
    """A row for each tool: what it says as code, its numbers beside it, the minutes of all its commands."""
    models = list(result["says"]["forget_callback"])
    lines = ["| | " + " | ".join(models) + " | minutes |", "| --- |" + " --- |" * len(models) + " ---: |"]
    for name, (cell, reader, tool) in ROWS.items():
        if reader not in result["says"]:
            continue
        cells = [cell(result["says"][reader][model]) for model in models]
        lines.append(f"| {name} | " + " | ".join([*cells, minutes(result, tool)]) + " |")
    return "\n".join(lines)


def minutes(result: dict[str, Any], tool: str | None) -> str:
    """Processor time of all commands of a tool: of the four models, and of the one that they are compared with."""
    spent = [one["processor_seconds"] for one in result["commands"] if one["tool"] == tool]
    return f"{sum(spent) / 60:.1f}" if spent else "-"
