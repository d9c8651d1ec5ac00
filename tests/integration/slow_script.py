"""Scores one probe in no time and one that takes longer than two seconds, both with a bar, by a clock of its own."""

import torch
import tqdm.std
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from forget_callback import Probe, Recall, score_probe

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(["<eos>", *letters])}, merges=[]))
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
backend.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>")
torch.manual_seed(0)
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
items = [Recall(f"r{i}", f"{i:04} plus one is", f" {i + 1}") for i in range(40)]
now = [0.0]
tqdm.std.time = lambda: now[0]
score_probe(model, tokenizer, Probe("quick", items), progress=True)


def takes_a_second(*args):
    """Of the clock that the bars read."""
    now[0] += 1.0


model.register_forward_pre_hook(takes_a_second)
score_probe(model, tokenizer, Probe("slow", items), batch_tokens=40, progress=True)
