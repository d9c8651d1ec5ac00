"""Who is measured: ours, lm-eval at its best batch size, and the loop that one writes first. All on the same items.

Each is a function of no arguments, which scores a model on a probe and returns what it has found, as `Found`.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from limit import rows_of, seconds, texts_of

from forget_callback.probes.items import Generation, MultipleChoice
from forget_callback.probes.probe import Probe

BATCH_SIZES = (1, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Found:
    """What a contestant says: of each item the chosen option, whether greedy decoding recalls it, or its text.

    Attributes:
        scores: Log-probabilities of all options, in a row; none of other kinds.
        lengths: Tokens generated for each item, where that is known.
    """

    answers: Sequence[Any]
    scores: Sequence[float] = ()
    lengths: Sequence[int] = ()


def make_ours(probe: Probe, tokenizer: Any, model: Any) -> Callable[[], Found]:
    """Ours; batches are planned in the first call."""
    from forget_callback.scoring.engine import Scorer

    scorer = Scorer(tokenizer, [probe])

    def run() -> Found:
        (one,) = scorer.score(model)
        if isinstance(probe.items[0], Generation):
            return Found([str(text) for text in one.text])
        if isinstance(probe.items[0], MultipleChoice):
            return Found(one.choice.tolist(), [float(score) for own in one.scores for score in own])
        return Found([bool(right) for right in one.correct])

    return run


def make_lm_eval(probe: Probe, tokenizer: Any, model: Any, batch_size: int) -> Callable[[], Found]:
    """lm-eval's own wrapper."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
    if isinstance(probe.items[0], Generation):
        how = {"do_sample": False, "max_gen_toks": probe.items[0].max_new_tokens, "until": list(probe.items[0].stop)}
        requests = [Instance("generate_until", {}, (item.prompt, copy.deepcopy(how)), 0) for item in probe.items]
        return lambda: Found(_quietly(lm.generate_until, requests))
    pairs = [(item.prompt, text) for item in probe.items for text in texts_of(item)]
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]

    def run() -> Found:
        found = _quietly(lm.loglikelihood, requests)
        return _of_options(probe, [float(score) for score, _ in found], [bool(greedy) for _, greedy in found])

    return run


def make_naive(probe: Probe, tokenizer: Any, model: Any) -> Callable[[], Found]:
    """A loop of a few lines: each distinct row in an unpadded forward pass of its own, and `model(...).logits`.

    An answer is generated alone, a token at a time, with the model's own cache. Options of one token share their row.
    """
    import torch

    rows = rows_of(probe, tokenizer)

    def score() -> Found:
        scores, greedy, last, logits = [], [], (), torch.empty(0)
        for row in rows:
            if row.tokens[:-1] != last:
                last = row.tokens[:-1]
                logits = model(input_ids=torch.tensor([last], device=model.device)).logits[0]
                logits = torch.log_softmax(logits.float(), dim=-1)
            target = torch.tensor(row.tokens[row.n_context :], device=model.device)
            own = logits[row.n_context - 1 :]
            scores.append(float(own.gather(1, target[:, None]).sum()))
            greedy.append(bool((own.argmax(dim=-1) == target).all()))
        return _of_options(probe, scores, greedy)

    def generate() -> Found:
        answers, lengths = zip(*(_written(model, tokenizer, row.tokens, probe.items[row.item]) for row in rows))
        return Found(answers, lengths=lengths)

    return generate if isinstance(probe.items[0], Generation) else score


def _written(model: Any, tokenizer: Any, prompt: Sequence[int], item: Any) -> tuple[str, int]:
    """An answer and how many tokens were generated for it."""
    import torch

    from forget_callback.scoring import cache as kv

    ids, cache, tokens, text = torch.tensor([prompt], device=model.device), None, [], ""
    while len(tokens) < item.max_new_tokens:
        given = {"use_cache": True} if cache is None else kv.argument(model, cache)
        out = model(input_ids=ids, **given)
        cache = out.past_key_values
        ids = out.logits[:, -1:].argmax(dim=-1)
        tokens.append(int(ids))
        if tokens[-1] == model.generation_config.eos_token_id or tokens[-1] == tokenizer.eos_token_id:
            break
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        at = [found for stop in item.stop if (found := text.find(stop)) >= 0]
        if at:
            return text[: min(at)], len(tokens)
    return text, len(tokens)


def _of_options(probe: Probe, scores: list[float], greedy: list[bool]) -> Found:
    """What log-probabilities of texts, item by item, and whether each is the greedy one say of the items."""
    answers: list[Any] = []
    begin = 0
    for item in probe.items:
        own = range(begin, begin := begin + len(texts_of(item)))
        is_choice = isinstance(item, MultipleChoice)
        answers.append(max(own, key=scores.__getitem__) - own[0] if is_choice else any(greedy[i] for i in own))
    return Found(answers, scores if isinstance(probe.items[0], MultipleChoice) else ())


def best_batch_size(probe: Probe, tokenizer: Any, model: Any) -> int:
    """lm-eval's, by one timed run per batch size on part of the items; ends after two slower ones, or one by far."""
    is_generation = isinstance(probe.items[0], Generation)
    n = len(probe) if is_generation else min(max(16, len(probe) // 3), len(probe))
    part = Probe(probe.name, probe.items[:n])
    n_rows = n if is_generation else len(rows_of(part, tokenizer))
    # Sizes above the number of rows are equal. Generation begins with the largest: single rows are very slow.
    sizes = [size for at, size in enumerate(BATCH_SIZES) if at == 0 or BATCH_SIZES[at - 1] < n_rows]
    make_lm_eval(Probe(probe.name, probe.items[:2]), tokenizer, model, 2)()
    taken: dict[int, float] = {}
    for size in reversed(sizes) if is_generation else sizes:
        taken[size] = seconds(make_lm_eval(part, tokenizer, model, size), model)[0]
        best, last = min(taken.values()), list(taken.values())[-2:]
        if min(last) > best or last[-1] > 1.25 * best:
            break
    print(f"    lm-eval on {n} items: " + ", ".join(f"{size}: {t:.2f} s" for size, t in taken.items()), flush=True)
    return min(taken, key=taken.__getitem__)


def differences(ours: Found, other: Found) -> dict[str, float]:
    """Items with another answer, and the largest difference of two log-probabilities."""
    away = max((abs(a - b) for a, b in zip(ours.scores, other.scores)), default=0.0)
    return {"items": sum(a != b for a, b in zip(ours.answers, other.answers)), "log-probability": away}


def quiet() -> None:
    """Keeps the messages of others out of the tables."""
    os.environ.update(
        HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", KINETO_LOG_LEVEL="99"
    )
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def _quietly(call: Callable[..., Any], requests: Any) -> Any:
    with contextlib.redirect_stderr(io.StringIO()):
        return call(requests, disable_tqdm=True)
