"""The command line. A command is a few calls downward.

Results go to standard output, progress and notes to standard error. Exit status: 0 fine, 1 a gate failed, 2 anything
else, so that an error is never taken for a pass.
"""

from forget_callback.cli import (  # each puts its commands into the app
    card,
    compare,
    demo,
    dial,
    launch,
    plan,
    preflight,
    recheck,
    replay,
    run,
    snapshot,
    watch,
)
from forget_callback.cli.app import app, main
from forget_callback.cli.output import Command

# What `--help` shows, in the order in which a newcomer needs it.
GROUPS = {
    "Start here": ("demo",),
    "Before training": ("probes", "plan", "verify", "preflight"),
    "While training": ("run", "watch"),
    "Models and runs": ("snapshot", "compare", "report", "card", "workspace"),
    "To forget less": ("recheck", "replay", "dial"),
}
_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}

for _command in app.registered_commands:
    _name = str(_command.name or getattr(_command.callback, "__name__", ""))
    _command.name, _command.rich_help_panel = _name, _GROUP_OF[_name]
    if _command.cls is None or not issubclass(_command.cls, Command):
        _command.cls = Command
app.registered_commands.sort(key=lambda command: [*_GROUP_OF].index(command.name or ""))

__all__ = ["main"]
