"""What an accelerator is given to do, on the meta device: it knows shapes only, so reading a number is an error."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils

from forget_callback.scoring.likelihood import forward, head
from forget_callback.scoring.likelihood.fallbacks import PATHS
from forget_callback.scoring.likelihood.forward import likelihoods
from forget_callback.scoring.likelihood.inputs import ChunkInputs
from forget_callback.scoring.likelihood.plan import plan
from forget_callback.scoring.likelihood.tokens import Continuation
from forget_callback.scoring.memory import attempted
from tests.scoring.architectures import tiny
from tests.scoring.likelihood.test_forward import score
from tests.scoring.rows import by_definition, check, mixed_rows, random_rows

META = torch.device("meta")


class Counter(TorchDispatchMode):
    """Counts operations and copies from host to device; keeps how many floats the largest result had."""

    def __init__(self):
        super().__init__()
        self.operations = self.copies = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        tensors = [one for one in args if isinstance(one, torch.Tensor)]
        self.operations += 1
        if isinstance(found, torch.Tensor):
            self.copies += found.device == META and any(one.device != META for one in tensors)
            self.largest = max(self.largest, found.numel() * found.is_floating_point())
        return found


@torch.no_grad()
def counted(model, chunks, path, monkeypatch):
    """What scoring a plan on the meta device does until its results are read."""
    read = []
    # transformers itself reads the positions of a forward pass without a mask, once.
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda ids: None, raising=False)
    monkeypatch.setattr(forward, "_likelihoods", lambda chunk, scores: read.append(scores) or [])
    with Counter() as counter:
        likelihoods(model, chunks, path, torch.float32)
    assert len(read) == len(chunks) and all(scores.logprob.device == META for scores in read)
    return counter


@pytest.mark.parametrize("path", PATHS[:2], ids=str)
def test_a_chunk_is_copied_at_once_and_nothing_is_read_before_the_end(path, monkeypatch):
    rows = mixed_rows(90) + random_rows(400, 90, seed=1)
    chunks = plan(rows, 256)
    batches = [batch for chunk in chunks for batch in chunk.batches]
    prefixes = {batch.prefix for batch in batches if batch.prefix}
    assert len(chunks) > 1 and len(batches) > 10 and prefixes
    counter = counted(tiny("Llama").to(META), chunks, path, monkeypatch)
    assert counter.copies == len(chunks)  # but for the prefix, whose tokens are made on the device


def test_reading_a_number_of_the_meta_device_is_an_error():
    """Otherwise the test above would show nothing."""
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(torch.zeros(1, device=META).any())
    with pytest.raises(NotImplementedError):
        torch.zeros(1, device=META).cpu()


def test_a_large_vocabulary_is_a_few_tiles_of_bounded_size(monkeypatch):
    """Of a chunk with 1,024 scored tokens that are targets; on a CPU there are 149 tiles."""
    model = tiny("Llama", vocab_size=151_936).to(META)
    chunks = plan([Continuation(0, tuple(range(1025)), 1, True)], 2048)
    assert [len(chunk.order) for chunk in chunks] == [len(chunk.targets) for chunk in chunks] == [1024]
    usual = counted(model, chunks, PATHS[0], monkeypatch)
    assert 2**25 < usual.largest <= 2**26 < 1024 * 151_936
    monkeypatch.setattr(head, "tile_width", lambda n_rows, device: 1024)
    assert counted(model, chunks, PATHS[0], monkeypatch).operations > 3 * usual.operations


@pytest.mark.parametrize("n_rows", [0, 1, 1000, 1024, 8192, 2**16, 10**5, 2**19])
def test_tiles_are_as_wide_as_memory_allows(n_rows):
    width = head.tile_width(n_rows, META)
    assert width % 128 == 0 and n_rows * width <= 2**26
    assert max(n_rows, 1) * (width + 128) > 2**26
    assert head.tile_width(n_rows, torch.device("cpu")) == 1024


@pytest.mark.parametrize("path", [PATHS[0], PATHS[1], PATHS[4]], ids=str)
@pytest.mark.parametrize("width", [128, 4096, 8192])
@pytest.mark.parametrize("bias", [0.0, 300.0])
def test_wide_tiles_and_a_running_maximum_give_the_same(width, path, bias, monkeypatch):
    """The arithmetic of an accelerator, on a CPU."""
    usual = head.OnlineSoftmax
    monkeypatch.setattr(head, "tile_width", lambda n_rows, device: width)
    monkeypatch.setattr(head, "OnlineSoftmax", lambda inputs, careful: usual(inputs, careful=True))
    model = tiny("Llama", vocab_size=5000)
    biased = torch.nn.Linear(model.lm_head.in_features, 5000)
    with torch.no_grad():
        biased.weight.copy_(model.lm_head.weight)
        biased.bias.zero_()
        biased.bias[4500:] = bias
    model.lm_head = biased.eval()
    rows = [*mixed_rows(5000), *random_rows(40, 5000, seed=3)]
    tolerance = 1e-3 if bias else 1e-4
    check(rows, score(model, rows, path=path), [by_definition(model, row) for row in rows], tolerance=tolerance)


def test_inputs_are_those_of_the_chunk():
    for chunk in plan(mixed_rows(90), 100):
        inputs = ChunkInputs.of(chunk, torch.device("cpu"))
        for batch, parts in zip(chunk.batches, inputs.batches, strict=True):
            for part, name in zip(parts, ("ids", "positions", "ends", "scored"), strict=True):
                np.testing.assert_array_equal(part.numpy(), getattr(batch, name))
        for name in ("order", "targets", "edge_row", "edge_token"):
            np.testing.assert_array_equal(getattr(inputs, name).numpy(), getattr(chunk, name))
        np.testing.assert_array_equal(chunk.targets[inputs.by_token.numpy()], inputs.sorted_targets)
        assert (np.diff(inputs.sorted_targets) >= 0).all()


@torch.no_grad()
def test_what_was_finished_before_memory_ran_out_is_read():
    rows, model = mixed_rows(90), tiny("Llama")
    chunks = plan(rows, 100, join=False)
    forwards = []

    def allocate(*args):
        forwards.append(1)
        if len(forwards) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.model.register_forward_pre_hook(allocate)
    attempt = attempted(lambda progress: likelihoods(model, chunks, PATHS[0], torch.float32, progress=progress))
    at = next(n for n, chunk in enumerate(chunks) if attempt.failed == tuple(chunk.batches[0].continuations.tolist()))
    finished = [i for chunk in chunks[:at] for i in chunk.continuations.tolist()]
    assert 0 < at < len(chunks) and sorted(attempt.found) == sorted(finished)
    check(
        [rows[i] for i in finished],
        [attempt.found[i] for i in finished],
        [by_definition(model, rows[i]) for i in finished],
    )
