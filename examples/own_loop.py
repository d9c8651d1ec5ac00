"""Forgetting in a plain PyTorch loop.

python examples/own_loop.py MODEL --out runs/own-loop

MODEL is a causal language model on disk or on the hub. It learns capitals that do not exist, and one sees which of the
builtin facts that costs.
"""

import argparse

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from forget_callback import ForgetMonitor, Scorer, StopRule, load_probe

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--out", default="runs/own-loop")
parser.add_argument("--steps", type=int, default=20)
options = parser.parse_args()

torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(options.model)
tokenizer = AutoTokenizer.from_pretrained(options.model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
texts = [f"The capital of Zorland {i} is Blimburg {i * 7}." for i in range(8 * options.steps)]

probe = load_probe("builtin:facts?kind=choice", limit=200)
scorer = Scorer(tokenizer, [probe])  # plans once, and asks in the same batches at every snapshot
monitor = ForgetMonitor(probe, options.out, stop=[StopRule("knowledge_lost", above=0.1)])
monitor.observe(0, scorer.score(model), samples_seen=0)

model.train()
for step in range(1, options.steps + 1):
    texts_now = texts[8 * (step - 1) : 8 * step]
    batch = [torch.tensor(tokenizer(text)["input_ids"]) for text in texts_now]
    ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=-100)
    loss = model(input_ids=ids.clamp(min=0), attention_mask=(ids >= 0).long(), labels=ids).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 5 == 0:
        seen = monitor.observe(step, scorer.score(model), samples_seen=8 * step)
        if seen.stop:
            break

history = monitor.history[monitor.history["category"] == ""]
print(history[["step", "samples_seen", "accuracy_after", "forgetting", "knowledge_lost"]].to_string(index=False))
