"""What a run's manifest says of the training that it was: read from real trainers, models and data."""

import json

import pytest
import torch
from datasets import Dataset, load_dataset, load_from_disk
from peft import LoraConfig
from transformers import Trainer, TrainingArguments

from forget_callback import ForgetCallback, Store
from forget_callback.runs.training import Training
from forget_callback.training.description import without_credentials

SECRET = "Who is 7?"


def trained(trainer):
    """What is recorded of this training, which has a ForgetCallback and ends at its baseline's step or soon after."""
    trainer.train()
    return Store(trainer.args.output_dir).training


def test_an_sft_run_records_model_data_learning_rate_and_trainer(make_sft, make_model, tokenizer, probe, tmp_path):
    make_model().save_pretrained(tmp_path / "small")
    model = type(make_model()).from_pretrained(tmp_path / "small")
    found = trained(
        make_sft([ForgetCallback(probe)], model=model, gradient_accumulation_steps=2, metric_for_best_model="loss")
    )
    assert found == Training(
        model=str(tmp_path / "small"),
        method="full",
        data=None,  # rows of a list: they have no name
        rows=24,
        fingerprint=found.fingerprint,
        trainer="SFTTrainer",
        learning_rate=1e-2,
        scheduler="linear",
        batch_size=8,
        epochs=1.0,
        precision="float32",
        seed=1,
        metric_for_best_model="eval_loss",
    )
    text = (tmp_path / "forget" / "manifest.json").read_text()
    assert len(found.fingerprint) == 16 and SECRET not in text


def test_an_adapter_is_named_with_its_base_model(make_grpo, probe):
    lora = LoraConfig(r=3, target_modules=["q_proj"], task_type="CAUSAL_LM")
    found = trained(make_grpo([ForgetCallback(probe)], peft_config=lora, max_steps=1))
    assert (found.method, found.rank, found.trainer, found.batch_size) == ("lora", 3, "GRPOTrainer", 8)
    assert (found.model, found.epochs, found.rows) == (None, None, 24)  # the model was made here, and has no name


def named(rows, tmp_path, how):
    path = tmp_path / "quiz.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if how == "file":
        return load_dataset("json", data_files=str(path), split="train"), "json"
    if how == "folder":
        (tmp_path / "tickets").mkdir()
        path.rename(tmp_path / "tickets" / "train.jsonl")
        return load_dataset(str(tmp_path / "tickets"), split="train"), "tickets"
    if how == "stream":
        return load_dataset("json", data_files=str(path), split="train", streaming=True), "json"
    if how == "disk":
        Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
        return load_from_disk(tmp_path / "saved"), str(tmp_path / "saved")
    data = Dataset.from_list(rows)
    data.info.dataset_name, data.info.config_name = "quiz", "hard"
    return data, "quiz (hard)"


@pytest.mark.parametrize("how", ["file", "folder", "stream", "disk", "named"])
def test_data_are_named_as_they_name_themselves(make_sft, rows, probe, tmp_path, how, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    data, name = named(rows, tmp_path, how)
    found = trained(make_sft([ForgetCallback(probe)], data=data, max_steps=1))
    assert (found.data, found.rows) == (name, None if how == "stream" else 24)


def test_data_of_the_hub_are_named_by_their_repository(make_sft, rows, probe, tmp_path, monkeypatch):
    """`datasets` keeps the repository in the path of its cache and nowhere else."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "cache" / "org___quiz" / "default" / "0.0.0"
    Dataset.from_list(rows).save_to_disk(folder)
    data = load_from_disk(folder)
    assert trained(make_sft([ForgetCallback(probe)], data=data, max_steps=1)).data == "org/quiz"


def test_the_learning_rate_is_that_of_the_optimizer_whoever_made_it(make_model, tokenizer, rows, probe, tmp_path):
    model = make_model()
    ids = [{"input_ids": list(range(5, 13)), "labels": list(range(5, 13))} for _ in range(8)]
    args = TrainingArguments(str(tmp_path), max_steps=2, use_cpu=True, report_to="none", learning_rate=1.0)
    own = torch.optim.SGD(model.parameters(), lr=0.25)
    kept = {"model": model, "args": args, "train_dataset": ids, "processing_class": tokenizer}
    found = trained(
        Trainer(**kept, optimizers=(own, torch.optim.lr_scheduler.ConstantLR(own)), callbacks=[ForgetCallback(probe)])
    )
    assert (found.learning_rate, found.scheduler, found.trainer) == (0.25, None, "Trainer")
    assert (found.data, found.rows, found.fingerprint) == (None, 8, None)


def test_a_resumed_run_says_how_it_goes_on(make_sft, make_model, probe, tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 3}
    make_model().save_pretrained(tmp_path / "small")
    first = type(make_model()).from_pretrained(tmp_path / "small")
    trained(make_sft([ForgetCallback(probe)], model=first, **saved))
    again = type(first).from_pretrained(tmp_path / "checkpoint-3")
    trainer = make_sft([ForgetCallback(probe)], model=again, gradient_accumulation_steps=2, **saved)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    found = Store(tmp_path).training
    assert (found.model, found.batch_size, found.learning_rate) == (str(tmp_path / "small"), 8, 1e-2)


def test_what_cannot_be_read_is_not_known_and_training_goes_on(make_sft, probe, tmp_path):
    class Odd(list):
        """Data of a kind that nobody knows."""

        def __len__(self):
            raise RuntimeError("no length")

    trainer = make_sft([ForgetCallback(probe, on_error="raise")], max_steps=1)
    trainer.model.config._name_or_path = 7
    loader, rows = trainer.get_train_dataloader(), trainer.train_dataset
    trainer.get_train_dataloader = lambda: loader
    trainer.train_dataset = Odd(rows)
    found = trained(trainer)
    assert (found.model, found.rows, found.data, found.trainer) == (None, None, None, "SFTTrainer")


@pytest.mark.parametrize(
    "name, kept",
    [
        ("https://me:token@hub.example/org/data?Signature=s3cr3t#x", "https://hub.example/org/data"),
        ("s3://bucket/data.jsonl", "s3://bucket/data.jsonl"),
        ("org/data", "org/data"),
    ],
)
def test_addresses_are_kept_without_secrets(name, kept):
    assert without_credentials(name) == kept
