"""Scoring a model on probes: needs torch and transformers, nothing else of training."""

from forget_callback.scoring.engine import Scorer, score_probe, score_repeats
from forget_callback.scoring.tokens import bind

__all__ = ["Scorer", "bind", "score_probe", "score_repeats"]
