"""Early stop: training ends when forgetting is certainly above a threshold, at two snapshots in a row.

python examples/early_stop.py MODEL --out runs/early-stop
"""

import argparse

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from forget_callback import ForgetCallback, StopRule, load_model, load_probe, load_tokenizer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--out", default="runs/early-stop")
parser.add_argument("--above", type=float, default=0.05)
given = parser.parse_args()

rows = [{"text": f"House {i} belongs to Mr {i * 7 % 100}, as everybody in town knows."} for i in range(640)]
rules = [
    # The lower bound of the estimate must pass the threshold, not the estimate: noise stops nothing.
    StopRule("knowledge_lost", above=given.above, probe="facts-choice"),
    # This one only says so.
    StopRule("forgetting", above=2 * given.above, probe="facts-recall", action="warn"),
]
probes = [load_probe(f"builtin:facts?kind={kind}", limit=300) for kind in ("choice", "recall")]
args = SFTConfig(
    output_dir=given.out,
    use_cpu=not torch.cuda.is_available(),
    bf16=torch.cuda.is_available(),
    per_device_train_batch_size=16,
    num_train_epochs=1,
    learning_rate=2e-3,
    max_length=64,
    report_to="none",
    save_strategy="no",
)
trainer = SFTTrainer(
    model=load_model(given.model),
    processing_class=load_tokenizer(given.model),
    args=args,
    train_dataset=Dataset.from_list(rows),
    callbacks=[callback := ForgetCallback(probes, every=5, stop=rules)],
)
trainer.train()
print(f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}")
