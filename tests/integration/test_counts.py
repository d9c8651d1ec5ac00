"""Samples and tokens of every kind of trainer, against a count of what its loss was made of."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import (
    DistillationConfig,
    DistillationTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RLOOConfig,
    RLOOTrainer,
)
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.experimental.sdft import SDFTConfig, SDFTTrainer
from trl.experimental.tpo import TPOConfig, TPOTrainer

from forget_callback import ForgetCallback

from .conftest import COMMON

QUESTIONS = [[{"role": "user", "content": f"What is {i}?"}] for i in range(16)]
ANSWER = [{"role": "assistant", "content": "It is a number."}]
OTHER = [{"role": "assistant", "content": "No."}]


def prompts():
    return Dataset.from_list([{"prompt": prompt} for prompt in QUESTIONS])


def preferences(**more):
    return Dataset.from_list([{"prompt": p, "chosen": ANSWER, "rejected": OTHER, **more} for p in QUESTIONS])


def distillation(model, **common):
    args = DistillationConfig(max_completion_length=6, **COMMON, **common["args"])
    return DistillationTrainer(model, common["teacher"], args=args, train_dataset=prompts(), **common["rest"])


def distillation_of_adapters(model, **common):
    common["rest"]["peft_config"] = LoraConfig(target_modules=["q_proj", "v_proj"])
    return distillation(model, **common)


def gkd(model, **common):
    data = Dataset.from_list([{"messages": prompt + ANSWER} for prompt in QUESTIONS])
    args = GKDConfig(max_new_tokens=6, max_length=64, **COMMON, **common["args"])
    return GKDTrainer(model, common["teacher"], args=args, train_dataset=data, **common["rest"])


def sdft(model, **common):
    data = Dataset.from_list([{"prompt": p, "privileged_context": "a number"} for p in QUESTIONS])
    args = SDFTConfig(max_completion_length=6, num_generations=2, **COMMON, **common["args"])
    return SDFTTrainer(model, args=args, train_dataset=data, **common["rest"])


def kto(model, **common):
    rows = [
        {"prompt": p, "completion": ANSWER if i % 2 else OTHER, "label": bool(i % 2)} for i, p in enumerate(QUESTIONS)
    ]
    args = KTOConfig(max_length=64, **COMMON, **common["args"])
    return KTOTrainer(model, args=args, train_dataset=Dataset.from_list(rows), **common["rest"])


def cpo(model, **common):
    args = CPOConfig(max_length=64, **COMMON, **common["args"])
    return CPOTrainer(model, args=args, train_dataset=preferences(), **common["rest"])


def orpo(model, **common):
    args = ORPOConfig(max_length=64, **COMMON, **common["args"])
    return ORPOTrainer(model, args=args, train_dataset=preferences(), **common["rest"])


def tpo(model, **common):
    args = TPOConfig(max_length=64, **COMMON, **common["args"])
    return TPOTrainer(model, args=args, train_dataset=preferences(reference=ANSWER), **common["rest"])


def grpo(model, **common):
    args = GRPOConfig(max_completion_length=6, num_generations=2, num_iterations=2, **COMMON, **common["args"])
    return GRPOTrainer(model, reward, args=args, train_dataset=prompts(), **common["rest"])


def rloo(model, **common):
    args = RLOOConfig(max_completion_length=6, num_generations=2, **COMMON, **common["args"])
    return RLOOTrainer(model, reward, args=args, train_dataset=prompts(), **common["rest"])


def online_dpo(model, **common):
    args = OnlineDPOConfig(max_new_tokens=6, **COMMON, **common["args"])
    return OnlineDPOTrainer(model, args=args, reward_funcs=reward, train_dataset=prompts(), **common["rest"])


def reward(completions, **_):
    return [float(len(str(one))) for one in completions]


# Of each trainer, the sequences that its loss trains on for each row of a batch.
TRAINERS = {
    distillation: 1,
    distillation_of_adapters: 1,
    gkd: 1,
    sdft: 1,
    kto: 1,
    cpo: 2,
    orpo: 2,
    tpo: 3,
    grpo: 1,  # a sequence that is trained on in two iterations counts twice
    rloo: 1,
    online_dpo: 2,
}


@pytest.mark.parametrize("make, sequences", TRAINERS.items(), ids=[make.__name__ for make in TRAINERS])
def test_samples_are_the_sequences_of_the_loss_and_tokens_are_theirs(
    make_model, tokenizer, probe, tmp_path, make, sequences
):
    """Tokens are counted where the batch is embedded, whatever is called around that."""
    make_model().save_pretrained(tmp_path / "model")  # some load their reference model themselves
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    callback = ForgetCallback(probe, every=1, on_error="raise")
    embedded = []

    def look_up(module, args, output):
        if model.training and torch.is_grad_enabled():
            embedded.append(int((args[0] != tokenizer.pad_token_id).sum()))

    model.get_input_embeddings().register_forward_hook(look_up)
    trainer = make(
        model,
        teacher=make_model(seed=5),
        args={"output_dir": str(tmp_path), "per_device_train_batch_size": 4, "max_steps": 2},
        rest={"processing_class": tokenizer, "callbacks": [callback]},
    )
    trainer.train()
    history = callback.history[callback.history["category"] == ""]
    assert history["samples_seen"].tolist() == [0, 4 * sequences, 8 * sequences]
    assert history["tokens_seen"].iloc[-1] == sum(embedded)
