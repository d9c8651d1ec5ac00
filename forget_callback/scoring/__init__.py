"""Scoring a model on a probe: needs torch and transformers, nothing else of training."""

from forget_callback.scoring.engine import score_probe
from forget_callback.scoring.plan import bind

__all__ = ["bind", "score_probe"]
