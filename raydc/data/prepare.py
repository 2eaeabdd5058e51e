"""Prepares a data set: names it by the hash of its inputs, and makes it if it is not there yet.

Runs in the driver. `raydc.data.prepare_stages` does the work; this module decides whether there is
any, and makes the result appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pyarrow import fs as pafs

from raydc.artefact import MANIFEST
from raydc.data import manifest, sources, tasks
from raydc.data.layout import Layout, name_errors
from raydc.data.prepare_stages import PrepareStages
from raydc.data.prepared import Prepared, load
from raydc.errors import DataError, Say
from raydc.spec import ResolvedSpec
from raydc.spec.data import Data
from raydc.storage import Storage, canonical_json, sha256

# Enough small files to be worth a task.
_FILES_PER_HASH_TASK = 256
_HASH_BLOCK_BYTES = 1024 * 1024
_REPORT_EVERY_S = 5.0
# Number of the way in which sources are read. It goes up when the same files give other rows or
# labels than before; `_hash_before_readings` finds what was prepared without a number.
_READING = 2
# Fields that came with the second way. Where one is not at its default there is no older data set.
_NEW_FIELDS = (("csv",), ("partitioning",), ("clean", "missing_target"))


def run(
    spec: ResolvedSpec,
    report: Say,
    parallelism: int | None = None,
    report_every_s: float = _REPORT_EVERY_S,
) -> Prepared:
    """Prepares the data set of a spec with Ray Data; needs a connected Ray.

    Args:
        spec: A resolved spec. Every node must reach its storage and its sources.
        report: Prints one line per stage.
        parallelism: Number of tasks that read the sources; None chooses by the CPUs of the
            cluster. The content of the data set does not depend on it.
        report_every_s: Minimum seconds between two lines about the rows read so far.

    Returns:
        The data set; `reused` if the same one was there already.

    Raises:
        DataError: A source or a row that cannot be used, with its place. Nothing is left in the
            storage.
    """
    layout = sources.locate(spec.data)
    made_from = _hash_inputs(spec, layout)
    data_hash = sha256(canonical_json(made_from))
    name = f"{spec.name}-{data_hash[:12]}"
    store = Storage(spec.storage) / "data"
    older_hash = _hash_before_readings(made_from)
    for known, known_hash in ((name, data_hash), (f"{spec.name}-{older_hash[:12]}", older_hash)):
        if not store.exists(f"{known}/{MANIFEST}"):
            continue
        prepared = load(store / known)
        report(f"data set {known} is prepared already: {_count_rows(prepared)}; nothing to do")
        if known_hash != data_hash:
            report(
                f"note: {known} was prepared by an older raydc, which read some sources "
                "differently (turned photographs, labels such as 1.0, the index of pandas). Runs "
                f"that were trained on it go on with it; raydc rm data {known} makes room for a "
                "new one"
            )
        return prepared
    split = spec.data.split
    for part, first_id, fraction in (
        ("validation", layout.first_validation_id, split.validation_fraction),
        ("test", layout.first_test_id, split.test_fraction),
    ):
        if first_id is not None and fraction:
            report(
                f"the source has its own {part} part: no {part} rows are taken from the training "
                "rows"
            )
    with _new_folder(store, name) as folder:
        facts = {**made_from, "name": name, "data_hash": data_hash}
        PrepareStages(spec, layout, folder, report, parallelism, report_every_s).run(facts)
    prepared = load(store / name)
    report(f"data set {name}: {_count_rows(prepared)}")
    return replace(prepared, reused=False)


def _count_rows(prepared: Prepared) -> str:
    return f"{sum(prepared.num_rows.values()):,} rows"


def _hash_inputs(spec: ResolvedSpec, layout: Layout) -> dict[str, Any]:
    """Everything that the content of the data set depends on, as JSON values."""
    files = [part for file in layout.files for part in (file, file.labels) if part is not None]
    chunks = [
        files[start : start + _FILES_PER_HASH_TASK]
        for start in range(0, len(files), _FILES_PER_HASH_TASK)
    ]
    digests = tasks.run_calls(
        [
            partial(_hash_files, layout.filesystem, [file.path for file in chunk])
            for chunk in chunks
        ],
        "HashSources",
    )
    hashed = zip(files, (digest for chunk in digests for digest in chunk), strict=True)
    # A moved source is the same data, and augmentation happens during training: neither changes
    # the data set.
    data = spec.data.model_dump(mode="json", exclude={"source", "augment"})
    return {
        "format": manifest.FORMAT_VERSION,
        "reading": _READING,
        "data": {**data, "format": layout.format},
        "seed": spec.seed,
        "sources": [
            {"name": file.name, "part": file.part, "bytes": file.num_bytes, "sha256": digest}
            for file, digest in hashed
        ],
    }


def _hash_before_readings(made_from: dict[str, Any]) -> str:
    """The hash that a raydc before `_READING` gave to the same sources and spec."""
    older = copy.deepcopy({key: value for key, value in made_from.items() if key != "reading"})
    for path in _NEW_FIELDS:
        section, default = older["data"], Data(source="").model_dump(mode="json")
        for key in path[:-1]:
            section, default = section[key], default[key]
        if section[path[-1]] == default[path[-1]]:
            del section[path[-1]]
    return sha256(canonical_json(older))


def _hash_files(filesystem: pafs.FileSystem, paths: Sequence[str]) -> list[str]:
    digests = []
    for path in paths:
        digest = hashlib.sha256()
        # Compressed bytes are hashed as they are: pyarrow would unpack them by the file's suffix.
        with name_errors(path), filesystem.open_input_stream(path, compression=None) as stream:
            while block := stream.read(_HASH_BLOCK_BYTES):
                digest.update(block)
        digests.append(digest.hexdigest())
    return digests


@contextlib.contextmanager
def _new_folder(store: Storage, name: str) -> Iterator[Storage]:
    """Yields a folder to fill, which appears under its name whole or not at all.

    A local folder is filled under a temporary name and moved. Object stores cannot move folders;
    there the manifest, written last, is what makes the data set exist.
    """
    temporary = f".{name}.{uuid.uuid4().hex[:8]}.tmp" if store.is_local else name
    try:
        yield store / temporary
        if store.is_local:
            _move_into_place(store, temporary, name)
    # An interrupt must leave nothing behind either, so every exception counts.
    except BaseException:
        # On an object store another process may have completed the same data set meanwhile.
        if not store.exists(f"{temporary}/{MANIFEST}") or store.is_local:
            store.delete(temporary)
        raise


def _move_into_place(store: Storage, temporary: str, name: str) -> None:
    try:
        store.move(temporary, name)
    except OSError as error:
        if not store.exists(f"{name}/{MANIFEST}"):
            hint = "Delete that folder and prepare again."
            raise DataError(
                f"{store.uri}/{name} exists and is no data set: {error}", hint
            ) from error
        # Another process has prepared the same data set meanwhile; the content is the same.
        store.delete(temporary)
