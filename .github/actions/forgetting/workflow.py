"""What a script says to GitHub: lines of the log, files of the step, and texts that fit."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any, Literal


def say(kind: Literal["error", "warning", "notice"], text: str) -> None:
    """Prints a line that GitHub shows as an annotation."""
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    print(f"::{kind}::{escaped}", flush=True)


def append(variable: str, text: str) -> None:
    """Appends to the file that an environment variable of GitHub names; outside of GitHub there is none."""
    if path := os.environ.get(variable):
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)


def set_output(name: str, value: str) -> None:
    """Sets an output of the step, whatever the value holds."""
    end = secrets.token_hex(16)
    append("GITHUB_OUTPUT", f"{name}<<{end}\n{value}\n{end}\n")


def event() -> dict[str, Any]:
    """What started the workflow, as GitHub describes it."""
    path = os.environ.get("GITHUB_EVENT_PATH")
    return dict(json.loads(Path(path).read_text(encoding="utf-8"))) if path and Path(path).exists() else {}


def job_address() -> str:
    """Where the log is."""
    server, repository = (os.environ.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY"))
    return f"{server}/{repository}/actions/runs/{os.environ.get('GITHUB_RUN_ID', '')}"


def marker(title: str) -> str:
    """The first line of a comment, which nobody sees: it tells this use of the action from others."""
    parts = (os.environ.get("GITHUB_WORKFLOW", ""), os.environ.get("GITHUB_JOB", ""), " ".join(title.split()))
    return f"<!-- forget-callback {hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]} -->"


def cut(text: str, limit: int, *, unit: Literal["characters", "bytes"] = "characters") -> str:
    """The text, of a longer one its first lines and a note."""

    def size(part: str) -> int:
        return len(part) if unit == "characters" else len(part.encode())

    if size(text) <= limit:
        return text
    note = f"\n\n*Cut here: GitHub takes {limit:,} {unit}. The file forgetting.md among the artifacts has all of it.*\n"
    close = "\n\n</details>"
    room, kept = limit - size(note) - size(close), list[str]()
    for line in text.splitlines(keepends=True):
        room -= size(line)
        if room < 0:
            break
        kept.append(line)
    shown = "".join(kept).rstrip("\n")
    return shown + close * (shown.count("<details>") - shown.count("</details>")) + note
