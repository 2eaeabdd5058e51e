"""The access log: one line of JSON for each request, in files that do not grow for ever."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

import orjson

from raydc.serve.watch.request_record import RequestRecord

MAX_BYTES = 64 * 1024 * 1024
NUM_KEPT = 4
# Texts that a client chooses are cut at this length.
_MAX_TEXT = 200


class AccessLog:
    """Appends to a file; a full one becomes `<name>.1`, which was `<name>.2` before, up to `NUM_KEPT`.

    Args:
        path: The file; its folder is made.
        max_bytes: Size at which a file is full.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self.num_lost = 0
        self._max_bytes = max_bytes
        self._second = -1
        self._second_text = ""
        self._open()

    def write(self, lot: Sequence[RequestRecord]) -> None:
        """Writes lines; what cannot be written, because the disk is full for example, is counted in `num_lost`."""
        content = b"".join(self._line(seen) for seen in lot)
        try:
            if self._size + len(content) > self._max_bytes and self._size > 0:
                self._rotate()
            os.write(self._descriptor, content)
            self._size += len(content)
        except OSError:
            self.num_lost += len(lot)

    def close(self) -> None:
        """The file stays."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Names of tokens and addresses of clients are not everybody's.
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        for number in range(NUM_KEPT - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self.path}.{number}", f"{self.path}.{number + 1}")
        os.replace(self.path, f"{self.path}.1")
        full = self._descriptor
        self._open()  # First: a number that is closed already may be a client's connection by now.
        os.close(full)

    def _line(self, seen: RequestRecord) -> bytes:
        second = int(seen.time_s)
        if second != self._second:
            self._second, self._second_text = (
                second,
                time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)),
            )
        told = {
            "time": f"{self._second_text}.{int((seen.time_s - second) * 1000):03d}Z",
            "request_id": seen.request_id[:_MAX_TEXT],
            "client": seen.client,
            "forwarded_for": seen.forwarded_for[:_MAX_TEXT],
            "token": seen.token,
            "method": seen.method,
            "path": seen.path[:_MAX_TEXT],
            "status": seen.status,
            "model": seen.model,
            "version": seen.version,
            "role": seen.role,
            "rows": seen.rows,
            "seconds": round(seen.seconds, 6),
            "bytes_in": seen.bytes_in,
            "bytes_out": seen.bytes_out,
        }
        return orjson.dumps(told) + b"\n"
