"""What tokenizing costs: processor time an item, and the memory of token ids, beside one text after the other.

    python tests/benchmarks/tokens.py [--model DIRECTORY] [--data DIR] [--items N] [--repeats N] [--memory N]

Items are choices as text and recall, zero-shot and after as many solved ones as make a prompt of some 1,100 tokens.
One by one means that each option's context and whole are encoded where they are needed, as before there were batches;
both ways are timed in turn in one process, with the same ids. Memory is that of the Python objects that are kept.
Without --model the tokenizer is trained on the fly.
"""

from __future__ import annotations

import argparse
import gc
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from workloads import facts, load_items, make_tokenizer

from forget_callback import MultipleChoice, Probe, Recall, load_tokenizer

Row = tuple[int, tuple[int, ...], int]
LENGTH = 1_100  # tokens of a prompt with solved examples


def one_by_one(probe: Probe, tokenizer: Any) -> list[Row]:
    """Tokens of each option or answer with its context, and how many are context."""
    rows = []
    for i, item in enumerate(probe.items):
        texts = item.choices if isinstance(item, MultipleChoice) else [item.answer]
        for text in texts:
            head, whole = tokenizer.encode(item.prompt.rstrip()), tokenizer.encode(item.prompt + text)
            rows.append((i, (*head, *whole[len(head) :]), len(head)))
    return rows


def batched(probe: Probe, tokenizer: Any) -> Any:
    """The same as the callback has it."""
    from forget_callback.scoring.likelihood.tokens import encode_items

    return encode_items(probe, tokenizer).rows


WAYS: dict[str, Callable[[Probe, Any], Any]] = {"one by one": one_by_one, "batched": batched}


def after_examples(items: Sequence[Any], tokenizer: Any) -> list[Any]:
    """The items, each after solved ones: the same for all, as few as make a prompt of some length."""
    shown, n = "", 0
    for item in items:
        if n >= LENGTH:
            break
        answer = item.choices[item.answer] if isinstance(item, MultipleChoice) else item.answer
        shown += f"{item.prompt}{answer}\n\n"
        n = len(tokenizer.encode(shown))
    return [replace(item, prompt=shown + item.prompt) for item in items]


def probes(tokenizer: Any, n: int, data: Path | None = None) -> dict[str, Probe]:
    """Choices and recall, zero-shot and after examples."""
    found = {}
    for what, name, kind in (("choices", "arc_easy", MultipleChoice), ("recall", "jeopardy", Recall)):
        items = [replace(item, variants=()) for item in load_items(data, name) or facts(kind)][:n]
        found[f"{what}, zero-shot"] = Probe("p", items)
        found[f"{what}, after examples"] = Probe("p", after_examples(items, tokenizer))
    return found


def processor_time(probe: Probe, tokenizer: Any, repeats: int) -> list[float]:
    """Milliseconds of all threads an item of both ways, medians."""
    taken: list[list[float]] = [[], []]
    for _ in range(repeats):
        for way, run in enumerate(WAYS.values()):
            begun = time.process_time()
            run(probe, tokenizer)
            taken[way].append(1000 * (time.process_time() - begun) / len(probe))
    return [median(times) for times in taken]


def held(way: str, tokenizer: Any, n: int, data: Path | None = None) -> int:
    """Bytes of the token ids of choices after examples, as they are kept."""
    items = probes(tokenizer, n, data)["choices, after examples"].items
    probe = Probe("p", [replace(items[i % len(items)], id=f"{i}") for i in range(n)])
    WAYS[way](probe, tokenizer)  # whatever is set up once
    tracemalloc.start()
    rows = WAYS[way](probe, tokenizer)
    gc.collect()
    found, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return found if rows else 0


def main() -> None:
    """Reads the options, measures, prints a table."""
    parser = argparse.ArgumentParser(description="What tokenizing costs.")
    parser.add_argument("--model", help="directory or hub id; a tokenizer that is trained on the fly by default")
    parser.add_argument("--items", type=int, default=300, help="of each kind")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", type=int, default=200, help="items whose token ids are held")
    parser.add_argument("--data", type=Path, help="folder of items, see workloads.py; built-in ones by default")
    options = parser.parse_args()
    tokenizer = load_tokenizer(options.model) if options.model else make_tokenizer(options.data)
    print("| items | tokens of a prompt | one by one, ms | batched, ms | times less |\n| --- | --- | --- | --- | --- |")
    for name, probe in probes(tokenizer, options.items, options.data).items():
        rows = {(row.item, row.tokens, row.n_context) for row in batched(probe, tokenizer)}
        if not rows <= set(one_by_one(probe, tokenizer)):
            raise SystemExit(f"{name}: other token ids")
        before, after = processor_time(probe, tokenizer, options.repeats)
        length = round(median(n for _, _, n in rows))
        print(f"| {name} | {length:,} | {before:.2f} | {after:.2f} | {before / after:.1f} |")
    found = [held(way, tokenizer, options.memory, options.data) / options.memory / 1000 for way in WAYS]
    print(f"\ntoken ids of choices after examples: {found[0]:.0f} and {found[1]:.0f} KB an item", end="")
    print(f", {found[0] * 50 / 1000:.1f} and {found[1] * 50 / 1000:.1f} GB for 50,000")


if __name__ == "__main__":
    main()
