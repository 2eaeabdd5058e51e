"""The state of a run: copied, written, verified and found again. Does not use Ray."""

from raydc.checkpoint.store import CheckpointStore, Found, Skipped, name_of

__all__ = ["CheckpointStore", "Found", "Skipped", "name_of"]
