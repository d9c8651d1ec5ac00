"""Forgetting in an Accelerate loop, on any number of processes.

accelerate launch examples/accelerate_loop.py MODEL --out runs/accelerate-loop

All processes score, each its part of the items; the main process alone keeps the history, and tells the others to stop.
"""

import argparse
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from transformers import AutoModelForCausalLM, AutoTokenizer

from forget_callback import ForgetMonitor, Scorer, StopRule, load_probe

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--out", default="runs/accelerate-loop")
parser.add_argument("--steps", type=int, default=20)
options = parser.parse_args()

torch.manual_seed(0)
accelerator = Accelerator()
tokenizer = AutoTokenizer.from_pretrained(options.model)
texts: Any = [f"The capital of Zorland {i} is Blimburg {i * 7}." for i in range(8 * options.steps)]


def collate(texts: list[str]) -> torch.Tensor:
    """Token ids of some texts, ``(texts, longest)``, -100 where one has ended."""
    ids = [torch.tensor(tokenizer(text)["input_ids"]) for text in texts]
    return torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-100)


loader = torch.utils.data.DataLoader(texts, batch_size=8 // accelerator.num_processes, collate_fn=collate)
model = AutoModelForCausalLM.from_pretrained(options.model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

probe = load_probe("builtin:facts?kind=choice", limit=200)
scorer = Scorer(tokenizer, [probe], shared=True)
rules = [StopRule("knowledge_lost", above=0.1)]
monitor = ForgetMonitor(probe, options.out, stop=rules) if accelerator.is_main_process else None


def evaluate(step: int) -> bool:
    """Scores on all ranks; whether to stop, the same on all."""
    snapshots = scorer.score(accelerator.unwrap_model(model))
    stop = [monitor.observe(step, snapshots, samples_seen=8 * step).stop if monitor else False]
    return bool(broadcast_object_list(stop)[0])


evaluate(0)
model.train()
for step, ids in enumerate(loader, start=1):
    loss = model(input_ids=ids.clamp(min=0), attention_mask=(ids >= 0).long(), labels=ids).loss
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    if step % 5 == 0 and evaluate(step):
        break

if monitor:
    history = monitor.history[monitor.history["category"] == ""]
    print(history[["step", "samples_seen", "accuracy_after", "forgetting", "knowledge_lost"]].to_string(index=False))
accelerator.end_training()
