"""Prepares a data set: names it by the hash of its inputs, and makes it if it is not there yet.

Runs in the driver. `raydc.data.prepare_stages` does the work; this module decides whether there is
any, and makes the result appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pyarrow import fs as pafs

from raydc.checksummed_folder import MANIFEST
from raydc.data import joins, manifest, small_jobs, snapshot_source, sources, tasks, tokenizer_file
from raydc.data.chat_stages import ChatStages
from raydc.data.file_decoder import decoder_version
from raydc.data.folder_name import folder_name, same_content
from raydc.data.layout import Layout, SourceFile, name_errors
from raydc.data.prepare_stages import PrepareStages
from raydc.data.prepared import Prepared, load
from raydc.data.token_stages import TokenStages
from raydc.errors import DataError, Say
from raydc.spec import ResolvedSpec
from raydc.spec.data import Data
from raydc.spec.language import LANGUAGE
from raydc.storage import Storage, canonical_json, sha256

# Enough small files to be worth a task.
_FILES_PER_HASH_TASK = 256
_HASH_BLOCK_BYTES = 1024 * 1024
_REPORT_EVERY_S = 5.0
# Version of how sources are read. It goes up when the same files would give different rows or
# labels; `_older_hashes` finds data sets of the versions before.
_READING = 3
# What a version read differently from the next, for the note about its data sets. The first had no
# number.
_READ_BEFORE = {
    2: "decimals and joined dates as categories, texts beside windows, some keys of rows",
    1: "turned photographs, labels such as 1.0, the index of pandas",
}
# Fields that came with version 2. A spec that sets one cannot have an older data set.
_NEW_FIELDS = (("csv",), ("partitioning",), ("clean", "missing_target"))

# Newer fields, which are hashed only if they are set, so that data sets that were prepared before
# them keep their names.
_LATER_FIELDS = (
    ("features", "encodings"),
    ("features", "orders"),
    ("features", "hash_buckets"),
    ("features", "target_smoothing"),
    ("features", "scales"),
    ("features", "date_parts"),
    *(("csv", name) for name in ("encoding", "decimal", "comment", "skip_rows")),
    ("features", "text", "pair"),
    ("features", "text"),
    ("features", "max_items"),
    ("joins",),
    ("split", "by"),
    ("split", "column"),
    ("clean", "constant"),
    ("clean", "indicator"),
    ("clean", "outliers"),
    ("clean", "outlier_quantile"),
    ("clean", "outlier_deviations"),
    ("clean", "columns"),
    ("clean", "on_error"),
    ("image_storage",),
    ("label_delimiter",),
    ("label_columns",),
    ("query",),
    ("windows",),
    ("blocks",),
    ("chat",),
)


def run(
    spec: ResolvedSpec,
    report: Say,
    parallelism: int | None = None,
    report_every_s: float = _REPORT_EVERY_S,
    connect: Callable[[], object] = tasks.connected,
) -> Prepared:
    """Prepares the data set of a spec: with Ray Data, or in this process if the source is small.

    Args:
        spec: A resolved spec. Every node must reach its storage and its sources.
        report: Prints one line per stage.
        parallelism: Number of tasks of Ray Data that read the sources; None chooses by the size of
            the source and the CPUs of the cluster. The content does not depend on it.
        report_every_s: Minimum seconds between two lines about the rows read so far.
        connect: Connects to Ray; called only if the source is not small. Default: Ray is connected.

    Returns:
        The data set; `reused` if the same one was there already.

    Raises:
        DataError: A source or a row that cannot be used, with its place. Nothing is left in the
            storage.
    """
    store = Storage(spec.storage) / "data"
    with snapshot_source.located(spec.data, store, report) as (data, layout):
        located = spec.model_copy(update={"data": data})
        return tasks.run_placed(
            parallelism is None and small_jobs.is_small(layout, data),
            connect,
            lambda: _prepare(located, layout, store, report, parallelism, report_every_s),
        )


def _prepare(
    spec: ResolvedSpec,
    layout: Layout,
    store: Storage,
    report: Say,
    parallelism: int | None,
    report_every_s: float,
) -> Prepared:
    made_from = _hash_inputs(spec, layout)
    data_hash = sha256(canonical_json(made_from))
    name = folder_name(spec.name, data_hash)
    for reading, known_hash in ((_READING, data_hash), *_older_hashes(made_from)):
        known = folder_name(spec.name, known_hash)
        if not store.exists(f"{known}/{MANIFEST}"):
            continue
        prepared = load(store / known)
        report(f"data set {known} is prepared already: {_count_rows(prepared)}; nothing to do")
        if reading != _READING:
            changes = "; ".join(what for one, what in _READ_BEFORE.items() if one >= reading)
            report(
                f"note: {known} was prepared by an older raydc, which read some sources "
                f"differently ({changes}). Runs that were trained on it go on with it; raydc rm "
                f"data {known} makes room for a new one"
            )
        return prepared
    if (other := _find_of_other_name(store, spec.name, data_hash)) is not None:
        known = other.folder.uri.rsplit("/", 1)[-1]
        report(f"data set {known} has the same rows: {_count_rows(other)}; nothing to do")
        return other
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
        kind = TokenStages if spec.data.task == LANGUAGE else PrepareStages
        kind = ChatStages if spec.data.chat is not None else kind
        kind(spec, layout, folder, report, parallelism, report_every_s).run(facts)
    prepared = load(store / name)
    report(f"data set {name}: {_count_rows(prepared)}")
    return replace(prepared, reused=False)


def _find_of_other_name(store: Storage, spec_name: str, data_hash: str) -> Prepared | None:
    """The same data set, prepared by a spec of another name; None if there is none."""
    names: list[str] = []
    # A storage that cannot be listed may still be written, and says so itself if not.
    with contextlib.suppress(OSError):
        names = store.names()
    for name in same_content(names, spec_name, data_hash):
        if not store.exists(f"{name}/{MANIFEST}"):
            continue
        # One that somebody has damaged, or is removing, is a matter of its own spec.
        with contextlib.suppress(DataError):
            found = load(store / name)
            if found.data_hash == data_hash:
                return found
    return None


def _count_rows(prepared: Prepared) -> str:
    return f"{sum(prepared.num_rows.values()):,} rows"


def _hash_inputs(spec: ResolvedSpec, layout: Layout) -> dict[str, Any]:
    """Everything that the content of the data set depends on, as JSON values."""
    hashed = _hash_layout(layout)
    # A moved source is the same data, and augmentation happens during training: neither changes
    # the data set.
    data = spec.data.model_dump(mode="json", exclude={"source", "augment"})
    data = _without_defaults({**data, "format": layout.format}, _LATER_FIELDS)
    for join in data.get("joins", ()):
        del join["path"]
    # The content of the tokenizer file counts, not its path.
    if spec.data.features.text.tokenizer is not None:
        content = tokenizer_file.read(spec.data.features.text.tokenizer)
        data["features"]["text"]["tokenizer"] = sha256(content.encode())
    # With `auto`, it is not known yet whether there will be files; their probe image decides then.
    decoder = {"decoder": decoder_version()} if spec.data.image_storage == "encoded" else {}
    joined = [
        [
            {"name": file.name, "sha256": digest}
            for file, digest in _hash_layout(sources.locate(joins.data_of(join, spec.data)))
        ]
        for join in spec.data.joins
    ]
    return {
        **decoder,
        **({"joined": joined} if joined else {}),
        "format": manifest.FORMAT_VERSION,
        "reading": _READING,
        "data": data,
        "seed": spec.seed,
        "sources": [
            {"name": file.name, "part": file.part, "bytes": file.num_bytes, "sha256": digest}
            for file, digest in hashed
        ],
    }


def _hash_layout(layout: Layout) -> list[tuple[SourceFile, str]]:
    """All files of a layout, each with its sha256."""
    files = [part for file in layout.files for part in (file, file.labels) if part is not None]
    chunks = [
        files[start : start + _FILES_PER_HASH_TASK]
        for start in range(0, len(files), _FILES_PER_HASH_TASK)
    ]
    digests = tasks.run_calls(
        [partial(_hash_files, layout.filesystem, [file.path for file in one]) for one in chunks],
        "HashSources",
    )
    return list(zip(files, (digest for chunk in digests for digest in chunk), strict=True))


def _older_hashes(made_from: dict[str, Any]) -> list[tuple[int, str]]:
    """Versions before `_READING`, the newest first, with the hash of the same sources and spec."""
    numbered = [
        (reading, sha256(canonical_json({**made_from, "reading": reading})))
        for reading in range(_READING - 1, 1, -1)
    ]
    return [*numbered, (1, _hash_before_readings(made_from))]


def _hash_before_readings(made_from: dict[str, Any]) -> str:
    """The hash that a raydc before `_READING` gave to the same sources and spec."""
    older = copy.deepcopy({key: value for key, value in made_from.items() if key != "reading"})
    older["data"] = _without_defaults(older["data"], _NEW_FIELDS)
    return sha256(canonical_json(older))


def _without_defaults(data: dict[str, Any], paths: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """A section `data` without those of some fields that are at their defaults."""
    kept = copy.deepcopy(data)
    for path in paths:
        section, default = kept, Data(source="").model_dump(mode="json")
        for key in path[:-1]:
            section, default = section[key], default[key]
        if _is_default(section[path[-1]], default[path[-1]]):
            del section[path[-1]]
    return kept


def _is_default(value: Any, default: Any) -> bool:
    # A stored section may lack newer fields.
    if isinstance(value, dict) and isinstance(default, dict):
        return all(default.get(key) == one for key, one in value.items())
    return bool(value == default)


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
                f"{store.uri}/{name} exists and is not a data set: {error}", hint
            ) from error
        # Another process has prepared the same data set meanwhile; the content is the same.
        store.delete(temporary)
