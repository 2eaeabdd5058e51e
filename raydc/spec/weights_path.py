"""The file of `model.weights`: its absolute path and its sha256, for a resolved spec. Pure."""

from __future__ import annotations

import hashlib
import os
from typing import Any

# File of weights in the folders of checkpoints, models and registered versions.
_FILE = "model.safetensors"


def fill_in(section: dict[str, Any], path: str | None) -> None:
    """Makes the path of a file absolute, and notes the content that it has now.

    A content that is noted already stays, so that a stored spec does not need its file.

    Args:
        section: Section `model` as plain values, changed in place.
        path: Absolute path of the file, or of a folder of a model; None if there is no file.
    """
    if path is None:
        return
    section["weights"] = path = os.path.join(path, _FILE) if os.path.isdir(path) else path
    # A file that is not there is refused where networks are checked, with its field.
    if section.get("weights_sha256") is None and os.path.isfile(path):
        with open(path, "rb") as file:
            section["weights_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
