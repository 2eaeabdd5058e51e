"""Rows of data sets of Hugging Face and torchvision. Runs in the driver.

No code of a data set is run: `datasets` runs none since version 4, and torchvision's classes are
its own. Files of CIFAR are pickles; torchvision opens them only if it knows their checksums.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import re
from typing import Any

import pyarrow as pa

from raydc.errors import DataError, first_line
from raydc.spec.row_sources import HuggingFaceRows, TorchvisionRows

_INSTALL = "pip install 'raydc[huggingface]'"
# Files that `save_to_disk` writes for one data set, and for several splits.
_SAVED = ("dataset_info.json", "dataset_dict.json")
_DIGIT_NAME = re.compile(r"(\d+) - .*")


def read_rows(
    what: str, source: HuggingFaceRows | TorchvisionRows
) -> tuple[pa.Table, list[bytes] | None]:
    """Reads all rows of a data set; images are columns of bytes, labels have names.

    Args:
        what: Names the source, for messages.
        source: A data set of a hub.

    Returns:
        The rows, and a digest of the content of each; None if that is the content of its cells.

    Raises:
        DataError: It cannot be loaded.
    """
    if isinstance(source, TorchvisionRows):
        return _read_torchvision(what, source)
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(f"{what}: it needs the package datasets", _INSTALL) from error
    datasets.disable_progress_bars()
    rows = _load(datasets, what, source)
    embed = importlib.import_module("datasets.table").embed_table_storage
    # Images may be paths of files, whose bytes are wanted.
    table = embed(rows.with_format("arrow")[:]) if len(rows) else pa.table({})
    for position, (name, feature) in enumerate(rows.features.items() if len(rows) else ()):
        column = table.column(name)
        if isinstance(feature, datasets.ClassLabel):
            names = [
                None if code is None or code < 0 else feature.names[code]
                for code in column.to_pylist()
            ]
            table = table.set_column(position, name, pa.array(names, pa.string()))
        elif isinstance(feature, datasets.Image):
            files = [None if cell is None else cell["bytes"] for cell in column.to_pylist()]
            table = table.set_column(position, name, pa.array(files, pa.large_binary()))
    return table.replace_schema_metadata(None), None


def _load(datasets: Any, what: str, source: HuggingFaceRows) -> Any:
    path = source.huggingface
    try:
        if any(os.path.exists(os.path.join(path, name)) for name in _SAVED):
            found = datasets.load_from_disk(path)
            if not isinstance(found, datasets.DatasetDict):
                return found
        else:
            found = datasets.load_dataset(path, source.config, revision=source.revision)
    # The library raises errors of many types, among them those of its HTTP client.
    except Exception as error:
        hint = "Give the name of a data set on the hub, or a folder that exists."
        raise DataError(
            f"{what} cannot be loaded: {type(error).__name__}: {first_line(error)}", hint
        ) from error
    if source.split not in found:
        raise DataError(
            f"{what}: there is no split {source.split!r}", f"There are {', '.join(found)}."
        )
    return found[source.split]


def _read_torchvision(what: str, source: TorchvisionRows) -> tuple[pa.Table, list[bytes]]:
    made = getattr(importlib.import_module("torchvision.datasets"), source.torchvision)
    is_train = source.split == "train"
    part = {"split": source.split} if source.torchvision == "STL10" else {"train": is_train}
    try:
        rows = made(root=source.folder, download=source.download, **part)
    except RuntimeError as error:
        hint = None if source.download else "Set download: true to fetch it."
        raise DataError(f"{what} cannot be loaded: {first_line(error)}", hint) from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{what} cannot be loaded: {first_line(error)}", "Its files are damaged; remove them."
        ) from error
    names = [_DIGIT_NAME.sub(r"\1", name) for name in getattr(rows, "classes", ())]
    images, labels, digests = [], [], []
    for index in range(len(rows)):
        image, label = rows[index]
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        images.append(buffer.getvalue())
        labels.append(names[int(label)] if names else str(int(label)))
        # A digest of the pixels, because another zlib would compress them to other bytes.
        content = f"{image.mode}{image.size}{labels[-1]}:".encode() + image.tobytes()
        digests.append(hashlib.blake2b(content, digest_size=16).digest())
    return pa.table({"image": pa.array(images, pa.large_binary()), "label": labels}), digests
