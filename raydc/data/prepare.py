"""Prepares a data set: from sources to a verified folder of shards, named by the hash of all that went into it."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pyarrow import fs as pafs

from raydc.artefact import MANIFEST
from raydc.data import manifest, sources, tasks
from raydc.data.prepare_job import PrepareJob
from raydc.data.prepared import Prepared, load
from raydc.data.sources import Layout
from raydc.errors import DataError, Say
from raydc.spec import ResolvedSpec
from raydc.storage import Storage, canonical_json, sha256

_FILES_PER_HASH_TASK = 256
_HASH_BLOCK_BYTES = 1024 * 1024


def run(spec: ResolvedSpec, report: Say, parallelism: int | None = None) -> Prepared:
    """Prepares the data set of a spec with Ray Data; needs a connected Ray.

    Args:
        spec: A resolved spec. Its storage and sources must be within reach of every node.
        report: Gets one line per stage.
        parallelism: Tasks that read the sources; by default as many as the cluster has use for. The content of the
            data set does not depend on it.

    Returns:
        The data set; `reused` when the same one was there already.

    Raises:
        DataError: A source or a row that cannot be used, by its place. Nothing is left in the storage.
    """
    layout = sources.locate(spec.data)
    made_from = _made_from(spec, layout)
    data_hash = sha256(canonical_json(made_from))
    name = f"{spec.name}-{data_hash[:12]}"
    store = Storage(spec.storage) / "data"
    if store.exists(f"{name}/{MANIFEST}"):
        prepared = load(store / name)
        report(
            f"data set {name} is prepared already: {_rows_text(prepared.num_rows)}; nothing to do"
        )
        return prepared
    if layout.first_test_id is not None and spec.data.split.test_fraction:
        report(
            "the source has a test part of its own: no test rows are taken from the training rows"
        )
    with _new_folder(store, name) as folder:
        facts = {**made_from, "name": name, "data_hash": data_hash}
        PrepareJob(spec, layout, folder, report, parallelism).run(facts)
    prepared = load(store / name)
    report(f"data set {name}: {_rows_text(prepared.num_rows)}")
    return replace(prepared, reused=False)


def _rows_text(num_rows: dict[str, int]) -> str:
    return f"{sum(num_rows.values()):,} rows"


# What goes in ----------------------------------------------------------------------------------------


def _made_from(spec: ResolvedSpec, layout: Layout) -> dict[str, Any]:
    """Everything that the content of the data set depends on."""
    files = [part for file in layout.files for part in (file, file.labels) if part is not None]
    chunks = [
        files[start : start + _FILES_PER_HASH_TASK]
        for start in range(0, len(files), _FILES_PER_HASH_TASK)
    ]
    digests = tasks.run(
        [
            partial(_hash_files, layout.filesystem, [file.path for file in chunk])
            for chunk in chunks
        ],
        "HashSources",
    )
    hashed = zip(files, (digest for chunk in digests for digest in chunk), strict=True)
    # Augmentation happens while training: the data set is the same with and without it.
    data = spec.data.model_dump(mode="json", exclude={"source", "augment"})
    return {
        "format": manifest.FORMAT_VERSION,
        "data": {**data, "format": layout.format},
        "seed": spec.seed,
        "sources": [
            {"name": file.name, "part": file.part, "bytes": file.num_bytes, "sha256": digest}
            for file, digest in hashed
        ],
    }


def _hash_files(filesystem: pafs.FileSystem, paths: Sequence[str]) -> list[str]:
    digests = []
    for path in paths:
        digest = hashlib.sha256()
        with sources.named(path), filesystem.open_input_stream(path, compression=None) as stream:
            while block := stream.read(_HASH_BLOCK_BYTES):
                digest.update(block)
        digests.append(digest.hexdigest())
    return digests


# What comes out --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _new_folder(store: Storage, name: str) -> Iterator[Storage]:
    """A folder that appears whole or not at all; on an object store its manifest, written last, makes it whole."""
    temporary = f".{name}.{uuid.uuid4().hex[:8]}.tmp" if store.is_local else name
    try:
        yield store / temporary
        if store.is_local:
            _move_into_place(store, temporary, name)
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
                f"{store.uri}/{name} is in the way, and no data set: {error}", hint
            ) from error
        # Another process has prepared the same data set meanwhile; the content is the same.
        store.delete(temporary)
