"""From the windows of a document to its row: bits per byte, and how far the model is from the baseline on it.

Knows nothing of models: what was measured here and what a server returned become rows alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from forget_callback.probes.items import Text
from forget_callback.scoring.likelihood.divergence import Divergence
from forget_callback.scoring.likelihood.forward import Likelihood
from forget_callback.scoring.likelihood.tokens import Continuation
from forget_callback.snapshots.reference import TopTokens, Window, digest_of_tokens

if TYPE_CHECKING:
    from forget_callback.scoring.outcomes import PartAnswers


def judge_text(answers: PartAnswers, index: int, windows: Sequence[tuple[Continuation, Likelihood]]) -> None:
    """Fills the row of a document: the negative log2-probability of all of its tokens, per byte of UTF-8.

    And how far the model is from the baseline on them, where that is there to compare with; 0 where it is the baseline.
    """
    item = answers.probe.items[index]
    assert isinstance(item, Text)
    bits = -sum(found.logprob for _, found in windows) / math.log(2)
    if math.isinf(bits):  # logits of -inf, as of a padded vocabulary
        answers.dropped[index] = "a token of probability 0"
        return
    answers.judge(index, "correct")
    answers.bits_per_byte[index] = bits / item.n_bytes
    read = [found.document for _, found in windows]
    if top := [one for one in read if isinstance(one, TopTokens)]:
        digests = (digest_of_tokens(row.tokens, row.n_context) for row, _ in windows)
        answers.kept[item.id] = [Window(*pair) for pair in zip(digests, top)]
        answers.kl[index] = answers.kl_error[index] = 0.0
        answers.top1[index] = 1.0
    apart = [one for one in read if isinstance(one, Divergence)]
    if len(apart) == len(read):
        n = sum(one.n for one in apart)
        answers.kl[index] = max(sum(one.kl for one in apart) / n, 0.0)  # rounding alone makes it less
        answers.kl_error[index] = sum(one.error for one in apart) / n
        answers.top1[index] = sum(one.agree for one in apart) / n
