"""A thread that brings copies of a run's state to a safe place, one at a time. Runs in rank 0.

While the place refuses, a newer copy replaces an older one. Where the best state so far must
arrive, it is never replaced before that: no later copy could stand in for it.
"""

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
        keeps_best: Whether the best state so far waits until it has arrived.
    """

    def __init__(
        self,
        name: str,
        deliver: Deliver,
        on_failure: OnFailure,
        pauses_s: Sequence[float] = (),
        keeps_best: bool = False,
    ) -> None:
        self._name, self._deliver, self._on_failure = name, deliver, on_failure
        self._pauses_s, self._keeps_best = pauses_s, keeps_best
        # Guards all that follows, which both threads read and write.
        self._changed = threading.Condition()
        self._current: HostCopy | None = None
        # At most two: the best state so far, and the newest.
        self._waiting: list[HostCopy] = []
        # The best state, after all attempts have failed; it is tried again with the next copy.
        self._kept: HostCopy | None = None
        self._is_refused = self._is_ended = False
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
        """Waits until no copy is on its way; otherwise like `wait_until_accepting`.

        A copy that was refused by all attempts is on its way no longer.
        """
        return self._wait_for(lambda: self._current is None, timeout_s)

    def _wait_for(self, is_ready: Callable[[], bool], timeout_s: float) -> bool:
        with self._changed:
            ready = self._changed.wait_for(lambda: self._crash is not None or is_ready(), timeout_s)
            if self._crash is not None:
                raise self._crash
            return ready

    @property
    def holds_refused(self) -> bool:
        """Whether all attempts to deliver the best state have failed so far."""
        with self._changed:
            return self._kept is not None

    def submit(self, copy: HostCopy) -> None:
        """Holds a copy and starts to deliver it; it replaces a copy that was refused.

        Call it only after `wait_until_accepting` returned true.
        """
        copy.hold()
        with self._changed:
            older = [*([] if self._kept is None else [self._kept]), *self._waiting]
            for one in older:
                if not self._is_best(one, copy):
                    one.release()
            self._kept = None
            self._waiting = [*(one for one in older if self._is_best(one, copy)), copy]
            if self._current is None:
                self._current = self._waiting.pop(0)
            self._changed.notify_all()
        if self._thread is None:
            # A daemon thread: a write that hangs must not keep the process from ending.
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Ends the thread when nothing is left to deliver; there is nothing to submit any more.

        A thread that waits for ever would keep the copies, the size of the model and more, for as
        long as its process lives, which may train many runs.
        """
        with self._changed:
            self._is_ended = True
            if self._kept is not None:
                self._kept.release()
                self._kept = None
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._current is not None or self._is_ended)
                    if self._current is None:
                        return
                self._finish_current(has_arrived=self._deliver_current())
        except Exception as error:  # noqa: BLE001 - raised again by a `wait`, in the thread that trains
            with self._changed:
                self._crash = error
                self._changed.notify_all()

    def _deliver_current(self) -> bool:
        """Tries until the current copy has arrived, or all attempts are used up."""
        for number, pause_s in enumerate((*self._pauses_s, None)):
            copy = self._current
            if copy is None:
                return True
            try:
                self._deliver(copy)
                return True
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
                self._turn_to_newer()
        return False

    def _turn_to_newer(self) -> None:
        """Between two attempts: turns to the newer copy, unless the current one is the best."""
        with self._changed:
            if self._current is not None and self._waiting:
                if self._is_best(self._current, self._waiting[-1]):
                    return
                self._current.release()
                self._current = self._waiting.pop(0)
            self._changed.notify_all()

    def _finish_current(self, has_arrived: bool) -> None:
        """Turns to the next copy, if there is one."""
        with self._changed:
            copy, self._current = self._current, None
            if (
                copy is not None
                and not has_arrived
                and self._is_best(copy, [copy, *self._waiting][-1])
            ):
                self._kept = copy
            elif copy is not None:
                copy.release()
            # The place accepts again, so the best state has the next turn.
            if has_arrived and self._kept is not None:
                self._waiting.insert(0, self._kept)
                self._kept = None
            if self._waiting:
                self._current = self._waiting.pop(0)
            self._is_refused = False
            self._changed.notify_all()

    def _is_best(self, copy: HostCopy, newer: HostCopy) -> bool:
        """Whether a copy is the best state so far, as of a newer one, and waits for its turn."""
        return self._keeps_best and copy.step == newer.best_step
