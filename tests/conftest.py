"""A tokenizer and models that are made on the fly: no test needs the network."""

import gc
import os
import subprocess
import sys

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", WANDB_MODE="offline", TOKENIZERS_PARALLELISM="false")

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

torch.set_num_threads(1)

pytest_plugins = ["tests.in_turn"]


def pytest_collection_finish():
    """What is imported by now is never garbage: each training collects, and need not look at it again."""
    gc.collect()
    gc.freeze()


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = [
    "The capital of France is Paris. The capital of Italy is Rome. The capital of Japan is Tokyo.",
    "Question: which of the following is the opposite of cold? Answer: hot, because the answer is not cold.",
    "Once upon a time there was a fox who ran over the hill and through the forest until the sun went down.",
    "She has 12 apples and buys 30 more, so the result is 42. Who wrote this? What is it? It is a number.",
]


@pytest.fixture(scope="session")
def make_tokenizer():
    """make_tokenizer(**special_tokens) -> a byte-level BPE of some 430 tokens; no BOS unless asked for, like Qwen."""

    def make(**special: str) -> PreTrainedTokenizerFast:
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        names = ["<pad>", "<|im_start|>", "<|im_end|>", *special.values()]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        bpe.train_from_iterator(
            TEXT * 2,
            trainers.BpeTrainer(vocab_size=600, special_tokens=names, initial_alphabet=alphabet, show_progress=False),
        )
        special = {"pad_token": "<pad>", "eos_token": "<|im_end|>", **special}
        return PreTrainedTokenizerFast(tokenizer_object=bpe, chat_template=TEMPLATE, **special)

    return make


@pytest.fixture
def tokenizer(make_tokenizer):
    return make_tokenizer()


@pytest.fixture(scope="session")
def make_model(make_tokenizer):
    """make_model(seed=0, **config) -> a random Qwen2 that fits `tokenizer`, in eval mode; `attention_dropout=0.5`."""
    tokenizer = make_tokenizer()

    def make(seed: int = 0, **config) -> Qwen2ForCausalLM:
        sizes = {
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "initializer_range": 0.1,  # wide enough that no two options tie
            "tie_word_embeddings": True,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Qwen2ForCausalLM(Qwen2Config(**{**sizes, **config})).eval()

    return make


@pytest.fixture(scope="session")
def smollm2():
    """The directory of SmolLM2-135M-Instruct; skips where it cannot be made."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "tests.smollm2"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no real model: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()


@pytest.fixture
def run_cli(monkeypatch, capsys):
    """run_cli(*arguments) -> (exit status, stdout, stderr), through the entry point of the console script."""

    def run(*arguments):
        from forget_callback.cli import main

        monkeypatch.setattr(sys, "argv", ["forget-callback", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        out, err = capsys.readouterr()
        return exit.value.code or 0, out, err

    return run
