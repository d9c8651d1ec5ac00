"""Counts of true samples and tokens, against the batches' own contents and against real trainers' datasets."""

import math
import re
import threading

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from forget_callback.training.data_seen import DataSeen, Seen, seen_before

QUIET = {
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "logging_strategy": "no",
}
LENGTHS = [3, 7, 2, 5, 11, 4]
EXAMPLES = [{"input_ids": list(range(5, 5 + n))} for n in LENGTHS]


@pytest.fixture
def model(make_model):
    return make_model().train()


@pytest.fixture
def seen(model):
    seen = DataSeen()
    seen.watch(model)
    yield seen
    seen.stop()


def collated(**settings):
    return DataCollatorForLanguageModeling(pad_token_id=0, **settings)


def counts(seen, step=1):
    now = seen.totals(step)
    return now.samples, now.tokens


def forward(model, batch):
    names = ("input_ids", "attention_mask", "position_ids")
    return model(**{name: batch[name] for name in names if name in batch})


@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_batches(model, seen, tokenizer, side):
    tokenizer.padding_side = side
    forward(model, tokenizer.pad(EXAMPLES, return_tensors="pt"))
    assert counts(seen) == (len(LENGTHS), sum(LENGTHS))


def test_a_row_of_padding_is_no_sample(model, seen):
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    model(input_ids=torch.ones_like(mask), attention_mask=mask)
    assert counts(seen) == (1, 2)


@pytest.mark.parametrize("mask", [{}, {"attention_mask": None}])
def test_without_a_mask_every_token_counts(model, seen, mask):
    model(input_ids=torch.ones(3, 4, dtype=torch.long), **mask)
    model(torch.ones(2, 5, dtype=torch.long))
    assert counts(seen) == (5, 22)


@pytest.mark.parametrize("multiple", [None, 8, 64])
def test_padding_free_batches(model, seen, multiple):
    batch = collated(padding_free=True, pad_to_multiple_of=multiple)(EXAMPLES)
    assert batch["input_ids"].shape == (1, sum(LENGTHS) if multiple is None else 32 if multiple == 8 else 64)
    forward(model, batch)
    assert counts(seen) == (len(LENGTHS), sum(LENGTHS))


@pytest.mark.parametrize("multiple", [None, 64])
def test_packed_batches(model, seen, multiple):
    """Two rows that hold four and two examples, flattened by TRL's own collator."""
    examples = [
        {"input_ids": [i for example in part for i in example["input_ids"]], "seq_lengths": lengths}
        for part, lengths in [(EXAMPLES[:4], LENGTHS[:4]), (EXAMPLES[4:], LENGTHS[4:])]
    ]
    forward(model, collated(padding_free=True, pad_to_multiple_of=multiple)(examples))
    assert counts(seen) == (len(LENGTHS), sum(LENGTHS))


@pytest.mark.parametrize("padding", [0, 1, 5])
def test_examples_of_one_token_count_among_others(model, seen, padding):
    """As `packing_strategy="bfd_split"` makes them."""
    positions = torch.tensor([[0, 0, 1, 2, 0, 0, 0, 1] + [0] * padding])
    model(input_ids=torch.ones_like(positions), position_ids=positions)
    assert counts(seen) == (5, 8)


def test_positions_beside_a_mask(model, seen):
    batch = collated()(EXAMPLES)
    batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    forward(model, batch)
    assert counts(seen) == (len(LENGTHS), sum(LENGTHS))


def test_the_backbone_alone_and_embedded_batches_count_and_a_batch_counts_once(model, seen):
    """What losses forward that need no logits of every position, or that change the embeddings."""
    batch = collated()(EXAMPLES)
    forward(model.base_model, batch)
    assert counts(seen) == (len(LENGTHS), sum(LENGTHS))
    embedded = model.get_input_embeddings()(batch["input_ids"])
    model(inputs_embeds=embedded, attention_mask=batch["attention_mask"])
    assert counts(seen) == (2 * len(LENGTHS), 2 * sum(LENGTHS))
    forward(model, batch)
    assert counts(seen) == (3 * len(LENGTHS), 3 * sum(LENGTHS))


def test_a_call_that_a_trainer_redirects_to_its_loss_counts_the_batch_inside(model, seen, monkeypatch):
    batch = collated()(EXAMPLES)
    monkeypatch.setattr(model, "forward", lambda loss: loss())
    model(lambda: forward(model.base_model, batch))
    assert counts(seen) == (len(LENGTHS), sum(LENGTHS))


def test_forward_passes_in_other_threads_count(model, seen, monkeypatch):
    """As DataParallel runs its replicas, while another one runs."""
    batch, head = collated()(EXAMPLES), model.lm_head.forward

    def meanwhile(hidden):
        monkeypatch.setattr(model.lm_head, "forward", head)
        thread = threading.Thread(target=forward, args=(model, batch))
        thread.start()
        thread.join()
        return head(hidden)

    monkeypatch.setattr(model.lm_head, "forward", meanwhile)
    forward(model, batch)
    assert counts(seen) == (2 * len(LENGTHS), 2 * sum(LENGTHS))


