"""First steps: fine-tune with TRL, and see which facts the model forgets.

python examples/first_steps.py MODEL --out runs/first-steps
"""

import argparse

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from forget_callback import ForgetCallback, load_model, load_tokenizer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--out", default="runs/first-steps")
parser.add_argument("--steps", type=int, default=20)
given = parser.parse_args()

# Your own data goes here: rows of messages, of prompt and completion, or of text.
rows = [
    {
        "messages": [
            {"role": "user", "content": f"Who lives in house {i}?"},
            {"role": "assistant", "content": f"Mr {i}."},
        ]
    }
    for i in range(640)
]
args = SFTConfig(
    output_dir=given.out,
    use_cpu=not torch.cuda.is_available(),
    bf16=torch.cuda.is_available(),
    max_steps=given.steps,
    per_device_train_batch_size=16,
    learning_rate=5e-4,
    max_length=128,
    logging_steps=5,
    report_to="none",  # "wandb" draws the curves against the samples seen
)
trainer = SFTTrainer(
    model=load_model(given.model),
    processing_class=load_tokenizer(given.model),
    args=args,
    train_dataset=Dataset.from_list(rows),
    callbacks=[callback := ForgetCallback("builtin:facts?kind=choice", every=5)],
)
trainer.train()

whole = callback.history[callback.history["category"] == ""]
print(whole[["step", "samples_seen", "accuracy_after", "forgetting", "knowledge_lost"]].round(3).to_string(index=False))
print(f"every item's story: {given.out}/forget/report.html")
