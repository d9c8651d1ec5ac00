"""Scores one probe in no time and one that takes longer than two seconds, both with a bar."""

import time

import torch
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
score_probe(model, tokenizer, Probe("quick", items), progress=True)
model.register_forward_pre_hook(lambda *args: time.sleep(0.15))
score_probe(model, tokenizer, Probe("slow", items), batch_tokens=40, progress=True)
