"""What the further prompts of a probe cost: a snapshot of all prompts beside one of the first prompts alone.

    python tests/benchmarks/variants.py [--model DIRECTORY] [--probe SPEC] [--items N] [--repeats N] [--threads N]

Both are scored in turn in one process, by one `Scorer`, after a first snapshot that plans; seconds are medians. Tokens
are those of all forward passes, padding included: what the further prompts must cost is their share of these. Without
--model it is the demo's tiny model, with random weights.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from statistics import median
from typing import Any

from forget_callback import Probe, Scorer, load_model, load_probe, load_tokenizer
from forget_callback.demo.tiny import make_model, make_tokenizer


def tiny(probe: Probe) -> tuple[Any, Any]:
    """The demo's model and a tokenizer of the probe's texts."""
    prompts = [text for item in probe.items for text in (item.prompt, *(variant.prompt for variant in item.variants))]
    tokenizer = make_tokenizer(prompts)
    return make_model(tokenizer), tokenizer


def measure(model: Any, tokenizer: Any, probe: Probe, repeats: int) -> tuple[list[float], list[int]]:
    """Seconds and tokens of a snapshot of the first prompts, and of all prompts."""
    scorer, counted = Scorer(tokenizer, probe), [0]

    def count(module: Any, args: Any, kwargs: Any) -> None:
        counted[0] += kwargs["input_ids"].numel()

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    taken: list[list[float]] = [[], []]
    tokens = [0, 0]
    scorer.score(model)
    for _ in range(repeats):  # in turn, so that other load on the machine affects both alike
        for variants in (False, True):
            counted[0], begun = 0, time.perf_counter()
            scorer.score(model, variants=variants)
            taken[variants].append(time.perf_counter() - begun)
            tokens[variants] = counted[0]
    handle.remove()
    return [median(seconds) for seconds in taken], tokens


def main() -> None:
    """Reads the options, measures, prints one line."""
    parser = argparse.ArgumentParser(description="What the further prompts of a probe cost.")
    parser.add_argument("--model", help="directory or hub id; the demo's tiny model by default")
    parser.add_argument("--probe", default="builtin:facts")
    parser.add_argument("--items", type=int, help="of the probe; all by default")
    parser.add_argument("--multiple-choice", action="store_true", help="only the multiple-choice items")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    options = parser.parse_args()
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    probe = load_probe(options.probe, limit=options.items)
    if options.multiple_choice:
        probe = replace(probe, items=[item for item in probe.items if item.kind == "multiple_choice"])
    if options.model:
        model, tokenizer = load_model(options.model), load_tokenizer(options.model)
    else:
        model, tokenizer = tiny(probe)
    (first, both), tokens = measure(model, tokenizer, probe, options.repeats)
    prompts = len(probe) + sum(len(item.variants) for item in probe.items)
    print(
        f"{options.model or 'tiny model'}, {probe.name}: first prompts alone ({len(probe)}) {first:.3f} s, "
        f"{tokens[0]:,} tokens; all {prompts} prompts {both:.3f} s, {tokens[1]:,} tokens; "
        f"{both / first:.2f} times the time, {tokens[1] / tokens[0]:.2f} times the tokens"
    )


if __name__ == "__main__":
    main()
