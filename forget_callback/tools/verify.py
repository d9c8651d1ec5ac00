"""The certificate: a setup trains a few steps with the callback and without it, and everything is compared by hash.

Trains twice without first: a setup that differs from itself cannot be certified.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from forget_callback.probes.console import say
from forget_callback.scoring.distributed import rank
from forget_callback.scoring.progress import LONG, about


@dataclass(frozen=True)
class Certificate:
    """The hashes of what can differ, by name, of runs without the callback, without it again, and with it.

    Attributes:
        probed: Snapshots that were taken.
    """

    without: dict[str, str]
    again: dict[str, str]
    with_callback: dict[str, str]
    probed: int

    @property
    def deterministic(self) -> bool:
        """Whether the setup gives the same twice, without the callback."""
        return self.without == self.again

    @property
    def passed(self) -> bool:
        """Whether the callback changed nothing, and something was probed."""
        return self.deterministic and self.without == self.with_callback and self.probed > 0


def certify(
    make_trainer: Callable[[Sequence[Any]], Any], make_callback: Callable[[], Any], *, seed: int
) -> Certificate:
    """Trains three times.

    Args:
        make_trainer: Gives a trainer with the callbacks that it is handed; each time with fresh weights.
        make_callback: Gives a `ForgetCallback`, which should raise its errors.
        seed: Set before each run.
    """
    begun = time.monotonic()
    without = _traced(make_trainer, [], seed)
    if rank() == 0 and (left := 2 * (time.monotonic() - begun)) >= LONG:
        say(f"trained once; twice more, the second time with the callback: {about(left)}, and what probing takes")
    again = _traced(make_trainer, [], seed)
    callback = make_callback()
    return Certificate(without, again, _traced(make_trainer, [callback], seed), callback.history["step"].nunique())


def _traced(make_trainer: Callable[[Sequence[Any]], Any], callbacks: Sequence[Any], seed: int) -> dict[str, str]:
    set_seed(seed)
    trainer = make_trainer(callbacks)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    losses = [(row["step"], row["loss"], row.get("grad_norm")) for row in rows]
    weights = trainer.model.state_dict()
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    generators: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        generators["cuda"] = torch.cuda.get_rng_state_all()
    parts = {"losses": losses, "weights": weights, "optimizer": optimizer.state_dict(), "generators": generators}
    return {name: _hash(part) for name, part in parts.items()}


def _hash(thing: Any) -> str:
    return hashlib.sha256(json.dumps(thing, sort_keys=True, default=_described).encode()).hexdigest()


def _described(thing: Any) -> str:
    """What JSON cannot hold; a tensor by its type, shape and bytes."""
    if not isinstance(thing, torch.Tensor):
        return repr(thing)
    flat = thing.detach().cpu().contiguous().reshape(-1)  # a tensor without dimensions has no view as bytes
    return f"{thing.dtype} {tuple(thing.shape)} {hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()}"
