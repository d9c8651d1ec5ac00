"""What to install where a package that this one depends on is missing, as after `pip install --no-deps`.

Most of the gigabytes are torch and what trains with it. Comparing logs needs none of that, so that a gate in CI can do
with little.
"""

from __future__ import annotations

import re
from importlib import metadata

# What suffices beside the package itself, each with what it depends on: numpy comes with pandas, rich with typer.
FOR_COMPARE = ("pandas", "pyarrow", "scipy", "typer")
FOR_PAGES = ("jinja2", "plotly")
_COME_WITH = {"numpy": "pandas", "rich": "typer"}
_DISTRIBUTIONS = {"yaml": "pyyaml"}  # the others are named as they are imported


def what_to_install(error: ModuleNotFoundError) -> str | None:
    """What is missing and how to get it, in one line; None if it is nothing that the package declares."""
    module = (error.name or "").partition(".")[0]
    name = _DISTRIBUTIONS.get(module, module.replace("_", "-"))
    declared = _declared()
    if not name or (declared and name not in declared):
        return None
    few = next((few for few in (FOR_COMPARE, FOR_PAGES) if _COME_WITH.get(name, name) in few), ())
    if few:
        return f"this needs {name}, which is not installed: pip install {' '.join(few)}"
    return f"this needs {name}, which is not installed: pip install forget-callback, without --no-deps, brings it"


def _declared() -> set[str]:
    """Distributions that every installation has but one by --no-deps; none known if this runs from its sources."""
    try:
        lines = metadata.requires("forget-callback") or []
    except metadata.PackageNotFoundError:
        return set()
    return {re.split(r"[^\w.-]", line)[0].lower() for line in lines if "extra ==" not in line}
