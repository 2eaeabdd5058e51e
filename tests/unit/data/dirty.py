"""Broken and dirty inputs: what is written, and what has to become of it. Prepared without Ray."""

from __future__ import annotations

import contextlib
import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prepared_here import prepare_here

from raydc.data import manifest, shard_writer, values
from raydc.data.layout import row_number
from raydc.data.prepared import Prepared
from raydc.errors import DataError
from raydc.storage import sha256

# Rows that a fault shall not be lost among.
NUM_ROWS = 24
LABEL = {"target": "label"}
DROP = {"clean": {"on_error": "drop"}}
# What git checks out in place of a large file.
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
NO_IMAGE = (
    "image: not a readable image: not an image of a known format "
    "(PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM)"
)
# The head of an array that no memory holds.
HUGE_ARRAY = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
HUGE_ARRAY += b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117)
HUGE_ARRAY += b"\n"


@dataclass(frozen=True)
class Dirty:
    """One input and what becomes of it: refused with a message, or taken.

    Attributes:
        what: Name of the case.
        files: Content by name; or a function that writes files to a folder.
        data: Section `data` of the spec; `source` is the folder unless it says another one.
        refused: What the message and its hint must match, with `FOLDER` for the folder of the
            files. Empty for an input that is taken.
        rows: Values of some rows, by their number; rows of the second file begin with 1001.
        said: Each is found in a line of the report.
        kinds: Kinds of some columns.
        classes: Names of the classes.
        num_rows: Rows that are kept.
        left_out: Faults that are counted, by column and reason.
        listed: Entries of `quarantine.jsonl`.
    """

    what: str
    files: Mapping[str, bytes] | Callable[[Path], object]
    data: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""
    rows: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    num_rows: int = NUM_ROWS
    left_out: Mapping[str, int] = field(default_factory=dict)
    listed: tuple[Mapping[str, Any], ...] = ()


def table(cases: list[Dirty]) -> pytest.MarkDecorator:
    """Runs a test once for each case."""
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.what)


def csv(changes: Mapping[int, str] | None = None, header: str = "a,b,y", sep: str = ",") -> bytes:
    """Rows of a number, a category and a label, some of them replaced.

    Args:
        changes: Lines by the number of their row, counted from 1.
        header: First line.
        sep: Sign between two cells.
    """
    lines = [sep.join((str(n), "uv"[n % 2], ("no", "yes")[n % 2])) for n in range(1, NUM_ROWS + 1)]
    for number, line in (changes or {}).items():
        lines[number - 1] = line
    return "\n".join([header, *lines, ""]).encode()


def check(case: Dirty, folder: Path) -> None:
    """Prepares an input at two cuts into blocks, and compares what came with what had to."""
    source = folder / "in"
    source.mkdir()
    if callable(case.files):
        case.files(source)
    else:
        for name, content in case.files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(content)
    given = json.loads(json.dumps(dict(case.data)).replace("FOLDER", str(source)))
    splits = {"validation_fraction": 0.3, "test_fraction": 0.0, **given.get("split", {})}
    data = {"source": str(source), "target": "y", **given, "split": splits}
    if case.refused:
        with pytest.raises(DataError) as caught:
            prepare_here(folder, data)
        message = f"{caught.value.message}\n{caught.value.hint or ''}"
        pattern = case.refused.replace("FOLDER", re.escape(str(source)))
        assert re.search(pattern, message, re.DOTALL), message
        return
    with kept_rows() as rows:
        made = [prepare_here(folder / f"cut-{cut}", data, rows_per_block=cut) for cut in (None, 5)]
    assert _contents(made[0][0]) == _contents(made[1][0])
    assert made[0][1] == made[1][1]
    _compare(case, rows, *made[0])


@contextlib.contextmanager
def kept_rows() -> Iterator[dict[int, dict[str, Any]]]:
    """Collects the rows that are written, as a client would send them."""
    found: dict[int, dict[str, Any]] = {}
    apply = shard_writer.apply_features

    def apply_features(rows: Any, features: Any, cleaner: Any, *args: Any) -> Any:
        listed = shard_writer.golden_rows(rows, cleaner)
        for row_id, row in zip(values.row_ids(rows).tolist(), listed, strict=True):
            found[row_number(row_id) + 1000 * (row_id >> 40)] = row
        return apply(rows, features, cleaner, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_writer, "apply_features", apply_features)
        patch.setattr(shard_writer, "NUM_GOLDEN_ROWS", 1000)
        yield found


def _contents(prepared: Prepared) -> dict[str, str]:
    files = sorted(prepared.folder.local_path.iterdir())
    return {file.name: sha256(file.read_bytes()) for file in files}


def _compare(
    case: Dirty, rows: Mapping[int, Mapping[str, Any]], prepared: Prepared, lines: list[str]
) -> None:
    for number, expected in case.rows.items():
        for name, value in expected.items():
            found = rows[number].get(name)
            assert value(found) if callable(value) else found == value, (number, name, found)
    for pattern in case.said:
        assert any(re.search(pattern, line) for line in lines), lines
    kinds = {name: prepared.features.columns[name].kind for name in case.kinds}
    assert kinds == dict(case.kinds)
    if case.classes:
        assert prepared.features.signature.classes == case.classes
    assert sum(prepared.num_rows.values()) == case.num_rows
    facts = manifest.read(prepared.folder).get("refused", {"faults": {}})
    assert facts["faults"] == dict(case.left_out)
    if case.listed:
        content = prepared.folder.read_bytes("quarantine.jsonl").decode()
        assert tuple(map(json.loads, content.splitlines())) == case.listed
