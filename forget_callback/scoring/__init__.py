"""Scoring a model on probes: needs torch and transformers, nothing else of training."""
