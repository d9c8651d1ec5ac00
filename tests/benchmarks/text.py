"""Cost and truth of bits per byte: ours, lm-eval's rolling log-likelihood, plain forward passes, and the limit.

    python tests/benchmarks/text.py [MODEL_DIR] [--documents SPEC] [--limit N] [--long] [--threads N]

The limit is a bare decoder forward pass over as many tokens in rows as long, without mask, cache or padding, and
matrix products of the LM head over all of them. Without a directory the model is S of `workloads.py` with 32,000
tokens. Seconds are medians of runs in turn, with one thread those of the process: other load counts little.
The first snapshot, with tokens, batches and self-check, is not among them.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import math
import platform
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from contestants import quiet
from limit import fastest, head_calls, seconds
from workloads import make_model, make_tokenizer

from forget_callback import Probe, Text, load_probe


def documents(spec: str, limit: int, long: bool) -> Probe:
    """The documents; with `long` they are joined to `limit` of about 1,000 words."""
    if not long:
        return load_probe(spec, limit=limit)
    words = " ".join(item.prompt for item in load_probe(spec).items).split(" ")
    return Probe("long", [Text(f"d{i}", " ".join(words[i * 1000 : (i + 1) * 1000])) for i in range(limit)])


def limit_of(model: Any, rows: list[Any]) -> list[Any]:
    """The calls that no implementation can avoid: each token but the last of a row is read, and each is predicted."""
    scored = sum(len(row.tokens) - row.n_context for row in rows)
    passes = [list(bodies(model, rows, budget)) for budget in (1024, 2048, 4096)]
    heads = [list(head_calls(model, scored, tile)) for tile in (1024, 8192)]
    return passes[fastest(passes, model)] + heads[fastest(heads, model)]


def bodies(model: Any, rows: list[Any], budget: int) -> Iterator[Any]:
    """Decoder forward passes over rows of like length, a batch as wide as its rows on average: no padding."""
    import torch

    lengths = sorted((len(row.tokens) - 1 for row in rows), reverse=True)
    while lengths:
        own = lengths[: max(budget // lengths[0], 1)]
        lengths = lengths[len(own) :]
        ids = torch.randint(0, 30_000, (len(own), round(sum(own) / len(own))), device=model.device)
        yield lambda ids=ids: model.model(input_ids=ids, use_cache=False)


def quietly(call: Callable[..., Any], *arguments: Any) -> Any:
    """A call without its progress bars."""
    with contextlib.redirect_stderr(io.StringIO()):
        return call(*arguments, disable_tqdm=True)


def plain(model: Any, rows: list[Any], items: Any) -> list[float]:
    """Bits per byte by one unpadded forward pass a window, log-softmax in float64."""
    import torch

    found = [0.0] * len(items)
    for row in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.tokens[:-1]], device=model.device), use_cache=False).logits[0]
        table = torch.log_softmax(logits[row.n_context - 1 :].double(), dim=-1)
        target = torch.tensor(row.tokens[row.n_context :], device=table.device)
        found[row.item] -= float(table.gather(1, target[:, None]).sum()) / math.log(2) / items[row.item].n_bytes
    return found


def main() -> None:
    """Reads the options, measures in turn, prints one line."""
    parser = argparse.ArgumentParser(description="Cost and truth of bits per byte.")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--documents", default="builtin:text")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    quiet()
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(arguments.threads)
    from forget_callback import load_model, load_tokenizer
    from forget_callback.scoring.engine import Scorer
    from forget_callback.scoring.likelihood.tokens import encode_items
    from forget_callback.scoring.models import context_length

    if arguments.model:
        tokenizer = load_tokenizer(arguments.model)
        model = load_model(arguments.model).to(arguments.device, getattr(torch, arguments.dtype))
    else:
        tokenizer = make_tokenizer()
        model = make_model("S", "32k", tokenizer, device=arguments.device, dtype=arguments.dtype)
    probe = documents(arguments.documents, arguments.limit, arguments.long)
    rows = encode_items(probe, tokenizer, limit=context_length(model)).rows
    scorer = Scorer(tokenizer, [probe])
    (first,), taken = scorer.score(model), []
    lm = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=8)
    requests = [Instance("loglikelihood_rolling", {}, (item.prompt,), 0) for item in probe.items]
    limit = limit_of(model, rows)
    for _ in range(arguments.repeats):  # in turn, so that other load on the machine affects both alike
        a, (snapshot,) = seconds(lambda: scorer.score(model), model)
        c, _ = seconds(lambda: [call() for call in limit], model)
        taken.append((a, c))
    a, c = (median(column) for column in zip(*taken))
    b, theirs = seconds(lambda: quietly(lm.loglikelihood_rolling, requests), model)  # once: it takes longest
    of_lm_eval = [-total / math.log(2) / item.n_bytes for total, item in zip(theirs, probe.items)]
    of_plain = plain(model, rows, probe.items)
    differences = [max(abs(snapshot.bits_per_byte - other)) for other in (of_plain, of_lm_eval)]
    n_tokens, path = sum(len(row.tokens) - 1 for row in rows), first.metadata["likelihood"]
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {model.dtype}")
    print(f"{len(probe)} documents, {n_tokens} tokens, path {path}")
    print(
        f"bits per byte {snapshot.bits_per_byte.mean():.4f}; largest difference from plain forward passes "
        f"{differences[0]:.1e}, from lm-eval {differences[1]:.1e}"
    )
    print(f"ours {a:.3f} s, lm-eval {b:.3f} s, limit {c:.3f} s; ours/limit {a / c:.3f}, lm-eval/ours {b / a:.2f}")
    print("ours/limit of each turn: " + ", ".join(f"{x / z:.3f}" for x, z in taken))


if __name__ == "__main__":
    main()
