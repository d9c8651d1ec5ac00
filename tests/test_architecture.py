"""What `import forget_callback` loads, and that the public names are there. Who may import whom is import-linter's."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import forget_callback

PACKAGE = Path(forget_callback.__file__).parent
HEAVY = {"datasets", "torch", "transformers", "trl", "wandb"}


def loaded(*modules: str) -> set[str]:
    """Top-level packages that a fresh Python loads with these modules."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {', '.join(modules)}"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    lines = [line for line in report.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_importing_the_package_loads_nothing_heavy():
    found = loaded("forget_callback")
    assert "forget_callback" in found and not found & (HEAVY | {"numpy", "pandas", "pyarrow", "scipy"})


def test_everything_up_to_the_monitor_loads_without_torch_and_wandb():
    light = [
        ".".join(("forget_callback", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for folder in ("metrics", "probes", "report", "runs", "snapshots")
        for path in sorted((PACKAGE / folder).rglob("*.py"))
    ]
    found = loaded("forget_callback.training.monitor", *light)
    assert "numpy" in found and not found & HEAVY


def test_three_modules_at_the_root_and_a_reason_for_every_folder():
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", "__main__", "callback"}
    for path in PACKAGE.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no line on what it is for"


def test_the_public_names_are_listed_found_and_importable():
    names = forget_callback.__all__
    assert names == sorted(set(names)) == dir(forget_callback)
    for name in names:
        assert getattr(forget_callback, name).__module__.startswith("forget_callback.")
    with pytest.raises(AttributeError, match="has no attribute 'forget_everything'"):
        _ = forget_callback.forget_everything


def test_the_names_that_type_checkers_see_are_those_that_are_loaded():
    (block,) = [node for node in ast.parse((PACKAGE / "__init__.py").read_text()).body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert sorted(seen) == forget_callback.__all__
    for name, module in seen.items():
        assert getattr(forget_callback, name) is getattr(sys.modules[module], name)
