"""How fast snapshots are: ours, lm-eval at its best batch size, and the limit of the hardware, in turn.

    python tests/benchmarks/scoring.py [--device cuda] [--dtype bfloat16] [--rows S-text-32k gen-tail-S ...] [--items N]

The limit of likelihoods is a bare decoder forward over as many tokens as the items have different ones, and the head
as matrix products over the scored rows. That of generation is the same forward for the prompts, and then one a step
for the rows that are not done, which see nothing but one token. Both take the fastest of several shapes. Seconds are
medians; "first use" is what ours needs more the first time in a run, for plan, token ids and self-check.
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

from workloads import choices, classes, count_down, make_model, make_tokenizer, source, written

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
    """What has to be computed for a probe, counted without the code that is measured.

    Attributes:
        tokens: Different tokens to forward: a trie an item, and a prefix of 32 tokens or more of all items only once.
        length: Tokens an item, on average.
        scored: Different rows that predict a token that is scored; 0 for generation.
        steps: Rows that are still alive at each step of generation.
    """

    tokens: int
    length: int
    scored: int
    steps: tuple[int, ...] = ()


def common_prefix(rows: list[tuple[int, ...]]) -> int:
    """How many tokens all rows begin with, or 0 if those are less than 32."""
    n = next((n for n, tokens in enumerate(zip(*rows)) if len(set(tokens)) > 1), 0)
    return n if n >= 32 else 0


def work_of_choices(probe: Probe, tokenizer: Any) -> Work:
    """Counts prefixes: each node of a trie is one, without the last token of each row, which predicts nothing."""
    from forget_callback.scoring.likelihood.tokens import continuations

    rows = continuations(probe, tokenizer)
    shared = common_prefix([row.tokens for row in rows])
    nodes = {(row.item, row.tokens[:n]) for row in rows for n in range(shared + 1, len(row.tokens))}
    scored = {(row.item, row.tokens[:n]) for row in rows for n in range(row.n_context, len(row.tokens))}
    return Work(len(nodes) + shared, round(len(nodes) / len(probe)), len(scored))


def work_of_writing(probe: Probe, tokenizer: Any) -> Work:
    """Prompts, and the tokens of each answer, whose number the prompt's last token decides."""
    rows = [tuple(tokenizer.encode(item.prompt)) for item in probe.items]
    shared = common_prefix(rows)
    n = sum(len(row) - shared for row in rows)
    follows = classes(tokenizer)
    lengths = [min(follows[row[-1]], item.max_new_tokens) for row, item in zip(rows, probe.items)]
    steps = tuple(sum(length > step for length in lengths) for step in range(max(lengths)))
    return Work(n + shared, round(n / len(rows)), 0, steps)


def make_ours(probe: Probe, tokenizer: Any) -> Callable[[Any], Any]:
    """A model in, a snapshot out: the second call on has its plan."""
    from forget_callback.scoring.engine import Scorer

    scorer = Scorer(tokenizer, [probe])
    return lambda model: scorer.score(model)[0]


def make_lm_eval(probe: Probe, tokenizer: Any, model: Any, batch_size: int) -> Callable[[], list[Any]]:
    """lm-eval's own wrapper on the same items: a sum for each choice, or a text."""
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
    """By one timed run each on part of the items; stops when two in turn are slower than the best, or one by far."""
    is_generation = isinstance(probe.items[0], Generation)
    n = len(probe) if is_generation else max(16, len(probe) // 3)
    part = Probe(probe.name, probe.items[:n])
    n_rows = n if is_generation else sum(len(item.choices) for item in part.items)
    # Sizes above the number of rows are alike. Generation begins with the largest, for single rows take ages.
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
    """Forwards of `n_tokens` tokens in all, in rows of `length`, without a mask, a cache or a head."""
    import torch

    ids = torch.randint(0, 30_000, (1, max(batch_tokens, length)), device=model.device)
    while n_tokens > 0:
        rows = max(min(batch_tokens, n_tokens) // length, 1)
        width = min(length, n_tokens)
        shown = ids[:, : rows * width].reshape(rows, width)
        yield lambda shown=shown: model.model(input_ids=shown, use_cache=False)
        n_tokens -= rows * width


def head_calls(model: Any, n_rows: int, tile: int, chunk: int = 1024) -> Iterator[Callable[[], Any]]:
    """Matrix products of the head over rows, in tiles of the vocabulary, into one buffer."""
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
    """The list of calls that takes the least time, by the best of two runs, or by one where that takes a second."""

    def taken(calls: list[Callable[[], Any]]) -> float:
        first = seconds(lambda: [call() for call in calls], model)[0]
        return first if first > 1 else min(first, seconds(lambda: [call() for call in calls], model)[0])

    return min(shapes, key=taken)


def make_limit(work: Work, model: Any) -> Callable[[], Any]:
    """The calls that nobody can do without, in their fastest shape."""
    vocabulary = model.config.vocab_size
    lengths, batches = sorted({work.length, 64, 128}), (1024, 2048, 4096)
    calls = fastest([list(decoder_calls(model, work.tokens, n, size)) for n in lengths for size in batches], model)
    if work.scored:
        calls += fastest([list(head_calls(model, work.scored, tile)) for tile in (2048, 8192, vocabulary)], model)
    steps = {n: [*decoder_calls(model, n, 1, n), *head_calls(model, n, vocabulary, n)] for n in set(work.steps)}
    calls += [call for alive in work.steps for call in steps[alive]]
    return lambda: [call() for call in calls]


def seconds(call: Callable[[], Any], model: Any) -> tuple[float, Any]:
    """How long a call takes without gradients, and what it returns."""
    import torch

    wait = torch.cuda.synchronize if model.device.type == "cuda" else lambda: None
    with torch.no_grad():
        wait()
        begun = time.perf_counter()
        found = call()
        wait()
        return time.perf_counter() - begun, found


def agreement(probe: Probe, snapshot: Any, theirs: list[Any]) -> tuple[float, float]:
    """Share of items that are answered alike, and the largest difference of two sums (NaN for texts)."""
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
        model, probe = count_down(model, tokenizer), written(kind, n, tokenizer, longest=LONGEST[size])
        work = work_of_writing(probe, tokenizer)
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
    for _ in range(arguments.repeats):  # in turn, so that what else the machine does falls on all alike
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
    parser.add_argument("--items", type=int, help="items of every row, instead of each row's own number")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
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
    """Keeps what lm-eval says about itself out of the table."""
    os.environ.update(
        HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", KINETO_LOG_LEVEL="99"
    )
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


if __name__ == "__main__":
    main()
