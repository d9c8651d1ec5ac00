"""What scoring costs on a GPU, in fifteen minutes of one: each line is PASS or MISS. Random weights, no network.

    python tests/benchmarks/gpu.py            # shapes of 0.5B and 7B in bfloat16 on cuda
    python tests/benchmarks/gpu.py --tiny     # dry run on a CPU, minutes; --only likelihood long runs parts

The parts: likelihood (against the limit of `limit.py`, how long the device is idle, peak memory), settings (whether
the defaults are near the best), syncs (where the host waits), decode (against the model's own `generate` at its best),
long (one long item among short ones), attention (other implementations give the same answers). On a CPU the lines
show that the script runs, and nothing else.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from contestants import quiet
from limit import Call, make_limit, seconds, work_of
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from forget_callback import Generation, MultipleChoice, Probe, Recall, Scorer
from forget_callback.scoring import cache
from forget_callback.scoring.likelihood import head

# Hidden size, layers, intermediate size, heads, heads of keys and values, whether embeddings are tied.
SHAPES = {
    "0.5B": (896, 24, 4864, 14, 2, True),
    "7B": (3584, 28, 18944, 28, 4, False),
    "tiny": (64, 2, 128, 4, 2, True),
}
WORDS, GIB = 2000, 2**30
RNG = np.random.default_rng(0)


def words(n: int, spread: float = 0.4) -> str:
    """About `n` words, each a token."""
    return " ".join(f"w{i}" for i in RNG.integers(1, WORDS, max(int(RNG.lognormal(np.log(n), spread)), 1)))


def make_tokenizer() -> Any:
    """One token a word."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


