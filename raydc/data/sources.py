"""Where rows come from: files in a stable order, each with its part (train or test).

A row's id is `file index << 40 | row in the file`, with files in the order of their names and those of the test
part after those of the training part. It is a place in the sources and never an order of arrival.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from pyarrow import fs as pafs

from raydc.errors import DataError, first_line
from raydc.spec.sections import Data, IdxFiles, Sources

Format = Literal["csv", "parquet", "jsonl", "image_folder", "idx"]
Part = Literal["train", "test"]

_ROW_BITS = 40
_COMPRESSION = (".gz", ".bz2", ".zst")
_SUFFIXES: dict[str, Format] = {
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    **dict.fromkeys(
        (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
        "image_folder",
    ),
}
_IDX_NAME = re.compile(r"(?P<part>train|t10k)?-?(?P<what>images|labels)[-.]idx[13]-ubyte(\.gz)?$")
_FORMATS = "CSV, Parquet, JSON Lines, folders of images by class, and IDX"


@dataclass(frozen=True)
class SourceFile:
    """One file of rows.

    Attributes:
        name: Relative to its source, with `/`; does not change when the source is moved.
        path: On the filesystem of the layout.
        num_bytes: Its size.
        part: The official part that it belongs to.
        label: The class of an image in a folder.
        labels: The file of labels that goes with IDX images.
    """

    name: str
    path: str
    num_bytes: int
    part: Part
    label: str | None = None
    labels: SourceFile | None = None

    def place(self, format_: Format, row_id: int) -> str:
        """How messages name a row of this file: the path, and the row counted from 1."""
        if format_ == "image_folder":
            return self.path
        unit = {"jsonl": "line", "idx": "image"}.get(format_, "row")
        return f"{self.path}: {unit} {(row_id & ((1 << _ROW_BITS) - 1)) + 1}"


@dataclass(frozen=True)
class Layout:
    """All files of a data set, in the order of their row ids."""

    format: Format
    filesystem: pafs.FileSystem
    files: tuple[SourceFile, ...]

    @property
    def first_test_id(self) -> int | None:
        """The lowest row id of the official test part; None where the sources have none."""
        return next(
            (first_row_id(i) for i, file in enumerate(self.files) if file.part == "test"), None
        )

    def place(self, row_id: int) -> str:
        """How messages name a row."""
        return self.files[row_id >> _ROW_BITS].place(self.format, row_id)


def first_row_id(file_index: int) -> int:
    """Id of the first row of a file."""
    return file_index << _ROW_BITS


def locate(data: Data) -> Layout:
    """Finds the files of a spec's source.

    Raises:
        DataError: Nothing there, no format to be seen, several formats, or a layout that is not understood.
    """
    parts: list[tuple[Part, str | IdxFiles]] = (
        [("train", data.source)] if not isinstance(data.source, Sources) else []
    )
    if isinstance(data.source, Sources):
        parts = [("train", data.source.train), ("test", data.source.test)]
    found = [(part, source, *_list(source)) for part, source in parts]
    formats = {_format(data, source, files) for _, source, _, files in found}
    if len(formats) > 1:
        raise DataError(
            f"data.source: train and test have different formats: {', '.join(sorted(formats))}"
        )
    format_ = formats.pop()
    alone = len(parts) == 1
    files = [
        file
        for part, source, _, listed in found
        for file in _arrange(
            format_,
            part,
            source,
            listed if isinstance(source, IdxFiles) else _of_format(listed, format_),
            alone,
        )
    ]
    files.sort(key=lambda file: (file.part == "test", file.name))
    if not files:
        raise DataError(f"{_describe(parts[0][1])}: no {format_} files there")
    return Layout(format_, found[0][2], tuple(files))


def _describe(source: str | IdxFiles) -> str:
    return source if isinstance(source, str) else source.images


# Listing ----------------------------------------------------------------------------------------------


def _filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    if "://" not in path:
        return pafs.LocalFileSystem(), path.rstrip("/") or "/"
    try:
        filesystem, root = pafs.FileSystem.from_uri(path.rstrip("/"))
    except (ValueError, OSError) as error:
        raise DataError(f"source {path!r} cannot be opened: {error}") from error
    return filesystem, root


def _list(source: str | IdxFiles) -> tuple[pafs.FileSystem, list[SourceFile]]:
    if isinstance(source, IdxFiles):
        filesystem, images = _list(source.images)
        return filesystem, [*images, *_list(source.labels)[1]]
    filesystem, path = _filesystem(source)
    wild = re.search(r"[*?\[]", path)
    base = path[: wild.start()].rpartition("/")[0] or "/" if wild else path
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
        if info.type == pafs.FileType.File and (not wild or fnmatch.fnmatchcase(info.path, path))
    ]
    files = [
        file
        for file in files
        if not any(part.startswith((".", "_")) for part in file.name.split("/"))
    ]
    if not files:
        raise DataError(
            f"source {source}: " + ("no file matches" if wild else "the folder holds no files")
        )
    return filesystem, sorted(files, key=lambda file: file.name)


# Formats ----------------------------------------------------------------------------------------------


def plain_suffix(name: str) -> str:
    """The suffix of a file name in lower case, without that of a compression."""
    name = name.lower()
    for suffix in _COMPRESSION:
        name = name.removesuffix(suffix)
    return name[name.rfind(".") :] if "." in name else ""


def _format_of(name: str) -> Format | None:
    return "idx" if _IDX_NAME.search(name) else _SUFFIXES.get(plain_suffix(name))


def _of_format(files: list[SourceFile], format_: Format) -> list[SourceFile]:
    # A README beside the data is passed over; where data.format overrules all names, all files are meant.
    return [file for file in files if _format_of(file.name) == format_] or files


def _format(data: Data, source: str | IdxFiles, files: Sequence[SourceFile]) -> Format:
    if isinstance(source, IdxFiles):
        return "idx"
    if data.format != "auto":
        return data.format
    formats = {format_ for file in files if (format_ := _format_of(file.name)) is not None}
    if len(formats) == 1:
        return formats.pop()
    names = ", ".join(file.name for file in files[:3])
    if formats:
        message = f"source {source} holds several formats: {', '.join(sorted(formats))}"
        raise DataError(message, "Give data.format, or a glob such as folder/*.csv.")
    hint = f"raydc reads {_FORMATS}; give data.format where a file name does not say it."
    if any(file.name.lower().endswith((".tar", ".zip", ".tgz", ".tar.gz")) for file in files):
        hint = "It is an archive: unpack it first."
    raise DataError(f"source {source}: the format cannot be seen from {names}", hint)


def _arrange(
    format_: Format, part: Part, source: str | IdxFiles, files: list[SourceFile], alone: bool
) -> list[SourceFile]:
    if format_ == "idx":
        return _arrange_idx(part, source, files, alone)
    if format_ == "image_folder":
        return _arrange_images(part, _describe(source), files, alone)
    return [SourceFile(file.name, file.path, file.num_bytes, part) for file in files]


def _arrange_images(
    part: Part, source: str, files: list[SourceFile], alone: bool
) -> list[SourceFile]:
    depths = {file.name.count("/") for file in files}
    if depths == {1}:
        return [
            SourceFile(f.name, f.path, f.num_bytes, part, label=f.name.split("/")[0]) for f in files
        ]
    roots = {file.name.split("/")[0] for file in files}
    if depths == {2} and alone and "train" in roots and roots <= {"train", "test"}:
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


def _arrange_idx(
    part: Part, source: str | IdxFiles, files: list[SourceFile], alone: bool
) -> list[SourceFile]:
    if isinstance(source, IdxFiles):
        return [_pair(part, files[0], files[1])]
    # Of a file and its gzipped copy the plain one is read.
    by_role: dict[tuple[str, str], SourceFile] = {}
    for file in sorted(files, key=lambda f: f.name, reverse=True):
        if match := _IDX_NAME.search(file.name):
            by_role[match["part"] or "", match["what"]] = file
    pairs: dict[str, SourceFile] = {}
    for prefix in sorted({prefix for prefix, _ in by_role}):
        for what in ("images", "labels"):
            if (prefix, what) not in by_role:
                there = by_role[prefix, "images" if what == "labels" else "labels"].path
                hint = "Give the folder of both files, or {images: ..., labels: ...}."
                raise DataError(f"{there}: the file of {what} that belongs to it is missing", hint)
        role: Part = "test" if prefix == "t10k" else "train"
        pairs[prefix] = _pair(
            role if alone else part, by_role[prefix, "images"], by_role[prefix, "labels"]
        )
    if alone or len(pairs) == 1:
        return list(pairs.values())
    return [pairs["t10k" if part == "test" else "train"]]


def _pair(part: Part, images: SourceFile, labels: SourceFile) -> SourceFile:
    return SourceFile(images.name, images.path, images.num_bytes, part, labels=labels)


@contextmanager
def named(path: str) -> Iterator[None]:
    """Gives the errors of libraries the name of the file that they were about."""
    try:
        yield
    except FileNotFoundError as error:
        hint = "Every node must reach the sources: put them on shared storage, or give a URI."
        raise DataError(f"{path} is not there on this node", hint) from error
    except (OSError, EOFError, pa.ArrowInvalid) as error:
        reason = first_line(error)
        hint = "The file is damaged or was cut off; write or download it again."
        raise DataError(f"{path} cannot be read: {reason}", hint) from error
