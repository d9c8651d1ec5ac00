"""On out-of-memory (OOM) the batches are halved, and the snapshot stays the same."""

import logging
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from forget_callback import Generation, MultipleChoice, Probe, Recall, score_probe
from forget_callback.scoring.engine import Scorer
from forget_callback.scoring.memory import halve_on_oom, is_out_of_memory
from tests.scoring.architectures import tiny

N = 30
LIMIT = 250  # tokens of a forward pass: a few rows of choices, and only part of all of them
ITEMS = [
    *(MultipleChoice(f"c{i}", f"{i} Question: which of the", [" fox", " sun", " hill over"], i % 3) for i in range(N)),
    *(Recall(f"r{i}", f"{i}: Once upon a", " time there") for i in range(N)),
    *(Generation(f"g{i}", f"{i}: The capital of", "x", "contains", max_new_tokens=3 + i % 4) for i in range(N)),
]
PROBE = Probe("p", ITEMS)


class Memory:
    """Raises OOM when a forward pass has more tokens than fit."""

    def __init__(self, model, tokens, error=None):
        self.tokens, self.error = tokens, error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.sizes = []
        self.handle = model.register_forward_pre_hook(self.allocate, with_kwargs=True)

    def allocate(self, module, args, kwargs):
        self.sizes.append(kwargs["input_ids"].numel())
        if self.sizes[-1] > self.tokens:
            raise self.error


def same(one, other):
    for name in ("ids", "correct", "outcome", "choice", "prediction", "text"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_allclose(one.margin, other.margin, atol=1e-4)


@pytest.fixture
def usual(make_model, tokenizer):
    return score_probe(make_model(), tokenizer, PROBE)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GiB)"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_that_mean_out_of_memory(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: device-side assert"), ValueError("out of memory")])
def test_errors_that_do_not_mean_out_of_memory(error):
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", [ERRORS[0], *ERRORS[2:]], ids=["CUDA", "CPU", "MPS"])
def test_everything_is_scored_in_smaller_batches(make_model, tokenizer, usual, caplog, error):
    model = make_model()
    memory = Memory(model, LIMIT, error)
    with caplog.at_level(logging.WARNING):
        snapshot = score_probe(model, tokenizer, PROBE, batch_tokens=1600)
    same(snapshot, usual)
    assert any(size > LIMIT for size in memory.sizes)
    budget = snapshot.metadata["batch_tokens"]
    assert 50 <= budget <= LIMIT
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert messages and all(
        "out of memory while scoring a probe" in line and str(error)[:20] in line for line in messages
    )
    assert [int(re.search(r"batch_tokens=(\d+)", line).group(1)) for line in messages] == [
        1600 >> n for n in range(1, len(messages) + 1)
    ]
    assert f"batch_tokens={budget}" in messages[-1] and snapshot.metadata["likelihood"] == "tree, tiles"


def test_a_scorer_keeps_the_smaller_batch_size(make_model, tokenizer, usual, caplog):
    model = make_model()
    scorer = Scorer(tokenizer, [PROBE], batch_tokens=1600)
    memory = Memory(model, LIMIT)
    (first,) = scorer.score(model)
    assert scorer.batch_tokens == first.metadata["batch_tokens"] <= LIMIT
    caplog.clear(), memory.sizes.clear()
    with caplog.at_level(logging.WARNING):
        (second,) = scorer.score(model)
    same(second, usual)
    assert not caplog.records and max(memory.sizes) <= LIMIT
    assert second.with_metadata(seconds=0).metadata == first.with_metadata(seconds=0).metadata


def test_oom_in_a_later_snapshot(make_model, tokenizer, usual, caplog):
    """As when the optimizer's state was allocated in between."""
    model = make_model()
    scorer = Scorer(tokenizer, [PROBE], batch_tokens=1600)
    same(scorer.score(model)[0], usual)
    Memory(model, LIMIT)
    with caplog.at_level(logging.WARNING):
        same(scorer.score(model)[0], usual)
    assert scorer.batch_tokens <= LIMIT and caplog.records


