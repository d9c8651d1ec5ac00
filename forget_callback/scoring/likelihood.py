"""Log-probabilities of continuations: what multiple choice and recall are decided by.

Rows are padded on the right, which a causal model cannot see; log-softmax runs in float32 on the scored positions only,
sums in float64. Nothing of the size rows x vocabulary outlives its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from forget_callback.scoring.plan import Continuation, batches


@dataclass(frozen=True)
class Likelihood:
    """One continuation under the model.

    Attributes:
        logprob: Summed log-probability of the continuation's tokens, in nats; NaN if the model gave NaN.
        margin: Smallest lead of a right token over the best other token, in nats; 0 or more if all are the argmax.
        argmax: The model's own token at each position of the continuation, ``(n_tokens,)``.
        greedy: Whether every token of the continuation is the argmax.
    """

    logprob: float
    margin: float
    argmax: NDArray[np.int64]
    greedy: bool


def likelihoods(
    model: torch.nn.Module,
    rows: Sequence[Continuation],
    *,
    batch_tokens: int,
    pad: int,
    variant: int = 0,
    advance: Callable[[int], object] = lambda n: None,
) -> list[Likelihood]:
    """Scores continuations, in the order given.

    Args:
        model: A causal language model in eval mode, on the device to use.
        rows: None longer than the model's context.
        batch_tokens: Padded tokens of one forward, at most.
        pad: A token id to pad with; its value has no effect.
        variant: Another number, other batches.
        advance: Called with the number of rows that are done.
    """
    device = next(model.parameters()).device
    # The last token predicts nothing that is asked for, so it is not forwarded.
    lengths = [len(row.tokens) - 1 for row in rows]
    result: dict[int, Likelihood] = {}
    for batch in batches(lengths, batch_tokens, variant=variant):
        width = lengths[batch[0]]
        ids = torch.full((len(batch), width), pad, dtype=torch.long)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        for i, index in enumerate(batch):
            ids[i, : lengths[index]] = torch.tensor(rows[index].tokens[:-1])
            mask[i, : lengths[index]] = 1
        logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
        for index, likelihood in zip(batch, _read(logits, [rows[index] for index in batch])):
            result[index] = likelihood
        advance(len(batch))
    return [result[index] for index in range(len(rows))]


def _read(logits: torch.Tensor, rows: Sequence[Continuation]) -> list[Likelihood]:
    """The likelihoods of a batch's rows from its logits, ``(rows, width, vocabulary)``."""
    spans = [range(row.n_context - 1, len(row.tokens) - 1) for row in rows]
    row_index = torch.tensor([i for i, span in enumerate(spans) for _ in span], device=logits.device)
    position = torch.tensor([p for span in spans for p in span], device=logits.device)
    target = torch.tensor([t for row in rows for t in row.tokens[row.n_context :]], device=logits.device)
    scored = torch.log_softmax(logits[row_index, position].float(), dim=-1)
    logprob = scored.gather(1, target[:, None]).squeeze(1)
    argmax = scored.argmax(dim=-1)
    # The best token other than the target: mask the target, in place, for `scored` is ours.
    best_other = scored.scatter_(1, target[:, None], float("-inf")).amax(dim=-1)
    lead = (logprob - best_other).cpu().double().numpy()
    logprob_, argmax_ = logprob.cpu().double().numpy(), argmax.cpu().numpy()
    hit = argmax_ == target.cpu().numpy()
    ends = np.cumsum([len(span) for span in spans])
    parts = [slice(int(end) - len(span), int(end)) for span, end in zip(spans, ends)]
    return [
        Likelihood(float(logprob_[p].sum()), float(lead[p].min()), argmax_[p].astype(np.int64), bool(hit[p].all()))
        for p in parts
    ]
