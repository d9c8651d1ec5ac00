"""Best checkpoint: of those that learned the task as well as any, the one that forgot least.

By forgetting alone the earliest checkpoint wins, which learned least.

python examples/best_checkpoint.py MODEL --out runs/best
"""

import argparse

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from forget_callback import ForgetCallback, load_model, load_tokenizer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--out", default="runs/best")
given = parser.parse_args()

rows = [{"text": f"House {i} belongs to Mr {i * 7 % 100}, as everybody in town knows."} for i in range(192)]
args = SFTConfig(
    output_dir=given.out,
    use_cpu=not torch.cuda.is_available(),
    bf16=torch.cuda.is_available(),
    per_device_train_batch_size=16,
    num_train_epochs=1,
    learning_rate=1e-3,
    max_length=64,
    report_to="none",
    eval_strategy="steps",
    eval_steps=5,
    save_strategy="steps",
    save_steps=5,
)
callback = ForgetCallback("builtin:facts?kind=recall")
trainer = SFTTrainer(
    model=load_model(given.model),
    processing_class=load_tokenizer(given.model),
    args=args,
    train_dataset=Dataset.from_list(rows[32:]),
    eval_dataset=Dataset.from_list(rows[:32]),
    callbacks=[callback],
)
trainer.train()

loss = {row["step"]: row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row}
lost = callback.history.query("category == ''").set_index("step")["forgetting"]
as_good = [step for step in loss if loss[step] <= 1.02 * min(loss.values())]  # within 2% of the lowest loss
best = min(as_good, key=lambda step: lost[step])
print(f"keep {given.out}/checkpoint-{best}: loss {loss[best]:.3f}, {lost[best]:.1%} of the facts forgotten")
print(f"as low a loss: {as_good} of {list(loss)}; least forgotten of all, and learned least: {lost.drop(0).idxmin()}")
