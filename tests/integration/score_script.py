"""Scores a probe with a model whose weights are sharded over all processes, for a test that needs several of them."""

import sys
from pathlib import Path

import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM

from forget_callback import load_probe, score_probe
from forget_callback.loading import load_tokenizer

model_dir, items, out = sys.argv[1:]
dist.init_process_group("gloo")
model = AutoModelForCausalLM.from_pretrained(model_dir)
for layer in model.model.layers:
    fully_shard(layer)
fully_shard(model)
snapshot = score_probe(model, load_tokenizer(model_dir), load_probe(items))
snapshot.save(Path(out) / f"rank-{dist.get_rank()}.parquet")
dist.barrier()
dist.destroy_process_group()
