"""The directory that `forget-callback run` puts first on PYTHONPATH; it holds `sitecustomize` and nothing else."""
