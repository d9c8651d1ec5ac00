"""Best checkpoint: of those with a low loss, keep the one that forgot least.

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
    load_best_model_at_end=True,
    # Any number of the callback can choose: eval_forget_<probe>_<metric>.
    metric_for_best_model="eval_forget_facts-recall_forgetting",
    greater_is_better=False,
)
trainer = SFTTrainer(
    model=load_model(given.model),
    processing_class=load_tokenizer(given.model),
    args=args,
    train_dataset=Dataset.from_list(rows[32:]),
    eval_dataset=Dataset.from_list(rows[:32]),
    callbacks=[ForgetCallback("builtin:facts?kind=recall")],
)
trainer.train()
print(f"kept {trainer.state.best_model_checkpoint}: {trainer.state.best_metric:.1%} of the facts forgotten")
