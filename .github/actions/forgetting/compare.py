"""Compares the two sides, writes the summary and the outputs, and ends with the status of `forget-callback compare`.

Models are scored first. Whatever goes wrong is an error and not a pass, and the summary says so. It writes texts of
items only under UPLOAD "all".
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflow import append, cut, event, job_address, say, set_output

from forget_callback.probes.quoting import code, markdown

OUTCOMES = {0: "passed", 1: "failed", 3: "inconclusive"}
MARKS = {"passed": "✅", "compared": "ℹ️", "failed": "❌", "inconclusive": "❔", "error": "⚠️"}
ITEMS = 10
SUMMARY_BYTES = 1_000_000  # GitHub takes 1 MiB a step
_WORDS = {"INCONCLUSIVE": ("true", "false"), "COMMENT": ("true", "false"), "UPLOAD": ("metrics", "all", "none")}
# What options may not hold: it would not be read as an input is, or change what the action itself asks for.
_INPUTS = ("--fail-if", "--bound", "--min-scored", "--inconclusive", "--no-inconclusive")
_OWN = ("--items", "--texts", "--no-texts", "--format", "--markdown", "--junit", "--help", "--version", "--")
_TITLE = 100  # characters of it in an artifact's name
_OF_THE_PAGE = ("--filter", "--metric", "--epoch", "--n-choices")


@dataclass(frozen=True)
class Inputs:
    """The inputs of the action."""

    before: str
    after: str
    probes: Sequence[str]
    settings: Sequence[str]
    options: Sequence[str]
    is_gated: bool
    everything: bool

    @staticmethod
    def of(given: Mapping[str, str]) -> Inputs:
        """Reads them from the environment.

        Raises:
            ValueError: If one is not what it may be: a word that is not understood must not switch a check off.
        """
        for name, words in _WORDS.items():
            if given[name] not in words:
                raise ValueError(f"input {name.lower()} must be one of {', '.join(words)}, got {given[name]!r}")
        before, after = (given[name].strip() for name in ("BEFORE", "AFTER"))
        if not before or not after:
            raise ValueError("inputs before and after must each name a model, a run, a snapshot file or a log")
        gates, options = _lines(given["FAIL_IF"]), shlex.split(given["OPTIONS"])
        for word in (option.partition("=")[0] for option in options):
            if word in _INPUTS:
                name = word.removeprefix("--").removeprefix("no-")
                raise ValueError(f"input options must not hold {word}: it is an input of its own, {name}")
            if word in _OWN:
                raise ValueError(f"input options must not hold {word}: the action chooses what is printed and kept")
        settings = [f"--bound={given['BOUND'].strip()}", f"--min-scored={given['MIN_SCORED'].strip()}"]
        settings += ["--inconclusive"] * (given["INCONCLUSIVE"] == "true") + [f"--fail-if={gate}" for gate in gates]
        return Inputs(
            before, after, _lines(given["PROBES"]), settings, options, bool(gates), everything=given["UPLOAD"] == "all"
        )


@dataclass(frozen=True)
class Compared:
    """What came of it."""

    status: int = 2
    result: Mapping[str, Any] = field(default_factory=dict)
    text: str = "Nothing was compared, which is no pass. The log of the job says why."
    is_gated: bool = True

    @property
    def outcome(self) -> str:
        """In one word; without a gate nothing passed."""
        return OUTCOMES.get(self.status, "error") if self.status or self.is_gated else "compared"


def main() -> int:
    """Runs it all; the exit status of the step."""
    directory, compared = _new_directory(), Compared()
    try:
        compared = compare(Inputs.of(os.environ), directory)
    except (ValueError, OSError) as error:
        say("error", str(error))
    finally:
        write(compared, directory)
    if compared.status:
        gates = compared.result.get("gate", {})
        named = [*gates.get("failed", ()), *gates.get("inconclusive", ())]
        say(
            "error",
            ": ".join([" ".join(os.environ["TITLE"].split()), compared.outcome, *filter(None, [", ".join(named)])]),
        )
    return compared.status


def compare(inputs: Inputs, directory: Path) -> Compared:
    """The comparison, with its files in the directory."""
    before, after, place = sides(inputs, directory)
    shown = directory / "forgetting.md"
    files = [f"--markdown={shown}", *([f"--junit={directory / 'forgetting.xml'}"] * inputs.is_gated)]
    items = f"--items={ITEMS}" if inputs.everything else "--no-texts"
    # An option without its value takes the next word for it, which must not be a gate.
    words = ["compare", *inputs.settings, *files, items, *inputs.options, "--format=json", "--", before, after]
    status, text = run(words, place)
    if status not in OUTCOMES:
        return Compared()
    if not text.startswith("{"):
        raise ValueError(f"no result was printed with the input options, {shlex.join(inputs.options)}")
    result = json.loads(text)
    (directory / "forgetting.json").write_text(text, encoding="utf-8")
    if inputs.everything:
        write_page(inputs, before, after, place, directory / "forgetting.html")
    return Compared(status, result, shown.read_text(encoding="utf-8").strip(), inputs.is_gated)


def sides(inputs: Inputs, directory: Path) -> tuple[str, str, Path]:
    """What is compared, and from which directory: two models are scored into one run, as two steps of it.

    Raises:
        ValueError: If there is no model to score, both are the same one, or scoring one fails.
    """
    names = [inputs.before, inputs.after]
    models = [name for name in names if inputs.probes and is_model(name)]
    if inputs.probes and not models:
        raise ValueError(f"input probes is for models, and neither {names[0]!r} nor {names[1]!r} is one")
    if models and names[0] == names[1]:
        raise ValueError(f"before and after are the same model, {names[0]!r}, which has lost nothing")
    place = directory if inputs.everything else _new_directory()
    for model in models:
        step = names.index(model) if len(models) > 1 else 0
        specs = [f"--probe={spec}" for spec in inputs.probes]
        out = [f"--out={place / 'models'}", f"--step={step}"]
        status, _ = run(["snapshot", *specs, *out, "--", model], Path.cwd(), result=False)
        if status:
            raise ValueError(f"model {model!r} could not be scored")
    if len(models) > 1:
        return "models", "models", place
    before, after = (str(place / "models") if name in models else name for name in names)
    return before, after, Path.cwd()


def is_model(name: str) -> bool:
    """Whether it is to be scored: a directory with a model's configuration, and what is not there, as a hub id is."""
    path = Path(name)
    if path.exists() or Path(name.rpartition("@")[0] or name).exists():
        return any((path / file).exists() for file in ("config.json", "adapter_config.json"))
    return True