class Check:
    """The parts, on a model of one shape.

    Args:
        shape: A key of SHAPES; "tiny" runs on a CPU.
        n: Items of a probe.
    """

    def __init__(self, shape: str, n: int) -> None:
        self.shape, self.n, self.tiny = shape, n, shape == "tiny"
        self.device = "cpu" if self.tiny else "cuda"
        self.tokenizer, self.model = make_tokenizer(), self.make_model()
        self.misses = 0

    def make_model(self, **more: Any) -> Any:
        """A Qwen2 with random weights, the same in every call."""
        keys = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads")
        sizes = dict(zip((*keys, "tie_word_embeddings"), SHAPES[self.shape]))
        config = Qwen2Config(
            **sizes,
            vocab_size=4096 if self.tiny else 151_936,
            max_position_embeddings=65_536,
            initializer_range=0.05,
            eos_token_id=None,
            bos_token_id=None,
            pad_token_id=None,
            **more,
        )
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float32 if self.tiny else torch.bfloat16)
        try:
            with torch.device(self.device):
                return Qwen2ForCausalLM(config).eval()
        finally:
            torch.set_default_dtype(torch.float32)

    def probes(self) -> dict[str, Probe]:
        """Lengths of ARC (49 distinct tokens an item), letters, a five-shot prompt, recall."""
        shots, numbers = words(300, 0), range(self.n)

        def four() -> list[str]:
            return [" " + words(6) for _ in range(4)]

        letters = [" w1", " w2", " w3", " w4"]
        made: dict[str, list[Any]] = {
            "text": [MultipleChoice(f"{i}", words(31), four(), 0) for i in numbers],
            "letters": [MultipleChoice(f"{i}", words(50), letters, 0) for i in numbers],
            "5-shot": [MultipleChoice(f"{i}", f"{shots} {words(31)}", four(), 0) for i in numbers],
            "recall": [Recall(f"{i}", words(40), " " + words(2)) for i in numbers],
        }
        return {kind: Probe(kind, items) for kind, items in made.items()}

    def scored(self, probe: Probe, **how: Any) -> Call:
        """A function that scores the model, with one Scorer."""
        scorer = Scorer(self.tokenizer, [probe], **how)
        return lambda: scorer.score(self.model)[0]

    def in_turn(self, calls: dict[str, Call], repeats: int = 5) -> dict[str, float]:
        """Median seconds of calls that are timed in turn, after each was called once."""
        for call in calls.values():
            seconds(call, self.model)
        turns = range(2 if self.tiny else repeats)
        taken = [{name: seconds(call, self.model)[0] for name, call in calls.items()} for _ in turns]
        return {name: median(one[name] for one in taken) for name in calls}

    def peak(self, call: Call) -> float:
        """GiB above what was allocated before; 0 on a CPU."""
        if self.tiny:
            return 0.0 * seconds(call, self.model)[0]
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds(call, self.model)
        return float(torch.cuda.max_memory_allocated() - before) / GIB

    def verdict(self, name: str, value: float, goal: float, text: str = "", *, above: bool = False) -> None:
        """Prints a line."""
        met = value >= goal if above else value <= goal
        self.misses += not met
        name = f"{self.shape} {name}"
        print(
            f"{'PASS' if met else 'MISS'}  {name:<60} {value:9.3f} (goal {'>=' if above else '<='} {goal:g}) {text}",
            flush=True,
        )

    def likelihood(self) -> None:
        """Against the limit, and how long the device waits for the host."""
        activity = torch.profiler.ProfilerActivity.CPU if self.tiny else torch.profiler.ProfilerActivity.CUDA
        for name, probe in self.probes().items():
            ours, work = self.scored(probe), work_of(probe, self.tokenizer)
            spent: list[float] = []
            most = self.peak(lambda: spent.append(seconds(ours, self.model)[0]))  # noqa: B023 - called at once
            batches = (1024, 2048, 4096) if self.tiny else (4096, 8192, 16_384)
            took = self.in_turn({"ours": ours, "limit": make_limit(work, self.model, batches=batches)})
            with torch.profiler.profile(activities=[activity]) as record:
                found = seconds(ours, self.model)[1]
            events = [e for e in record.events() if self.tiny or e.device_type == torch.autograd.DeviceType.CUDA]
            busy = sum(e.self_cpu_time_total if self.tiny else e.self_device_time_total for e in events) / 1e6
            kernels = {
                e.name[:40] for e in events if any(w in e.name.lower() for w in ("flash", "fmha", "attention", "sdp"))
            }
            said = f"{work.tokens} tokens, {work.scored} scored, {self.n / took['ours']:.0f} items/s, "
            said += f"{found.metadata['likelihood']}, first {spent[0] / took['ours']:.1f}x, {len(events)} kernels, "
            said += str(sorted(kernels))
            self.verdict(f"{name}: ours / limit", took["ours"] / took["limit"], 1.3, said)
            self.verdict(f"{name}: wall / time in kernels (1: never idle)", took["ours"] / max(busy, 1e-9), 1.15)
            self.verdict(f"{name}: peak of two snapshots, GiB", max(most, self.peak(ours)), 3)

    def settings(self) -> None:
        """Whether the defaults are near the best of nine."""
        probe, usual = self.probes()["text"], head.tile_width
        default = self.scored(probe)

        def tiled(width: int, budget: int) -> Call:
            call = self.scored(probe, batch_tokens=budget)

            def run() -> Any:
                head.tile_width = lambda n_rows, device: width
                try:
                    return call()
                finally:
                    head.tile_width = usual

            return run

        sizes = [(width, budget) for width in (1024, 8192, 32_768) for budget in (2048, 8192, 32_768)]
        took = self.in_turn({"default": default, **{f"{w}/{b}": tiled(w, b) for w, b in sizes}}, 3)
        own, best = took.pop("default"), min(took.values())
        text = f"tile/batch over best: { {name: round(value / best, 2) for name, value in took.items()} }"
        self.verdict("text: default tile and batch / best of nine", own / best, 1.1, text)

    def syncs(self) -> None:
        """Where the host waits for the device; nothing on a CPU."""
        write = [Generation(f"{i}", words(60), "x", match="contains", max_new_tokens=32) for i in range(16)]
        measured = {"recall, a forward": self.probes()["recall"], "16 greedy answers, a step": Probe("w", write)}
        for name, probe in {} if self.tiny else measured.items():
            call, forwards = self.scored(probe), []
            call()
            handle = self.model.register_forward_pre_hook(lambda *args: forwards.append(1))  # noqa: B023 - removed below
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                call()
                torch.cuda.set_sync_debug_mode("default")
            handle.remove()
            places = sorted({f"{w.filename.split('/')[-1]}:{w.lineno}" for w in caught})
            self.verdict(f"{name}: waits of the host", len(caught) / max(len(forwards), 1), 3, str(places))

    def decode(self) -> None:
        """Against the model's own generate, all rows in one batch and of one length: what that does best."""
        n, new = (8, 8) if self.tiny else (128, 128)
        items = [Generation(f"{i}", words(100), "x", match="contains", max_new_tokens=new) for i in range(n)]
        prompts = [self.tokenizer.encode(item.prompt) for item in items]
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        config = GenerationConfig(max_new_tokens=new, do_sample=False, pad_token_id=0)
        ours, rows = self.scored(Probe("w", items)), [0]

        def count(module: Any, args: Any, kwargs: Any) -> None:
            rows[0] = max(rows[0], kwargs["input_ids"].shape[0] if kwargs["input_ids"].shape[1] == 1 else 0)

        with self.model.register_forward_pre_hook(count, with_kwargs=True):
            backend = ours().metadata["generation"]
        generate = partial(self.model.generate, input_ids=ids, attention_mask=mask, generation_config=config)
        took = self.in_turn({"ours": ours, "generate": generate}, 2)
        rate = {name: round(n * new / value) for name, value in took.items()}
        text = f"tokens/s {rate}, rows at once {rows[0]}, {backend}"
        self.verdict(f"{n} answers of {new}: ours / generate in one batch", took["ours"] / took["generate"], 1.1, text)
        token = sum(part.nbytes for pair in cache.of_prefix(self.model, (0,)) for part in pair)
        held = n * (width + new) * token / GIB
        self.verdict("peak while writing / keys and values of all rows", self.peak(ours) / held, 1.2, f"{held:.2f} GiB")

    def long(self) -> None:
        """One item of 16k tokens among short ones."""
        n = 500 if self.tiny else 16_000
        probe = Probe(
            "long", [*self.probes()["letters"].items[:20], MultipleChoice("long", words(n, 0), [" w1", " w2"], 0)]
        )
        call, found = self.scored(probe), []
        for when in ("first", "later"):
            most = self.peak(lambda: found.append(call()))
            self.verdict(f"an item of {n} tokens: peak of the {when} snapshot, GiB", most, 3)
        scored = float(np.isfinite(found[-1].correct).sum())
        self.verdict(f"an item of {n} tokens: items scored", scored, len(probe), above=True)

    def attention(self) -> None:
        """Other attention gives the same answers."""
        found: dict[str, Any] = {}
        probe, chosen = Probe("text", self.probes()["text"].items[:200]), self.model
        for name in ("sdpa", "eager", *([] if self.tiny else ["flex_attention"])) if self.shape != "7B" else ():
            self.model = self.make_model(attn_implementation=name)
            one = self.scored(probe)()
            found[name] = one.choice
            share = float((found[name] == found["sdpa"]).mean())
            self.verdict(f"{name}: share of answers like sdpa's", share, 0.98, one.metadata["likelihood"], above=True)
        self.model = chosen


PARTS: dict[str, Callable[[Check], None]] = {
    part.__name__: part
    for part in (Check.likelihood, Check.settings, Check.syncs, Check.decode, Check.long, Check.attention)
}


def main() -> None:
    """Reads the options, runs the parts on each shape."""
    parser = argparse.ArgumentParser(description="What scoring costs on a GPU.")
    parser.add_argument("--tiny", action="store_true", help="dry run on a CPU")
    parser.add_argument("--shapes", nargs="+", default=["0.5B", "7B"], choices=["0.5B", "7B"])
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--items", type=int, help="items of a probe; 500 by default, 24 with --tiny")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        parser.error("there is no GPU; --tiny is the dry run on a CPU")
    quiet()
    print(torch.__version__, "cpu" if options.tiny else torch.cuda.get_device_name())
    misses = 0
    for shape in ["tiny"] if options.tiny else options.shapes:
        check = Check(shape, options.items or (24 if options.tiny else 500))
        for part in options.only:
            took, _ = seconds(partial(PARTS[part], check), check.model)
            print(f"      {shape} {part} took {took:.0f} s", flush=True)
        misses += check.misses
        del check
    print(f"{misses} missed")


if __name__ == "__main__":
    main()
