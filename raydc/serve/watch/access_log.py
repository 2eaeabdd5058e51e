"""The access log of a replica: one line of JSON for each request, in files of limited size."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import orjson

from raydc.serve.watch.request_record import RequestRecord

MAX_BYTES = 64 * 1024 * 1024
NUM_KEPT = 4
# Texts that a client chooses are cut at this length, or one request could fill the disk.
_MAX_TEXT_CHARS = 200


class AccessLog:
    """Appends to a file; a full file becomes `<name>.1`, then `<name>.2`, up to `NUM_KEPT`.

    Args:
        path: The file; its folder is made.
        max_bytes: Size at which the file is full and is rotated.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # +1: the handler rotates at this size, not above it.
        self._file = _PrivateRotatingFile(
            path, maxBytes=max_bytes + 1, backupCount=NUM_KEPT, encoding="utf-8"
        )
        self._second = -1
        self._second_text = ""

    @property
    def num_lost(self) -> int:
        """Requests whose lines could not be written, because the disk is full for example."""
        return self._file.num_lost

    def write(self, records: Sequence[RequestRecord]) -> None:
        """Appends a line for each record. Errors of the disk are counted, not raised."""
        content = b"".join(self.format_line(record) for record in records)
        # One log record for all lines: each costs as much as formatting a line. The handler adds
        # the last newline.
        lines = {"msg": content[:-1].decode(), "num_requests": len(records)}
        self._file.emit(logging.makeLogRecord(lines))

    def close(self) -> None:
        """Closes the file, which stays."""
        self._file.close()

    def format_line(self, record: RequestRecord) -> bytes:
        """The JSON of one request, with a newline at its end."""
        second = int(record.time_s)
        # Many requests share a second, and formatting it takes as long as the rest of the line.
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        fields: dict[str, Any] = {
            "time": f"{self._second_text}.{int((record.time_s - second) * 1000):03d}Z",
            "request_id": record.request_id[:_MAX_TEXT_CHARS],
            "client": record.client,
            "forwarded_for": record.forwarded_for[:_MAX_TEXT_CHARS],
            "token": record.token,
            "method": record.method,
            "path": record.path[:_MAX_TEXT_CHARS],
            "status": record.status,
            "model": record.model,
            "version": record.version,
            "role": record.role,
            "rows": record.rows,
            "seconds": round(record.seconds, 6),
            "bytes_in": record.bytes_in,
            "bytes_out": record.bytes_out,
        }
        if (tokens := record.tokens) is not None:
            fields |= {
                "prompt_tokens": tokens.num_prompt,
                "answer_tokens": tokens.num_answer,
                "first_token_s": round(tokens.first_s, 6),
            }
        return orjson.dumps(fields) + b"\n"


class _PrivateRotatingFile(RotatingFileHandler):
    """A rotating file that only its owner can read and that counts what it could not write."""

    num_lost = 0

    def _open(self) -> TextIOWrapper:
        # 0600: the log holds names of tokens and addresses of clients.
        return open(
            self.baseFilename,
            "a",
            encoding=self.encoding,
            opener=lambda path, flags: os.open(path, flags, 0o600),
        )

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        # logging would print a traceback for each failure, into another file of the same disk.
        self.num_lost += record.__dict__["num_requests"]
