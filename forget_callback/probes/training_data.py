"""`train:`: rows of the data that a training learns from, as documents; known when training starts.

The KL divergence from the baseline on the new task itself tells early how much of the old will be forgotten (Shenfeld
et al. 2025, arXiv 2509.04259). Until then the probe stands for itself, with one item that is never scored. Knows
nothing of trainers: `training/train_rows.py` makes the items.
"""

from __future__ import annotations

from dataclasses import dataclass

from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted
from forget_callback.probes.text_items import Text

ROWS = 64  # by default: enough for a curve, at the cost of a few hundred questions


@dataclass(frozen=True)
class TrainingRows(Probe):
    """A probe whose items are made when training starts.

    Attributes:
        rows: At most so many.
        seed: Which: the same seed takes the same rows of the same data.
    """

    rows: int = ROWS


def load_training_rows(name: str, *, limit: int | None) -> TrainingRows:
    """The probe of `train:`, to be made when training starts.

    Raises:
        ValueError: If something stands after the colon.
    """
    if name:
        raise ValueError(
            f"spec {quoted(f'train:{name}')}: nothing stands after train:, which takes the trainer's own data; "
            "for a file of texts give corpus:FILE"
        )
    return TrainingRows("train", [Text("pending", "rows of the training data")], chat=False, rows=limit or ROWS)


def require_made(probe: Probe) -> Probe:
    """The probe, if it has items to score.

    Raises:
        ValueError: If they are to be made of data that only a training has.
    """
    if isinstance(probe, TrainingRows):
        raise ValueError(
            f"probe {quoted(probe.name)} is of rows of a trainer's own data, which ForgetCallback takes when training "
            "starts; elsewhere give the probe of that run, forget/probes/train.jsonl, or corpus:FILE"
        )
    return probe
