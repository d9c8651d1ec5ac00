"""W&B for the demos: a run that needs no account, in the run's own directory."""

from __future__ import annotations

import contextlib
import netrc
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def wandb_offline_unless_configured(out: Path) -> Iterator[None]:
    """W&B offline, in the run directory, unless the user configured it."""
    import wandb

    os.environ.setdefault("WANDB_PROJECT", "forget-callback-demo")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_DIR", str(out))
    out.mkdir(parents=True, exist_ok=True)
    configured = bool(os.environ.get("WANDB_API_KEY"))
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        configured |= any("wandb" in host for host in netrc.netrc().hosts)
    if not configured:
        os.environ.setdefault("WANDB_MODE", "offline")
    try:
        yield
    finally:
        if wandb.run is not None:
            wandb.finish()


def offline_run(out: Path) -> Path | None:
    """The offline run that was written last in a run directory; None where W&B is online or off."""
    runs = sorted((out / "wandb").glob("offline-run-*"), key=os.path.getmtime)
    return runs[-1] if runs else None
