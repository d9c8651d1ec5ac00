"""What a baseline expected at each token of the documents of a probe: its most likely next tokens, on disk.

With it the KL divergence from the baseline is known of every later model on the same tokens, without the baseline's
weights. No logits of the whole vocabulary are kept. Knows nothing of models; one Parquet file a probe, a row a window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from forget_callback.probes.quoting import quoted
from forget_callback.snapshots.answers import changed
from forget_callback.snapshots.snapshot import Snapshot

# Next tokens that are kept: of SmolLM2-135M three quarters of the KL divergence lie in them, see docs/text.md.
KEPT = 32
_KEYS = ("probe", "fingerprint", "baseline")


@dataclass(frozen=True, eq=False)
class TopTokens:
    """The most likely next tokens at each position of a text, likeliest first.

    Attributes:
        tokens: Token ids, int32, ``(n_tokens, k)``.
        logprob: Their log-probabilities in nats, float16, ``(n_tokens, k)``.
        rest: Log-probability of all other tokens together, float16, ``(n_tokens,)``.
    """

    tokens: NDArray[np.int32]
    logprob: NDArray[np.float16]
    rest: NDArray[np.float16]


@dataclass(frozen=True)
class Window:
    """A document, or the part of a long one that is forwarded at once.

    Attributes:
        read: Which tokens it is of, see `digest_of_tokens`.
    """

    read: str
    top: TopTokens


@dataclass(frozen=True)
class Reference:
    """What a baseline expected in the documents of one probe.

    Attributes:
        probe: Its name.
        fingerprint: Its fingerprint.
        baseline: Which snapshot is of the same model, see `digest_of_snapshot`.
        documents: The windows of each document, by item id.
    """

    probe: str
    fingerprint: str
    baseline: str
    documents: Mapping[str, Sequence[Window]]

    def save(self, path: Path) -> None:
        """Writes one Parquet file."""
        rows = [(name, window) for name, windows in self.documents.items() for window in windows]
        table = pa.table(
            {
                "id": pa.array([name for name, _ in rows], pa.string()),
                "read": pa.array([window.read for _, window in rows], pa.string()),
                "n": pa.array([len(window.top.rest) for _, window in rows], pa.int32()),
                "tokens": pa.array([window.top.tokens.ravel() for _, window in rows], pa.list_(pa.int32())),
                "logprob": pa.array([window.top.logprob.ravel() for _, window in rows], pa.list_(pa.float16())),
                "rest": pa.array([window.top.rest for _, window in rows], pa.list_(pa.float16())),
            }
        )
        table = table.replace_schema_metadata({name: getattr(self, name) for name in _KEYS})
        parquet.write_table(table, path, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> Reference:
        """Reads what `save` wrote.

        Raises:
            ValueError: If the file is damaged or is none of these.
        """
        try:
            with path.open("rb") as file:
                table = parquet.read_table(file)
            keys = {name: (table.schema.metadata or {})[name.encode()].decode() for name in _KEYS}
            documents: dict[str, list[Window]] = {}
            columns = (table[name] for name in ("id", "read", "n", "tokens", "logprob", "rest"))
            for name, read, n, tokens, logprob, rest in zip(*columns):
                top = TopTokens(
                    tokens.values.to_numpy().reshape(n.as_py(), -1),
                    logprob.values.to_numpy().reshape(n.as_py(), -1),
                    rest.values.to_numpy(),
                )
                if top.tokens.shape != top.logprob.shape or len(top.rest) != len(top.tokens):
                    raise ValueError(f"document {quoted(name.as_py())} has columns of different lengths")
                documents.setdefault(name.as_py(), []).append(Window(read.as_py(), top))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from None
        return cls(documents=documents, **keys)

    def require_of(self, snapshot: Snapshot, where: object) -> Reference:
        """This reference, if it is of the model that a snapshot is of.

        Args:
            where: Where it was found, for the error.

        Raises:
            ValueError: If not.
        """
        if self.fingerprint != snapshot.fingerprint:
            raise ValueError(f"{where} is of another probe than the snapshot of {quoted(snapshot.probe)}")
        if self.baseline != digest_of_snapshot(snapshot):
            raise ValueError(f"{where} is of another model than the snapshot of step {snapshot.step}")
        return self


def digest_of_tokens(tokens: Sequence[int], n_context: int) -> str:
    """Tells a text that is tokenized otherwise, or parted elsewhere, from the one that was read."""
    return hashlib.sha256(f"{n_context}:{','.join(map(str, tokens))}".encode()).hexdigest()[:16]


def digest_of_snapshot(snapshot: Snapshot) -> str:
    """Tells a snapshot from one of another model, by its bits per byte, in whatever order its items are."""
    order = np.argsort(snapshot.ids.astype(str), kind="stable")
    digest = hashlib.sha256("\0".join(map(str, snapshot.ids[order])).encode(errors="replace"))
    digest.update(np.asarray(snapshot.bits_per_byte, np.float64)[order].tobytes())
    return digest.hexdigest()[:32]


def with_own_kl(snapshot: Snapshot, baseline: Snapshot) -> Snapshot:
    """The snapshot without its KL where that is to another model than this baseline."""
    of = snapshot.metadata.get("kl_baseline")
    if of is None or of == digest_of_snapshot(baseline):
        return snapshot
    none = np.full(len(snapshot), np.nan)
    return changed(snapshot, kl=none, kl_error=none, top1=none)
