"""Runs commands in a Python that has few packages: `python -m tests.cli.few_packages PACKAGE ...`, commands on stdin.

What is not one of the packages, nor what they depend on, is not found, as in an environment that lacks it. Prints what
the commands did, and what is loaded after them, as JSON.
"""

import contextlib
import io
import json
import re
import sys
import sysconfig
from importlib import metadata
from importlib.machinery import PathFinder


def closure(names):
    """Distributions -> with what they depend on here, in the spelling of an index."""
    found, wanted = set(), list(names)
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name not in found:
            try:
                lines = metadata.requires(name) or []
            except metadata.PackageNotFoundError:  # of another platform or Python
                continue
            found.add(name)
            wanted += [re.split(r"[^\w.-]", line)[0] for line in lines if "extra ==" not in line]
    return found


def modules(names):
    """The top-level modules that these distributions install."""
    files = [file for name in closure(names) for file in metadata.files(name) or ()]
    return {file.parts[0].partition(".")[0] for file in files if file.suffix in (".py", ".so", ".pyd")}


class Only:
    """Finds what the finders before it find, but of installed packages only a few."""

    def __init__(self, names):
        self.names, self.finders = names, [*sys.meta_path]
        self.find_distributions = PathFinder.find_distributions
        self.installed = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))

    def find_spec(self, name, path=None, target=None):
        found = (finder.find_spec(name, path, target) for finder in self.finders)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None or name.partition(".")[0] in self.names:
            return spec
        places = [spec.origin or "", *(spec.submodule_search_locations or ())]
        return None if any(place.startswith(self.installed) for place in places) else spec


def main(packages):
    commands = json.load(sys.stdin)
    sys.meta_path[:] = [Only(modules(packages))]
    from forget_callback.__main__ import main as command_line

    results = []
    for command in commands:
        sys.argv = ["forget-callback", *command]
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                command_line()
        except SystemExit as end:
            code = end.code or 0
        results.append((code, out.getvalue(), err.getvalue()))
    loaded = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
    json.dump({"results": results, "loaded": sorted(loaded)}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
