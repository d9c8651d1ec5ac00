"""The page: one HTML file that holds its data, scripts, styles and plotly.js, and asks no network for anything.

Data and plotly.js lie in it as gzip in base64, so that no text of an item is ever parsed as markup. A content security
policy allows only the scripts of this file, by hash, and no connection at all.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from forget_callback.report.data import report_data
from forget_callback.report.run import AnyRun, Run
from forget_callback.runs.files import write_whole
from forget_callback.runs.store import Store

# In this order, as one function: a name of one is known in all.
SCRIPTS = (
    "base", "chart", "losses", "task", "curves", "categories", "runs", "answers", "items", "grid", "detail", "about",
    "main",
)  # fmt: skip


def write_report(runs: AnyRun | Sequence[AnyRun], path: str | os.PathLike[str], *, stages: bool | None = None) -> Path:
    """Writes the report of one or several runs, whole or not at all, and gives its path.

    Args:
        runs: Stores, run directories, or a `Run` of what is in memory.
        path: Of the HTML file.
        stages: Whether the runs are stages of one pipeline, in this order; None reads it from their manifests.

    Raises:
        ValueError: If there is no run, or one has nothing to report.
    """
    several = [runs] if isinstance(runs, (Run, Store, str, os.PathLike)) else list(runs)
    text = render(report_data(several, stages=stages))
    target = Path(path)
    write_whole(target, lambda temporary: temporary.write_text(text, "utf-8", "backslashreplace", newline="\n"))
    return target


def render(data: dict[str, Any]) -> str:
    """The page of what `report_data` gives."""
    import jinja2  # a comparison of logs does without

    theme = _asset("theme.js")
    script = '"use strict";\n(() => {\n' + "\n".join(_asset(f"{name}.js") for name in SCRIPTS) + "})();\n"
    plotly = _unwrapped((resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_asset("page.html")).render(
        data=data,
        title=" · ".join(run["name"] for run in data["runs"]),
        style=_asset("page.css"),
        theme=theme,
        script=script,
        hashes=[_hash(text) for text in (theme, script, plotly)],
        packed_data=_packed(json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)),
        packed_plotly=_packed(plotly),
    )


def _asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _unwrapped(plotly: str) -> str:
    """plotly.js as a plain script: inside its module wrapper a browser parses all of it once more, for 0.4 seconds."""
    licence, begin, end = plotly.find("*/") + 2, plotly.find('"use strict";var Plotly='), plotly.rfind("return Plotly;")
    if not 2 <= licence < begin < end or "window.Plotly" not in plotly[end - 100 : end]:
        return plotly  # another build of it: as it is
    return f"{plotly[:licence]}\n{plotly[begin:end]}"


def _hash(script: str) -> str:
    """How a content security policy names a script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _packed(text: str) -> str:
    """A text for the page; what is no Unicode, as in paths that are not UTF-8, as JSON and JavaScript escape it."""
    return base64.b64encode(gzip.compress(text.encode(errors="backslashreplace"), mtime=0)).decode("ascii")
