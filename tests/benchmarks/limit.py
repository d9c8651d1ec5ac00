"""What "of the limit" means in every benchmark: the work that nothing can avoid, as bare calls of the model.

Likelihoods: decoder forward passes over the distinct tokens of the items (a trie an item; a prefix of all, of 32 tokens
or more, once), without mask, cache or padding, and matrix products of the LM head over the distinct scored tokens.
Generated answers: the same for the prompts, whose last token is scored; then a forward pass a step, head included, of
one token in each row that is unfinished, all at once, with keys and values as long as these rows are on average.

Both in the fastest of several shapes. Not in it is what a real scorer also needs: softmax, attention to a prefix that
items share, padding, waiting, reading, judging. So 1.0 is not to be reached, and a comparison of kinds is fair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from forget_callback.probes.items import Generation, MultipleChoice, accepted
from forget_callback.probes.probe import Probe

Call = Callable[[], Any]


class Row(NamedTuple):
    """A text to score or a prompt: the index of its item, its tokens, and how many of them are context."""

    item: int
    tokens: tuple[int, ...]
    n_context: int


@dataclass(frozen=True)
class Work:
    """The least work for a probe, counted without the code that is measured.

    Attributes:
        tokens: Distinct tokens to forward.
        length: Average tokens per item.
        scored: Distinct tokens whose logits are needed; of a prompt its last one.
        steps: Unfinished rows at each decoding step, and the average tokens in each before it.
    """

    tokens: int
    length: int
    scored: int
    steps: tuple[tuple[int, int], ...] = ()


def rows_of(probe: Probe, tokenizer: Any) -> list[Row]:
    """A row for each option or accepted answer, or for each prompt to generate from; prompts end without a space."""
    rows = []
    for i, item in enumerate(probe.items):
        head = tokenizer.encode(item.prompt)
        rows += [Row(i, tuple(tokenizer.encode(item.prompt + text)), len(head)) for text in texts_of(item)]
    return rows


def texts_of(item: Any) -> Sequence[str]:
    """What is scored after an item's prompt: its options or accepted answers; nothing where an answer is generated."""
    if isinstance(item, Generation):
        return [""]
    return item.choices if isinstance(item, MultipleChoice) else accepted(item)


def common_prefix(rows: Sequence[tuple[int, ...]]) -> int:
    """Length of the common prefix of all rows, or 0 if it is shorter than 32 tokens."""
    n = next((n for n, tokens in enumerate(zip(*rows)) if len(set(tokens)) > 1), 0)
    return n if n >= 32 else 0


def work_of(probe: Probe, tokenizer: Any, lengths: Sequence[int] = ()) -> Work:
    """Counts trie nodes, without the last token of each row, after which nothing is scored.

    Args:
        lengths: Tokens that are generated for each item, the final one included.
    """
    rows = rows_of(probe, tokenizer)
    read = [row.tokens if lengths else row.tokens[:-1] for row in rows]
    shared = common_prefix(read)
    nodes = {(row.item, own[:n]) for row, own in zip(rows, read) for n in range(shared + 1, len(own) + 1)}
    scored = {(row.item, own[:n]) for row, own in zip(rows, read) for n in range(row.n_context, len(own) + 1)}
    steps = []
    for step in range(1, max(lengths, default=0)):  # the first token follows from the prompt
        unfinished = [len(row.tokens) + step - 1 for row, n in zip(rows, lengths) if n > step]
        steps.append((len(unfinished), round(sum(unfinished) / len(unfinished))))
    return Work(len(nodes) + shared, max(round(len(nodes) / len(probe)), 1), len(scored), tuple(steps))


def seconds(call: Call, model: Any) -> tuple[float, Any]:
    """Seconds that a call takes without gradients, and its result.

    On a CPU with one thread it is the process' own time, on which other load tells little; else it is wall time.
    """
    import torch

    wait = torch.cuda.synchronize if model.device.type == "cuda" else lambda: None
    alone = model.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    with torch.no_grad():
        wait()
        begun = clock()
        found = call()
        wait()
        return clock() - begun, found


