"""Which token comes next: the argmax, or a draw that belongs to the item and not to its batch.

A draw inverts the distribution function at a number in [0, 1) that follows from seed, item, repeat and place alone. No
random generator of torch is touched, and an item is sampled alike whatever stands beside it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

# Tokens among which the nucleus is looked for first; the whole vocabulary is sorted only where it is larger.
_HEAD = 1024


def draws(n: int, *key: object) -> NDArray[np.float64]:
    """`n` numbers in [0, 1) that follow from the key."""
    seed = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return np.random.default_rng(list(seed)).random(n)


def row_max(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest value of each row, NaN if there is one, and the first place where it stands, ``(rows,)`` each."""
    if values.device.type == "cpu":  # where numpy is six times as fast
        at = torch.from_numpy(values.float().numpy().argmax(axis=-1))
        return values.gather(-1, at[:, None]).squeeze(1), at
    largest, at = values.max(dim=-1)
    return largest, at


def next_tokens(logits: torch.Tensor, at: torch.Tensor | None, *, temperature: float, top_p: float) -> torch.Tensor:
    """The next token of each row, -1 for a row with NaN, ``(rows,)``.

    Args:
        logits: ``(rows, vocabulary)``.
        at: Where each row's distribution function is inverted, in [0, 1), ``(rows,)``; ignored at temperature 0.
        temperature: 0 takes the argmax.
        top_p: Draws among the fewest tokens that have this probability together.
    """
    if temperature == 0:
        largest, token = row_max(logits)
        return torch.where(largest.isnan(), -1, token)
    assert at is not None
    probability = torch.softmax(logits.float() / temperature, dim=-1)
    nan = probability[:, 0].isnan()  # one NaN makes the whole row of it
    if top_p < 1:
        probability = torch.where(probability >= _threshold(probability, top_p), probability, 0.0)
    upto = probability.double().cumsum(dim=-1)  # in the order of the vocabulary: rounding never reorders it
    token = torch.searchsorted(upto, (at.to(upto) * upto[:, -1])[:, None], right=True).squeeze(1)
    last = logits.shape[-1] - 1 - (probability > 0).flip(-1).int().argmax(dim=-1)  # rounding at the very end
    return torch.where(nan, -1, torch.minimum(token, last))


def _threshold(probability: torch.Tensor, top_p: float) -> torch.Tensor:
    """The least probability in each row's nucleus, ``(rows, 1)``."""
    n = probability.shape[-1]
    for size in dict.fromkeys([min(_HEAD, n), n]):
        ordered = probability.topk(size, dim=-1).values
        before = ordered.cumsum(dim=-1) - ordered
        if size == n or bool((before[:, -1] >= top_p).all()):
            break
    inside = (before < top_p).sum(dim=-1, keepdim=True)
    return ordered.gather(1, (inside - 1).clamp(min=0))  # a row of NaN has none inside
