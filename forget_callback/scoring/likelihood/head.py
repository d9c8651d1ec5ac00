"""The LM head: from hidden states to log-probabilities without ever holding rows x vocabulary logits.

A hook on the model's head works while the model runs its own forward pass: only the scored tokens pass the head, and
whatever wraps the model (adapters, FSDP, autocast) stays in charge. Where the head is a plain matrix it is multiplied
in vocabulary tiles with an online softmax. Does not know how the tokens were batched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F

from forget_callback.scoring.generation.sampling import row_max
from forget_callback.scoring.likelihood.divergence import Divergence, TileReader
from forget_callback.scoring.likelihood.inputs import ChunkInputs
from forget_callback.snapshots.reference import TopTokens

MakeReader: TypeAlias = Callable[[], TileReader | None]

# Tokens of a vocabulary tile on a CPU, where a tile of a thousand rows stays in a core's cache.
_TILE = 1024
# Logits of a tile on an accelerator, where each tile costs some launches: 256 MiB in float32.
_TILE_LOGITS = 2**26
# Logits up to this size need no rescaling: exp(40) leaves 48 nats to float32's maximum, exp(-40) does not underflow.
_MODERATE = 40.0
# Precisions in which rounding does not decide an item, except at a tie.
FULL = (torch.float32, torch.float64)


def tile_width(n_rows: int, device: torch.device) -> int:
    """Tokens of a vocabulary tile of `n_rows` rows; on an accelerator a multiple of what its matrix products like."""
    return _TILE if device.type == "cpu" else max(_TILE_LOGITS // max(n_rows, 1) // 128, 1) * 128


@dataclass(frozen=True)
class ChunkScores:
    """What is read from the logits of a chunk's scored tokens (see `Chunk`).

    Attributes:
        logprob: Log-probability of each edge, float32, ``(n_edges,)``.
        margin: Logit of each target minus that of the best other token, in nats, ``(n_targets,)``.
        argmax: The most likely token in place of each target, ``(n_targets,)``.
        documents: What a `TileReader` read, by continuation.
    """

    logprob: torch.Tensor
    margin: torch.Tensor
    argmax: torch.Tensor
    documents: Mapping[int, TopTokens | Divergence] = field(default_factory=dict)


class OnlineSoftmax:
    """Log-sum-exp, edge logits and best rivals of one chunk, read tile by tile (Milakov and Gimelshein 2018).

    Attributes:
        inputs: What to read.
        careful: Rescale by the running maximum in every tile; otherwise only once, by the first tile's maximum, or not
            at all if that is moderate. Saves passes over the logits, but may overflow where they lie far apart: then
            `total` is infinite.
        maximum: Subtracted from a row's logits before exp, ``(n_rows, 1)``.
        total: Sum of exp(logit - maximum) so far, ``(n_rows,)``.
        rescaled: Whether `maximum` may not be 0.
        edge_logit: Logit of each edge, ``(n_edges,)``.
        target_logit: Logit of each target, ``(n_targets,)``.
        rival_logit, rival_token: The best token so far but the target, ``(n_targets,)``.
    """

    def __init__(self, inputs: ChunkInputs, *, careful: bool) -> None:
        self.inputs, self.careful, self.rescaled = inputs, careful, careful
        n_rows, n_edges, n_targets = len(inputs.order), len(inputs.edge_row), len(inputs.targets)
        device = inputs.order.device
        # Not -inf: the first tile may be all -inf (a padded vocabulary), and -inf minus -inf is NaN.
        self.maximum = torch.full((n_rows, 1), torch.finfo(torch.float32).min, device=device)
        self.total = torch.zeros(n_rows, device=device)
        self.edge_logit = torch.empty(n_edges, device=device)
        self.target_logit = torch.empty(n_targets, device=device)
        self.rival_logit = torch.full((n_targets,), -torch.inf, device=device)
        self.rival_token = torch.zeros(n_targets, dtype=torch.long, device=device)

    def add(self, tile: torch.Tensor, start: int) -> None:
        """Adds the logits of the tokens from `start` on, float32, ``(n_rows, width)``; overwrites them."""
        span = [start, start + tile.shape[1]]
        low, high = np.searchsorted(self.inputs.chunk.edge_token, span)
        if high > low:
            self.edge_logit[low:high] = tile[self.inputs.edge_row[low:high], self.inputs.edge_token[low:high] - start]
        if len(self.target_logit):
            self._add_targets(tile, start, *np.searchsorted(self.inputs.sorted_targets, span))
        if self.careful or start == 0:
            self._rescale(tile)
        if self.rescaled:
            tile.sub_(self.maximum)
        self.total += _exp(tile).sum(dim=1)

    def _add_targets(self, tile: torch.Tensor, start: int, low: int, high: int) -> None:
        """Targets `low` to `high` lie in this tile; any target may have its best rival here."""
        rows = self.inputs.by_token[low:high]  # the first rows are those of the targets
        columns = self.inputs.targets[rows] - start
        own = tile[rows, columns]
        self.target_logit[rows] = own
        tile[rows, columns] = -torch.inf
        largest, at = row_max(tile[: len(self.target_logit)])
        better = largest > self.rival_logit
        self.rival_logit = torch.where(better | largest.isnan(), largest, self.rival_logit)
        self.rival_token = torch.where(better, at + start, self.rival_token)
        tile[rows, columns] = own

    def _rescale(self, tile: torch.Tensor) -> None:
        maximum = torch.maximum(self.maximum, tile.amax(dim=1, keepdim=True))
        if not self.careful and bool((maximum.abs() < _MODERATE).all()):
            self.maximum = torch.zeros_like(maximum)
        else:
            self.total *= torch.exp(self.maximum - maximum).squeeze(1)
            self.maximum, self.rescaled = maximum, True

    def finalize(self, reader: TileReader | None = None) -> ChunkScores:
        """Log-probabilities of the edges, margins and argmax of the targets, once all tiles are added."""
        log_sum_exp = self.maximum.squeeze(1) + self.total.log()
        documents = {} if reader is None else reader.finish(log_sum_exp)
        margin = self.target_logit - self.rival_logit
        target = self.inputs.targets
        # In a tie the lower id is the argmax, as `torch.argmax` has it.
        is_argmax = (margin > 0) | ((margin == 0) & (target < self.rival_token))
        argmax = torch.where(is_argmax, target, self.rival_token)
        return ChunkScores(self.edge_logit - log_sum_exp[self.inputs.edge_row], margin, argmax, documents)


def _exp(tile: torch.Tensor) -> torch.Tensor:
    """The exponential, in place."""
    if tile.device.type != "cpu":
        return tile.exp_()
    return tile.mul_(1 / math.log(2)).exp2_()  # in a third of the time: torch leaves `exp`, but not `exp2`, to MKL


class HeadHook:
    """A forward pre-hook on the model's head that lets only the scored tokens pass, or reads their logits itself.

    Attributes:
        tiled: Whether the hook multiplies the head's matrix in tiles, instead of the model's own head.
        scores: What a tiled hook has read from the last chunk, None before.
    """

    def __init__(self, head: torch.nn.Module, *, tiled: bool) -> None:
        self.tiled = tiled
        self.scores: ChunkScores | None = None
        self._scored: torch.Tensor | None = None
        self._held: list[torch.Tensor] = []
        self._inputs: ChunkInputs | None = None
        self._reader: MakeReader = _none
        self._handle = head.register_forward_pre_hook(self._before)

    def __enter__(self) -> HeadHook:
        return self

    def __exit__(self, *exc: object) -> None:
        self._handle.remove()

    def expect(
        self, scored: torch.Tensor | None, inputs: ChunkInputs | None = None, reader: MakeReader | None = None
    ) -> None:
        """Sets the scored tokens of the next forward pass and, with the chunk's last one, the chunk to read.

        Args:
            reader: Makes what reads more of the chunk than its log-probabilities.
        """
        self._scored, self._inputs, self.scores = scored, inputs, None
        self._reader = reader or _none

    def _before(self, head: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        hidden = args[0]
        flat = hidden.reshape(-1, hidden.shape[-1])
        if self._scored is not None:
            self._held.append(flat[self._scored])
        # Left to the model's own head: no token, or one if it may be any module. One token reads all weights.
        rest = flat[None, : 0 if self.tiled else 1]
        if self._inputs is None:
            return (rest,)
        rows = torch.cat(self._held)[self._inputs.order]
        self._held = []
        if not self.tiled:
            return (rows[None],)

        self.scores = _read(_tiles(rows, head), head.weight.shape[0], self._inputs, self._reader)
        return (rest,)


def _tiles(rows: torch.Tensor, head: Any) -> Callable[[slice], torch.Tensor]:
    """The logits of these rows, tile by tile in float32.

    On a CPU all tiles are one buffer: memory that is taken anew for each tile costs as much as reading the logits.
    """
    in_place = rows.device.type == "cpu" and rows.dtype == head.weight.dtype == torch.float32
    if not in_place or torch.is_autocast_enabled("cpu"):  # which has no say in what has an `out`

        def linear(tile: slice) -> torch.Tensor:
            return F.linear(rows, head.weight[tile], None if head.bias is None else head.bias[tile]).float()

        return linear
    buffer = torch.empty(len(rows) * tile_width(len(rows), rows.device))

    def product(tile: slice) -> torch.Tensor:
        weight = head.weight[tile]
        found = torch.mm(rows, weight.T, out=buffer[: len(rows) * len(weight)].view(len(rows), len(weight)))
        return found if head.bias is None else found.add_(head.bias[tile])

    return product


def _none() -> None:
    """Reads nothing more."""


def read_logits(logits: torch.Tensor, inputs: ChunkInputs, make_reader: MakeReader = _none) -> ChunkScores:
    """Reads logits that the model computed itself, ``(n_rows, vocabulary)``, rows as in `Chunk.order`."""
    return _read(lambda tile: logits[:, tile].float().clone(), logits.shape[1], inputs, make_reader)


def _read(
    logits: Callable[[slice], torch.Tensor], vocabulary: int, inputs: ChunkInputs, make_reader: MakeReader
) -> ChunkScores:
    """Reads logits that come tile by tile, float32, ``(n_rows, width)``, and are overwritten."""
    device = inputs.order.device
    width = tile_width(len(inputs.order), device)
    # An accelerator has passes to spare, but to ask it how large logits are would wait for all that it has to do.
    for careful in (False, True) if device.type == "cpu" else (True,):
        softmax, reader = OnlineSoftmax(inputs, careful=careful), make_reader()
        for start in range(0, vocabulary, width):
            tile = logits(slice(start, start + width))
            if reader is not None:
                reader.add(tile, start)
            softmax.add(tile, start)
        if careful or not softmax.total.isinf().any():
            break
    return softmax.finalize(reader)


def head_of(model: torch.nn.Module) -> torch.nn.Module | None:
    """The LM head: the module that maps hidden states to logits, None if the model names none."""
    try:
        head = model.get_output_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    return head if isinstance(head, torch.nn.Module) else None


@torch.no_grad()
def computes_in(model: Any) -> torch.dtype:
    """The dtype in which a model computes; under autocast that is not the dtype of its weights.

    A Trainer with bf16=True runs float32 weights under autocast, and casts the logits back to float32.
    """
    seen: list[torch.dtype] = []
    layer = head_of(model) or next((m for m in model.modules() if isinstance(m, torch.nn.Linear)), None)
    if layer is None:
        return model.dtype  # type: ignore[no-any-return]
    with layer.register_forward_hook(lambda module, args, output: seen.append(output.dtype)):
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    return seen[0] if seen else model.dtype


def rounding(logits: torch.Tensor, dtype: torch.dtype) -> float:
    """Tolerance of a log-probability between two correct computations, in nats.

    In low precision that is one unit in the last place (ULP) of the largest logits: 0.125 at 16 in bfloat16.

    Args:
        logits: Of plain forward passes, ``(n_tokens, vocabulary)``.
        dtype: The dtype in which the model computes.
    """
    if dtype in FULL:
        return 1e-3
    top = logits.amax(dim=-1).abs().nan_to_num(posinf=0.0).amax()  # a masked token's logit may be huge
    return max(5e-2, torch.finfo(dtype).eps * float(top))


def is_matrix(head: torch.nn.Module) -> bool:
    """Whether a head is a plain matrix product: no adapter, no quantized or sharded weight, no hook on its output."""
    parametrized = torch.nn.utils.parametrize.is_parametrized(head)
    plain = type(getattr(head, "weight", None)) in (torch.nn.Parameter, torch.Tensor)
    return type(head) is torch.nn.Linear and plain and not parametrized and not head._forward_hooks


def keeps_logits(model: torch.nn.Module, head: torch.nn.Module, ids: torch.Tensor) -> bool:
    """Whether the model returns its head's output unchanged: soft caps and scales show on values from -100 to 100."""
    ramp: list[torch.Tensor] = []

    def replace(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        ramp.append(torch.linspace(-100, 100, output.shape[-1], device=output.device, dtype=output.dtype))
        return ramp[0].expand_as(output)

    with head.register_forward_hook(replace):
        logits = model(input_ids=ids, use_cache=False).logits
    return bool(ramp) and bool((logits.float() == ramp[0].float()).all())
