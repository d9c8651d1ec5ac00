"""Items and probes, and where they come from."""
