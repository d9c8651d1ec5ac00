"""A training whose checkpoints are scored by its own callback, or by a watcher, for tests that need processes.

    python watched_script.py OUT --probe FILE ... [--callback in|remote|none] [--paused]

The model before training is saved in OUT/start, checkpoints go to OUT/run, the record of the callback to OUT/own.
"""

import argparse
import time
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer

from forget_callback import ForgetCallback

parser = argparse.ArgumentParser()
parser.add_argument("out", type=Path)
parser.add_argument("--probe", action="append")
parser.add_argument("--callback", choices=["in", "remote", "none"], default="none")
parser.add_argument("--paused", action="store_true", help="after each checkpoint, until there is OUT/pass-STEP")
parser.add_argument("--keep", type=int, help="checkpoints that rotation keeps")
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

torch.manual_seed(options.seed)
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", *alphabet])}
bytes_only = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bytes_only.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_only, pad_token="<pad>", eos_token="<eos>")
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
model = LlamaForCausalLM(
    LlamaConfig(vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1, bos_token_id=None, **sizes)
)
model.save_pretrained(options.out / "start")
tokenizer.save_pretrained(options.out / "start")


class Pause(TrainerCallback):
    """Waits where a checkpoint was saved."""

    def on_save(self, args, state, control, **kwargs):
        while options.paused and not (options.out / f"pass-{state.global_step}").exists():
            time.sleep(0.02)


callbacks = [Pause()]
if options.callback == "in":
    callbacks.append(ForgetCallback(options.probe, every=2, output_dir=options.out / "own"))
if options.callback == "remote":
    callbacks.append(ForgetCallback(options.probe, remote=True))
rows = [{"prompt": f"{i} times {i} is", "completion": f" {i * i}"} for i in range(4 * options.steps)]
SFTTrainer(
    model=model,
    processing_class=tokenizer,
    args=SFTConfig(
        output_dir=str(options.out / "run"),
        per_device_train_batch_size=4,
        max_steps=options.steps,
        max_length=64,
        report_to="none",
        save_steps=2,
        save_total_limit=options.keep,
        logging_steps=1,
        learning_rate=2e-2,
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        seed=options.seed,
    ),
    train_dataset=Dataset.from_list(rows),
    callbacks=callbacks,
).train()
