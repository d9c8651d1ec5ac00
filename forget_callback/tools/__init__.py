"""What people run around a training run: checkpoints compared, models blended, data replayed, recipes verified."""
