"""A training script with the trainer that unsloth generates from TRL's; its own kernels, for a GPU, are not in it.

python unsloth_script.py MODEL OUT [--in-code]
"""

import sys


def main(model, out, *options):
    import unsloth  # noqa: F401  # isort: skip  # before transformers and trl, which it changes
    from unsloth.models import rl

    rl.patch_trl_rl_trainers()  # UNSLOTH_ALLOW_CPU=1 leaves this step of its import out
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from forget_callback.tools.arguments import CallbackArguments
    from tests.integrations.trained import CALLBACK, EXAMPLES

    assert SFTTrainer.__name__ == "UnslothSFTTrainer"
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = load_dataset("json", data_files=str(EXAMPLES / "new_facts.jsonl"), split="train")
    texts = rows.map(lambda row: {"text": tokenizer.apply_chat_template(row["messages"], tokenize=False)})
    on_cpu = {"use_cpu": True, "bf16": False, "fp16": False, "gradient_checkpointing": False}
    network = AutoModelForCausalLM.from_pretrained(model)
    network._unsloth_user_float32 = True  # as FastLanguageModel marks a model that is wanted in float32; else mixed
    trainer = SFTTrainer(
        model=network,
        processing_class=tokenizer,
        train_dataset=texts,
        args=SFTConfig(
            output_dir=out,
            dataset_text_field="text",
            max_length=256,
            per_device_train_batch_size=8,
            max_steps=16,
            learning_rate=5e-4,
            lr_scheduler_type="constant",
            save_steps=4,
            report_to="none",
            seed=0,
            **on_cpu,
        ),
        callbacks=[CallbackArguments.of(CALLBACK).callback()] if options else [],
    )
    trainer.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
