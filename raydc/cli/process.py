"""The process of a command: its streams, its signals, and its end. Runs in the driver.

Output that fails is no reason to stop: the reader of a pipe has seen enough, the disk of a log is
full, or the terminal is gone, while the run matters.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn, TextIO

from raydc import quick_imports
from raydc.engine import interruption

# How long threads of user code may keep a finished process alive.
_THREADS_TIMEOUT_S = 5.0


class _LossyStream(io.TextIOWrapper):
    """A stream that drops what cannot be written; each later line is tried again."""

    # Not in the raw file below: a signal between its write and its return would write a line twice.
    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def run(command: Callable[[], None]) -> NoReturn:
    """Runs a command as the whole of this process, and ends it with the command's exit code.

    Args:
        command: Runs the command and raises SystemExit, as click does.
    """
    quick_imports.begin()
    protect_streams()
    code: object = 0
    left_s: float | None = None
    try:
        with interruption.catch_signals():
            try:
                command()
            except SystemExit as end:
                code = end.code
            except KeyboardInterrupt:
                code = interruption.exit_code(interruption.received() or interruption.SIGNALS[0])
            interruption.expect_end()
            _leave_ray()
            left_s = interruption.time_left_s()
    except interruption.Interruption as error:
        # The signal came before the command could catch it, or after its end.
        if not code:
            print("interrupted", file=sys.stderr)  # noqa: T201
            code = interruption.exit_code(error.number)
    interruption.end_quietly()
    number = code if isinstance(code, int) else 1
    _end_after(_THREADS_TIMEOUT_S, number, only_threads=True)
    if left_s is not None:
        _end_after(left_s, number, only_threads=False)
    quick_imports.leave()
    sys.exit(number)


def protect_streams() -> None:
    """Makes failing writes to stdout and stderr harmless, and opens descriptors that are closed."""
    # Otherwise the next file that is opened would get the number of stdout, and its output.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = _lossy(1, sys.stdout)
    sys.stderr = _lossy(2, sys.stderr)


def _lossy(number: int, stream: TextIO | None) -> TextIO:
    buffer = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
    if stream is None:
        return _LossyStream(buffer, encoding="utf-8", line_buffering=True)
    return _LossyStream(
        buffer,
        encoding=stream.encoding,
        # A name that the terminal cannot show must not end a run.
        errors="backslashreplace",
        line_buffering=bool(getattr(stream, "line_buffering", True)),
    )


def _leave_ray() -> None:
    """Ends a local Ray while signals and their limit still count, not when Python ends."""
    # A command that loaded no Ray must not load it here.
    ray = sys.modules.get("ray")
    if ray is None or not getattr(ray, "is_initialized", bool)():
        return
    from raydc import engine

    with contextlib.suppress(KeyboardInterrupt):
        engine.disconnect()


def _end_after(limit_s: float, code: int, only_threads: bool) -> None:
    """Ends the process after a time, if something keeps it alive.

    Args:
        limit_s: Seconds that it has.
        code: Its exit code.
        only_threads: Whether only threads that user code has left behind are a reason. Python's
            own end may take as long on a busy machine.
    """

    def end() -> None:
        left = [
            thread.name
            for thread in threading.enumerate()
            if not thread.daemon and thread is not threading.main_thread()
        ]
        if only_threads and not left:
            return
        if left:
            print(f"note: ended while threads still ran: {', '.join(left)}", file=sys.stderr)  # noqa: T201
            sys.stderr.flush()
        os._exit(code)

    timer = threading.Timer(limit_s, end)
    timer.daemon = True
    timer.start()
