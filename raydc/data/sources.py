"""Finds the files of a source, their format, and the part of each. Runs in the driver."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from raydc.data import partitions
from raydc.data.layout import Format, Layout, Part, SourceFile, plain_suffix, without_compression
from raydc.data.source_listing import IDX_NAME, format_of_name, list_files, notes_on_names
from raydc.errors import DataError
from raydc.spec.language import LANGUAGE
from raydc.spec.row_sources import RowSource
from raydc.spec.sections import Data, IdxFiles, Sources

_PART_OF_FOLDER: dict[str, Part] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_PART_ORDER: tuple[Part, ...] = ("train", "validation", "test")
_PART_NAME = re.compile(rf"({'|'.join(_PART_OF_FOLDER)})(?![a-z])")
_TEXT_ENDING = ".txt"
_TABLES = ("csv", "parquet", "jsonl")
_FORMATS = "CSV, Parquet, JSON Lines, folders of images by class, IDX, NumPy and tar"


def locate(data: Data) -> Layout:
    """Finds the files of a spec's source.

    Args:
        data: Section `data` of a spec; its `source` is listed.

    Returns:
        The files in the order of their row ids.

    Raises:
        DataError: There are no files, their names show no format or several, or the folders
            are not those of an image folder or of IDX files.
    """
    parts: list[tuple[Part, str | IdxFiles]] = (
        [("train", _files(data.source))] if not isinstance(data.source, Sources) else []
    )
    if isinstance(data.source, Sources):
        parts = [("train", _files(data.source.train)), ("test", _files(data.source.test))]
    found = [(part, source, list_files(source)) for part, source in parts]
    formats = {_detect_format(data, source, listing.files) for _, source, listing in found}
    if len(formats) > 1:
        raise DataError(
            f"data.source: train and test have different formats: {', '.join(sorted(formats))}",
            "Convert one of them to the format of the other.",
        )
    format_ = formats.pop()
    files: list[SourceFile] = []
    notes: list[str] = []
    for part, source, listing in found:
        kept, unread = _keep_format(source, listing.files, format_)
        # Only a single source may hold the official test part in itself.
        files += _assign_parts(format_, part, source, kept, is_only_source=len(parts) == 1)
        notes += notes_on_names(format_, unread, listing.unfinished)
    files.sort(key=lambda file: (_PART_ORDER.index(file.part), file.name))
    if not files:
        raise DataError(f"{_shown_source(parts[0][1])}: no {format_} files there")
    if format_ in _TABLES:
        files = _without_empty(files, format_, notes)
        notes += _notes_on_tables(files, data, is_only_source=len(parts) == 1)
    return Layout(format_, found[0][2].filesystem, tuple(files), tuple(notes))


def _files(source: str | IdxFiles | RowSource) -> str | IdxFiles:
    # `raydc.data.snapshot_source` makes files of such rows, for the commands that read them.
    if isinstance(source, RowSource):
        raise DataError("data.source: a query or a function has no files", "Give a path instead.")
    return source


def _without_empty(files: list[SourceFile], format_: Format, notes: list[str]) -> list[SourceFile]:
    # A Parquet file is never empty, so that one without bytes is damaged.
    empty = [file for file in files if not file.num_bytes and format_ != "parquet"]
    if not empty or len(empty) == len(files):
        return files
    notes.append(f"note: empty files are left out: {len(empty):,}, such as {empty[0].path}")
    return [file for file in files if file.num_bytes]


def _notes_on_tables(
    files: Sequence[SourceFile], data: Data, is_only_source: bool
) -> Iterator[str]:
    """Yields notes about what the names of files and folders say."""
    if data.partitioning == "hive" and (columns := partitions.check(files)):
        yield (
            f"note: the names of folders give the columns {', '.join(columns)}; "
            "data.partitioning: ignore leaves them out"
        )
    # Whole names of folders and files, and what follows `split=` in them.
    names = {part.rpartition("=")[2] for file in files for part in file.name.lower().split("/")}
    found = sorted({match[1] for name in names if (match := _PART_NAME.match(name))})
    if is_only_source and len({_PART_OF_FOLDER[name] for name in found}) > 1:
        yield (
            f"note: files that are named {' and '.join(found)} are read as one set of rows; for a "
            "test part of its own give data.source: {train: ..., test: ...}"
        )
    plain = Counter(without_compression(file.name) for file in files)
    if twice := [name for name, count in plain.items() if count > 1]:
        yield f"note: {twice[0]} is there compressed and not, and the rows of both are read"


def _shown_source(source: str | IdxFiles) -> str:
    return source if isinstance(source, str) else source.images


def _keep_format(
    source: str | IdxFiles, files: Sequence[SourceFile], format_: Format
) -> tuple[list[SourceFile], list[SourceFile]]:
    """Splits the files of a source into those of a format and others, such as a README."""
    kept = [file for file in files if _shows(file.name, format_)]
    # If no name shows the format, `data.format` overrides all of them.
    if isinstance(source, IdxFiles) or not kept:
        return list(files), []
    return kept, [file for file in files if not _shows(file.name, format_)]


def _shows(name: str, format_: Format) -> bool:
    # The ending says nothing where the format is not known: rows of a table have it, too.
    return format_of_name(name) == format_ or (format_ == "text" and _is_text(name))


def _is_text(name: str) -> bool:
    return plain_suffix(name) == _TEXT_ENDING


def _detect_format(data: Data, source: str | IdxFiles, files: Sequence[SourceFile]) -> Format:
    if isinstance(source, IdxFiles):
        return "idx"
    if data.format != "auto":
        return data.format
    formats = {format_ for file in files if (format_ := format_of_name(file.name)) is not None}
    # Elsewhere such a file is a README beside the rows.
    if data.task == LANGUAGE and (not formats or any(_is_text(file.name) for file in files)):
        formats.add("text")
    if len(formats) == 1:
        return formats.pop()
    names = ", ".join(file.name for file in files[:3])
    if formats:
        message = f"source {source} holds several formats: {', '.join(sorted(formats))}"
        raise DataError(message, "Give data.format, or a glob such as folder/*.csv.")
    hint = f"raydc reads {_FORMATS}; give data.format if the file names do not show it."
    if any(file.name.lower().endswith((".zip", ".tgz", ".7z", ".rar")) for file in files):
        hint = "It is an archive: unpack it first."
    raise DataError(f"source {source}: the format cannot be determined from {names}", hint)


def _assign_parts(
    format_: Format,
    part: Part,
    source: str | IdxFiles,
    files: list[SourceFile],
    is_only_source: bool,
) -> list[SourceFile]:
    """Gives each file its part, images their class, and IDX images their file of labels."""
    if format_ == "idx":
        return _pair_idx_files(part, source, files, is_only_source)
    if format_ == "image_folder":
        return _label_images(part, _shown_source(source), files, is_only_source)
    return [SourceFile(file.name, file.path, file.num_bytes, part) for file in files]


def _part_of_folder(name: str) -> Part | None:
    # `split=train` is how partitioned data sets name it.
    return _PART_OF_FOLDER.get(name.lower().rpartition("=")[2])


def _label_images(
    part: Part, source: str, files: list[SourceFile], is_only_source: bool
) -> list[SourceFile]:
    # Number of folders in front of the file: 1 is <class>/<image>, 2 is <part>/<class>/<image>.
    depths = {file.name.count("/") for file in files}
    roots = sorted({file.name.split("/")[0] for file in files})
    strange = [root for root in roots if _part_of_folder(root) is None]
    layouts = "It must be folder/<class>/<image>, or folder/{train,val,test}/<class>/<image>."
    if depths == {1}:
        if not strange:
            raise DataError(f"{source}: {files[0].name} is in no folder of a class", layouts)
        return [
            SourceFile(f.name, f.path, f.num_bytes, part, label=f.name.split("/")[0]) for f in files
        ]
    if depths == {2} and is_only_source and not strange:
        labelled = [
            SourceFile(f.name, f.path, f.num_bytes, _part_of_folder(root) or part, label=label)
            for f in files
            for root, label, _ in [f.name.split("/")]
        ]
        if not any(file.part == "train" for file in labelled):
            raise DataError(f"{source}: of {', '.join(roots)} none is a training part", layouts)
        return labelled
    if depths == {2} and is_only_source and len(strange) < len(roots):
        raise DataError(
            f"{source}: the folder {strange[0]} is neither a training, validation nor test part",
            f"{layouts} Leave it out, or give data.source: {{train: ..., test: ...}}.",
        )
    odd = next((f for f in files if f.name.count("/") != 1), files[0])
    raise DataError(f"{source}: {odd.name} does not fit an image folder", layouts)


def _pair_idx_files(
    part: Part, source: str | IdxFiles, files: list[SourceFile], is_only_source: bool
) -> list[SourceFile]:
    if isinstance(source, IdxFiles):
        return [_pair(part, files[0], files[1])]
    # Reverse order: of a file and its gzipped copy the plain one comes last and stays.
    by_role: dict[tuple[str, str], SourceFile] = {}
    for file in sorted(files, key=lambda f: f.name, reverse=True):
        if match := IDX_NAME.search(file.name):
            by_role[match["part"] or "", match["what"]] = file
    pairs: dict[str, SourceFile] = {}
    for prefix in sorted({prefix for prefix, _ in by_role}):
        for what in ("images", "labels"):
            if (prefix, what) not in by_role:
                other = by_role[prefix, "images" if what == "labels" else "labels"].path
                hint = "Give the folder of both files, or {images: ..., labels: ...}."
                raise DataError(f"{other}: the file of {what} that belongs to it is missing", hint)
        own_part: Part = "test" if prefix == "t10k" else "train"
        pairs[prefix] = _pair(
            own_part if is_only_source else part,
            by_role[prefix, "images"],
            by_role[prefix, "labels"],
        )
    if is_only_source or len(pairs) == 1:
        return list(pairs.values())
    # The same folder given twice, as `train` and as `test`, means its own two parts.
    prefix = "t10k" if part == "test" else "train"
    if prefix not in pairs:
        hint = "Give {images: ..., labels: ...} for each part."
        raise DataError(
            f"{_shown_source(source)}: it is not clear which IDX files are the {part} part", hint
        )
    return [pairs[prefix]]


def _pair(part: Part, images: SourceFile, labels: SourceFile) -> SourceFile:
    return SourceFile(images.name, images.path, images.num_bytes, part, labels=labels)
