"""Likelihood: options and recall answers scored by forward passes, prompts shared and packed."""
