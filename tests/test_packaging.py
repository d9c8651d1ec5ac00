"""What the package imports is declared in `pyproject.toml`, and what is declared is imported and pinned."""

import ast
import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DISTRIBUTIONS = {"sklearn": "scikit-learn", "yaml": "pyyaml"}  # others are named as they are imported


def names(requirements):
    """Distributions, in the spelling of an index: `lm-eval[ifeval]>=0.4.12` is of `lm-eval`."""
    return {re.match(r"[\w.-]+", text)[0].lower().replace("_", "-") for text in requirements}


def imported(tree, *, within=False):
    """Top-level names of the absolute imports in a file, with whether a function does it: then it may do without."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue  # never at run time
        if isinstance(node, ast.Import):
            yield from ((alias.name, within) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module, within
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from ((word.value, within) for word in node.args[:1] if isinstance(word, ast.Constant))
        deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from imported(node, within=within or deferred)


@pytest.fixture(scope="module")
def used():
    """Distributions of other people -> whether each import of them stands in a function."""
    found = {}
    for path in sorted((ROOT / "forget_callback").rglob("*.py")):
        if path.parent.name == "integrations":
            continue  # loaded by the trainer that each is for
        for name, within in imported(ast.parse(path.read_text(encoding="utf-8"))):
            top = name.partition(".")[0]
            beside = path.with_name(f"{top}.py").exists()  # of a script that is run where it lies
            if top not in {*sys.stdlib_module_names, "forget_callback"} and not beside:
                key = DISTRIBUTIONS.get(top, top.replace("_", "-"))
                found[key] = found.get(key, True) and within
    return found


def test_what_is_imported_is_a_dependency_or_inside_a_function_an_extra(used):
    required = names(PROJECT["dependencies"])
    extra = names(text for name, texts in EXTRAS.items() if name not in ("dev", "docs") for text in texts)
    assert {name for name, within in used.items() if not within} <= required
    assert set(used) <= required | extra


def test_an_integration_imports_nothing_but_its_own_trainer():
    for name, own in {"axolotl": {"axolotl", "pydantic"}, "ms_swift": {"swift"}}.items():
        path = ROOT / "forget_callback" / "integrations" / f"{name}.py"
        tops = {found.partition(".")[0] for found, _ in imported(ast.parse(path.read_text(encoding="utf-8")))}
        assert tops - {*sys.stdlib_module_names, "forget_callback"} == own


def test_every_dependency_is_imported(used):
    assert names(PROJECT["dependencies"]) <= set(used)


def test_every_dependency_and_extra_is_pinned():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r'[\w.-]+==[\w.]+(; python_version (<|>=) "3.11")?', line) for line in pins)
    wanted = names([*PROJECT["dependencies"], *(text for texts in EXTRAS.values() for text in texts)])
    assert wanted - {"forget-callback"} <= names(pins)


def test_the_citation_names_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {PROJECT['version']}\n" in citation
