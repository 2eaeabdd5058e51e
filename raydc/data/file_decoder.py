"""Decodes images that are stored as files. Runs where rows are read; does not import Ray.

Decoders of JPEG differ by some grey levels, so a data set of files states its decoder and the
pixels of a probe image, and a reader with other pixels refuses it.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import features as picture_features

from raydc.errors import DataError
from raydc.features import Features, Image, Inputs, Ragged, Record
from raydc.storage import sha256

_MIN_IMAGES_PER_THREAD = 8


def decoder_version() -> str:
    """Name and version of everything that turns a file into pixels."""
    jpeg = picture_features.version("libjpeg_turbo") or picture_features.version("jpg")
    webp = picture_features.version("webp")
    return f"Pillow {importlib.metadata.version('pillow')}, JPEG {jpeg}, WebP {webp}"


def probe_of(x: Inputs, features: Features, names: Sequence[str]) -> dict[str, Any]:
    """Facts from which a reader can tell whether it decodes as the writer did.

    Args:
        x: At least one row, with files; the first is decoded.
        features: Features of the data set, which know the size of an image.
        names: Columns of images that are stored as files.
    """
    pixels = _decode_fields(x[:1], features, names)
    digest = sha256(b"".join(pixels[name].tobytes() for name in names))
    return {"columns": list(names), "decoder": decoder_version(), "probe_sha256": digest}


def _decode_fields(x: Inputs, features: Features, names: Sequence[str]) -> dict[str, Any]:
    assert isinstance(x, Record)
    found: dict[str, Any] = {}
    for name in names:
        column, files = features.columns[name], x.fields[name]
        assert isinstance(column, Image)
        assert isinstance(files, Ragged)
        contents = [files.values_N[a:b].tobytes() for a, b in _bounds(files)]
        found[name] = _decode(column, contents, name)
    return found


def _bounds(files: Ragged) -> list[tuple[int, int]]:
    return list(itertools.pairwise(files.offsets.tolist()))


def _decode(column: Image, files: list[bytes], name: str) -> Any:
    # PIL releases the interpreter while it decodes.
    num_threads = min(len(os.sched_getaffinity(0)), len(files) // _MIN_IMAGES_PER_THREAD)
    if num_threads < 2:
        return column.apply(files, name)
    bounds = np.linspace(0, len(files), num_threads + 1).astype(int).tolist()
    parts = [files[start:stop] for start, stop in itertools.pairwise(bounds)]
    with ThreadPoolExecutor(num_threads, "raydc-decode") as threads:
        return np.concatenate(list(threads.map(lambda part: column.apply(part, name), parts)))


@dataclass(frozen=True)
class FileDecoder:
    """Decodes the files of rows.

    Attributes:
        features: Features of the data set, which know the size of an image.
        facts: What `probe_of` returned when the data set was written.
        place: Address of the data set, for messages.
    """

    features: Features
    facts: Mapping[str, Any]
    place: str

    def __call__(self, x: Inputs) -> Inputs:
        """Rows with pixels in place of files; one array if there is nothing but an image."""
        names = self.facts["columns"]
        pixels = _decode_fields(x, self.features, names)
        if self.features.signature.kind == "image":
            return pixels[names[0]]  # type: ignore[no-any-return]
        assert isinstance(x, Record)
        return Record({**x.fields, **pixels}, x.layout)

    def check(self, first: Inputs) -> None:
        """Compares the pixels of the first row with those of the writer.

        Args:
            first: The first training row, with its files.

        Raises:
            DataError: They differ, so a model trained here would differ, too.
        """
        found = probe_of(first, self.features, self.facts["columns"])
        if found["probe_sha256"] != self.facts["probe_sha256"]:
            raise DataError(
                f"{self.place}: this machine decodes its first image to different pixels: it was "
                f"prepared with {self.facts['decoder']}, and this machine has {self._here}",
                "Install the same Pillow, or prepare with data.image_storage: decoded.",
            )

    @cached_property
    def _here(self) -> str:
        return decoder_version()
