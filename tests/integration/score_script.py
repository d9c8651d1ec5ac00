"""Scores probes on all processes together, for tests that need several of them.

    torchrun score_script.py MODEL OUT [--sharded] -- PROBE.jsonl ...

Each probe leaves its snapshot of every process. With the last one two things go wrong on the second process alone, an
error and the end of memory; what each process hears of it, and what it finds afterwards, is written down.
"""

import argparse
from pathlib import Path

import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM

from forget_callback import load_probe
from forget_callback.scoring.engine import Scorer
from forget_callback.scoring.loading import load_tokenizer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("out", type=Path)
parser.add_argument("--sharded", action="store_true")
parser.add_argument("probes", nargs="+")
options = parser.parse_args()

dist.init_process_group("gloo")
rank = dist.get_rank()
model, tokenizer = AutoModelForCausalLM.from_pretrained(options.model).eval(), load_tokenizer(options.model)
if options.sharded:
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
forwards = []
model.register_forward_pre_hook(lambda module, args: forwards.append(1))


def score(name, scorer):
    """Leaves a snapshot, or what was heard of why there is none."""
    forwards.clear()
    try:
        (snapshot,) = scorer.score(model)
    except Exception as error:
        (options.out / f"{name}-{rank}.txt").write_text(f"{type(error).__name__}: {error}")
    else:
        snapshot.save(options.out / f"{name}-{rank}.parquet")
        (options.out / f"{name}-{rank}.forwards").write_text(str(len(forwards)))


def fail_once(error):
    """The next forward of the second process fails, before it fetches weights."""

    def broken(module, args, kwargs):
        handle.remove()
        raise error

    if rank == 1:
        handle = model.register_forward_pre_hook(broken, with_kwargs=True)


for path in options.probes:
    scorer = Scorer(tokenizer, [load_probe(path)], shared=True)
    score(Path(path).stem, scorer)
fail_once(ValueError("broken on purpose"))
score("error", scorer)
score("after", scorer)
fail_once(MemoryError())
score("memory", scorer)
dist.barrier()
dist.destroy_process_group()
