"""Reinforcement learning: a reward for short answers, while two probes watch.

python examples/grpo.py MODEL --out runs/grpo
"""

import argparse
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from forget_callback import ForgetCallback, load_model, load_tokenizer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--out", default="runs/grpo")
parser.add_argument("--steps", type=int, default=8)
given = parser.parse_args()


def short(completions: list[Any], **kwargs: Any) -> list[float]:
    """1 for an answer of no letter, less the longer it is."""
    return [1 / (1 + len(completion[0]["content"])) for completion in completions]


prompts = [{"prompt": [{"role": "user", "content": f"Who lives in house {i}?"}]} for i in range(256)]
args = GRPOConfig(
    output_dir=given.out,
    use_cpu=not torch.cuda.is_available(),
    bf16=torch.cuda.is_available(),
    max_steps=given.steps,
    per_device_train_batch_size=16,
    num_generations=8,
    max_completion_length=8,
    learning_rate=1e-4,
    report_to="none",
)
trainer = GRPOTrainer(
    model=load_model(given.model),
    processing_class=load_tokenizer(given.model),
    args=args,
    train_dataset=Dataset.from_list(prompts),
    reward_funcs=short,
    # Most GRPO runs have no evaluation: give the callback a schedule of its own.
    callbacks=[callback := ForgetCallback(["builtin:facts?kind=choice", "builtin:facts?kind=recall"], every="log2")],
)
trainer.train()

pool = callback.history[callback.history["probe"] == "all"]  # all items of both probes
print(
    pool[["step", "samples_seen", "forgetting", "backward_transfer", "knowledge_lost"]].round(3).to_string(index=False)
)
