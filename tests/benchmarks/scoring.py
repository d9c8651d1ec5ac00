"""Speed of snapshots: ours, lm-eval at its best batch size, and the limit of the hardware, measured in turn.

    python tests/benchmarks/scoring.py [--device cuda] [--dtype bfloat16] [--rows S-text-32k gen-tail-S ...] [--items N]

The limit for likelihoods is a bare decoder forward pass over the distinct tokens of the items, and matrix products of
the LM head over the scored tokens. For generation it is the same forward pass for the prompts, then one per step over
the unfinished rows, without attention to earlier tokens. Both use the fastest of several shapes. Seconds are medians;
"first use" is the extra time of the first snapshot of a run, for token ids, batches and the self-check.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from workloads import choices, classes, count_down, generation, make_model, make_tokenizer, source

from forget_callback.probes.items import Generation
from forget_callback.probes.probe import Probe

TEXT, GENERATION = ("text", "letters", "5shot"), ("equal", "tail", "fewshot")
N_ITEMS = {
    "S": {"text": 300, "letters": 300, "5shot": 60, "equal": 64, "tail": 64, "fewshot": 64},
    "M": {"text": 32, "letters": 32, "equal": 8, "tail": 8, "fewshot": 16},
}
LONGEST = {"S": 200, "M": 64}  # answer of "tail"
ROWS = {
    **{f"{size}-{kind}-{v}": (size, kind, v) for size in "SM" for kind in ("text", "letters") for v in ("32k", "152k")},
    "S-5shot-32k": ("S", "5shot", "32k"),
    **{f"gen-{kind}-{size}": (size, kind, "32k") for kind in GENERATION for size in "SM"},
}
BATCH_SIZES = (1, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Work:
    """The least work for a probe, counted without the code that is measured.

    Attributes:
        tokens: Distinct tokens to forward: one trie per item; a common prefix of all items, of 32 tokens or more, once.
        length: Average tokens per item.
        scored: Distinct tokens whose logits are needed; 0 for generation.
        steps: Unfinished rows at each decoding step.
    """

    tokens: int
    length: int
    scored: int
    steps: tuple[int, ...] = ()


def common_prefix(rows: list[tuple[int, ...]]) -> int:
    """Length of the common prefix of all rows, or 0 if it is shorter than 32 tokens."""
    n = next((n for n, tokens in enumerate(zip(*rows)) if len(set(tokens)) > 1), 0)
    return n if n >= 32 else 0


def work_of_choices(probe: Probe, tokenizer: Any) -> Work:
    """Counts trie nodes, without the last token of each row, after which nothing is scored."""
    from forget_callback.scoring.likelihood.tokens import encode_items

    rows = encode_items(probe, tokenizer).rows
    shared = common_prefix([row.tokens for row in rows])
    nodes = {(row.item, row.tokens[:n]) for row in rows for n in range(shared + 1, len(row.tokens))}
    scored = {(row.item, row.tokens[:n]) for row in rows for n in range(row.n_context, len(row.tokens))}
    return Work(len(nodes) + shared, round(len(nodes) / len(probe)), len(scored))


def work_of_generation(probe: Probe, tokenizer: Any) -> Work:
    """Counts prompt tokens, and generated tokens, whose number the prompt's last token determines."""
    rows = [tuple(tokenizer.encode(item.prompt)) for item in probe.items]
    shared = common_prefix(rows)
    n = sum(len(row) - shared for row in rows)
    follows = classes(tokenizer)
    lengths = [min(follows[row[-1]], item.max_new_tokens) for row, item in zip(rows, probe.items)]
    steps = tuple(sum(length > step for length in lengths) for step in range(max(lengths)))
    return Work(n + shared, round(n / len(rows)), 0, steps)


def make_ours(probe: Probe, tokenizer: Any) -> Callable[[Any], Any]:
    """A function from a model to its snapshot; batches are planned in the first call."""
    from forget_callback.scoring.engine import Scorer

    scorer = Scorer(tokenizer, [probe])
    return lambda model: scorer.score(model)[0]


