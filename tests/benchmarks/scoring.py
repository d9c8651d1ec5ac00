"""Speed of snapshots: ours, lm-eval at its best batch size, a naive loop, and the limit of the hardware, in turn.

    python tests/benchmarks/scoring.py --model "$(python -m tests.smollm2)" [--data DIR] --out FILE  # an hour, one core
    python tests/benchmarks/scoring.py --out FILE  # random weights of two shapes
    python tests/benchmarks/scoring.py ... --only text letters --against limit

Cells that FILE has are not measured again: a run that was cut off goes on where it was. `limit.py` says what the limit
is, `contestants.py` who is compared, `workloads.py` what the items are. Ratios are of medians of turns in one process.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from contestants import best_batch_size, differences, make_lm_eval, make_naive, make_ours, quiet
from limit import make_limit, seconds, work_of
from workloads import KINDS, LONGEST_TAIL, count_down, long_tail, make_model, make_probe, make_tokenizer

# Random weights: size, kind, vocabulary.
SHAPES = {
    f"{size}-{kind}-{v}": (size, kind, v) for size in "SM" for kind in ("text", "letters") for v in ("32k", "152k")
}
SHAPES["S-5shot-32k"] = ("S", "5shot", "32k")
SHAPES |= {f"{size}-{kind}": (size, kind, "32k") for kind in ("equal", "tail", "fewshot") for size in "SM"}
AGAINST = ("lm-eval", "naive", "limit")
Cell = dict[str, Any]


class Bench:
    """Measures cells; the model is loaded when the first one needs it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self._loaded: tuple[Any, Any] | None = None

    def load(self, name: str) -> tuple[Any, Any, Any]:
        """Model, tokenizer and probe of a cell."""
        from forget_callback import load_model, load_tokenizer

        given, n = self.options, self.options.items
        if given.model is None:
            size, kind, vocabulary = SHAPES[name]
            tokenizer = self._loaded[1] if self._loaded else make_tokenizer(given.data)
            model = make_model(size, vocabulary, tokenizer, device=given.device, dtype=given.dtype)
            self._loaded = None, tokenizer
            if kind in LONGEST_TAIL[size]:
                return count_down(model, tokenizer), tokenizer, long_tail(size, kind, n, tokenizer, given.data)
            return model, tokenizer, make_probe(kind, n, given.data, size=size)
        if self._loaded is None:
            import torch

            model = load_model(given.model).to(given.device, getattr(torch, given.dtype)).eval()
            self._loaded = model, load_tokenizer(given.model)
        return *self._loaded, make_probe(name, n, given.data)

    def measure(self, name: str) -> Cell:
        """Seconds of each contestant in each turn, what was counted, and on how many items the answers differ."""
        model, tokenizer, probe = self.load(name)
        ours, against = make_ours(probe, tokenizer, model), self.options.against
        naive = make_naive(probe, tokenizer, model)
        first_use, _ = seconds(ours, model)
        counts, (_, found) = counted(model, partial(seconds, ours, model))
        known = {"naive": seconds(naive, model)[1]} if "naive" in against or probe.items[0].kind == "generation" else {}
        work = work_of(probe, tokenizer, known["naive"].lengths if "naive" in known else ())
        calls, batch_size = {"ours": ours}, 0
        if "lm-eval" in against:
            batch_size = best_batch_size(probe, tokenizer, model)
            calls["lm-eval"] = make_lm_eval(probe, tokenizer, model, batch_size)
        calls |= {"naive": naive} if "naive" in against else {}
        calls |= {"limit": make_limit(work, model)} if "limit" in against else {}
        taken: dict[str, list[float]] = {who: [] for who in calls}
        for _ in range(self.options.repeats):  # in turn, so that other load on the machine affects all alike
            for who, call in calls.items():
                spent, said = seconds(call, model)
                taken[who].append(round(spent, 4))
                known |= {who: said} if who != "limit" else {}
        return {
            "items": len(probe),
            "tokens": work.tokens,
            "scored": work.scored,
            "generated": sum(known["naive"].lengths) if "naive" in known else 0,
            "steps": len(work.steps),
            **counts,
            "first use": round(first_use, 3),
            "batch size of lm-eval": batch_size,
            "seconds": taken,
            "differ": {who: differences(found, one) for who, one in known.items() if who != "ours"},
            **setting(model),
        }


