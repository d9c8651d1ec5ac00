"""Plain forward passes of a few continuations: the definition that scoring paths are compared with.

Each continuation is alone in its batch, without padding or a mask, and the LM head gives the logits of its own tokens
only: what does not fit into memory here does not fit into any batch.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from forget_callback.scoring.likelihood.forward import Likelihood
from forget_callback.scoring.likelihood.head import FULL, head_of, rounding
from forget_callback.scoring.likelihood.tokens import Continuation
from forget_callback.scoring.memory import Progress, attempted
from forget_callback.scoring.models import text_config
from forget_callback.scoring.prefixes import common_length

logger = logging.getLogger(__name__)

# Logits that the model itself may compute in one forward pass: 512 MiB in float32.
MAX_LOGITS = 2**27
# Contexts whose continuations are compared, and how often a smaller one stands in for one that memory does not hold.
_CHECKED = 4


@dataclass(frozen=True)
class PlainPasses:
    """What plain forward passes give.

    Attributes:
        logprobs: Log-probability of each checked continuation, by index.
        tolerance: How far a token's log-probability may be from it, in nats.
        dtype: The dtype in which the model computes.
    """

    logprobs: Mapping[int, float]
    tolerance: float
    dtype: torch.dtype

    def disagreement(
        self, rows: Sequence[Continuation], found: Mapping[int, Likelihood | None] | Sequence[Likelihood | None]
    ) -> str | None:
        """How what was found of the checked continuations differs, None if by no more than the tolerance per token.

        In full precision no continuation may differ by more; in low precision, where rounding is large, their root
        mean square.
        """
        pairs = [(rows[i], one.logprob, own) for i, own in self.logprobs.items() if (one := found[i]) is not None]
        if any(np.isnan(logprob) != np.isnan(expected) for _, logprob, expected in pairs):
            return "log-probabilities are NaN where a plain forward pass gives numbers"
        errors = [(logprob - expected) / (len(row.tokens) - row.n_context) for row, logprob, expected in pairs]
        if np.isnan(errors).all():
            return None
        low = self.dtype not in FULL
        size = np.sqrt(np.nanmean(np.square(errors))) if low else np.nanmax(np.abs(errors))
        if size <= self.tolerance:
            return None
        return (
            f"a token's log-probability differs by {size:.2g} nats from a plain forward pass, {self.tolerance:.2g} is "
            "allowed"
        )


def plain_passes(model: Any, rows: Sequence[Continuation], dtype: torch.dtype) -> PlainPasses:
    """Forwards a few continuations, the shortest and the longest that memory holds among them.

    Raises:
        torch.OutOfMemoryError: If not even the shortest fits into memory.
    """
    by_length = sorted(range(len(rows)), key=lambda i: (len(rows[i].tokens), i))
    place = {i: at for at, i in enumerate(by_length)}
    chosen = {by_length[round(at)] for at in np.linspace(0, len(rows) - 1, min(_CHECKED, len(rows)))}
    # The last continuation of each context as well: only what follows another in its trie needs a mask.
    contexts = {rows[i].tokens[: rows[i].n_context] for i in chosen}
    last = {row.tokens[: row.n_context]: i for i, row in sorted(enumerate(rows), key=lambda pair: pair[1].tokens)}
    chosen |= {last[context] for context in contexts} | _joined(rows)
    left = sorted(chosen, key=place.__getitem__)
    logprobs: dict[int, float] = {}
    tolerances: list[float] = []

    def forward(wanted: Sequence[int], progress: Progress[float]) -> None:
        for i in wanted:
            progress.running = [i]
            progress.found[i], tolerance = _plain(model, rows[i], dtype)
            tolerances.append(tolerance)

    for n in range(_CHECKED + 1):
        attempt = attempted(partial(forward, left))
        logprobs |= attempt.found
        if not logprobs and n == 0:
            continue  # as `within_memory`, once more: memory may have been short for a moment
        if not logprobs:
            raise torch.OutOfMemoryError(attempt.reason)
        if not attempt.failed:
            break
        (failed,), fits = attempt.failed, max(map(place.__getitem__, logprobs))
        logger.info("a plain forward pass of %d tokens does not fit into memory", len(rows[failed].tokens))
        left = [i for i in [by_length[(fits + place[failed]) // 2]] if i not in logprobs]  # stands in
    return PlainPasses(logprobs, max(tolerances), dtype)


def _joined(rows: Sequence[Continuation]) -> set[int]:
    """Two continuations of different contexts that share a trie if any do: only a mask hides the first one's end."""
    best, found = 0.0, set[int]()
    for one, other in pairwise(sorted(range(len(rows)), key=lambda i: rows[i].tokens)):
        first, second = rows[one].tokens[:-1], rows[other].tokens[:-1]
        common = common_length(first, second)
        if common < len(first) and rows[one].tokens[: rows[one].n_context] != second[: rows[other].n_context]:
            saved = common / (max(len(second) - common, 1) * len(first))  # as the plan decides
            best, found = max((best, found), (saved, {one, other}), key=lambda pair: pair[0])
    return found


def _plain(model: Any, row: Continuation, dtype: torch.dtype) -> tuple[float, float]:
    """The log-probability of a continuation by plain forward passes, and the tolerance per token, in nats.

    One pass where the logits of its tokens fit into `MAX_LOGITS`; of a long document one for each part of them.
    """
    ids = torch.tensor([row.tokens], device=next(model.parameters()).device)
    n, head = len(row.tokens) - 1, head_of(model)
    most = max(MAX_LOGITS // text_config(model).vocab_size, 1) if head is not None else n
    logprob = tolerance = 0.0
    for low, high in pairwise([*range(row.n_context - 1, n, most), n]):
        with contextlib.nullcontext() if head is None else _only(head, low, high):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0]
        # A model that does not call the module that it names its head gives all logits.
        scored = (logits if len(logits) == high - low else logits[low:high]).float()
        own = torch.log_softmax(scored, dim=-1).gather(1, ids[0, low + 1 : high + 1, None])
        logprob, tolerance = logprob + float(own.double().sum()), max(tolerance, rounding(scored, dtype))
    return logprob, tolerance


def _only(head: torch.nn.Module, low: int, high: int) -> contextlib.AbstractContextManager[Any]:
    """Lets only the hidden states of some tokens pass the LM head."""
    return head.register_forward_pre_hook(lambda module, args: (args[0][:, low:high], *args[1:]) if args else None)
