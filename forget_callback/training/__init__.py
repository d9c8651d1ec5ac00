"""One training run while it runs: schedule, monitor, resume, trackers."""
