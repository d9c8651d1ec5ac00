"""`train:`: rows of the trainer's own data as documents, made when training starts and never touching training."""

import random

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset

from forget_callback import ForgetCallback, Probe, Store, Text, load_probe, score_probe
from forget_callback.probes.specs import absolute, limited
from forget_callback.training.train_rows import rows_of
from tests.integration.conftest import weights_hash

SPEC = "train:?limit=8&seed=3"


class Trainer:
    """What is read of a trainer."""

    def __init__(self, data):
        self.train_dataset = data


def texts_of(data, tokenizer, spec=SPEC):
    return [item.text for item in rows_of(Trainer(data), load_probe(spec), tokenizer).items]


def test_a_run_measures_kl_on_its_own_data_and_trains_as_without(make_sft, tmp_path, rows):
    plain = make_sft([], output_dir=str(tmp_path / "plain"))
    plain.train()
    callback = ForgetCallback(["builtin:facts?limit=4", SPEC], every=3, on_error="raise", stop="kl>1000")
    trainer = make_sft([callback], output_dir=str(tmp_path / "run"))
    trainer.train()
    assert weights_hash(trainer.model) == weights_hash(plain.model)
    assert trainer.state.log_history[-1]["train_loss"] == plain.state.log_history[-1]["train_loss"]
    table = callback.history.query("probe == 'train' and category == ''").set_index("step")
    assert table.kl[0] == 0 and 0 < table.kl[3] < table.kl[6]
    assert table.bits_per_byte_change[6] < 0, "it is learned"
    everything = callback.history.query("probe == 'all'").set_index("step")
    assert everything.bits_per_byte_change.isna().all() and everything.n[6] == 4
    assert everything.kl[6] == table.kl[6], "a rule on kl reads it"
    store = Store(tmp_path / "run")
    (kept,) = (probe for probe in store.probes() if probe.name == "train")
    assert len(kept) == 8
    asked = {row["messages"][0]["content"] for row in rows}
    for item in kept.items:
        assert sum(question in item.text for question in asked) == 1 and "<|im_start|>assistant" in item.text


def test_a_resumed_run_keeps_its_rows_whatever_the_data_are_then(make_sft, tmp_path, rows):
    saved = {"save_strategy": "steps", "save_steps": 3}
    make_sft([ForgetCallback(SPEC, every=3)], **saved).train()
    before = Store(tmp_path).probes()
    other = [{"messages": [{**m, "content": m["content"] + "!"} for m in row["messages"]]} for row in rows]
    trainer = make_sft([ForgetCallback(SPEC, every=3, on_error="raise")], rows=other, **saved)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert [probe.fingerprint for probe in Store(tmp_path).probes()] == [probe.fingerprint for probe in before]
    assert (Store(tmp_path).read("train", 6).kl > 0).all()


def test_of_grpo_the_prompts_alone_are_taken(make_grpo, tmp_path):
    callback = ForgetCallback("train:?limit=5", every=2, on_error="raise")
    make_grpo([callback]).train()
    (probe,) = Store(tmp_path).probes()
    assert len(probe) == 5
    assert all(item.text.endswith("<|im_start|>assistant\n") and "fox" not in item.text for item in probe.items)
    assert np.isfinite(callback.history.kl).all()


def test_packed_rows_are_taken_as_they_are_packed(make_sft, tmp_path):
    make_sft([ForgetCallback("train:?limit=3", every=2, on_error="raise")], packing=True, max_steps=2).train()
    (probe,) = Store(tmp_path).probes()
    assert 0 < len(probe) <= 3 and all(item.text.count("<|im_start|>user") > 1 for item in probe.items)


def test_every_form_of_row_gives_the_text_that_is_learned(tokenizer):
    conversation = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "The fox."}]
    rendered = tokenizer.apply_chat_template(conversation, tokenize=False)
    opened = tokenizer.apply_chat_template(conversation[:1], tokenize=False, add_generation_prompt=True)
    forms = {
        "text": ({"text": "A fox ran."}, "A fox ran."),
        "messages": ({"messages": conversation}, rendered),
        "prompt and completion": ({"prompt": "A fox", "completion": " ran."}, "A fox ran."),
        "of messages": ({"prompt": conversation[:1], "completion": conversation[1:]}, rendered),
        "chosen": ({"prompt": "A fox", "chosen": " ran.", "rejected": " sat."}, "A fox ran."),
        "prompt alone": ({"prompt": conversation[:1]}, opened),
        "tokenized": ({"input_ids": tokenizer.encode(rendered)}, rendered),
    }
    for form, (row, text) in forms.items():
        assert texts_of([row], tokenizer) == [text], form
    assert texts_of([{"text": " "}, {"text": "a"}, {"text": "a"}], tokenizer) == ["a"], "empty ones and copies are none"


def test_the_seed_chooses_the_rows_and_no_generator_is_touched(tokenizer):
    class Augmented(torch.utils.data.Dataset):
        """Draws a random number with each row, as such data sets do."""

        def __len__(self):
            return 500

        def __getitem__(self, i):
            torch.rand(1), random.random(), np.random.rand()
            return {"text": f"row number {i}"}

    def states():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    before = states()
    one, again, other = (texts_of(Augmented(), tokenizer, f"train:?seed={seed}") for seed in (1, 1, 2))
    assert states() == before
    assert one == again != other and len(one) == 64 and len(set(one) & set(other)) < 32


@pytest.mark.parametrize(
    "data, problem",
    [
        (
            IterableDataset.from_generator(lambda: iter([{"text": "a"}])),
            "are a stream .* give texts of it as corpus:FILE",
        ),
        (None, "no trainer with a train_dataset was found; pass trainer="),
        (
            Dataset.from_dict({"image": [1], "label": [2]}),
            "none of input_ids, messages, prompt and text; it has 'image', ",
        ),
        (Dataset.from_dict({"text": ["", " "]}), "none of 2 rows of the training data has a text"),
    ],
    ids=["stream", "no data", "images", "empty"],
)
def test_data_of_which_no_row_can_be_read_say_why(tokenizer, data, problem):
    with pytest.raises(ValueError, match=problem):
        rows_of(Trainer(data), load_probe(SPEC), tokenizer)


def test_a_stream_is_not_measured_and_costs_no_other_probe(make_sft, tmp_path, rows, caplog):
    stream = Dataset.from_list(rows).to_iterable_dataset()
    docs = Probe("docs", [Text("a", "The fox ran over the hill.")])
    make_sft([ForgetCallback([docs, SPEC], every=2)], data=stream, max_steps=2).train()
    assert [probe.name for probe in Store(tmp_path).probes()] == ["docs"]
    assert "NOT WATCHED: probe 'train' cannot be measured" in caplog.text
    assert "the training data are a stream" in caplog.text


def test_elsewhere_than_in_a_training_it_says_what_to_give(make_model, tokenizer, run_cli, tmp_path):
    with pytest.raises(ValueError, match=r"which ForgetCallback takes when training starts; .*corpus:FILE"):
        score_probe(make_model(), tokenizer, "train:")
    with pytest.raises(ValueError, match="nothing stands after train:"):
        load_probe("train:data.jsonl")
    assert absolute(SPEC) == SPEC and limited("train:", 5) == "train:?limit=5"
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    code, _, err = run_cli("snapshot", tmp_path / "model", "--probe", SPEC, "--out", tmp_path / "out")
    assert code == 2 and "rows of a trainer's own data" in err
