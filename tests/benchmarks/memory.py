"""Peak memory of a snapshot: 64 rows at a vocabulary of 152k, compared with a training step and with lm-eval.

    python tests/benchmarks/memory.py [--data DIR] [--device cuda] [--dtype bfloat16]

Measured is the peak above what is allocated before: weights and AdamW's moments, but no gradients. On CPU it is exact
for tensors, from the profiler's record of each allocation; buffers inside matrix libraries are not counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contestants import make_lm_eval, make_ours, quiet
from limit import rows_of, work_of
from workloads import make_model, make_probe, make_tokenizer

ROWS, MIB = 64, 2**20


def extra(call: Callable[[], Any], device: str) -> int:
    """Peak bytes allocated during a call, above those before it."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated()) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as record:
        call()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def check(device: str) -> None:
    """Checks the meter on known allocations: 64 MiB, then 96 MiB beside 32 of these.

    Raises:
        RuntimeError: If it reads anything but 128 MiB.
    """
    import torch

    def allocate() -> None:
        kept = [torch.empty(32 * MIB, dtype=torch.uint8, device=device) for _ in range(2)]
        kept.pop()
        torch.empty(96 * MIB, dtype=torch.uint8, device=device)

    found = extra(allocate, device)
    if found != 128 * MIB:
        raise RuntimeError(
            f"the memory meter read {found / MIB} MiB, but 128 MiB were allocated; do other allocations run beside?"
        )


def training_step(model: Any) -> Callable[[], None]:
    """Forward, backward and AdamW on 8 x 128 tokens; the first call allocates the moments."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    ids = torch.randint(0, 30_000, (8, 128), device=model.device)

    def step() -> None:
        model.train()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        model.eval()

    return step


def main() -> None:
    """Prints each peak, in MiB and as a share of the logits of all scored tokens in float32."""
    parser = argparse.ArgumentParser(description="Peak extra memory of a snapshot.")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--data", type=Path, help="folder of items, see workloads.py; built-in ones by default")
    arguments = parser.parse_args()
    quiet()
    check(arguments.device)
    tokenizer = make_tokenizer(arguments.data)
    probe = make_probe("text", ROWS // 4, arguments.data)
    work, widths = work_of(probe, tokenizer), [len(row.tokens) - 1 for row in rows_of(probe, tokenizer)]
    model = make_model("S", "152k", tokenizer, device=arguments.device, dtype=arguments.dtype)
    vocabulary, weights = model.config.vocab_size, sum(p.nbytes for p in model.parameters())
    print(f"{arguments.device}, {arguments.dtype}: {len(widths)} rows, {work.tokens} distinct tokens of")
    print(f"{sum(widths)}, {work.scored} distinct scored tokens; weights {weights / MIB:,.0f} MiB\n")
    step, ours = training_step(model), make_ours(probe, tokenizer, model)
    step()
    peaks = {
        "training step, 8 x 128 tokens": extra(step, arguments.device),
        "first snapshot": extra(ours, arguments.device),
        "later snapshot": extra(ours, arguments.device),
        "lm-eval, batch size 64": extra(make_lm_eval(probe, tokenizer, model, ROWS), arguments.device),
        "logits of scored tokens, float32": 4 * work.scored * vocabulary,
        "logits of padded rows, float32": 4 * len(widths) * max(widths) * vocabulary,
    }
    names = list(peaks)
    print(f"{'peak above weights and moments':<36}{'MiB':>9}{'/ training step':>17}{'/ scored':>10}{'/ padded':>10}")
    for name, peak in peaks.items():
        ratios = [peak / peaks[names[at]] for at in (0, -2, -1)]
        print(f"{name:<36}{peak / MIB:>9,.0f}{ratios[0]:>17.3f}{ratios[1]:>10.3f}{ratios[2]:>10.3f}")


if __name__ == "__main__":
    main()
