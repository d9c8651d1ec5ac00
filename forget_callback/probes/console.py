"""Lines for people on standard error: none is lost in a progress bar, and warnings say whose they are.

Nothing here changes how a program that configured `logging` shows our messages.
"""

from __future__ import annotations

import logging
import sys

NAME = "forget_callback"


def say(text: str) -> None:
    """Writes a line to standard error, above the progress bars that there are."""
    if "tqdm" in sys.modules:  # else there are no bars, and it may not even be installed
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr)
    sys.stderr.flush()


class LastResort(logging.Handler):
    """Writes warnings with the name of the package where no one configured logging.

    Python itself would write the bare message then. Where any other handler takes a record, that one shows it alone.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record that nobody else does."""
        if self._alone(record.name):
            try:
                say(f"{NAME}: {self.format(record)}")
            except Exception:
                self.handleError(record)

    def _alone(self, name: str) -> bool:
        logger: logging.Logger | None = logging.getLogger(name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return False
            logger = logger.parent if logger.propagate else None
        return True


def name_warnings() -> None:
    """Gives the package's logger its `LastResort`, once."""
    logger = logging.getLogger(NAME)
    if not any(isinstance(handler, LastResort) for handler in logger.handlers):
        logger.addHandler(LastResort())
