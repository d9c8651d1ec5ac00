"""Scores a probe on all processes together, for tests that need several of them.

    torchrun score_script.py MODEL ITEMS OUT [--sharded] [--fail]

With --fail the second process' first forward fails, and what every process hears of it is written down.
"""

import argparse
from pathlib import Path

import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM

from forget_callback import load_probe
from forget_callback.loading import load_tokenizer
from forget_callback.scoring import Scorer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("items")
parser.add_argument("out", type=Path)
parser.add_argument("--sharded", action="store_true")
parser.add_argument("--fail")
options = parser.parse_args()

dist.init_process_group("gloo")
rank = dist.get_rank()
model = AutoModelForCausalLM.from_pretrained(options.model).eval()
if options.sharded:
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
forwards = []
model.register_forward_pre_hook(lambda module, args: forwards.append(1))
scorer = Scorer(load_tokenizer(options.model), [load_probe(options.items)], shared=True)
if options.fail:
    scorer.score(model)

    def broken(module, args, kwargs):
        handle.remove()
        raise MemoryError if options.fail == "memory" else ValueError("broken on purpose")

    if rank == 1:
        handle = model.register_forward_pre_hook(broken, with_kwargs=True)
    try:
        scorer.score(model)
    except Exception as error:
        (options.out / f"heard-{rank}.txt").write_text(f"{type(error).__name__}: {error}")
forwards.clear()
(snapshot,) = scorer.score(model)
snapshot.save(options.out / f"rank-{rank}.parquet")
(options.out / f"forwards-{rank}.txt").write_text(str(len(forwards)))
dist.barrier()
dist.destroy_process_group()
