"""Runs in a replica: loaded versions, admission, batches."""
