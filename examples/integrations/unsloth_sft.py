"""A script as unsloth's notebooks have it, with nothing of ours in it; `run` attaches the callback.

forget-callback run --config examples/integrations/forget.yaml -- python examples/integrations/unsloth_sft.py

Needs a GPU, as unsloth does.
"""

from unsloth import FastLanguageModel  # isort: skip  # before trl and transformers, which it changes

from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

model, tokenizer = FastLanguageModel.from_pretrained(
    "HuggingFaceTB/SmolLM2-135M-Instruct", max_seq_length=256, load_in_4bit=False
)
model = FastLanguageModel.get_peft_model(model, r=16, lora_alpha=16, random_state=0)
rows = load_dataset("json", data_files="examples/integrations/new_facts.jsonl", split="train")
texts = rows.map(lambda row: {"text": tokenizer.apply_chat_template(row["messages"], tokenize=False)})

trainer = SFTTrainer(
    model=model,
    processing_class=tokenizer,
    train_dataset=texts,
    args=SFTConfig(
        output_dir="runs/unsloth",
        dataset_text_field="text",
        max_length=256,
        per_device_train_batch_size=8,
        max_steps=16,
        learning_rate=5e-4,
        logging_steps=1,
        save_steps=4,
        report_to="none",
        seed=0,
    ),
)
trainer.train()