def make_lm_eval(probe: Probe, tokenizer: Any, model: Any, batch_size: int) -> Callable[[], list[Any]]:
    """lm-eval's own wrapper on the same items: a summed log-probability for each choice, or a generated text."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
    if isinstance(probe.items[0], Generation):
        stop = {"until": ["\n"], "do_sample": False, "max_gen_toks": probe.items[0].max_new_tokens}
        requests = [Instance("generate_until", {}, (item.prompt, dict(stop)), 0) for item in probe.items]
        return lambda: lm.generate_until(requests, disable_tqdm=True)
    pairs = [(item.prompt, choice) for item in probe.items for choice in item.choices]
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    return lambda: [found[0] for found in lm.loglikelihood(requests, disable_tqdm=True)]


def best_batch_size(probe: Probe, tokenizer: Any, model: Any) -> int:
    """By one timed run per batch size on part of the items; stops after two slower than the best, or one by far."""
    is_generation = isinstance(probe.items[0], Generation)
    n = len(probe) if is_generation else max(16, len(probe) // 3)
    part = Probe(probe.name, probe.items[:n])
    n_rows = n if is_generation else sum(len(item.choices) for item in part.items)
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


def decoder_calls(model: Any, n_tokens: int, length: int, batch_tokens: int) -> Iterator[Callable[[], Any]]:
    """Forward passes over `n_tokens` tokens in total, in rows of `length`, without mask, KV cache or LM head."""
    import torch

    ids = torch.randint(0, 30_000, (1, max(batch_tokens, length)), device=model.device)
    while n_tokens > 0:
        rows = max(min(batch_tokens, n_tokens) // length, 1)
        width = min(length, n_tokens)
        shown = ids[:, : rows * width].reshape(rows, width)
        yield lambda shown=shown: model.model(input_ids=shown, use_cache=False)
        n_tokens -= rows * width


def head_calls(model: Any, n_rows: int, tile: int, chunk: int = 1024) -> Iterator[Callable[[], Any]]:
    """Matrix products of the LM head over `n_rows` rows, in vocabulary tiles, into one buffer."""
    import torch

    weight = model.get_output_embeddings().weight
    hidden = torch.randn(chunk, weight.shape[1], device=weight.device, dtype=weight.dtype)
    buffer = torch.empty(chunk * tile, device=weight.device, dtype=weight.dtype)
    for begin in range(0, n_rows, chunk):
        n = min(chunk, n_rows - begin)
        for part in weight.split(tile):
            out = buffer[: n * len(part)].view(n, len(part))
            yield lambda n=n, part=part, out=out: torch.mm(hidden[:n], part.T, out=out)


def fastest(shapes: list[list[Callable[[], Any]]], model: Any) -> list[Callable[[], Any]]:
    """The fastest list of calls, by the best of two runs, or by a single one if that takes a second."""

    def taken(calls: list[Callable[[], Any]]) -> float:
        first = seconds(lambda: [call() for call in calls], model)[0]
        return first if first > 1 else min(first, seconds(lambda: [call() for call in calls], model)[0])

    return min(shapes, key=taken)


def make_limit(work: Work, model: Any) -> Callable[[], Any]:
    """The calls that no implementation can avoid, in their fastest shape."""
    vocabulary = model.config.vocab_size
    lengths, batches = sorted({work.length, 64, 128}), (1024, 2048, 4096)
    calls = fastest([list(decoder_calls(model, work.tokens, n, size)) for n in lengths for size in batches], model)
    if work.scored:
        calls += fastest([list(head_calls(model, work.scored, tile)) for tile in (2048, 8192, vocabulary)], model)
    steps = {n: [*decoder_calls(model, n, 1, n), *head_calls(model, n, vocabulary, n)] for n in set(work.steps)}
    calls += [call for n in work.steps for call in steps[n]]
    return lambda: [call() for call in calls]


def seconds(call: Callable[[], Any], model: Any) -> tuple[float, Any]:
    """Seconds that a call takes without gradients, and its result."""
    import torch

    wait = torch.cuda.synchronize if model.device.type == "cuda" else lambda: None
    with torch.no_grad():
        wait()
        begun = time.perf_counter()
        found = call()
        wait()
        return time.perf_counter() - begun, found


def agreement(probe: Probe, snapshot: Any, theirs: list[Any]) -> tuple[float, float]:
    """Share of items with the same answer, and the largest difference of two log-probabilities (NaN for texts)."""
    if isinstance(probe.items[0], Generation):
        ours = [str(text).split("\n")[0] for text in snapshot.text]
        return sum(a == b.split("\n")[0] for a, b in zip(ours, theirs)) / len(probe), float("nan")
    alike, largest, begin = 0, 0.0, 0
    for mine in snapshot.scores:
        sums = theirs[begin : begin + len(mine)]
        begin += len(mine)
        alike += int(mine.argmax()) == max(range(len(sums)), key=sums.__getitem__)
        largest = max(largest, *(abs(a - b) for a, b in zip(mine, sums)))
    return alike / len(probe), largest


def measure(name: str, arguments: argparse.Namespace, tokenizer: Any) -> list[str]:
    """One line of the table."""
    size, kind, vocabulary = ROWS[name]
    n = arguments.items or N_ITEMS[size][kind]
    model = make_model(size, vocabulary, tokenizer, device=arguments.device, dtype=arguments.dtype)
    if kind in GENERATION:
        model, probe = count_down(model, tokenizer), generation(kind, n, tokenizer, longest=LONGEST[size])
        work = work_of_generation(probe, tokenizer)
    else:
        probe = choices(kind, n)
        work = work_of_choices(probe, tokenizer)
    begun = time.perf_counter()
    ours = make_ours(probe, tokenizer)
    seconds(lambda: ours(model), model)
    first_use = time.perf_counter() - begun
    batch_size = best_batch_size(probe, tokenizer, model)
    lm_eval, limit = make_lm_eval(probe, tokenizer, model, batch_size), make_limit(work, model)
    taken: list[tuple[float, ...]] = []
    for _ in range(arguments.repeats):  # in turn, so that other load on the machine affects all alike
        (a, snapshot), (b, theirs), (c, _) = (seconds(call, model) for call in (lambda: ours(model), lm_eval, limit))
        taken.append((a, b, c))
    a, b, c = (median(column) for column in zip(*taken))
    alike, largest = agreement(probe, snapshot, theirs)
    counts = [f"{len(probe)}", f"{work.tokens}", f"{work.scored or sum(work.steps)}"]
    times = [f"{first_use - a:.2f}", f"{a:.3f}", f"{b:.3f} ({batch_size})", f"{c:.3f}"]
    return [name, *counts, *times, f"{b / a:.2f}", f"{a / c:.2f}", f"{alike:.1%}", f"{largest:.1e}"]


def show(lines: list[list[str]]) -> None:
    """An aligned table."""
    head = "row,items,tokens,scored,first use,ours s,lm-eval s (batch),limit s,lm-eval/ours,ours/limit,agree,difference"
    table = [head.split(","), *lines]
    widths = [max(map(len, column)) for column in zip(*table)]
    for line in table:
        print(
            "  ".join(
                f"{cell:>{width}}" if at else f"{cell:<{width}}" for at, (cell, width) in enumerate(zip(line, widths))
            )
        )


def main() -> None:
    """Reads the options, measures each row, prints one table."""
    parser = argparse.ArgumentParser(description="Speed of snapshots: ours, lm-eval, and the limit.")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument(
        "--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="NAME", help=", ".join(ROWS)
    )
    parser.add_argument("--items", type=int, help="number of items in every row, instead of each row's own")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    arguments = parser.parse_args()
    quiet()
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{platform.machine()}, {device}, torch {torch.__version__}, {arguments.dtype}; {source()}", flush=True)
    tokenizer = make_tokenizer()
    lines = []
    for name in arguments.rows:
        print(name, flush=True)
        lines.append(measure(name, arguments, tokenizer))
        print("    " + "  ".join(lines[-1][1:]), flush=True)
    print()
    show(lines)


def quiet() -> None:
    """Keeps lm-eval's log messages out of the table."""
    os.environ.update(
        HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", KINETO_LOG_LEVEL="99"
    )
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


if __name__ == "__main__":
    main()