def decoder_calls(model: Any, n_tokens: int, length: int, batch_tokens: int) -> Iterator[Call]:
    """Forward passes over `n_tokens` tokens in total, in rows of `length`, without mask, KV cache or LM head."""
    import torch

    ids = torch.randint(0, min(model.config.vocab_size, 1000), (1, max(batch_tokens, length)), device=model.device)
    while n_tokens > 0:
        rows = max(min(batch_tokens, n_tokens) // length, 1)
        width = min(length, n_tokens)
        shown = ids[:, : rows * width].reshape(rows, width)
        yield lambda shown=shown: model.model(input_ids=shown, use_cache=False)
        n_tokens -= rows * width


def head_calls(model: Any, n_rows: int, tile: int, chunk: int = 1024) -> Iterator[Call]:
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


def decode_calls(model: Any, steps: Sequence[tuple[int, int]]) -> Iterator[Call]:
    """Forward passes of one token in each row after `length` others, whose keys and values lie in one buffer."""
    import torch
    from transformers.cache_utils import Cache

    from forget_callback.scoring import cache as kv

    made = make_layer()
    (first,) = {tuple(k.shape[1:]) for k, _ in kv.of_prefix(model, (0,))}
    n_layers, most = len(kv.of_prefix(model, (0,))), [max(column) for column in zip(*steps)]
    size = (n_layers, 2, most[0], first[0], most[1] + 1, first[2])
    buffers = torch.zeros(size, device=model.device, dtype=model.dtype)
    for rows, length in steps:
        ids = torch.zeros((rows, 1), dtype=torch.long, device=model.device)
        layers = [made(keys, values) for keys, values in buffers[:, :, :rows, :, : length + 1]]
        inputs = {"input_ids": ids, "position_ids": ids + length, **kv.argument(model, Cache(layers=layers))}
        yield lambda inputs=inputs: model(**inputs)


def make_layer() -> Any:
    """A layer of a cache of a fixed length, in whose last place each forward pass puts its token."""
    from transformers.cache_utils import DynamicLayer

    class Fixed(DynamicLayer):
        def __init__(self, keys: Any, values: Any) -> None:
            super().__init__()
            self.keys, self.values, self.dtype, self.device = keys, values, keys.dtype, keys.device
            self.is_initialized = True

        def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> Any:
            self.keys[:, :, -1:], self.values[:, :, -1:] = key_states, value_states
            return self.keys, self.values

        def get_seq_length(self) -> int:
            return int(self.keys.shape[-2]) - 1

    return Fixed


def fastest(shapes: Sequence[Sequence[Call]], model: Any) -> int:
    """Which list of calls is the fastest, by the best of two runs, or by a single one if that takes a second."""

    def taken(at: int) -> float:
        run = lambda: [call() for call in shapes[at]]  # noqa: E731
        first = seconds(run, model)[0]
        return first if first > 1 else min(first, seconds(run, model)[0])

    return min(range(len(shapes)), key=taken)


def make_limit(work: Work, model: Any, *, batches: Sequence[int] = (1024, 2048, 4096)) -> Call:
    """The calls that no implementation can avoid; which shape is the fastest is found on a part of the tokens."""
    vocabulary, part = model.config.vocab_size, min(work.tokens, max(batches))
    shapes = [(length, size) for length in sorted({work.length, 64, 128}) for size in batches if size <= part] or [
        (min(work.length, part), part)
    ]
    seconds(next(decoder_calls(model, part, *shapes[0])), model)  # the first forward pass of a process takes longer
    chosen = shapes[fastest([list(decoder_calls(model, part, *shape)) for shape in shapes], model)]
    calls = list(decoder_calls(model, work.tokens, *chosen))
    heads = [list(head_calls(model, work.scored, tile)) for tile in (2048, 8192, vocabulary)]
    calls += heads[fastest(heads, model)]
    calls += list(decode_calls(model, work.steps)) if work.steps else []
    return lambda: [call() for call in calls]
