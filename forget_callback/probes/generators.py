"""Global random generators, put back as they were. torch is used only where something else has imported it."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Restores every global random generator of Python, numpy and torch on exit, also after an exception."""
    with contextlib.ExitStack() as restore:
        restore.callback(random.setstate, random.getstate())
        restore.callback(np.random.set_state, np.random.get_state())
        if torch := sys.modules.get("torch"):
            restore.callback(torch.set_rng_state, torch.get_rng_state())
            if torch.cuda.is_available() and torch.cuda.is_initialized():
                restore.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
            if torch.backends.mps.is_available():
                restore.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        yield
