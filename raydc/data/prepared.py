"""A prepared data set as it is read. Does not import Ray; used in the driver and in workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raydc.data import manifest
from raydc.features import Features
from raydc.storage import Storage


@dataclass(frozen=True)
class Prepared:
    """A prepared data set.

    Attributes:
        folder: Its folder, `data/<name>-<hash>` of a storage.
        data_hash: sha256 over everything that it was made from.
        features: Features fitted on its training rows.
        num_rows: Rows of each split, by name.
        reused: Whether it was loaded and not prepared by this call.
    """

    folder: Storage
    data_hash: str
    features: Features
    num_rows: dict[str, int]
    reused: bool


def load(folder: Storage) -> Prepared:
    """Opens a prepared data set and compares it with its manifest, see `manifest.verify`.

    Args:
        folder: Folder of the data set, `data/<name>-<hash>` of a storage.

    Raises:
        DataError: The folder is not a prepared data set, or a file is missing or damaged.
    """
    facts = manifest.read(folder)
    manifest.verify(folder, facts)
    features = Features.from_dict(manifest.read_json(folder, facts, "features.json"))
    return Prepared(folder, facts["data_hash"], features, facts["rows"], reused=True)


def read_golden_rows(folder: Storage) -> list[dict[str, Any]]:
    """The held-out rows as JSON values, with which a served model is checked.

    Args:
        folder: Folder of the data set.

    Raises:
        DataError: The folder is not a prepared data set, or the file is missing or damaged.
    """
    return list(manifest.read_json(folder, manifest.read(folder), "golden_rows.json"))
