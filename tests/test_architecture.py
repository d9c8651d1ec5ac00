"""Imports only go down, heavy packages stay where they belong, and the public names are there without them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import forget_callback

ROOT = Path(forget_callback.__file__).parent
PACKAGE = ROOT.name
FLOORS = {
    0: {
        "advice",
        "answers",
        "changes",
        "comparison",
        "data_scale",
        "gate",
        "history",
        "knowledge",
        "noise",
        "over_time",
        "pairs",
        "probes",
        "repeats",
        "schedule",
        "snapshot",
        "statistics",
        "stopping",
        "transitions",
    },
    1: {"importers", "report", "server", "sources", "store"},
    2: {"data_seen", "loading", "processes", "scoring", "served"},
    3: {"budget", "monitor", "trackers"},
    4: {
        "__init__",
        "__main__",
        "callback",
        "checkpoints",
        "cli",
        "demo",
        "dial",
        "recipe",
        "replay",
        "resume",
        "smoke",
        "terminal",
        "verify",
        "watch",
        "workspace",
    },
}
FLOOR = {module: floor for floor, modules in FLOORS.items() for module in modules}
MAY_IMPORT = {0: {0}, 1: {0, 1}, 2: {0, 1, 2}, 3: {0, 1, 3}, 4: {0, 1, 2, 3, 4}}
SCIENCE = {"numpy", "pandas", "scipy"}
DATA = SCIENCE | {"pyarrow"}
OUTSIDE = {
    0: SCIENCE,
    1: DATA | {"jinja2", "plotly"},
    2: DATA | {"torch", "tqdm", "transformers"},
    3: DATA,
}  # floor 4 is free
OUTSIDE_IN_FUNCTIONS = {
    0: {"math_verify"},
    1: {"datasets", "inspect_ai", "lm_eval"},
    2: set(),
    3: {"plotly", "transformers", "wandb"},
}
HEAVY = {"datasets", "torch", "transformers", "trl", "wandb"}


class Import(NamedTuple):
    """One imported name, fully dotted."""

    name: str
    line: int
    in_function: bool
    for_types: bool


def imports(source: str, module: str, *, is_package: bool) -> Iterator[Import]:
    """Every import of a source text wherever it stands; `module` is its dotted name, which relative imports need."""
    here = module if is_package else module.rpartition(".")[0]

    def visit(node: ast.AST, in_function: bool, for_types: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, in_function, for_types)
        elif isinstance(node, ast.ImportFrom):
            parts = here.split(".")
            base = ".".join([*parts[: len(parts) - node.level + 1], node.module or ""]).strip(".")
            for alias in node.names:
                yield Import(f"{base if node.level else node.module}.{alias.name}", node.lineno, in_function, for_types)
        in_function |= isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        body = node.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" else ()
        for child in ast.iter_child_nodes(node):
            yield from visit(child, in_function, for_types or child in body)

    yield from visit(ast.parse(source), False, False)


def place_of(module: str) -> str:
    """The name in FLOORS under which a dotted module stands."""
    return "__init__" if module == PACKAGE else module.split(".")[1]


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What a module imports and may not."""
    place = place_of(module)
    if place not in FLOOR:
        return [f"{module} has no floor: add it to FLOORS and to ARCHITECTURE.md"]
    floor, found = FLOOR[place], []
    for name, line, in_function, for_types in imports(source, module, is_package=is_package):
        top, _, rest = name.partition(".")
        if top == PACKAGE:
            target = rest.partition(".")[0]
            known = FLOOR.get(target, FLOOR["__init__"])  # a public name comes through the package's __init__
            if known not in MAY_IMPORT[floor]:
                found.append(f"{module}, line {line}: floor {floor} imports {name} of floor {known}")
        elif floor in OUTSIDE and not for_types:
            allowed = OUTSIDE[floor] | (OUTSIDE_IN_FUNCTIONS[floor] if in_function else set())
            if top not in allowed | sys.stdlib_module_names:
                where = "a function" if in_function else "the module"
                found.append(f"{module}, line {line}: floor {floor} imports {name} in {where}")
    return found


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@pytest.mark.parametrize("module", MODULES)
def test_no_arrow_goes_up(module):
    path = MODULES[module]
    assert violations(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    "module, source",
    [
        ("probes", "from forget_callback.store import Store"),
        ("probes", "from forget_callback import store"),
        ("probes", "from forget_callback import Store"),
        ("probes", "import forget_callback.monitor"),
        ("probes", "def f():\n    from forget_callback.sources.jsonl import load"),
        ("probes", "class A:\n    async def f(self):\n        import forget_callback.cli as c"),
        ("probes", "if TYPE_CHECKING:\n    from forget_callback.monitor import ForgetMonitor"),
        ("probes", "try:\n    from . import callback\nexcept ImportError:\n    pass"),
        ("sources.jsonl", "from ..monitor import ForgetMonitor"),
        ("sources.jsonl", "from ..scoring.plan import bind"),
        ("scoring.plan", "from forget_callback.monitor import ForgetMonitor"),
        ("monitor", "from forget_callback.scoring import score_probe"),
        ("trackers", "def f():\n    from forget_callback.callback import ForgetCallback"),
        ("probes", "import torch"),
        ("probes", "def f():\n    import torch.nn"),
        ("probes", "import pyarrow.parquet as pq"),
        ("answers", "from math_verify import parse"),
        ("store", "from datasets import load_dataset"),
        ("store", "def f():\n    import torch"),
        ("report.page", "from forget_callback.monitor import ForgetMonitor"),
        ("history", "import jinja2"),
        ("scoring.engine", "def f():\n    import wandb"),
        ("scoring.engine", "from trl import SFTTrainer"),
        ("trackers", "import wandb"),
        ("monitor", "import torch"),
        ("monitor", "if not TYPE_CHECKING:\n    import wandb"),
        ("brand_new", "import os"),
    ],
)
def test_an_arrow_up_is_seen(module, source):
    assert len(violations(source, f"{PACKAGE}.{module}")) == 1


