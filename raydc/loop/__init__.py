"""What a worker does: rows, steps, reduction, validation, checkpoints. Knows no Ray."""
