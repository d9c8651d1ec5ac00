"""A run's record on disk and in memory, and what is computed and decided from it."""