@pytest.mark.parametrize(
    "module, source",
    [
        (
            "history",
            "from forget_callback.snapshot import Snapshot\nimport os.path, numpy as np\nfrom scipy import stats",
        ),
        ("answers", "def f():\n    from math_verify import parse"),
        ("sources.hub", "from . import jsonl\nfrom ..probes import Probe\nlambda: __import__('x')"),
        ("sources.hub", "def f():\n    from datasets import load_dataset\nimport pyarrow"),
        ("report.page", "import jinja2, plotly\nfrom forget_callback.store import write_whole"),
        ("scoring.engine", "import torch, tqdm, transformers\nfrom forget_callback.store import Store"),
        ("trackers", "if TYPE_CHECKING:\n    import wandb\ndef f():\n    import wandb, transformers"),
        ("demo", "import trl, rich\nfrom forget_callback import ForgetCallback"),
    ],
)
def test_an_arrow_down_is_fine(module, source):
    assert violations(source, f"{PACKAGE}.{module}") == []


def python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=True)


def loaded(report: str) -> set[str]:
    """Top-level packages in what `-X importtime` wrote."""
    lines = [line for line in report.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_importing_the_package_loads_nothing_heavy():
    found = loaded(python(f"import {PACKAGE}", "-X", "importtime").stderr)
    assert PACKAGE in found and not found & (HEAVY | DATA)


def test_the_light_floors_load_without_torch_and_wandb():
    light = [name for name in MODULES if FLOOR[place_of(name)] in (0, 1, 3)]
    found = loaded(python(f"import {', '.join(light)}", "-X", "importtime").stderr)
    assert "numpy" in found and not found & HEAVY


def test_importing_the_package_takes_less_than_a_third_of_a_second():
    code = f"import time; begun = time.perf_counter(); import {PACKAGE}; print(time.perf_counter() - begun)"
    assert min(float(python(code).stdout) for _ in range(3)) < 0.3


def test_the_public_names_are_listed_found_and_importable():
    names = forget_callback.__all__
    assert names == sorted(set(names)) == dir(forget_callback)
    for name in names:
        assert getattr(forget_callback, name).__module__.startswith(PACKAGE)
    with pytest.raises(AttributeError, match="has no attribute 'forget_everything'"):
        _ = forget_callback.forget_everything


def test_the_names_that_type_checkers_see_are_those_that_are_loaded():
    for_types = [i.name for i in imports(MODULES[PACKAGE].read_text(), PACKAGE, is_package=True) if i.for_types]
    found = {name.rpartition(".")[2]: name for name in for_types if name.startswith(PACKAGE)}
    assert sorted(found) == forget_callback.__all__
    for name, dotted in found.items():
        module = sys.modules[dotted.rpartition(".")[0]]
        # `transitions` may be its module, which can be called all the same.
        assert getattr(forget_callback, name) in (getattr(module, name), module)


@pytest.mark.parametrize(
    "code",
    [
        "from forget_callback import transitions",
        "import forget_callback.transitions; from forget_callback import transitions",
        "from forget_callback import compare; from forget_callback import transitions",
    ],
)
def test_transitions_can_be_called_however_it_was_imported(code):
    assert python(f"{code}\nprint(transitions([1, 1], [1, 0]).n10)").stdout == "1\n"
