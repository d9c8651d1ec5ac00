"""Next-token selection: the argmax, or a sample that depends on the item and not on its batch.

A sample inverts the cumulative distribution at a number in [0, 1) that follows from seed, item, sample and position
alone. No random generator of torch is touched, and an item is sampled alike whatever shares its batch.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

# Likeliest tokens that are searched for the nucleus first; the whole vocabulary is sorted only if that is not enough.
_TOP_K = 1024


def draws(n: int, *key: object) -> NDArray[np.float64]:
    """`n` uniform numbers in [0, 1) that are a hash of the key."""
    seed = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return np.random.default_rng(list(seed)).random(n)


def row_max(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Maximum of each row (NaN if the row has one) and its first index, ``(rows,)`` each."""
    if values.device.type == "cpu":  # where numpy is six times as fast
        at = torch.from_numpy(values.float().numpy().argmax(axis=-1))
        return values.gather(-1, at[:, None]).squeeze(1), at
    largest, at = values.max(dim=-1)
    return largest, at


def next_tokens(
    logits: torch.Tensor, uniform: torch.Tensor | None, *, temperature: float, top_p: float
) -> torch.Tensor:
    """The next token of each row, -1 for a row with NaN, ``(rows,)``.

    Args:
        logits: ``(rows, vocabulary)``.
        uniform: Where each row's cumulative distribution is inverted, in [0, 1), ``(rows,)``; ignored at temperature 0.
        temperature: 0 takes the argmax.
        top_p: Nucleus sampling: the smallest set of tokens with at least this total probability.
    """
    if temperature == 0:
        largest, token = row_max(logits)
        return torch.where(largest.isnan(), -1, token)
    assert uniform is not None
    probability = torch.softmax(logits.float() / temperature, dim=-1)
    nan = probability[:, 0].isnan()  # one NaN logit makes the whole row NaN
    if top_p < 1:
        probability = torch.where(probability >= _nucleus_threshold(probability, top_p), probability, 0.0)
    # In vocabulary order, not sorted by probability: rounding never reorders it.
    cumulative = probability.double().cumsum(dim=-1)
    target = (uniform.to(cumulative) * cumulative[:, -1])[:, None]
    token = torch.searchsorted(cumulative, target, right=True).squeeze(1)
    # Rounding at the very end may step past the last token that has any probability.
    last = logits.shape[-1] - 1 - (probability > 0).flip(-1).int().argmax(dim=-1)
    return torch.where(nan, -1, torch.minimum(token, last))


def _nucleus_threshold(probability: torch.Tensor, top_p: float) -> torch.Tensor:
    """The smallest probability in each row's nucleus, ``(rows, 1)``."""
    n = probability.shape[-1]
    for size in dict.fromkeys([min(_TOP_K, n), n]):
        ordered = probability.topk(size, dim=-1).values
        before = ordered.cumsum(dim=-1) - ordered
        if size == n or bool((before[:, -1] >= top_p).all()):
            break
    inside = (before < top_p).sum(dim=-1, keepdim=True)
    return ordered.gather(1, (inside - 1).clamp(min=0))  # a NaN row has none inside
