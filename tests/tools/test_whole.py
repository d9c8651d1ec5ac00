"""Which directories are checkpoints that may be loaded, told by their files alone."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from forget_callback.tools.arrivals import Arrivals, step_in
from forget_callback.tools.lineage import missing_steps
from forget_callback.tools.whole import is_temporary, judge, listing_of


def sharded(path):
    """A checkpoint in two shards."""
    path.mkdir(parents=True)
    (path / "config.json").write_text('{"model_type": "llama"}')
    for number in (1, 2):
        save_file({f"w{number}": np.ones((8, 8), np.float32)}, path / f"model-0000{number}-of-00002.safetensors")
    names = {f"w{number}": f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return path


def judged(path):
    return judge(path, listing_of(path))


def test_all_shards_are_there(tmp_path):
    found = judged(sharded(tmp_path / "one"))
    assert (found.kind, found.marked, len(found.weights)) == ("whole", False, 2)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_shard_that_is_cut_anywhere(tmp_path, share):
    path = sharded(tmp_path / "one")
    file = path / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    found = judged(path)
    assert found.kind == "unfinished" and file.name in found.why


@pytest.mark.parametrize(
    "name, why",
    [
        ("config.json", "it has no config.json"),
        ("model.safetensors.index.json", "which names them"),
        ("model-00001-of-00002.safetensors", "1 of 2 shards are missing"),
    ],
)
def test_a_file_that_is_missing_or_cut(tmp_path, name, why):
    path = sharded(tmp_path / "one")
    text = (path / name).read_bytes()
    (path / name).unlink()
    assert judged(path).kind == "unfinished" and why in judged(path).why
    (path / name).write_bytes(text[:5])
    assert judged(path).kind == "unfinished" and "is cut" in judged(path).why


def test_a_header_that_lies_is_no_checkpoint(tmp_path):
    path = sharded(tmp_path / "one")
    file = path / "model-00001-of-00002.safetensors"
    for content in (struct.pack("<Q", 1 << 60) + b"x" * 64, struct.pack("<Q", 10) + b"[1, 2, 3] " + b"x" * 64):
        file.write_bytes(content)
        assert judged(path).kind == "unfinished"


@pytest.mark.parametrize(
    "names, what",
    [
        (["model_and_optim/.metadata"], "(DCP)"),
        ([".metadata", "__0_0.distcp"], "(DCP)"),
        (["pytorch_model_fsdp_0/__0_0.distcp", "trainer_state.json"], "FSDP"),
        (["global_step100/mp_rank_00_model_states.pt", "zero_to_fp32.py", "trainer_state.json"], "DeepSpeed"),
    ],
)
def test_shards_that_only_their_framework_reads(tmp_path, names, what):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert judged(tmp_path).kind == "foreign" and what in judged(tmp_path).why
    (tmp_path / "config.json").write_text('{"model": {"d_model": 8}}')  # of OLMo-core, not of transformers
    assert judged(tmp_path).kind == "foreign"


def test_the_state_of_an_earlier_training_does_not_mark_what_is_written_over_it(tmp_path):
    import os

    path = sharded(tmp_path / "one")
    (path / "trainer_state.json").write_text("{}")
    assert judged(path).marked
    os.utime(path / "trainer_state.json", ns=(0, 0))
    assert judged(path).kind == "whole" and not judged(path).marked


def test_names_under_which_something_is_written():
    for name in (
        "tmp-checkpoint-4",
        "checkpoint-4.tmp",
        "checkpoint-4-tmp",
        "step4_incomplete",
        ".step4",
        "a/tmp/step4",
    ):
        assert is_temporary(name), name
    for name in ("checkpoint-4", "template-4", "step4-hf", "tmpfs-run/step-4", "attempt-4"):
        assert not is_temporary(name), name


@pytest.mark.parametrize(
    "name, pattern, step",
    [
        ("checkpoint-40", "checkpoint-*", 40),
        ("step1000-hf", "step*", 1000),
        ("step1000-hf", "step*-hf", 1000),
        ("weights/step_12", "weights/step_*", 12),
        ("step1000/hf-bf16", "step*/hf-bf16", 1000),
        ("qwen2-step7", "qwen2-step*", 7),
        ("epoch-1-step-300", "*", 300),
        ("step-042", "step-[0-9][0-9][0-9]", 42),
        ("final", "*", None),
    ],
)
def test_the_step_is_the_last_number_of_what_the_pattern_leaves_open(name, pattern, step):
    assert step_in(name, pattern) == step


def test_files_are_quiet_when_they_have_not_changed_for_a_while(tmp_path):
    now = [0.0]
    arrivals = Arrivals(tmp_path, "step-*", settle=30, clock=lambda: now[0])
    path = sharded(tmp_path / "step-1")
    for at, ready in ((0, False), (29, False), (30, True)):
        now[0] = at
        assert [one.ready for one in arrivals.look()] == [ready]
    (path / "tokenizer.json").write_text("{}")
    assert [one.ready for one in arrivals.look()] == [False]
    now[0] = 60
    assert [one.ready for one in arrivals.look()] == [True]
    (path / "STABLE").touch()
    assert [one.ready for one in arrivals.look()] == [True]


def test_one_that_is_done_is_listed_again_when_its_weights_change(tmp_path):
    arrivals = Arrivals(tmp_path, "step-*", settle=0)
    path = sharded(tmp_path / "step-1")
    (one,) = arrivals.look()
    arrivals.done(one)
    assert arrivals.look() == [one]
    save_file({"w1": np.zeros((8, 8), np.float32)}, path / "model-00001-of-00002.safetensors")
    (other,) = arrivals.look()
    assert other.digest != one.digest


class State:
    """Of a trainer."""

    def __init__(self, save_steps, max_steps=10_000):
        self.save_steps, self.max_steps = save_steps, max_steps


def test_what_must_have_been_saved_and_was_not_seen():
    assert missing_steps(State(2), 10, since=2, seen={2}) == [4, 6, 8]
    assert missing_steps(State(2), 10, since=2, seen={2, 6}) == [4, 8]
    assert missing_steps(State(2, max_steps=9), 9, since=4, seen={2, 4}) == [6, 8]
    # Every epoch of 1,000 steps: save_steps is 500 all the same.
    assert missing_steps(State(500), 2000, since=1000, seen={1000}) == []
    assert missing_steps(None, 10, since=2, seen={2}) == []
