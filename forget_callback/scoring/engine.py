"""`score_probe`: a model, a tokenizer and a probe in, a snapshot out.

The one place where the three kinds of items come together. Never changes the model or anything else (see `guard.py`).
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from forget_callback.answers import judge
from forget_callback.probes import Generation, MultipleChoice, Probe, Recall
from forget_callback.scoring.generation import generate
from forget_callback.scoring.guard import no_trace
from forget_callback.scoring.likelihood import Likelihood, likelihoods
from forget_callback.scoring.plan import Continuation, bind, context_of, continuations, encode
from forget_callback.snapshot import Snapshot, complete

logger = logging.getLogger(__name__)


def score_probe(
    model: Any,
    tokenizer: Any,
    probe: Probe,
    *,
    batch_tokens: int | None = None,
    progress: bool = False,
    variant: int = 0,
) -> Snapshot:
    """Asks a model every item of a probe.

    Args:
        model: A causal language model of transformers, in any mode, on any device; it is left as it was.
        tokenizer: Its tokenizer, or a processor that holds one.
        probe: What to ask. A chat probe takes the tokenizer's template, which becomes part of its fingerprint.
        batch_tokens: Padded tokens of one forward; by default as many as keep its logits within about 1 GiB.
        variant: Another number asks the same in other batches, and samples with another seed: what differs is noise.
        progress: Show a bar on a terminal if it takes longer than two seconds.

    Returns:
        A snapshot at step 0. Items longer than the model's context, and items for which it gave NaN, are not scored.

    Raises:
        ValueError: If `batch_tokens` is below 1, an answer has no token of its own, or a chat template is missing.
    """
    if batch_tokens is not None and batch_tokens < 1:
        raise ValueError(f"batch_tokens must be 1 or more, got {batch_tokens}")
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    config = model.config.get_text_config()
    batch_tokens = batch_tokens or min(max(2**28 // config.vocab_size, 512), 16384)
    with no_trace(model, tokenizer):
        probe = bind(probe, tokenizer)
        rows = continuations(probe, tokenizer)
        written = [(i, item) for i, item in enumerate(probe.items) if isinstance(item, Generation)]
        prompts = [encode(context_of(item, probe, tokenizer), tokenizer, special=not probe.chat) for _, item in written]
        limit = getattr(config, "max_position_embeddings", None) or 2**62
        too_long = {row.item for row in rows if len(row.tokens) > limit}
        too_long |= {i for (i, item), prompt in zip(written, prompts) if len(prompt) + item.max_new_tokens > limit}
        _report_too_long(probe, too_long, limit)
        rows = [row for row in rows if row.item not in too_long]
        kept = [at for at, (i, _) in enumerate(written) if i not in too_long]
        table = _Table(len(probe))
        with _bar(probe, len(rows) + len(kept), progress) as bar:
            pad = tokenizer.pad_token_id or 0
            scored = likelihoods(model, rows, batch_tokens=batch_tokens, pad=pad, variant=variant, advance=bar.update)
            _judge_likelihoods(table, probe, rows, scored, tokenizer)
            items = [written[at][1] for at in kept]
            texts = generate(
                model,
                tokenizer,
                probe,
                items,
                [prompts[at] for at in kept],
                batch_tokens=batch_tokens,
                variant=variant,
                advance=bar.update,
            )
        for at, text in zip(kept, texts):
            if text is None:
                continue
            index, item = written[at]
            verdict = judge(item, text.text, finished=text.finished)
            table.outcome[index] = verdict.outcome
            table.prediction[index], table.text[index] = verdict.prediction, text.text
    return table.snapshot(probe, {"batch_tokens": batch_tokens, "dtype": str(model.dtype).removeprefix("torch.")})


class _Table:
    """The columns of a snapshot while they are filled; a row that nobody fills stays unscored."""

    def __init__(self, n: int) -> None:
        self.outcome: list[str | None] = [None] * n
        self.choice = np.full(n, -1)
        self.margin = np.full(n, np.nan)
        self.prediction: list[str | None] = [None] * n
        self.text: list[str | None] = [None] * n
        self.scores: list[Any] = [()] * n

    def snapshot(self, probe: Probe, metadata: dict[str, Any]) -> Snapshot:
        correct = [np.nan if outcome is None else float(outcome == "correct") for outcome in self.outcome]
        snapshot = Snapshot(
            probe=probe.name,
            fingerprint=probe.fingerprint,
            step=0,
            ids=np.array(probe.ids, object),
            correct=np.array(correct),
            outcome=np.array(self.outcome, object),
            choice=self.choice,
            margin=self.margin,
            prediction=np.array(self.prediction, object),
            text=np.array(self.text, object),
            scores=self.scores,  # type: ignore[arg-type]
            metadata=metadata,
        )
        return complete(snapshot, probe)


def _judge_likelihoods(
    table: _Table, probe: Probe, rows: list[Continuation], scored: list[Likelihood], tokenizer: Any
) -> None:
    """Fills the rows of choice and recall items."""
    by_item: dict[int, list[tuple[Continuation, Likelihood]]] = {}
    for row, likelihood in zip(rows, scored):
        by_item.setdefault(row.item, []).append((row, likelihood))
    for index, options in by_item.items():
        if any(np.isnan(likelihood.logprob) for _, likelihood in options):
            continue
        item = probe.items[index]
        if isinstance(item, Recall):
            (row, said), wanted = options[0], options[0][0].tokens[options[0][0].n_context :]
            table.outcome[index] = "correct" if said.greedy else "wrong"
            table.margin[index] = said.margin
            # After its first wrong token the model would have gone another way than the answer that it was given.
            first_wrong = next((i for i, t in enumerate(said.argmax) if t != wanted[i]), len(wanted) - 1)
            table.prediction[index] = tokenizer.decode(
                [*wanted[:first_wrong], int(said.argmax[first_wrong])], skip_special_tokens=True
            )
        elif isinstance(item, MultipleChoice):
            sums = np.array([likelihood.logprob for _, likelihood in options])
            scores = sums / _lengths(item, probe, [row for row, _ in options])
            choice = int(scores.argmax())
            table.outcome[index] = "correct" if choice == item.answer else "wrong"
            table.choice[index], table.scores[index] = choice, scores
            table.margin[index] = scores[item.answer] - np.delete(scores, item.answer).max()
            table.prediction[index] = item.choices[choice]


def _lengths(item: MultipleChoice, probe: Probe, rows: list[Continuation]) -> Any:
    """What each option's sum is divided by. Bytes do not count the leading space, as in lm-eval."""
    if probe.normalization == "length":
        return np.array([len(choice.lstrip().encode()) for choice in item.choices], float)
    if probe.normalization == "token":
        return np.array([len(row.tokens) - row.n_context for row in rows], float)
    return 1.0


def _report_too_long(probe: Probe, too_long: set[int], limit: int) -> None:
    if too_long:
        names = [probe.items[i].id for i in sorted(too_long)]
        logger.warning(
            "probe %r: %d items are longer than the model's %d positions and are not scored: %s",
            probe.name,
            len(names),
            limit,
            ", ".join(names[:5]) + (", ..." if len(names) > 5 else ""),
        )


def _bar(probe: Probe, total: int, progress: bool) -> Any:
    # disable=None: shown on a terminal only, so that a log file gets no bar.
    return tqdm(total=total, desc=f"probe {probe.name}", delay=2, leave=False, disable=None if progress else True)
