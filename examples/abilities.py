"""A narrow fine-tuning, tickets to JSON, and what it does to knowledge, behaviour and text, side by side.

python examples/abilities.py MODEL --out runs/abilities
forget-callback compare runs/abilities runs/abilities
"""

import argparse
import json

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from forget_callback import ForgetCallback, load_model, load_tokenizer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--out", default="runs/abilities")
parser.add_argument("--steps", type=int, default=30)
parser.add_argument("--learning-rate", type=float, default=1e-3)
parser.add_argument("--facts", type=int, default=60)
parser.add_argument("--behaviour", type=int, default=140)
parser.add_argument("--categories", default="json,instructions,refusal,reading", help="of behaviour")
parser.add_argument("--text", type=int, default=40)
given = parser.parse_args()

NAMES, CITIES, THINGS = (
    ("Ada", "Ben", "Chen", "Dora"),
    ("Oslo", "Lima", "Pune"),
    ("lamp", "chair", "kettle", "radio", "bike"),
)


def ticket(i: int) -> dict[str, list[dict[str, str]]]:
    """A customer's message, and the record that is to be made of it."""
    name, city, thing = NAMES[i % len(NAMES)], CITIES[i % len(CITIES)], THINGS[i % len(THINGS)]
    asked = f"My name is {name}, I live in {city}, and the {thing} of order {1000 + i} came broken."
    record = {"name": name, "city": city, "item": thing, "order": 1000 + i, "problem": "broken"}
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": json.dumps(record)}]}


probes = [
    f"builtin:facts?kind=choice&limit={given.facts}",
    f"builtin:behaviour?category={given.categories}&limit={given.behaviour}",
    f"builtin:text?limit={given.text}",
]
args = SFTConfig(
    output_dir=given.out,
    use_cpu=not torch.cuda.is_available(),
    bf16=torch.cuda.is_available(),
    max_steps=given.steps,
    per_device_train_batch_size=4,
    learning_rate=given.learning_rate,
    max_length=128,
    logging_steps=5,
    report_to="none",  # "wandb" draws the curves and the table of abilities
)
trainer = SFTTrainer(
    model=load_model(given.model),
    processing_class=load_tokenizer(given.model),
    args=args,
    train_dataset=Dataset.from_list([ticket(i) for i in range(640)]),
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    callbacks=[ForgetCallback(probes, every=[given.steps])],  # before and after, and none between
)
trainer.train()
print(f"forget-callback compare {given.out} {given.out}")
