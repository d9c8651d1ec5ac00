"""What the further prompts of a probe cost: all of them, and those of changed items, beside the first prompts alone.

    python tests/benchmarks/variants.py [--model DIRECTORY] [--probe SPEC] [--items N] [--changed 0.35]
        [--repeats N] [--threads N]

All are scored in turn in one process, by one `Scorer`, after a first snapshot that plans; seconds are medians. Tokens
are those of all forward passes, padding included: what the further prompts must cost is their share of these. Which
items changed is drawn anew each time, so their prompts are batched anew as well, as with `variants="changed"`. Without
--model it is the demo's tiny model, with random weights.
"""

from __future__ import annotations

import argparse
import random
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


def measure(model: Any, tokenizer: Any, probe: Probe, repeats: int, changed: float) -> tuple[list[float], list[float]]:
    """Seconds and tokens of a snapshot of the first prompts, of all prompts, and of those of changed items."""
    scorer, counted, draw = Scorer(tokenizer, probe), [0], random.Random(0)

    def ask(firsts: Any) -> dict[str, list[str]]:
        return {probe.name: draw.sample(probe.ids, round(changed * len(probe)))}

    def count(module: Any, args: Any, kwargs: Any) -> None:
        counted[0] += kwargs["input_ids"].numel()

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    taken: list[list[float]] = [[], [], []]
    tokens: list[list[int]] = [[], [], []]
    ways: list[dict[str, Any]] = [{"variants": False}, {}, {"ask": ask}]
    scorer.score(model)
    for _ in range(repeats):  # in turn, so that other load on the machine affects both alike
        for n, way in enumerate(ways):
            counted[0], begun = 0, time.perf_counter()
            scorer.score(model, **way)
            taken[n].append(time.perf_counter() - begun)
            tokens[n].append(counted[0])
    handle.remove()
    return [median(seconds) for seconds in taken], [median(own) for own in tokens]


def main() -> None:
    """Reads the options, measures, prints one line."""
    parser = argparse.ArgumentParser(description="What the further prompts of a probe cost.")
    parser.add_argument("--model", help="directory or hub id; the demo's tiny model by default")
    parser.add_argument("--probe", default="builtin:facts")
    parser.add_argument("--items", type=int, help="of the probe; all by default")
    parser.add_argument("--multiple-choice", action="store_true", help="only the multiple-choice items")
    parser.add_argument("--changed", type=float, default=0.35, help="share of the items whose first answer changed")
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
    (first, both, some), tokens = measure(model, tokenizer, probe, options.repeats, options.changed)
    prompts = len(probe) + sum(len(item.variants) for item in probe.items)
    print(
        f"{options.model or 'tiny model'}, {probe.name}: first prompts alone ({len(probe)}) {first:.3f} s, "
        f"{tokens[0]:,} tokens; all {prompts} prompts {both:.3f} s, {tokens[1]:,} tokens; "
        f"{both / first:.2f} times the time, {tokens[1] / tokens[0]:.2f} times the tokens; "
        f"where {options.changed:.0%} changed {some / first:.2f} times the time, "
        f"{tokens[2] / tokens[0]:.2f} times the tokens"
    )


if __name__ == "__main__":
    main()
