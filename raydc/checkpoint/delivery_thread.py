"""A thread that brings copies of a run's state to where they are safe, one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from raydc.checkpoint.snapshot import HostCopy

Bring = Callable[[HostCopy], None]
Failed = Callable[[HostCopy, OSError, bool], None]


class DeliveryThread:
    """Brings one copy after the other.

    Args:
        name: Of the thread.
        bring: Brings one copy. Raises OSError where the place refuses.
        failed: Called in the thread with the copy, the error and whether that was the last try: after the first and
            after the last of several.
        pauses_s: Between the tries. None: there is one.
    """

    def __init__(
        self, name: str, bring: Bring, failed: Failed, pauses_s: Sequence[float] = ()
    ) -> None:
        self._name, self._bring, self._failed, self._pauses_s = name, bring, failed, pauses_s
        self._changed = threading.Condition()
        self._carried: HostCopy | None = None
        self._next: HostCopy | None = None
        self._is_refused = False
        self._crash: Exception | None = None
        self._thread: threading.Thread | None = None

    def wait(self, timeout_s: float, idle: bool = False) -> bool:
        """Waits until a copy would be taken: when none is on its way, or the place refuses it.

        Args:
            timeout_s: Longest time; 0 asks.
            idle: Wait until none is on its way.

        Raises:
            Exception: What ended the thread, if anything did.
        """
        with self._changed:

            def is_ready() -> bool:
                return (
                    self._carried is None
                    or self._crash is not None
                    or (self._is_refused and not idle)
                )

            ready = self._changed.wait_for(is_ready, timeout_s)
            if self._crash is not None:
                raise self._crash
            return ready

    def take(self, copy: HostCopy) -> None:
        """Becomes a user of a copy and starts to bring it, in place of one that is refused; `wait` was true."""
        copy.hold()
        with self._changed:
            if self._carried is None:
                self._carried = copy
            else:
                if self._next is not None:
                    self._next.let_go()
                self._next = copy
            self._changed.notify_all()
        if self._thread is None:
            # A daemon: a write that hangs must not keep the process from ending.
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._carried is not None)
                self._deliver()
                self._go_on(done=True)
        except Exception as error:  # noqa: BLE001 - raised again by `wait`, in the thread that trains
            with self._changed:
                self._crash = error
                self._changed.notify_all()

    def _deliver(self) -> None:
        """Tries until what is carried has arrived, or the tries are used up."""
        for number, pause_s in enumerate((*self._pauses_s, None)):
            copy = self._carried
            if copy is None:
                return
            try:
                self._bring(copy)
                return
            except OSError as error:
                if number == 0 or pause_s is None:
                    self._failed(copy, error, pause_s is None)
            if pause_s is not None:
                self._pause(pause_s)

    def _pause(self, pause_s: float) -> None:
        with self._changed:
            self._is_refused = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: False, pause_s)  # Nothing cuts it short.
        self._go_on(done=False)

    def _go_on(self, done: bool) -> None:
        """Turns to the newer copy, if there is one."""
        with self._changed:
            if self._carried is not None and (done or self._next is not None):
                self._carried.let_go()
                self._carried, self._next = self._next, None
            self._is_refused = self._is_refused and not done
            self._changed.notify_all()
