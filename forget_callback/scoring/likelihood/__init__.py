"""Likelihood: log-probabilities of options and recall answers, by forward passes over shared and packed prompts."""
