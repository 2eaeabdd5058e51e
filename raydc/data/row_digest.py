"""Digests of raw rows, by which repeated rows are found. Pure."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa


def digest_rows(columns: dict[str, pa.ChunkedArray], num_rows: int) -> list[bytes]:
    """Hashes each row over the names and contents of its columns.

    Args:
        columns: Columns by name, of `num_rows` cells each; the target is one of them.
        num_rows: Number of cells of each column, and so of the digests.

    Returns:
        16 bytes per row, equal for equal rows, whatever the order of their columns.
    """
    hashes = [hashlib.blake2b(digest_size=16) for _ in range(num_rows)]
    for name in sorted(columns):
        for row_hash, cell in zip(hashes, columns[name].to_pylist(), strict=True):
            if cell is None:
                continue  # A missing key is null only if another line of the table has the key.
            # The length keeps ("ab", "c") and ("a", "bc") apart.
            content = _cell_bytes(cell)
            row_hash.update(f"{name}:{len(content)}:".encode() + content)
    return [row_hash.digest() for row_hash in hashes]


def _cell_bytes(cell: Any) -> bytes:
    if isinstance(cell, dict) and "pixels" in cell:
        # Images of 2x8 and 4x4 may have the same bytes.
        return f"{cell['height']}x{cell['width']}:".encode() + bytes(cell["pixels"])
    return cell.encode() if isinstance(cell, str) else repr(cell).encode()
