"""The command line. A command is a few calls downward.

Results go to standard output, progress and notes to standard error. Exit status: 0 fine, 1 a gate failed, 2 anything
else, so that an error is never taken for a pass.
"""

from forget_callback.cli import compare, demo, dial, plan, replay, run, snapshot  # noqa: F401 - each puts its commands into the app
from forget_callback.cli.app import main

__all__ = ["main"]
