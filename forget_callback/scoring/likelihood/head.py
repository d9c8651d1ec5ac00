"""From hidden states to log-probabilities, without ever holding rows x vocabulary.

Taps the model's head while the model runs its own forward: the scored tokens alone pass it, and what wraps the model
(adapters, FSDP, autocast) stays in charge. Where the head is a plain matrix it is multiplied in vocabulary tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from forget_callback.scoring.generation.sampling import row_max
from forget_callback.scoring.likelihood.plan import Chunk

TILE = 1024  # of a thousand rows it stays in the cache of a core
# Logits up to here can be raised as they are: exp(40) leaves room for another 48 nats, exp(-40) is far from nothing.
_MODERATE = 40.0
# Precisions in which rounding does not decide an item, except at a tie.
FULL = (torch.float32, torch.float64)


@dataclass(frozen=True)
class ChunkScores:
    """What a chunk's scored tokens say.

    Attributes:
        edge: Log-probability of each edge, float32, ``(n_edges,)``.
        lead: Lead of each wanted token over the best other one, in nats, ``(n_greedy,)``.
        argmax: The model's own token in its place, ``(n_greedy,)``.
    """

    edge: torch.Tensor
    lead: torch.Tensor
    argmax: torch.Tensor


class OnlineSoftmax:
    """Reads logits tile by tile: a running sum of exponentials, the edges' logits and the best token but the wanted.

    Args:
        careful: Take each row's largest logit so far off before it is raised, in every tile. Else the largest of the
            first tile is, and nothing if those are near 0: passes that are needed only where logits lie far apart.
    """

    def __init__(self, chunk: Chunk, device: torch.device, *, careful: bool = False) -> None:
        n = len(chunk.order)
        self.careful = careful
        # Not -inf: a tile of -inf (a padded vocabulary) would make NaN of it.
        self.top = torch.full((n, 1), torch.finfo(torch.float32).min, device=device)
        self.total = torch.zeros(n, device=device)
        self.edge_tokens = chunk.edge_token
        self.edge_row = torch.from_numpy(chunk.edge_row).to(device)
        self.edge_token = torch.from_numpy(chunk.edge_token).to(device)
        self.edge = torch.empty(len(chunk.edge_row), device=device)
        by_token = np.argsort(chunk.wanted, kind="stable")
        self.wanted_tokens = chunk.wanted[by_token]
        self.wanted_row = torch.from_numpy(by_token).to(device)
        self.wanted_token = torch.from_numpy(self.wanted_tokens).to(device)
        self.wanted = torch.empty(len(chunk.wanted), device=device)
        self.rival = torch.full_like(self.wanted, -torch.inf)
        self.rival_token = torch.zeros(len(chunk.wanted), dtype=torch.long, device=device)

    def add(self, tile: torch.Tensor, start: int) -> None:
        """Takes logits of the tokens from `start` on, float32, ``(n, width)``; overwrites them."""
        span = [start, start + tile.shape[1]]
        low, high = np.searchsorted(self.edge_tokens, span)
        if high > low:
            self.edge[low:high] = tile[self.edge_row[low:high], self.edge_token[low:high] - start]
        if len(self.wanted):
            low, high = np.searchsorted(self.wanted_tokens, span)
            rows, columns = self.wanted_row[low:high], self.wanted_token[low:high] - start
            own = tile[rows, columns]
            self.wanted[rows] = own
            tile[rows, columns] = -torch.inf
            largest, at = row_max(tile[: len(self.wanted)])
            better = largest > self.rival
            self.rival = torch.where(better | largest.isnan(), largest, self.rival)
            self.rival_token = torch.where(better, at + start, self.rival_token)
            tile[rows, columns] = own
        if self.careful or start == 0:
            top = torch.maximum(self.top, tile.amax(dim=1, keepdim=True))
            if not self.careful and bool((top.abs() < _MODERATE).all()):
                self.top = torch.zeros_like(top)
            else:
                self.total *= torch.exp(self.top - top).squeeze(1)
                self.top = top
            self.shifted = bool(self.top.any())
        if self.shifted:
            tile.sub_(self.top)
        self.total += tile.exp_().sum(dim=1)

    def finalize(self) -> ChunkScores:
        """The end of it."""
        lse = self.top.squeeze(1) + self.total.log()
        lead = self.wanted - self.rival
        said = torch.empty_like(self.rival_token)
        said[self.wanted_row] = self.wanted_token
        # In a tie the lower id is the argmax, as `torch.argmax` has it.
        hit = (lead > 0) | ((lead == 0) & (said < self.rival_token))
        return ChunkScores(self.edge - lse[self.edge_row], lead, torch.where(hit, said, self.rival_token))


class HeadHook:
    """Sits before a model's head and lets only what is scored pass, or reads it there and then."""

    def __init__(self, head: torch.nn.Module, *, tiled: bool) -> None:
        self.tiled = tiled
        self.scores: ChunkScores | None = None
        self._scored: torch.Tensor | None = None
        self._held: list[torch.Tensor] = []
        self._chunk: Chunk | None = None
        self._handle = head.register_forward_pre_hook(self._before)

    def __enter__(self) -> HeadHook:
        return self

    def __exit__(self, *exc: object) -> None:
        self._handle.remove()

    def expect(self, scored: torch.Tensor | None, chunk: Chunk | None = None) -> None:
        """Says which tokens of the next forward are scored, and with its last forward, which chunk is then read."""
        self._scored, self._chunk, self.scores = scored, chunk, None

    def _before(self, head: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        hidden = args[0]
        flat = hidden.reshape(-1, hidden.shape[-1])
        if self._scored is not None:
            self._held.append(flat[self._scored])
        if self._chunk is None:
            return (self._rest(flat),)
        rows = torch.cat(self._held)[torch.from_numpy(self._chunk.order).to(flat.device)]
        self._held = []
        if not self.tiled:
            return (rows[None],)

        def logits(tile: slice) -> torch.Tensor:
            bias = None if head.bias is None else head.bias[tile]
            return F.linear(rows, head.weight[tile], bias).float()

        self.scores = _read(logits, head.weight.shape[0], self._chunk, flat.device)
        return (self._rest(flat),)

    def _rest(self, flat: torch.Tensor) -> torch.Tensor:
        """What the model's own head gets: no token, or one if the head may be anything. One token reads all weights."""
        return flat[None, : 0 if self.tiled else 1]


def read_logits(logits: torch.Tensor, chunk: Chunk) -> ChunkScores:
    """Reads logits that the model computed itself, ``(n_scored, vocabulary)``, rows as after `chunk.order`."""
    return _read(lambda tile: logits[:, tile].float().clone(), logits.shape[1], chunk, logits.device)


def _read(logits: Callable[[slice], torch.Tensor], vocabulary: int, chunk: Chunk, device: torch.device) -> ChunkScores:
    """Reads logits, given tile by tile as ``(n_scored, width)`` in float32, which are overwritten."""
    for careful in (False, True):
        softmax = OnlineSoftmax(chunk, device, careful=careful)
        for start in range(0, vocabulary, TILE):
            softmax.add(logits(slice(start, start + TILE)), start)
        if not softmax.total.isinf().any():
            break
    return softmax.finalize()


def head_of(model: torch.nn.Module) -> torch.nn.Module | None:
    """The module that makes logits of hidden states, None if the model names none."""
    try:
        head = model.get_output_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    return head if isinstance(head, torch.nn.Module) else None


@torch.no_grad()
def computes_in(model: Any) -> torch.dtype:
    """The precision in which a model computes; under autocast that is not the one of its weights.

    A Trainer with bf16=True wraps the forward of float32 weights so, and makes float32 of the logits again.
    """
    seen: list[torch.dtype] = []
    layer = head_of(model) or next((m for m in model.modules() if isinstance(m, torch.nn.Linear)), None)
    if layer is None:
        return model.dtype  # type: ignore[no-any-return]
    handle = layer.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    try:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        handle.remove()
    return seen[0] if seen else model.dtype


def rounding(logits: torch.Tensor, dtype: torch.dtype) -> float:
    """How much a log-probability may differ between two right ways to compute it, in nats.

    In low precision that is one unit in the last place of the largest logits: 0.125 at 16 in bfloat16.

    Args:
        logits: Of plain forwards, ``(n_tokens, vocabulary)``.
        dtype: The precision in which the model computes.
    """
    if dtype in FULL:
        return 1e-3
    top = logits.amax(dim=-1).abs().nan_to_num(posinf=0.0).amax()  # others may be masked, and huge
    return max(5e-2, torch.finfo(dtype).eps * float(top))


def is_matrix(head: torch.nn.Module) -> bool:
    """Whether a head is a plain matrix product: no adapter, no quantised or sharded weight, nothing hooked in."""
    parametrized = torch.nn.utils.parametrize.is_parametrized(head)
    plain = type(getattr(head, "weight", None)) in (torch.nn.Parameter, torch.Tensor)
    return type(head) is torch.nn.Linear and plain and not parametrized and not head._forward_hooks


def keeps_logits(model: torch.nn.Module, head: torch.nn.Module, ids: torch.Tensor) -> bool:
    """Whether the model returns its head's output as it is: soft caps and scales show on values from -100 to 100."""
    ramp: list[torch.Tensor] = []

    def replace(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        ramp.append(torch.linspace(-100, 100, output.shape[-1], device=output.device, dtype=output.dtype))
        return ramp[0].expand_as(output)

    handle = head.register_forward_hook(replace)
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    return bool(ramp) and bool((logits.float() == ramp[0].float()).all())
