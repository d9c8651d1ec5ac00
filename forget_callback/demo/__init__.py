"""The demo and the smoke runs: a tiny model that knows facts, fine-tuned and watched on a CPU."""
