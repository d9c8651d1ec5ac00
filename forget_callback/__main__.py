"""The console script and `python -m forget_callback`: the command line, or what to install before there is one."""

import sys
import traceback

from forget_callback.probes.installed import what_to_install


def main() -> None:
    """Entry point; what any command needs may be missing after `pip install --no-deps`."""
    try:
        from forget_callback.cli import main as command_line
    except ModuleNotFoundError as error:
        text = what_to_install(error)
        if text is None or "--debug" in sys.argv:
            traceback.print_exc()
        print(f"error: {text or error}", file=sys.stderr)
        sys.exit(2)
    command_line()


if __name__ == "__main__":
    main()
