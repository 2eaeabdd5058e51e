"""One way to end, for every command and signal. Runs in the driver.

Ctrl-C, SIGTERM and SIGHUP raise an `Interruption` in the main thread, so every command cleans up
as it does after an error. Work that can keep its state defers it and ends by itself. A bare
`except` of a library, often around an import, may swallow it: a thread that the signal wakes
notices that nothing is on its way up, and sends the signal again. The main thread may also hang in
native code, where no Python handler runs: that thread ends the process after `END_TIMEOUT_S`
whatever happens.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# From the first signal to the end of the process. Kubernetes and SLURM kill after 30 s.
END_TIMEOUT_S = 10.0
# How much of that time deferred work gets, before the main thread is interrupted anyway.
KEEP_TIMEOUT_S = 7.0
# Used instead while nothing can be lost, such as during the start of Ray.
_IDLE_TIMEOUT_S = 1.0
# `timeout` and some terminals signal a process twice, once by itself and once in its group.
_REPEAT_S = 0.5
# An interruption that two looks in a row find nowhere was swallowed.
_LOOK_EVERY_S = 0.3


class Interruption(KeyboardInterrupt):
    """A signal asked this process to end.

    Args:
        number: Number of the signal, which decides the exit code.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Catcher:
    """Handlers of the signals, and the thread that ends a process that does not end."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.since_s = 0.0
        self._num_deferred = 0
        self._is_idle = False
        # Whether an Interruption was raised that something has to end with.
        self._is_raised = False
        self._previous: dict[int, Any] = {}
        # Python writes the number of each signal to it at once, even from native code.
        self._woken, self._wakes = socket.socketpair()
        self._wakes.setblocking(False)
        self._is_over = threading.Event()

    def start(self) -> None:
        # A signal that is ignored from outside (`nohup`, a job in the background) stays ignored.
        self._previous = {
            number: signal.getsignal(number)
            for number in SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        self._previous_wakeup = signal.set_wakeup_fd(
            self._wakes.fileno(), warn_on_full_buffer=False
        )
        self.install()
        threading.Thread(target=self._watch, name="raydc-signals", daemon=True).start()

    def install(self) -> None:
        for number in self._previous:
            signal.signal(number, self._on_signal)

    def stop(self) -> None:
        self._is_over.set()
        signal.set_wakeup_fd(self._previous_wakeup)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._wakes.close()

    def _on_signal(self, number: int, _frame: Any) -> None:
        is_first, self.number = self.number is None, self.number or number
        now_s = time.monotonic()
        if is_first:
            self.since_s = now_s
        # Deferred work ends by itself; a second signal does not wait for it.
        if is_first and self._num_deferred:
            return
        if not is_first and now_s - self.since_s < _REPEAT_S:
            return
        self._is_raised = True
        raise Interruption(self.number)

    def expect_end(self) -> None:
        self._is_raised = False

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        self._num_deferred += 1
        try:
            yield
        finally:
            self._num_deferred -= 1

    @contextlib.contextmanager
    def idle(self) -> Iterator[None]:
        self._is_idle = True
        try:
            yield
        finally:
            self._is_idle = False

    def _watch(self) -> None:
        number = self._first_signal()
        if number is None:
            return
        if self._is_idle and self._is_over.wait(_IDLE_TIMEOUT_S):
            return
        if self._is_idle:
            _end_now(number)
        if self._wait_for_end(number, KEEP_TIMEOUT_S):
            return
        if self._num_deferred:
            _signal_main_thread(number)
        if not self._wait_for_end(number, END_TIMEOUT_S - KEEP_TIMEOUT_S):
            _end_now(number)

    def _wait_for_end(self, number: int, timeout_s: float) -> bool:
        """Waits until the block is over, and repeats the signal when it was swallowed."""
        deadline_s = time.monotonic() + timeout_s
        num_looks = 0
        while (left_s := deadline_s - time.monotonic()) > 0:
            if self._is_over.wait(min(left_s, _LOOK_EVERY_S)):
                return True
            # What is deferred looks by itself whether there was a signal.
            is_lost = self._is_raised and not self._num_deferred and not _unwinds()
            num_looks = num_looks + 1 if is_lost else 0
            if num_looks == 2:
                _signal_main_thread(number)
                num_looks = 0
        return False

    def _first_signal(self) -> int | None:
        """Waits for a signal that ends the process; None if the block is over before."""
        while True:
            numbers = self._woken.recv(64)
            if not numbers:
                self._woken.close()
                return None
            # Python writes every signal that has a handler, such as SIGCHLD.
            for number in numbers:
                if number in self._previous:
                    return number


_catcher: _Catcher | None = None
# Depth of `resumable` blocks.
_num_resumable = 0
_RESUME_HINT = "--resume goes on"


@contextlib.contextmanager
def catch_signals() -> Iterator[None]:
    """Turns the signals into an `Interruption` inside the block. Call it in the main thread."""
    global _catcher
    _catcher = _Catcher()
    _catcher.start()
    try:
        yield
    finally:
        _catcher.stop()
        _catcher = None


def expect_end() -> None:
    """Tells that the command itself is over, so an interruption is on its way up no more."""
    if _catcher is not None:
        _catcher.expect_end()


def end_quietly() -> None:
    """Lets a signal end a process that has only Python's own end left, without a traceback."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def reinstall() -> None:
    """Takes the signals back: Ray's start installs handlers of its own."""
    if _catcher is not None and threading.current_thread() is threading.main_thread():
        _catcher.install()


