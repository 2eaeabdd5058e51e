"""Append-only JSON Lines: `events.jsonl` and `metrics.jsonl` of a run, written by drivers and rank
0.

A local filesystem can append, so all writers share one file; a line is one `write` to an `O_APPEND`
descriptor and therefore never mixes with another writer's. An object store cannot append: there
each writer owns an object of its own (`events.<time>-<suffix>.jsonl`) and rewrites it as a whole at
`flush`.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from raydc.storage import Storage, canonical_json

# Fields that readers need in records of each kind.
_NEEDED = {
    "time": ("since_s", "until_s", "seconds"),
    "stood_still": ("since_s", "until_s"),
    "run_started": ("time_s",),
    "driver_ended": ("time_s",),
    "waits_for_resources": ("time_s",),
    "attempt_started": ("time_s",),
    "checkpoint": ("step",),
    "start": ("step",),
    "step": ("step",),
    "epoch": ("step",),
}


class EventLog:
    """An append-only JSON Lines log, `stem`.jsonl in a folder. Threads may share it.

    Args:
        folder: Folder of the log, usually of a run.
        stem: File name without its suffix.
        patient: Whether lines that the disk refuses wait for the next write or for `flush`; without
            it such a write raises OSError.
        assert_still_owner: Called before each write; raises an error if this log is no longer the
            process's to write. None lets every process write.
    """

    def __init__(
        self,
        folder: Storage,
        stem: str,
        patient: bool = False,
        assert_still_owner: Callable[[], None] | None = None,
    ) -> None:
        self.folder = folder
        self.stem = stem
        self.patient = patient
        self._assert_still_owner = assert_still_owner or (lambda: None)
        # On a local filesystem: lines that are not written yet. On an object store: all lines of
        # this writer, because the object is rewritten as a whole.
        self._lines: list[bytes] = []
        # How many of the first lines a reader can see; stays 0 on a local filesystem.
        self._num_visible = 0
        self._lock = threading.Lock()
        # Objects sort by the time of their writer's start, so that readers get the lines in order;
        # the suffix separates two writers that start at the same moment.
        self._segment = f"{stem}.{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl"

    def write(self, **fields: Any) -> None:
        """Appends one line; `time_s` (Unix time) is added. Raises OSError, unless patient."""
        self.write_all([fields])

    def write_all(self, records: list[dict[str, Any]]) -> None:
        """Appends one line for each record. Raises OSError, unless patient."""
        now = round(time.time(), 3)
        lines = [canonical_json({"time_s": now, **record}) + b"\n" for record in records]
        with self._lock:
            self._lines += lines
            if self.folder.is_local:
                try:
                    self._append()
                except OSError:
                    if not self.patient:
                        raise

    def flush(self) -> None:
        """Makes all lines so far visible to readers on any store. Raises OSError."""
        with self._lock:
            if self.folder.is_local:
                self._append()
            elif self._num_visible < len(self._lines):
                self._assert_still_owner()
                self.folder.write_bytes(self._segment, b"".join(self._lines))
                self._num_visible = len(self._lines)

    def invisible(self) -> bytes:
        """The lines that no reader can see yet."""
        with self._lock:
            return b"".join(self._lines[self._num_visible :])

    def adopt(self, lines: bytes) -> None:
        """Appends lines that another writer of the same log could not make visible."""
        with self._lock:
            self._lines += lines.splitlines(keepends=True)

    def _append(self) -> None:
        """Writes the waiting lines; those that fit only in part, or not at all, keep waiting."""
        if not self._lines:
            return
        self._assert_still_owner()
        path = self.folder.local_path / f"{self.stem}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # Half a line of a killed writer must not swallow the first line of this one.
            line_break = b"" if _ends_a_line(descriptor) else b"\n"
            num_bytes = os.write(descriptor, line_break + b"".join(self._lines)) - len(line_break)
        finally:
            os.close(descriptor)
        while self._lines and len(self._lines[0]) <= num_bytes:
            num_bytes -= len(self._lines.pop(0))
        # A full disk makes a short write, not an error. The torn line is written again as a whole.
        if self._lines:
            raise OSError(errno.ENOSPC, "only a part of the lines could be written", str(path))


def _ends_a_line(descriptor: int) -> bool:
    """Whether a file is empty or ends with a line break."""
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def read(folder: Storage, stem: str) -> Iterator[dict[str, Any]]:
    """Yields the records of a log in the order of writing.

    Args:
        folder: Folder that the log was written in, usually of a run; it may hold none.
        stem: File name of the log without its suffix.

    Yields:
        Records. A line that is none is left out: a torn one, of a killed writer, or a damaged one
        (see `read_with_damage`).
    """
    for _, _, line in _lines(folder, stem):
        if (record := parse_line(line)) is not None:
            yield record


def read_with_damage(folder: Storage, stem: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The records of a log, and file and number of each line that `read` leaves out."""
    records, damaged = [], []
    for name, number, line in _lines(folder, stem):
        if (record := parse_line(line)) is not None:
            records.append(record)
        else:
            damaged.append(f"{folder.uri}/{name}: line {number}")
    return records, damaged


def _lines(folder: Storage, stem: str) -> Iterator[tuple[str, int, bytes]]:
    """Name of the file, number from 1, and content of each line of a log."""
    names = [n for n in folder.names() if n.startswith(f"{stem}.") and n.endswith(".jsonl")]
    for name in sorted(names):
        # Only the writer's line break: a damaged line may hold any other.
        for number, line in enumerate(folder.read_bytes(name).split(b"\n"), start=1):
            if line:
                yield name, number, line


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The record in a line of a log; None if the line is torn or damaged.

    A record has a kind, and its moments and its step are numbers; readers rely on nothing else.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        return None
    needed = _NEEDED.get(record["kind"], ())
    if any(name not in record for name in needed):
        return None
    moments = [record[name] for name in ("time_s", "since_s", "until_s") if name in record]
    if not all(_is_number(moment) for moment in moments):
        return None
    is_step = isinstance(record.get("step", 0), int)
    seconds = record.get("seconds", {})
    are_seconds = isinstance(seconds, dict) and all(map(_is_number, seconds.values()))
    return record if is_step and (record["kind"] != "time" or are_seconds) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def surviving(records: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Selects the history that the final weights have seen.

    A restart returns to a checkpoint and repeats the steps after it. Its first line is
    `{"kind": "start", "step": s}`: earlier lines about steps after `s` are dropped.

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
