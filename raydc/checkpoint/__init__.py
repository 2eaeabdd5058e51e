"""The state of a run: copied, written, verified, found again. Knows no Ray."""

from raydc.checkpoint.store import (
    MANIFEST,
    CheckpointStore,
    Found,
    Skipped,
    name_of,
    read_artefact,
    read_manifest,
    write_artefact,
)

__all__ = [
    "MANIFEST",
    "CheckpointStore",
    "Found",
    "Skipped",
    "name_of",
    "read_artefact",
    "read_manifest",
    "write_artefact",
]