def run(words: Sequence[str], place: Path, *, result: bool = True) -> tuple[int, str]:
    """Runs forget-callback; its exit status and what it printed, if that is the `result` and not for the log.

    Meanwhile nothing in the log is a command: names and texts of others are in it.
    """
    token = secrets.token_hex(16)
    print(f"::stop-commands::{token}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "forget_callback", *words],
        cwd=place,
        env={**os.environ, "PYTHONSAFEPATH": "1", "PYTHONUTF8": "1"},  # no module of the place where it runs
        stdout=subprocess.PIPE if result else sys.stdout,
        stderr=sys.stdout,  # one stream, or lines might overtake the commands
    )
    print(f"::{token}::", flush=True)
    return done.returncode, (done.stdout or b"").decode()


def write_page(inputs: Inputs, before: str, after: str, place: Path, out: Path) -> None:
    """Every item's story, where there can be a page of what was compared."""
    words = [*inputs.options]
    shared = [word for word in words if word.startswith("--allow-partial")]
    for at, word in enumerate(words):
        if word.partition("=")[0] in _OF_THE_PAGE:
            shared += words[at : at + (1 if "=" in word else 2)]
    status, _ = run(["report", *shared, f"--out={out}", "--", *dict.fromkeys([before, after])], place, result=False)
    if status:
        say("warning", "there is no page of this comparison; the log says why")


def write(compared: Compared, directory: Path) -> None:
    """The summary, for the job and for the comment, and the outputs."""
    names = [code(os.environ[name].strip()) for name in ("BEFORE", "AFTER")]
    title = " ".join(os.environ["TITLE"].split()) or "Forgetting"
    short = title if len(title) <= _TITLE else f"{title[:_TITLE]}… {hashlib.sha256(title.encode()).hexdigest()[:8]}"
    commit = event().get("pull_request", {}).get("head", {}).get("sha") or os.environ.get("GITHUB_SHA", "")
    about = [" → ".join(dict.fromkeys(names)), *([f"commit {commit[:12]}"] * bool(commit)), f"[log]({job_address()})"]
    heading = f"### {MARKS[compared.outcome]} {markdown(title)}: {compared.outcome}"
    text = f"{heading}\n\n{', '.join(about)}\n\n{compared.text}\n"
    summary = directory / "forgetting.md"
    summary.write_text(text, encoding="utf-8")
    append("GITHUB_STEP_SUMMARY", cut(text, SUMMARY_BYTES, unit="bytes"))
    lost = compared.result.get("all", {}).get("knowledge_lost")
    outputs = {
        "outcome": compared.outcome,
        "knowledge_lost": "" if lost is None else repr(lost),
        "json": str(directory / "forgetting.json") if compared.result else "",
        "summary": str(summary),
        "directory": str(directory),
        # Of a workflow's artifacts each has a name of its own, without these characters.
        "artifact": re.sub(r'[":<>|*?\\/\x00-\x1f]+', "-", f"{short}, {os.environ.get('GITHUB_JOB', 'job')}"),
    }
    for name, value in outputs.items():
        set_output(name, value)


def _new_directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="forgetting-", dir=os.environ.get("RUNNER_TEMP")))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


if __name__ == "__main__":
    sys.exit(main())