def test_a_forward_that_runs_out_of_memory_does_not_stop_the_count(model, seen, monkeypatch):
    batch = collated()(EXAMPLES)
    with monkeypatch.context() as broken:
        broken.setattr(model.lm_head, "forward", _no_memory)
        with pytest.raises(MemoryError):
            forward(model, batch)
    before = counts(seen)
    forward(model, batch)
    assert counts(seen) == (before[0] + len(LENGTHS), before[1] + sum(LENGTHS))


def _no_memory(*args):
    raise MemoryError


def test_training_forwards_alone_count(model, seen):
    batch = collated()(EXAMPLES)
    with torch.no_grad():
        forward(model, batch)
    model.eval()
    forward(model, batch)
    assert counts(seen, 0) == (0, 0)
    model.train()
    forward(model, batch)
    assert counts(seen) == (len(LENGTHS), sum(LENGTHS))


def test_after_stop_nothing_counts(model, seen):
    forward(model, collated()(EXAMPLES))
    seen.stop()
    forward(model, collated()(EXAMPLES))
    assert counts(seen) == (len(LENGTHS), sum(LENGTHS))
    seen.stop()  # once more is fine
    assert not model._forward_pre_hooks


def test_counts_go_on_from_where_a_resumed_run_was(model):
    seen = DataSeen(Seen(7, 100, 1000))
    seen.watch(model)
    assert counts(seen, 7) == (100, 1000)
    forward(model, collated()(EXAMPLES))
    seen.stop()
    assert counts(seen, 8) == (100 + len(LENGTHS), 1000 + sum(LENGTHS))


def test_training_that_was_not_seen_is_unknown_and_not_nothing(seen, model):
    """Not 0 and not what a part of it was: later counts do not know what was before."""
    assert counts(seen, step=0) == (0, 0)
    assert all(map(math.isnan, counts(seen, step=3)))
    later = DataSeen(seen.totals(3))
    later.watch(model)
    forward(model, collated()(EXAMPLES))
    assert all(map(math.isnan, counts(later, step=4)))
    later.stop()


@pytest.mark.parametrize(
    "known, expected, said",
    [
        ([Seen(4, 20, 300)], (20, 300), None),
        ([Seen(2, 10, 150), Seen(4, 20, 300), Seen(6, 99, 999)], (20, 300), None),
        ([Seen(2, 10, 150)], (20, 300), "steps 3 to 4 .* estimated as 20, at 5 a step$"),
        ([], (32, math.nan), "steps 1 to 4 .* estimated as 32, at 8 a step, rows of batches"),
        ([Seen(0)], (32, math.nan), "steps 1 to 4 "),
        ([Seen(2, math.nan, math.nan)], (math.nan, math.nan), "steps 3 to 4 "),
    ],
)
def test_what_was_trained_without_us_is_estimated_and_said(caplog, known, expected, said):
    found = seen_before(4, known, samples_per_step=8)
    assert (found.step, found.samples, found.tokens) == pytest.approx((4, *expected), nan_ok=True)
    assert [bool(re.search(said or "", line)) for line in caplog.messages] == ([True] if said else [])


def test_counting_does_not_change_the_loss_or_the_gradients(make_model):
    def gradients(watched):
        model = make_model().train()
        if watched:
            DataSeen().watch(model)
        batch = collated()(EXAMPLES)
        model(**batch).loss.backward()
        return [p.grad for p in model.parameters()]

    for plain, watched in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(plain, watched)


@pytest.mark.parametrize("accumulation, epochs", [(1, 1), (3, 2)])
def test_a_trainer_run_counts_its_dataset(make_model, tokenizer, tmp_path, seen, model, accumulation, epochs):
    """13 examples of unlike length: no step count times batch size gives 13, and batches are padded."""
    texts = ["Who? " * n for n in range(1, 14)]
    data = Dataset.from_list([{**tokenizer(text), "labels": 0} for text in texts])
    true_tokens = sum(len(ids) for ids in data["input_ids"])

    def collate(examples):
        batch = tokenizer.pad([{"input_ids": e["input_ids"]} for e in examples], return_tensors="pt")
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    args = TrainingArguments(
        tmp_path,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=epochs,
        eval_strategy="epoch",
        **QUIET,
    )
    Trainer(model, args, data_collator=collate, train_dataset=data, eval_dataset=data).train()
    assert counts(seen) == (13 * epochs, true_tokens * epochs)


@pytest.fixture
def conversations():
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": "Who? " * (1 + i % 5)}],
                "completion": [{"role": "assistant", "content": "It is a number. " * (1 + i % 3)}],
            }
            for i in range(21)
        ]
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"padding_free": True, "max_length": None},
        {"packing": True},
        {"packing": True, "gradient_accumulation_steps": 2},
    ],
    ids=str,
)
def test_an_sft_run_counts_true_samples(model, tokenizer, tmp_path, seen, conversations, settings):
    args = SFTConfig(
        tmp_path, **{"max_length": 64, "per_device_train_batch_size": 2, "num_train_epochs": 2, **settings, **QUIET}
    )
    trainer = SFTTrainer(model, args, train_dataset=conversations, processing_class=tokenizer)
    data = trainer.train_dataset
    packed = bool(settings.get("packing"))
    samples = sum(len(lengths) for lengths in data["seq_lengths"]) if packed else len(data)
    assert samples == 21 and (len(data) < 21) == packed
    trainer.train()
    assert counts(seen) == (2 * 21, 2 * sum(len(ids) for ids in data["input_ids"]))
