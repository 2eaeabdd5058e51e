"""What a worker does: rows, steps, reduction, validation, checkpoints. Does not import Ray."""
