"""A training script of somebody who has never heard of forget_callback; MODEL DATA OUT, and a probe for it in code."""

import sys

from datasets import load_dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

model, data, out, *probe = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(model)
rows = load_dataset("json", data_files=data, split="train")
callbacks = []
if probe:
    from forget_callback import ForgetCallback

    callbacks.append(ForgetCallback(probe, every=1))
trainer = Trainer(
    AutoModelForCausalLM.from_pretrained(model),
    TrainingArguments(
        out,
        max_steps=4,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    ),
    train_dataset=rows.map(lambda row: tokenizer(row["text"]), remove_columns=["text"]),
    processing_class=tokenizer,
    data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    callbacks=callbacks,
)
trainer.train()
trainer.save_model()