def counted(model: Any, call: Any) -> tuple[Cell, Any]:
    """What a call forwards: tokens, padding included, and forward passes; and what it returns."""
    counts = {"forwarded": 0, "forwards": 0}

    def count(module: Any, args: Any, kwargs: Any) -> None:
        counts["forwarded"] += (kwargs["input_ids"] if "input_ids" in kwargs else args[0]).numel()
        counts["forwards"] += 1

    with model.register_forward_pre_hook(count, with_kwargs=True):
        found = call()
    return counts, found


def setting(model: Any) -> Cell:
    """On what it was measured."""
    import torch

    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    described = subprocess.run(git, capture_output=True, text=True)
    cuda = model.device.type == "cuda"
    return {
        "commit": described.stdout.strip() or "unknown",
        "device": torch.cuda.get_device_name() if cuda else f"{platform.machine()}, threads {torch.get_num_threads()}",
        "dtype": str(model.dtype).removeprefix("torch."),
        "versions": {name: version(name) for name in ("torch", "transformers", "lm-eval")},
    }


def table(cells: dict[str, Cell]) -> str:
    """The cells in Markdown."""
    lines = ["| items | as fast as lm-eval | as a naive loop | of the limit | forwarded / distinct | other answers |"]
    lines.append("| --- |" + " --- |" * 5)
    for name, cell in cells.items():
        own = {who: median(taken) for who, taken in cell["seconds"].items()}
        ratios = [f"{own[who] / own['ours']:.2f}" if who in own else "-" for who in ("lm-eval", "naive")]
        ratios.append(f"{own['ours'] / own['limit']:.2f}" if "limit" in own else "-")
        least = cell["tokens"] + max(cell["generated"] - cell["items"], 0)  # the last token of an answer is not read
        other = ", ".join(f"{who} {found['items']}" for who, found in cell["differ"].items())
        what = f"{cell['items']} {name}"
        lines.append(f"| {what} | {' | '.join(ratios)} | {cell['forwarded'] / least:.2f} | {other} |")
    return "\n".join(lines)


def main() -> None:
    """Reads the options, measures each cell, prints the table of all that there are."""
    parser = argparse.ArgumentParser(description="Speed of snapshots: ours, lm-eval, a naive loop, and the limit.")
    parser.add_argument("--model", help="directory of a pretrained model; random weights of two shapes by default")
    parser.add_argument("--data", type=Path, help="folder of real items, see workloads.py; built-in ones by default")
    parser.add_argument("--out", type=Path, help="JSON file of results, to which cells are added")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help=f"with --model {', '.join(KINDS)}; else {', '.join(SHAPES)}"
    )
    parser.add_argument("--against", nargs="*", default=list(AGAINST), choices=AGAINST)
    parser.add_argument("--items", type=int, help="items of every cell, instead of each one's own")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args()
    known = list(KINDS if options.model else SHAPES)
    if unknown := set(options.only or ()).difference(known):
        parser.error(f"argument --only: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
    quiet()
    import torch

    torch.set_num_threads(options.threads)
    cells: dict[str, Cell] = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    bench = Bench(options)
    for name in options.only or known:
        if name in cells:
            continue
        print(name, flush=True)
        cells[name] = bench.measure(name)
        print(f"    {json.dumps(cells[name]['seconds'])}", flush=True)
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            part = options.out.with_suffix(".part")
            part.write_text(json.dumps(cells, indent=1))
            part.replace(options.out)
    print(f"\n{table(cells)}")


if __name__ == "__main__":
    main()
