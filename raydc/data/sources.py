"""Finds the files of a source, their format, and the part of each. Runs in the driver."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

from pyarrow import fs as pafs

from raydc.data.layout import Format, Layout, Part, SourceFile, plain_suffix
from raydc.errors import DataError
from raydc.spec.sections import Data, IdxFiles, Sources

_SUFFIXES: dict[str, Format] = {
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    **dict.fromkeys(
        (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
        "image_folder",
    ),
}
# File names of MNIST and its relatives; `t10k` is their name of the test part.
_IDX_NAME = re.compile(r"(?P<part>train|t10k)?-?(?P<what>images|labels)[-.]idx[13]-ubyte(\.gz)?$")
_FORMATS = "CSV, Parquet, JSON Lines, folders of images by class, and IDX"


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
        [("train", data.source)] if not isinstance(data.source, Sources) else []
    )
    if isinstance(data.source, Sources):
        parts = [("train", data.source.train), ("test", data.source.test)]
    found = [(part, source, *_list_files(source)) for part, source in parts]
    formats = {_detect_format(data, source, files) for _, source, _, files in found}
    if len(formats) > 1:
        raise DataError(
            f"data.source: train and test have different formats: {', '.join(sorted(formats))}"
        )
    format_ = formats.pop()
    # Only a single source may hold the official test part in itself.
    is_only_source = len(parts) == 1
    files = [
        file
        for part, source, _, listed in found
        for file in _assign_parts(
            format_,
            part,
            source,
            listed if isinstance(source, IdxFiles) else _keep_format(listed, format_),
            is_only_source,
        )
    ]
    files.sort(key=lambda file: (file.part == "test", file.name))
    if not files:
        raise DataError(f"{_shown_source(parts[0][1])}: no {format_} files there")
    return Layout(format_, found[0][2], tuple(files))


def _shown_source(source: str | IdxFiles) -> str:
    return source if isinstance(source, str) else source.images


def _open_filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    if "://" not in path:
        return pafs.LocalFileSystem(), path.rstrip("/") or "/"
    try:
        filesystem, root = pafs.FileSystem.from_uri(path.rstrip("/"))
    except (ValueError, OSError) as error:
        raise DataError(f"source {path!r} cannot be opened: {error}") from error
    return filesystem, root


def _list_files(source: str | IdxFiles) -> tuple[pafs.FileSystem, list[SourceFile]]:
    if isinstance(source, IdxFiles):
        filesystem, images = _list_files(source.images)
        return filesystem, [*images, *_list_files(source.labels)[1]]
    filesystem, path = _open_filesystem(source)
    # pyarrow has no globs: the folder in front of the first wildcard is listed and filtered.
    wildcard = re.search(r"[*?\[]", path)
    base = path[: wildcard.start()].rpartition("/")[0] or "/" if wildcard else path
    try:
        info = filesystem.get_file_info(base)
        if info.type == pafs.FileType.File:
            infos, base = [info], base.rpartition("/")[0]
        else:
            infos = filesystem.get_file_info(pafs.FileSelector(base, recursive=True))
    except FileNotFoundError as error:
        raise DataError(
            f"source {source} does not exist", "A relative path starts at the current directory."
        ) from error
    except OSError as error:
        raise DataError(f"source {source} cannot be read: {error}") from error
    files = [
        SourceFile(info.path[len(base) :].lstrip("/"), info.path, info.size or 0, "train")
        for info in infos
        if info.type == pafs.FileType.File
        and (not wildcard or fnmatch.fnmatchcase(info.path, path))
    ]
    # Names of markers and of unfinished files, such as _SUCCESS and .part-0.crc.
    files = [
        file
        for file in files
        if not any(part.startswith((".", "_")) for part in file.name.split("/"))
    ]
    if not files:
        raise DataError(
            f"source {source}: " + ("no file matches" if wildcard else "the folder holds no files")
        )
    return filesystem, sorted(files, key=lambda file: file.name)


def _format_of_name(name: str) -> Format | None:
    return "idx" if _IDX_NAME.search(name) else _SUFFIXES.get(plain_suffix(name))


def _keep_format(files: list[SourceFile], format_: Format) -> list[SourceFile]:
    # Leaves out files such as a README. If no name matches (`data.format` overrides them), all
    # files are kept.
    return [file for file in files if _format_of_name(file.name) == format_] or files


def _detect_format(data: Data, source: str | IdxFiles, files: Sequence[SourceFile]) -> Format:
    if isinstance(source, IdxFiles):
        return "idx"
    if data.format != "auto":
        return data.format
    formats = {format_ for file in files if (format_ := _format_of_name(file.name)) is not None}
    if len(formats) == 1:
        return formats.pop()
    names = ", ".join(file.name for file in files[:3])
    if formats:
        message = f"source {source} holds several formats: {', '.join(sorted(formats))}"
        raise DataError(message, "Give data.format, or a glob such as folder/*.csv.")
    hint = f"raydc reads {_FORMATS}; give data.format if the file names do not show it."
    if any(file.name.lower().endswith((".tar", ".zip", ".tgz", ".tar.gz")) for file in files):
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


def _label_images(
    part: Part, source: str, files: list[SourceFile], is_only_source: bool
) -> list[SourceFile]:
    # Number of folders in front of the file: 1 is <class>/<image>, 2 is <part>/<class>/<image>.
    depths = {file.name.count("/") for file in files}
    if depths == {1}:
        return [
            SourceFile(f.name, f.path, f.num_bytes, part, label=f.name.split("/")[0]) for f in files
        ]
    roots = {file.name.split("/")[0] for file in files}
    if depths == {2} and is_only_source and "train" in roots and roots <= {"train", "test"}:
        return [
            SourceFile(
                f.name, f.path, f.num_bytes, "test" if root == "test" else "train", label=label
            )
            for f in files
            for root, label, _ in [f.name.split("/")]
        ]
    odd = next((f for f in files if f.name.count("/") != 1), files[0])
    hint = "It must be folder/<class>/<image>, or folder/{train,test}/<class>/<image>."
    raise DataError(f"{source}: {odd.name} does not fit an image folder", hint)


def _pair_idx_files(
    part: Part, source: str | IdxFiles, files: list[SourceFile], is_only_source: bool
) -> list[SourceFile]:
    if isinstance(source, IdxFiles):
        return [_pair(part, files[0], files[1])]
    # Reverse order: of a file and its gzipped copy the plain one comes last and stays.
    by_role: dict[tuple[str, str], SourceFile] = {}
    for file in sorted(files, key=lambda f: f.name, reverse=True):
        if match := _IDX_NAME.search(file.name):
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
