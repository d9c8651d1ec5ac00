"""How evenly ranks share the work of a snapshot: what each of 2 and 4 Gloo processes forwards, scores and generates.

    python tests/benchmarks/sharding.py [--processes 1 2 4] [--only mixed nine long generation] [--out FILE]

Built-in items and a tiny model, since counts do not depend on it: tokens that are forwarded, padding included; scored
tokens, from the operations of the LM head; and generated tokens, of which `workloads.count_down` says how many.
Work is in tokens of SmolLM2-135M: its head costs 0.27 of its decoder, and by that work is shared. Imbalance is the
largest over the mean, so the speed-up is the number of processes divided by it. The second snapshot is counted: the
first one has self-checks in it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from contestants import quiet
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer
from workloads import count_down, documents, facts, long_tail, make_model, make_probe, make_tokenizer

from forget_callback import MultipleChoice, Probe, Recall, Scorer
from forget_callback.scoring.likelihood import fallbacks

HEAD = 28.3 / 106.2  # millions of weights of SmolLM2's head and decoder
WORDS = (100, 1500)  # of the longest and the shortest of the long items


def long_items(n: int = 60) -> Probe:
    """Questions after passages of 100 to 1,500 words."""
    words = " ".join(item.text for item in documents()).split() * 9
    made, at = [], 0
    for i in range(n):
        length = WORDS[0] + (WORDS[1] - WORDS[0]) * (i * 37 % n) // n
        prompt = " ".join(words[at : (at := at + length)])
        made.append(MultipleChoice(f"{i}", f"{prompt}\nQuestion: is this a conversation\nAnswer:", [" no", " yes"], 0))
    return Probe("long", made)


def sets(tokenizer: Any) -> dict[str, list[Probe]]:
    """The probes of each measured set."""
    tail = long_tail("S", "tail", 40, tokenizer)
    nine = [make_probe(kind, n) for kind, n in {"text": 100, "letters": 100, "recall": 100, "5shot": 60}.items()]
    nine += [make_probe("boolq", 60), Probe("choices", facts(MultipleChoice)[100:300]), Probe("documents", documents())]
    nine += [Probe("facts", facts(Recall)[100:300]), tail]
    return {
        "mixed": [make_probe("letters", 500), make_probe("recall", 400), make_probe("boolq", 60)],
        "nine": nine,
        "long": [long_items()],
        "generation": [tail],
    }


def score(rank: int, n: int, folder: Path, names: Sequence[str]) -> None:
    """One process: counts its part of a second snapshot of each set, and leaves it in a file."""
    quiet()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=n)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    model = count_down(make_model("XS", "32k", tokenizer), tokenizer)
    fallbacks.head_cost = lambda model: HEAD
    for name in names:
        scorer = Scorer(tokenizer, sets(tokenizer)[name], shared=True)
        scorer.score(model)
        found = counted(model, partial(scorer.score, model))
        (folder / f"{name}-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def counted(model: Any, call: Any) -> dict[str, int]:
    """Tokens, scored tokens and generated tokens of a call; a generated one is both, and is counted apart."""
    counts = {"tokens": 0, "generated": 0}

    def count(module: Any, args: Any, kwargs: Any) -> None:
        further = kwargs.get("position_ids") is not None and kwargs["input_ids"].shape[1] == 1  # no prefix of one token
        kind = "generated" if further else "tokens"
        counts[kind] += kwargs["input_ids"].numel()

    with model.register_forward_pre_hook(count, with_kwargs=True), FlopCounterMode(display=False) as flops:
        call()
    products = {torch.ops.aten.mm, torch.ops.aten.addmm}
    total = sum(n for op, n in flops.get_flop_counts()["Global"].items() if op in products)
    decoder = sum(p.numel() for name, p in model.model.named_parameters() if p.ndim == 2 and "embed" not in name)
    heads = (total / 2 - sum(counts.values()) * decoder) / model.lm_head.weight.numel()
    return {**counts, "scored": round(heads) - counts["generated"]}


def work(found: dict[str, int]) -> float:
    """In tokens of SmolLM2's decoder."""
    return found["tokens"] + HEAD * found["scored"] + (1 + HEAD) * found["generated"]


def main() -> None:
    """Starts the processes, prints a line a set and number of processes."""
    parser = argparse.ArgumentParser(description="How evenly ranks share the work of a snapshot.")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--only", nargs="+", default=["mixed", "nine", "long", "generation"])
    parser.add_argument("--out", type=Path, help="JSON file of all counts")
    options = parser.parse_args()
    print("| set | processes | tokens | scored | generated | work / mean, of each | speed-up |\n" + "| --- " * 7 + "|")
    results: dict[str, list[dict[str, int]]] = {}
    for n in options.processes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_tokenizer().save_pretrained(folder / "tokenizer")
            torch.multiprocessing.spawn(score, (n, folder, options.only), nprocs=n)
            for kind in options.only:
                ranks = [json.loads((folder / f"{kind}-{rank}.json").read_text()) for rank in range(n)]
                results[f"{kind}, {n}"] = ranks
                each = [work(one) for one in ranks]
                columns = [" ".join(str(one[k]) for one in ranks) for k in ("tokens", "scored", "generated")]
                shares = " ".join(f"{one * n / sum(each):.2f}" for one in each)
                alone = work(results[f"{kind}, 1"][0]) if f"{kind}, 1" in results else sum(each)
                print(f"| {kind} | {n} | {' | '.join(columns)} | {shares} | {alone / max(each):.2f} |", flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