def received() -> int | None:
    """Number of the signal that asked this process to end, or None."""
    return None if _catcher is None else _catcher.number


def time_left_s() -> float | None:
    """Seconds until this process must have ended; None if no signal asked it to end."""
    if _catcher is None or _catcher.number is None:
        return None
    return max(0.0, END_TIMEOUT_S - (time.monotonic() - _catcher.since_s))


def raise_received(note: str | None = None) -> None:
    """Raises an Interruption if a signal asked this process to end.

    Args:
        note: What the user should know about the work that was done before.
    """
    if (number := received()) is not None:
        interruption = Interruption(number)
        if note:
            interruption.add_note(note)
        raise interruption


def is_catching() -> bool:
    """Whether the signals are caught, so that any other KeyboardInterrupt is not a signal's."""
    return _catcher is not None


def deferred() -> contextlib.AbstractContextManager[None]:
    """Lets the block end by itself at the first signal; it has to look at `received` often.

    A second signal, and the end of `KEEP_TIMEOUT_S`, raise an Interruption.
    """
    return contextlib.nullcontext() if _catcher is None else _catcher.deferred()


def idle() -> contextlib.AbstractContextManager[None]:
    """Marks a block in which nothing is at stake: a signal ends the process almost at once."""
    return contextlib.nullcontext() if _catcher is None else _catcher.idle()


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Notes on an interruption inside the block how the run continues."""
    global _num_resumable
    _num_resumable += 1
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note(_RESUME_HINT)
        raise
    finally:
        _num_resumable -= 1


def hint() -> str | None:
    """How the work of this process continues if it ends now; None if it would begin again."""
    return _RESUME_HINT if _num_resumable else None


def exit_code(number: int) -> int:
    """Exit code of a process that a signal has ended, as shells report it."""
    return 128 + number


def _signal_main_thread(number: int) -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, number)


def _unwinds() -> bool:
    """Whether the main thread handles an exception: in an `except`, `finally` or `__exit__`."""
    handled: Any = sys._current_exceptions().get(threading.main_thread().ident or 0)
    # Before Python 3.12, it is what `sys.exc_info` returns.
    return handled is not None and handled != (None, None, None)


def _end_now(number: int) -> None:
    # Python's own streams may be locked by the thread that hangs.
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted; ended without waiting any longer\n")
    os._exit(exit_code(number))
