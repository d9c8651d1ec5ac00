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
from forget_callback.scoring import memory
from forget_callback.scoring.engine import Scorer
from forget_callback.scoring.memory import Attempt, Progress, attempted, is_out_of_memory, within_memory
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


def driven(fits, sizes, budget, *, items=None):
    """Keys of these sizes in batches of at most `budget` tokens, widest first; `fits(batch)` says what memory holds.

    Returns the keys that were scored, the budget that fitted and how often memory ran out.
    """
    ooms, done = [], []

    def work(keys, tokens, anew):
        def run(progress):
            left = sorted(keys, key=lambda key: -sizes[key])
            while left:
                batch = left[: max(tokens // sizes[left[0]], 1)]
                left, progress.running = left[len(batch) :], batch
                if not fits([sizes[key] for key in batch], batch):
                    ooms.append(batch)
                    raise torch.OutOfMemoryError("CUDA out of memory")
                done.extend(batch)
                progress.found.update(dict.fromkeys(batch, "found"))

        return [attempted(run)]

    found, fitted = within_memory(
        work, range(len(sizes)), budget, item=(items or range(len(sizes))).__getitem__, size=sizes.__getitem__
    )
    assert len(done) == len(set(done))  # what is finished is not done again
    return sorted(found), fitted, len(ooms)


def test_one_item_that_is_too_large_leaves_the_others_their_budget():
    sizes = [3] * 20 + [90] + [5] * 20
    found, budget, ooms = driven(lambda batch, keys: sum(batch) <= 64, sizes, 64)
    assert found == [key for key in range(41) if key != 20] and (budget, ooms) == (64, 2)


@pytest.mark.parametrize("bad", [0, 7, 40])
def test_an_item_that_fails_among_others_is_found_by_halving(bad):
    """Whatever its size: the budget that it took to find it is not the others'."""
    found, budget, ooms = driven(lambda batch, keys: bad not in keys, [3 + key % 7 for key in range(41)], 256)
    assert found == [key for key in range(41) if key != bad]
    assert budget == 256 and ooms <= 10


def test_many_items_that_are_too_large_cost_few_attempts():
    sizes = list(range(1, 201))
    found, budget, ooms = driven(lambda batch, keys: sum(batch) <= 50, sizes, 50)
    assert found == list(range(50)) and budget == 50
    assert ooms <= 30  # and not 150


def test_an_item_is_given_up_as_a_whole():
    """Two options of each item; one option of the second does not fit."""
    sizes, items = [4, 4, 4, 30, 4, 4], [0, 0, 1, 1, 2, 2]
    found, _, _ = driven(lambda batch, keys: sum(batch) <= 20, sizes, 40, items=items)
    assert {items[key] for key in found if key != 2} == {0, 2} and 3 not in found


def test_memory_that_holds_nothing_is_an_error_after_few_attempts():
    tried = []

    def fits(batch, keys):
        tried.append(batch)
        return False

    with pytest.raises(torch.OutOfMemoryError):
        driven(fits, [5] * 1000, 512)
    assert len(tried) <= 15


def test_an_error_that_is_not_oom_passes():
    def work(progress):
        progress.running = [1]
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        attempted(work)


@pytest.mark.parametrize("times", [1, 99])
def test_ranks_decide_alike(times):
    """Two ranks with a shard each get each other's attempts; on one of them memory runs out with one key."""
    asked, failures = [], []

    def work(keys, tokens, anew):
        asked.append((list(keys), tokens, anew))
        attempts = []
        for shard in (list(keys)[0::2], list(keys)[1::2]):
            failed = (5,) if 5 in shard and len(failures) < times else ()
            failures.extend(failed)
            reason = "out of memory" if failed else ""
            attempts.append(Attempt({key: key for key in shard if key not in failed}, failed, reason))
        return attempts

    found, budget = within_memory(work, range(8), 16, item=lambda key: key, size=lambda key: 1)
    assert sorted(found) == [key for key in range(8) if key != 5 or times == 1]
    # Tried once more, alone: what was held when it failed is free then.
    assert budget == 16 and asked == [(list(range(8)), 16, False), ([5], 1, True)]


def test_the_failed_forward_is_freed_before_the_next():
    """Otherwise its tensors would still occupy memory."""
    import gc
    import weakref

    held = []

    def work(progress):
        big, progress.running = torch.zeros(10), [0]
        held.append(weakref.ref(big))
        raise torch.OutOfMemoryError("CUDA out of memory")

    gc.disable()
    try:
        assert attempted(work) == Attempt({}, (0,), "CUDA out of memory")
        assert held[0]() is None
    finally:
        gc.enable()


def test_oom_before_anything_is_in_memory_is_raised():
    def work(progress):
        assert progress == Progress()
        raise MemoryError("no memory at all")

    with pytest.raises(MemoryError, match="at all"):
        attempted(work)


def test_one_oom_in_the_self_check_loses_no_item(make_model, tokenizer):
    """Whose memory was short for a moment is asked once more."""
    probe, shapes = Probe("p", [Recall("a", "the fox", " ran"), Recall("b", "over the hill and", " through")]), []
    usual = score_probe(make_model(), tokenizer, probe)
    model = make_model()

    def count(module, args, kwargs):
        shapes.append(tuple(kwargs["input_ids"].shape))
        if len(shapes) == 5:  # the dtype, twice for causality, the head: then the shortest plain forward pass
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.register_forward_pre_hook(count, with_kwargs=True)
    snapshot = score_probe(model, tokenizer, probe)
    assert shapes[4] == shapes[5] and shapes[4][0] == 1
    np.testing.assert_array_equal(snapshot.correct, usual.correct)
    np.testing.assert_allclose(snapshot.margin, usual.margin, atol=1e-5)


# --- items that are too large -------------------------------------------------------------------------------------

LONG = "over the hill and through the forest until the sun went down " * 9
LARGE = [
    MultipleChoice("too large", f"{LONG}which of the", [" fox", " sun"], 0),
    Recall("too large to recall", f"{LONG}Once upon", " a"),
    Recall("too large to decode", f"{LONG}The capital of France is Pa", "ris"),
    Generation("too large to write", f"{LONG}The capital of", "x", "contains", max_new_tokens=4),
]


def without(snapshot, ids):
    return snapshot.select(~np.isin(snapshot.ids, ids))


@pytest.mark.parametrize("place", [0, N, 3 * N])
def test_items_that_are_too_large_cost_no_other(make_model, tokenizer, usual, caplog, place):
    model, ids = make_model(), [item.id for item in LARGE]
    longest = max(len(tokenizer.encode(item.prompt)) for item in ITEMS)
    Memory(model, longest + 20)  # one of the others at a time
    probe = Probe("p", [*ITEMS[:place], *LARGE, *ITEMS[place:]])
    with caplog.at_level(logging.WARNING):
        snapshot = score_probe(model, tokenizer, probe, batch_tokens=64)
    assert np.isnan(snapshot.correct[np.isin(snapshot.ids, ids)]).all()
    same(without(snapshot, ids), usual)
    assert snapshot.metadata["not_scored"] == {"too large for memory": 4}
    lines = [r.getMessage() for r in caplog.records if "not scored" in r.getMessage()]
    assert len(lines) == 1 and "4 of 94 items are not scored: " in lines[0] and "too large for memory" in lines[0]


def test_the_others_keep_the_original_batches(make_model, tokenizer, usual):
    """Bit for bit what they are without the large item, where memory holds their batches."""
    model = make_model()
    whole = score_probe(model, tokenizer, PROBE, batch_tokens=64)
    Memory(model, 200)
    snapshot = score_probe(model, tokenizer, Probe("p", [*ITEMS, *LARGE[:1]]), batch_tokens=64)
    assert snapshot.metadata["batch_tokens"] == 64
    np.testing.assert_array_equal(snapshot.margin[:-1], whole.margin)
    same(without(snapshot, ["too large"]), usual)


def test_what_was_too_large_at_first_is_not_tried_again(make_model, tokenizer):
    model, probe = make_model(), Probe("p", [*ITEMS, *LARGE])
    scorer = Scorer(tokenizer, [probe], batch_tokens=64)
    memory = Memory(model, 100)
    (first,) = scorer.score(model)
    memory.sizes.clear()
    (second,) = scorer.score(model)
    assert max(memory.sizes) <= 100
    memory.handle.remove()  # later there is room
    (third,) = scorer.score(model)
    for other in (second, third):
        np.testing.assert_array_equal(other.correct, first.correct)
        np.testing.assert_array_equal(other.margin, first.margin)
        assert other.metadata["not_scored"] == {"too large for memory": 4}


def test_what_is_too_large_later_is_tried_again_at_the_next_snapshot(make_model, tokenizer, caplog):
    """As when another process took memory for a while."""
    model, probe = make_model(), Probe("p", [*ITEMS, *LARGE])
    scorer = Scorer(tokenizer, [probe], batch_tokens=64)
    (first,) = scorer.score(model)
    assert np.isfinite(first.correct).all() and "not_scored" not in first.metadata
    memory = Memory(model, 100)
    with caplog.at_level(logging.WARNING):
        lost = [scorer.score(model)[0] for _ in range(2)]
    memory.handle.remove()
    (last,) = scorer.score(model)
    for snapshot in lost:
        assert snapshot.ids[np.isnan(snapshot.correct)].tolist() == [item.id for item in LARGE]
        same(without(snapshot, [item.id for item in LARGE]), without(first, [item.id for item in LARGE]))
    same(last, first)
    assert sum("4 of 94 items are not scored" in record.getMessage() for record in caplog.records) == 1


def test_an_item_that_only_a_further_prompt_makes_too_large(make_model, tokenizer):
    asked = MultipleChoice("c", "which of the", [" fox", " sun"], 0, variants=[f"{LONG}which of the"])
    model = make_model()
    Memory(model, 100)
    snapshot = score_probe(model, tokenizer, Probe("p", [asked, *ITEMS[:3]]), batch_tokens=64)
    assert np.isfinite(snapshot.correct).all() and np.isnan(snapshot.correct_2[0])
    assert snapshot.metadata["not_scored"] == {"variant 2: too large for memory": 1}


def test_a_self_check_that_memory_does_not_hold_is_done_on_shorter_items(make_model, tokenizer, usual):
    """The plain forward pass of one long item holds all its logits; scoring it does not."""
    model, probe = make_model(), Probe("p", [*ITEMS[: 2 * N], *LARGE[:2]])
    expected = score_probe(model, tokenizer, probe)
    longest = max(len(tokenizer.encode(item.prompt)) for item in ITEMS)
    plain = []

    def allocate(module, args, kwargs):
        plain.append(kwargs["input_ids"].shape)
        if kwargs.get("attention_mask") is None and kwargs["input_ids"].shape[1] > longest + 10:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.register_forward_pre_hook(allocate, with_kwargs=True)
    snapshot = score_probe(model, tokenizer, probe)
    same(snapshot, expected)
    assert snapshot.metadata["likelihood"] == "tree, tiles"


REAL = """
    import logging, resource, torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from forget_callback.scoring.likelihood.fallbacks import LikelihoodScorer
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
        scorer = LikelihoodScorer(rows)
        found, budget = scorer.score(model, budget=1024), scorer.budget
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


GIB = 2**30


@pytest.mark.parametrize(
    "free, reserved, allocated, peak, spare",
    [
        (70, 0, 0, 0, 62),  # before training, all but a tenth
        (20, 60, 40, 60, 12),  # training needs 20 GiB beside its weights, which torch still holds
        (40, 40, 40, 60, 12),  # the same after they were given back
        (60, 20, 16, 10, 56),  # more is in use than training ever had
        (2, 70, 68, 78, 0),  # nothing is spare
    ],
)
def test_what_the_next_training_step_needs_is_not_spare(free, reserved, allocated, peak, spare):
    sizes = {"free": free, "total": 80, "reserved": reserved, "allocated": allocated, "peak": peak}
    assert memory.spare_bytes(**{name: n * GIB for name, n in sizes.items()}) == spare * GIB


def test_the_peak_of_scoring_is_not_trainings():
    kept = (0, 0)
    for now, left, training in ((5, 60, 5), (60, 60, 5), (60, 70, 5), (75, 75, 75), (30, 64, 30), (64, 70, 30)):
        kept = memory.training_peak(kept, now), left
        assert kept[0] == training
    # What scoring left hides training's own, as long as that is less.


def test_on_a_cpu_no_memory_is_spare():
    with memory.spare_memory(torch.device("cpu")) as spare:
        assert spare == 0
