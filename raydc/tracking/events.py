"""What happened, as append-only JSON Lines: `events.jsonl` and `metrics.jsonl` of a run.

One writer, one segment: on a local filesystem every writer appends whole lines to one file (a line is one
`write` of an `O_APPEND` descriptor); an object store cannot append, so each writer owns an object beside the
others (`events.00001.jsonl`, ...) and writes it anew at `flush`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from raydc.storage import Storage, canonical_json


class EventLog:
    """An append-only JSONL log named `stem`.jsonl in a folder. Threads may share it.

    Args:
        folder: Where it is.
        stem: Its name.
        patient: Lines that the disk refuses wait for the next write or for `flush`, instead of an error.
    """

    def __init__(self, folder: Storage, stem: str, patient: bool = False) -> None:
        self.folder = folder
        self.stem = stem
        self.patient = patient
        # On a local filesystem those that wait to be written; elsewhere all, the first of which are visible.
        self._lines: list[bytes] = []
        self._num_visible = 0
        self._lock = threading.Lock()
        # Segments sort by the time of their first line; the suffix keeps two writers of one moment apart.
        self._segment = f"{stem}.{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl"

    def write(self, **fields: Any) -> None:
        """Appends one line; `time_s` (Unix time) is added."""
        self.write_all([fields])

    def write_all(self, records: list[dict[str, Any]]) -> None:
        """Appends lines. Raises OSError, unless patient."""
        now = round(time.time(), 3)
        lines = [canonical_json({"time_s": now, **record}) + b"\n" for record in records]
        with self._lock:
            self._lines += lines
            if self.folder.is_local:
                with contextlib.suppress(*([OSError] if self.patient else [])):
                    self._append()

    def flush(self) -> None:
        """Makes the lines so far visible to readers on any store. Raises OSError."""
        with self._lock:
            if self.folder.is_local:
                self._append()
            elif self._num_visible < len(self._lines):
                self.folder.write_bytes(self._segment, b"".join(self._lines))
                self._num_visible = len(self._lines)

    def invisible(self) -> bytes:
        """The lines that readers cannot see yet."""
        with self._lock:
            return b"".join(self._lines[self._num_visible :])

    def adopt(self, lines: bytes) -> None:
        """Appends lines that a log of the same name could not make visible."""
        with self._lock:
            self._lines += lines.splitlines(keepends=True)

    def _append(self) -> None:
        """Writes what waits; of lines that only fit in part, those that do not wait on."""
        if not self._lines:
            return
        path = self.folder.local_path / f"{self.stem}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            torn = b"" if _ends_a_line(descriptor) else b"\n"
            num_bytes = os.write(descriptor, torn + b"".join(self._lines)) - len(torn)
        finally:
            os.close(descriptor)
        while self._lines and len(self._lines[0]) <= num_bytes:
            num_bytes -= len(self._lines.pop(0))
        if self._lines:
            raise OSError(errno.ENOSPC, "only a part of the lines could be written", str(path))


def _ends_a_line(descriptor: int) -> bool:
    """Whether a file is empty or ends with a line break; a killed writer may have left half a line."""
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def read(folder: Storage, stem: str) -> Iterator[dict[str, Any]]:
    """The lines of a log in the order of writing. A torn line (of a killed writer) is left out."""
    names = [n for n in folder.names() if n.startswith(f"{stem}.") and n.endswith(".jsonl")]
    for name in sorted(names):
        for line in folder.read_bytes(name).splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue


def surviving(records: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history that the final weights have seen.

    A restart goes back to a checkpoint and does the steps after it again. Its first line is
    `{"kind": "start", "step": s}`; whatever an earlier attempt wrote of steps after `s` is dropped.

    Args:
        records: Lines of `metrics.jsonl`, in the order of writing.

    Returns:
        The lines without `start` records, each (kind, step) at most once.
    """
    history: dict[tuple[str, int], dict[str, Any]] = {}
    for record in records:
        if record.get("kind") == "start":
            history = {key: kept for key, kept in history.items() if kept["step"] <= record["step"]}
        else:
            history[record["kind"], record["step"]] = record
    return list(history.values())
