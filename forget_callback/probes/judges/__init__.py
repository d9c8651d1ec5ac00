"""Judges of behaviour that are rules: a module a rule, and the table of them in `rules.py`."""
