"""A training script as a user would write one, for tests that need a process of their own."""

import argparse
import json
import time
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer

from forget_callback import ForgetCallback, Generation, MultipleChoice, Probe, Recall, StopRule
from forget_callback.runs import store
from forget_callback.runs.remote import Decision, read_training, write_decision
from forget_callback.scoring import group
from forget_callback.scoring.engine import Scorer
from forget_callback.training import setup

parser = argparse.ArgumentParser()
parser.add_argument("out", type=Path)
parser.add_argument("--method", choices=["sft", "packed"], default="sft")
parser.add_argument("--batch-size", type=int, default=4)
parser.add_argument("--slow-from", type=int)
parser.add_argument("--save-steps", type=int)
parser.add_argument("--slow-moments", type=float, help="seconds to stay in a probe and in a save, after saying so")
parser.add_argument("--resume")
parser.add_argument("--two-probes", action="store_true")
parser.add_argument(
    "--slow-writes", type=float, help="seconds to stay before each file; also says when a run has begun"
)
parser.add_argument("--fail-at", type=int)
parser.add_argument("--variants", choices=["all", "changed", "ends"], default="all")
parser.add_argument("--on-error", choices=["warn", "refuse", "raise"], default="raise")
parser.add_argument("--remote", action="store_true", help="obeys a watcher, which stops it after three steps")
options = parser.parse_args()

torch.manual_seed(0)
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

probe = Probe(
    "mini",
    [MultipleChoice(f"c{i}", f"{i} is", [" odd", " even"], i % 2, variants=(f"Well: {i} is",)) for i in range(4)]
    + [Recall("r", "one two", " three"), Generation("g", "one two", "three", max_new_tokens=3)],
)

if options.slow_from is not None:
    calls, score = 0, Scorer.score

    def slow(scorer, *args, **kwargs):
        """Scores, and from one step on does not come back, with the result in its hands."""
        global calls
        snapshots = score(scorer, *args, **kwargs)
        if scorer.replicate:
            return snapshots
        if calls >= options.slow_from:
            (options.out / f"in-the-probe-of-step-{calls}").touch()
            time.sleep(600)
        calls += 1
        return snapshots

    Scorer.score = slow

rows = [{"prompt": f"{i} times {i} is", "completion": f" {i * i}"} for i in range(24)]
config = SFTConfig(
    output_dir=str(options.out),
    per_device_train_batch_size=1 if options.method == "packed" else options.batch_size,
    num_train_epochs=1,
    packing=options.method == "packed",
    max_length=64,
    report_to="none",
    save_strategy="no" if options.save_steps is None else "steps",
    save_steps=options.save_steps or 500,
    learning_rate=1e-2,
    use_cpu=True,
    bf16=False,
    disable_tqdm=True,
)
probes = [probe, Probe("other", probe.items[:3])] if options.two_probes else [probe]
trainer = SFTTrainer(
    model=model,
    processing_class=tokenizer,
    args=config,
    train_dataset=Dataset.from_list(rows),
    callbacks=[
        ForgetCallback(remote=True, on_error=options.on_error)
        if options.remote
        else ForgetCallback(
            probes,
            every=1,
            stop=StopRule("forgetting", -1, confidence=None, action="warn") if options.variants == "ends" else (),
            variants=options.variants,
            rescore=options.fail_at is None,
            on_error=options.on_error,
        )
    ],
)
if options.remote:

    class Watcher(TrainerCallback):
        """Decides on the main process alone."""

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3 and state.is_world_process_zero:
                write_decision(options.out, Decision(read_training(options.out).run, 2, "stop"))

    trainer.callback_handler.callbacks.insert(0, Watcher())
if options.fail_at is not None and trainer.args.process_index == 1:
    judge = group.judge_likelihoods

    def broken(*args, **kwargs):
        """Fails while the step's snapshot is taken, on this process alone."""
        if trainer.state.global_step == options.fail_at:
            raise ValueError("broken on purpose")
        return judge(*args, **kwargs)

    group.judge_likelihoods = broken
if options.slow_moments is not None:

    def slowly(act, moment):
        """Stays a while where a run is killed."""

        def stay(*args, **kwargs):
            if list(options.out.glob("checkpoint-*/trainer_state.json")):
                (options.out / f"in {moment}").touch()
                time.sleep(options.slow_moments)
            return act(*args, **kwargs)

        return stay

    group.judge_likelihoods = slowly(group.judge_likelihoods, "a probe")
    trainer._save_optimizer_and_scheduler = slowly(trainer._save_optimizer_and_scheduler, "a save")
if options.slow_writes is not None:
    claim, write_whole = setup.claim, store.write_whole

    def slow_write(*args):
        time.sleep(options.slow_writes)
        write_whole(*args)

    def claimed(*args):
        found = claim(*args)
        (options.out / "begun").write_text(found.run_id)
        return found

    setup.claim, store.write_whole = claimed, slow_write
trainer.train(resume_from_checkpoint=options.resume)
if trainer.is_world_process_zero():
    (options.out / "world.json").write_text(json.dumps({"processes": trainer.args.world_size}))
    torch.save(trainer.model.state_dict(), options.out / "weights.pt")