def test_generation_alone(make_model, tokenizer, usual):
    model = make_model()
    Memory(model, 60)
    probe = Probe("p", ITEMS[2 * N :])
    snapshot = score_probe(model, tokenizer, probe, batch_tokens=1000)
    assert snapshot.text.tolist() == usual.text[2 * N :].tolist()
    assert snapshot.metadata["generation"] == "loop"


def test_generate_of_the_model_itself_is_halved_too(tokenizer):
    model = tiny("Mamba", vocab_size=len(tokenizer))
    probe = Probe("p", ITEMS[2 * N :])
    usual = score_probe(model, tokenizer, probe)
    memory = Memory(model, 30)  # four prompts, of the seven or eight to a batch
    snapshot = score_probe(model, tokenizer, probe, batch_tokens=1000)
    assert snapshot.text.tolist() == usual.text.tolist()
    assert snapshot.metadata["generation"] == "generate" and snapshot.metadata["batch_tokens"] < 1000
    assert max(memory.sizes) > 30


def test_another_error_passes_at_once(make_model, tokenizer, caplog):
    model = make_model()
    memory = Memory(model, 0, KeyError("broken"))
    with caplog.at_level(logging.WARNING), pytest.raises(KeyError, match="broken"):
        score_probe(model, tokenizer, PROBE)
    assert len(memory.sizes) == 1 and not caplog.records


@pytest.mark.parametrize("items", [ITEMS[:N], ITEMS[2 * N :]], ids=["likelihood", "generation"])
def test_oom_at_the_smallest_batch_is_raised(make_model, tokenizer, items):
    model = make_model()
    Memory(model, 0)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        score_probe(model, tokenizer, Probe("p", items), batch_tokens=64)


def test_oom_tries_every_half_down_to_one():
    tried = []

    def work(budget):
        tried.append(budget)
        raise MemoryError("no memory at all")

    with pytest.raises(MemoryError):
        halve_on_oom(work, 37)
    assert tried == [37, 18, 9, 4, 2, 1]
    assert halve_on_oom(lambda budget: budget * 2, 37) == (74, 37)


def test_the_failed_forward_is_freed_before_the_next():
    """Otherwise its tensors would still occupy memory."""
    import gc
    import weakref

    held = []

    def work(budget):
        big = torch.zeros(10)
        if not held:
            held.append(weakref.ref(big))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return held[0]() is None

    gc.disable()
    try:
        assert halve_on_oom(work, 8) == (True, 4)
    finally:
        gc.enable()


REAL = """
    import logging, resource, torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from forget_callback.scoring.likelihood.fallbacks import LikelihoodScorer
    from forget_callback.scoring.memory import halve_on_oom
    from forget_callback.scoring.likelihood.tokens import Continuation
    logging.basicConfig(format="%(message)s")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=90, hidden_size=8, intermediate_size=131_072, num_hidden_layers=1, num_attention_heads=4
    )
    model = LlamaForCausalLM(config).eval()
    rows = [Continuation(i, (3 + i, *range(5, 60)), 50) for i in range(12)]
    with torch.no_grad():
        expected = LikelihoodScorer(rows).score(model, budget=128)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        # A forward pass of 672 tokens has 336 MiB in each of several tensors, one of 128 has 64 MiB.
        resource.setrlimit(resource.RLIMIT_AS, (used + 500 * 2**20, resource.RLIM_INFINITY))
        found, budget = halve_on_oom(lambda n: LikelihoodScorer(rows).score(model, budget=n), 1024)
    assert max(abs(a.logprob - b.logprob) for a, b in zip(found, expected)) < 1e-3
    print("budget", budget)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS is enforced on Linux only")
def test_a_real_oom_on_the_cpu():
    """A limited address space, and the error of torch's own allocator."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(REAL)], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert "can't allocate memory" in run.stderr and "batch_tokens=512" in run.stderr
    assert 64 <= int(run.stdout.split()[-1]) <= 512
