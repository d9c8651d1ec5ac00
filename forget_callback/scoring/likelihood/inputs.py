"""The integers of a chunk on the device, where they come in one copy. Knows neither models nor what is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from forget_callback.scoring.likelihood.plan import Chunk, Ints


@dataclass(frozen=True)
class ChunkInputs:
    """A chunk, and its integers on the device (see `Batch` and `Chunk`).

    Attributes:
        chunk: On the host.
        sorted_targets: The targets' tokens, ascending, on the host, ``(n_targets,)``.
        batches: Ids, positions, ends and scored tokens of each batch.
        order, targets, edge_row, edge_token: As in `Chunk`.
        by_token: The targets as indices, in the order of `sorted_targets`, ``(n_targets,)``.
    """

    chunk: Chunk
    sorted_targets: Ints
    batches: list[list[torch.Tensor]]
    order: torch.Tensor
    targets: torch.Tensor
    edge_row: torch.Tensor
    edge_token: torch.Tensor
    by_token: torch.Tensor

    @staticmethod
    def of(chunk: Chunk, device: torch.device) -> ChunkInputs:
        """Copies them to the device; for CUDA the host does not wait."""
        by_token = np.argsort(chunk.targets, kind="stable")
        arrays = [part for b in chunk.batches for part in (b.ids, b.positions, b.ends, b.scored)]
        arrays += [chunk.order, chunk.targets, chunk.edge_row, chunk.edge_token, by_token]
        flat = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]))
        # Pinned for this copy only, not for the run: the rest of the machine cannot use memory that is locked.
        moved = flat.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else flat.to(device)
        parts = [part.view(array.shape) for part, array in zip(moved.split([a.size for a in arrays]), arrays)]
        batches = [parts[at : at + 4] for at in range(0, len(parts) - 5, 4)]
        return ChunkInputs(chunk, chunk.targets[by_token], batches, *parts[-5:])
