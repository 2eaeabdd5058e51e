"""A thread that brings copies of a run's state to a safe place, one at a time. Runs in rank 0."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from raydc.checkpoint.snapshot import HostCopy

Deliver = Callable[[HostCopy], None]
OnFailure = Callable[[HostCopy, OSError, bool], None]


class DeliveryThread:
    """Delivers one copy after the other, in the order of submission.

    Args:
        name: Name of the thread, as debuggers show it.
        deliver: Writes one copy to its place. Raises OSError if the place refuses it.
        on_failure: Called in the thread with the copy, the error and whether it was the last
            attempt; after the first attempt and after the last one.
        pauses_s: Seconds between the attempts; empty means a single attempt.
    """

    def __init__(
        self,
        name: str,
        deliver: Deliver,
        on_failure: OnFailure,
        pauses_s: Sequence[float] = (),
    ) -> None:
        self._name, self._deliver, self._on_failure = name, deliver, on_failure
        self._pauses_s = pauses_s
        # Guards all that follows, which both threads read and write.
        self._changed = threading.Condition()
        self._current: HostCopy | None = None
        self._next: HostCopy | None = None
        self._is_refused = False
        self._crash: Exception | None = None
        self._thread: threading.Thread | None = None

    def wait_until_accepting(self, timeout_s: float) -> bool:
        """Waits until a copy can be submitted: none is on its way, or the place refuses it.

        A copy that is refused gives way to a newer one.

        Args:
            timeout_s: Maximum wait; 0 only checks.

        Returns:
            Whether a copy can be submitted.

        Raises:
            Exception: What ended the thread, if anything did.
        """
        return self._wait_for(lambda: self._current is None or self._is_refused, timeout_s)

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Waits until no copy is on its way; otherwise like `wait_until_accepting`."""
        return self._wait_for(lambda: self._current is None, timeout_s)

    def _wait_for(self, is_ready: Callable[[], bool], timeout_s: float) -> bool:
        with self._changed:
            ready = self._changed.wait_for(lambda: self._crash is not None or is_ready(), timeout_s)
            if self._crash is not None:
                raise self._crash
            return ready

    def submit(self, copy: HostCopy) -> None:
        """Holds a copy and starts to deliver it; it replaces a copy that was refused.

        Call it only after `wait_until_accepting` returned true.
        """
        copy.hold()
        with self._changed:
            if self._current is None:
                self._current = copy
            else:
                if self._next is not None:
                    self._next.release()
                self._next = copy
            self._changed.notify_all()
        if self._thread is None:
            # A daemon thread: a write that hangs must not keep the process from ending.
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._current is not None)
                self._deliver_current()
                self._advance(done=True)
        except Exception as error:  # noqa: BLE001 - raised again by a `wait`, in the thread that trains
            with self._changed:
                self._crash = error
                self._changed.notify_all()

    def _deliver_current(self) -> None:
        """Tries until the current copy has arrived, or all attempts are used up."""
        for number, pause_s in enumerate((*self._pauses_s, None)):
            copy = self._current
            if copy is None:
                return
            try:
                self._deliver(copy)
                return
            except OSError as error:
                # Attempts in between say nothing new; a log full of them would hide the rest.
                if number == 0 or pause_s is None:
                    self._on_failure(copy, error, pause_s is None)
            if pause_s is not None:
                with self._changed:
                    self._is_refused = True
                    self._changed.notify_all()
                # Nothing cuts the pause short: a newer copy would be refused as well.
                time.sleep(pause_s)
                self._advance(done=False)

    def _advance(self, done: bool) -> None:
        """Turns to the newer copy, if there is one; `done` says that the current one is over."""
        with self._changed:
            if self._current is not None and (done or self._next is not None):
                self._current.release()
                self._current, self._next = self._next, None
            # Between two attempts the place still counts as one that refuses.
            self._is_refused = self._is_refused and not done
            self._changed.notify_all()
