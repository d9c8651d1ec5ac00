"""Whether a run keeps to `max_overhead`: the share of its time that probing takes, after every evaluation.

    python tests/benchmarks/overhead.py [--model DIRECTORY] [--limits SHARE ...] [--steps N] [--every N] [--items N]

Each limit is one training, from the same weights. Time is measured around the callback, from outside; the share is of
all time since the baseline ended. One table row a limit: what was asked, what was taken at the end, the least and the
most after any evaluation from the second on, how many of the planned evaluations were made, how long the baseline took,
and the share after each evaluation with the part of the items that it scored. A part of 100% at less than was asked
means that there was no more to score. Without --model it is the demo's tiny model, wider, with random weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import torch
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from forget_callback import ForgetCallback, Probe, load_model, load_probe, load_tokenizer
from forget_callback.demo.tiny import make_model, make_tokenizer
from forget_callback.training.schedule import checked, planned


class Timed(ForgetCallback):
    """The callback, and beside it the share of the time that it took after each evaluation.

    Attributes:
        baseline: Seconds that the baseline took.
        shares: By step.
        items: That were scored, by step.
    """

    baseline = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Takes the baseline."""
        begun = time.perf_counter()
        super().on_train_begin(args, state, control, **kwargs)
        self._begun, self._spent = time.perf_counter(), 0.0
        self.baseline, self.shares, self.items = self._begun - begun, dict[int, float](), dict[int, int]()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Evaluates, perhaps."""
        begun = time.perf_counter()
        super().on_step_end(args, state, control, model, **kwargs)
        now = time.perf_counter()
        self._spent += now - begun
        if self.last_step == state.global_step:
            self.shares[state.global_step] = self._spent / (now - self._begun)
            last = self.history[self.history["step"] == state.global_step]
            self.items[state.global_step] = int(last["n"].max())


def setup(name: str | None, probe: Probe) -> tuple[Any, Any]:
    """A model and its tokenizer."""
    if name:
        return load_model(name), load_tokenizer(name)
    prompts = [text for item in probe.items for text in (item.prompt, *(variant.prompt for variant in item.variants))]
    tokenizer = make_tokenizer(prompts)
    torch.manual_seed(0)
    return make_model(tokenizer), tokenizer


def run(limit: float, probe: Probe, options: argparse.Namespace) -> Timed:
    """One training on random tokens."""
    model, tokenizer = setup(options.model, probe)
    torch.manual_seed(0)
    shape = (64 * options.batch, options.length)
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(10, 300, shape)]
    with tempfile.TemporaryDirectory() as directory:
        args = TrainingArguments(
            directory,
            max_steps=options.steps,
            per_device_train_batch_size=options.batch,
            learning_rate=1e-5,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
        )
        how: dict[str, Any] = {"every": options.every, "max_overhead": limit, "variants": options.variants}
        callback = Timed(probe, on_error="raise", **how)
        Trainer(model, args, train_dataset=rows, processing_class=tokenizer, callbacks=[callback]).train()
    return callback


def main() -> None:
    """Reads the options, trains, prints the table."""
    parser = argparse.ArgumentParser(description="Whether a run keeps to max_overhead.")
    parser.add_argument("--model", help="directory or hub id; the demo's tiny model by default")
    parser.add_argument("--limits", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", default="20", help="as the argument of ForgetCallback")
    parser.add_argument("--probe", default="builtin:facts")
    parser.add_argument("--items", type=int, help="of the probe; all by default")
    parser.add_argument("--variants", default="all", choices=["all", "ends", "off"])
    parser.add_argument("--batch", type=int, default=8, help="training samples of a step")
    parser.add_argument("--length", type=int, default=64, help="tokens of a training sample")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    probe = load_probe(options.probe, limit=options.items)
    due = planned(checked(options.every), options.steps, evaluations=0)
    print("| asked | taken | from the second evaluation on | evaluations | baseline | share after each (items) |")
    print("| --- | --- | --- | --- | --- | --- |")
    for limit in options.limits:
        found = run(limit, probe, options)
        shares = list(found.shares.values())
        later = shares[1:] or shares
        each = [f"{share:.3f} ({n / len(probe):.0%})" for share, n in zip(shares, found.items.values())]
        print(
            f"| {limit:g} | {shares[-1]:.3f} | {min(later):.3f} to {max(later):.3f} | {len(shares)} of {due} | "
            f"{found.baseline:.1f} s | {', '.join(each)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
