"""Lists the files of a source: a path that exists, or a pattern. Runs in the driver.

Files that a rule leaves out by their name are kept too, so that a note can name them.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyarrow import fs as pafs

from raydc.data.layout import Format, SourceFile, plain_suffix
from raydc.errors import DataError
from raydc.spec.sections import IdxFiles

_SUFFIXES: dict[str, Format] = {
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".npz", ".npy"), "numpy"),
    ".tar": "tar",
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    **dict.fromkeys(
        (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
        "image_folder",
    ),
}
# File names of MNIST and its relatives; `t10k` is their name of the test part.
IDX_NAME = re.compile(r"(?P<part>train|t10k)?-?(?P<what>images|labels)[-.]idx[13]-ubyte(\.gz)?$")
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Listing:
    """The files of one source.

    Attributes:
        filesystem: Filesystem on which they lie.
        files: Files sorted by name, all of the part `train`.
        unfinished: Files of tables that are not among them, because their name or folder begins
            with `_`, as those of writers that have not finished do.
    """

    filesystem: pafs.FileSystem
    files: tuple[SourceFile, ...]
    unfinished: tuple[SourceFile, ...] = ()


def list_files(source: str | IdxFiles) -> Listing:
    """Lists a source.

    Args:
        source: Path, folder, pattern or URI; or a pair of IDX files, images first.

    Raises:
        DataError: There are no files, or they cannot be listed.
    """
    if isinstance(source, IdxFiles):
        images, labels = list_files(source.images), list_files(source.labels)
        return Listing(images.filesystem, images.files + labels.files)
    filesystem, path = _open_filesystem(source)
    try:
        found = filesystem.get_file_info(path)
        if found.type == pafs.FileType.File:
            # A file that is named outright is read, whatever its name.
            return Listing(filesystem, (_source_file(found, path.rpartition("/")[0]),))
        # A path that exists means itself. Only then may its characters be wildcards.
        pattern = path if found.type == pafs.FileType.NotFound and _WILDCARD.search(path) else None
        base = path if pattern is None else _folder_of_pattern(path)
        infos = filesystem.get_file_info(
            pafs.FileSelector(base, recursive=True, allow_not_found=pattern is not None)
        )
    except FileNotFoundError as error:
        raise DataError(
            f"source {source} does not exist", "A relative path starts at the current directory."
        ) from error
    except OSError as error:
        raise DataError(f"source {source} cannot be read: {error}") from error
    matching = [info for info in infos if not pattern or fnmatch.fnmatchcase(info.path, path)]
    files = [_source_file(info, base) for info in matching if info.type == pafs.FileType.File]
    if not files and pattern:
        raise DataError(
            f"source {source}: no file matches",
            "There is no file of that very name, so * ? [ ] in it are wildcards; write [*], [?] or "
            "[[] for the character itself.",
        )
    if isinstance(filesystem, pafs.LocalFileSystem):
        _refuse_lost_links(base, pattern)
    own_parts = path[len(base) :].strip("/").split("/") if pattern else []
    marks = {file: _mark(file.name, own_parts) for file in files}
    kept = sorted((file for file in files if not marks[file]), key=lambda file: file.name)
    unfinished = [file for file in files if marks[file] == "_" and format_of_name(file.name)]
    if not kept:
        raise DataError(
            f"source {source}: the folder holds no files"
            + (f" but {unfinished[0].name}, which is taken for unfinished" if unfinished else "")
        )
    return Listing(filesystem, tuple(kept), tuple(unfinished))


def _refuse_lost_links(base: str, pattern: str | None) -> None:
    """Refuses links to files that are not there, which pyarrow leaves out of its lists."""
    for folder, _, names in os.walk(base):
        for name in names:
            path = os.path.join(folder, name)
            is_meant = not pattern or fnmatch.fnmatchcase(path, pattern)
            is_data = format_of_name(name) is not None and not name.startswith(".")
            if is_meant and is_data and not os.path.exists(path):
                raise DataError(
                    f"{path} is a link to a file that is not there",
                    "Fetch the file, or remove the link.",
                )


def _open_filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    if "://" not in path:
        return pafs.LocalFileSystem(), path.rstrip("/") or "/"
    try:
        filesystem, root = pafs.FileSystem.from_uri(path.rstrip("/"))
    except (ValueError, OSError) as error:
        raise DataError(f"source {path!r} cannot be opened: {error}") from error
    return filesystem, root


def _folder_of_pattern(path: str) -> str:
    # pyarrow has no globs: the folder in front of the first wildcard is listed and filtered.
    wildcard = _WILDCARD.search(path)
    return (path[: wildcard.start()].rpartition("/")[0] if wildcard else path) or "/"


def _source_file(info: pafs.FileInfo, base: str) -> SourceFile:
    return SourceFile(info.path[len(base) :].lstrip("/"), info.path, info.size or 0, "train")


def _mark(name: str, own_parts: Sequence[str]) -> str:
    """The mark by which a file is left out: `.` if hidden, `_` if unfinished, else nothing.

    Args:
        name: Path of the file in its source.
        own_parts: Parts of the pattern; a mark that is in the pattern itself leaves nothing out.
    """
    parts = name.split("/")
    # Where macOS packs a folder, it adds one of hidden files.
    if "__MACOSX" in parts:
        return "."
    own = own_parts if len(own_parts) == len(parts) else [""] * len(parts)
    # A folder such as _day=3 is a column and not unfinished; Spark reads it so, too.
    marks = {
        part[:1]
        for part, meant in zip(parts, own, strict=True)
        if part[:1] != meant[:1] and not ("=" in part and part != parts[-1])
    }
    if "." in marks:
        return "."
    # Cameras name photographs _DSC0123.jpg; nothing that writes images in parts does.
    return "_" if "_" in marks and format_of_name(name) != "image_folder" else ""


def format_of_name(name: str) -> Format | None:
    """Format that a file's name shows; None if it shows none."""
    return "idx" if IDX_NAME.search(name) else _SUFFIXES.get(plain_suffix(name))


def notes_on_names(
    format_: Format, unread: Sequence[SourceFile], unfinished: Sequence[SourceFile]
) -> Iterator[str]:
    """Yields notes for the user about files that are not read.

    Args:
        format_: The one format that is read; the notes name it.
        unread: Files whose names do not show that format.
        unfinished: Files that are taken for unfinished.
    """
    if unread:
        endings = Counter(plain_suffix(file.name) or "no ending" for file in unread)
        listed = ", ".join(f"{ending} ({count:,})" for ending, count in endings.most_common(5))
        yield (
            f"note: files are left out, because their names are not those of {format_} files: "
            f"{listed}, such as {unread[0].path}"
        )
    if unfinished:
        yield (
            f"note: unfinished files are left out, whose name or folder begins with _: "
            f"{len(unfinished):,}, such as {unfinished[0].path}"
        )
