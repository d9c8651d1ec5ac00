"""Every trainer that people use, trained for real with and without the callback: watched, counted, unchanged."""

import copy

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainingArguments, set_seed
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from forget_callback import ForgetCallback

from .conftest import COMMON, weights_hash

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n"
    "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SFT = {
    "packing": {"packing": True},
    "wrapped packing": {"packing": True, "packing_strategy": "wrapped"},
    "padding-free": {"padding_free": True, "max_length": None},
    "assistant-only loss": {"assistant_only_loss": True},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "no gradient checkpointing": {"gradient_checkpointing": False},
    "accumulation": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "LoRA": {"peft_config": LoraConfig(target_modules=["q_proj", "v_proj"], lora_dropout=0.1)},
}


def sft(callbacks, model, tokenizer, rows, out, *, peft_config=None, **config):
    tokenizer.chat_template = TEMPLATE
    config = {"per_device_train_batch_size": 4, "max_length": 64, "learning_rate": 1e-2, **COMMON, **config}
    return SFTTrainer(
        model=model,
        processing_class=tokenizer,
        args=SFTConfig(output_dir=str(out), num_train_epochs=1, **config),
        train_dataset=Dataset.from_list(rows),
        peft_config=peft_config,
        callbacks=callbacks,
    )


def dpo(callbacks, model, tokenizer, rows, out):
    pairs = [{"prompt": f"{i} is", "chosen": f" the {i}.", "rejected": f" no {i}."} for i in range(24)]
    config = {"per_device_train_batch_size": 4, "max_length": 64, "learning_rate": 1e-2, **COMMON}
    return DPOTrainer(
        model=model,
        ref_model=copy.deepcopy(model),
        processing_class=tokenizer,
        args=DPOConfig(output_dir=str(out), num_train_epochs=1, **config),
        train_dataset=Dataset.from_list(pairs),
        callbacks=callbacks,
    )


def plain(callbacks, model, tokenizer, rows, out):
    ids = [tokenizer.encode(f"{i} is the fox")[:4] for i in range(24)]
    config = {"per_device_train_batch_size": 4, "learning_rate": 1e-2, **COMMON}
    return Trainer(
        model=model,
        processing_class=tokenizer,
        args=TrainingArguments(output_dir=str(out), num_train_epochs=1, **config),
        train_dataset=Dataset.from_list([{"input_ids": row, "labels": row} for row in ids]),
        callbacks=callbacks,
    )


@pytest.mark.parametrize("kind", [*SFT, "DPO", "Trainer"])
def test_watched_and_unchanged(make_model, tokenizer, probe, rows, tmp_path, kind):
    made = []
    for watched in (False, True):
        callbacks = [ForgetCallback(probe, every=2, on_error="raise")] if watched else []
        common = (callbacks, make_model(attention_dropout=0.1), tokenizer, rows, tmp_path / str(watched))
        make = {"DPO": dpo, "Trainer": plain}.get(kind)
        set_seed(0)  # TRL 1.0 makes adapters before it sets its seed
        trainer = sft(*common, **SFT[kind]) if make is None else make(*common)
        trainer.train()
        made.append(trainer)
    without, with_callback = made
    assert weights_hash(without.model) == weights_hash(with_callback.model)
    losses = [[row["loss"] for row in trainer.state.log_history if "loss" in row] for trainer in made]
    assert losses[0] == losses[1] and losses[0]
    history = callbacks[0].history
    whole = history[history["category"] == ""]
    last = with_callback.state.global_step
    assert whole["step"].tolist() == [0, *range(2, last, 2), last]
    assert whole["n"].tolist() == [6] * len(whole)
    if kind != "wrapped packing":  # which keeps no boundaries between samples
        assert whole["samples_seen"].iloc[-1] == (48 if kind == "DPO" else 24)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="4-bit models need a GPU and bitsandbytes")
def test_a_model_in_four_bits_is_watched(make_model, tokenizer, probe, rows, tmp_path):
    pytest.importorskip("bitsandbytes")
    make_model().save_pretrained(tmp_path / "model")
    bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", quantization_config=bits)
    callback = ForgetCallback(probe, every=2, baseline="base", on_error="raise")
    adapters = LoraConfig(target_modules=["q_proj", "v_proj"])
    sft([callback], model, tokenizer, rows, tmp_path, peft_config=adapters, use_cpu=False).train()
    assert sorted(set(callback.history["step"])) == [0, 2, 4, 6]
