"""Ray Serve starts beside the end of a training, because it needs no model yet. In the driver.

Serve's controller, its proxies and HAProxy take some seconds to start, one after the other. They
take part of a CPU as long as they run, so a long training starts them shortly before its end.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from raydc.data.prepared import Prepared
from raydc.serve.control import application
from raydc.spec import ResolvedSpec
from raydc.spec.sections import Serve

# Serve takes about as long to start on a machine that is busy with the training.
_BEFORE_END_S = 20.0
# A training that reads fewer bytes of inputs is over in about as long.
_SHORT_BYTES = 64_000_000
# A signal leaves a command ten seconds, of which the end of Ray takes some.
_LEAVE_TIMEOUT_S = 4.0


class EarlyStart:
    """A start of Serve that nothing waits for, until the model is there.

    A short training is over as soon as Serve has started, so it starts at once.

    Args:
        spec: A resolved spec.
        data: Data set that the training reads.
    """

    def __init__(self, spec: ResolvedSpec, data: Prepared) -> None:
        self._section = spec.serve or Serve()
        self._batch_size = spec.train.global_batch_size
        steps = spec.train.total_steps(data.num_rows["train"] // self._batch_size)
        num_bytes = steps * self._batch_size * data.features.signature.row_bytes
        # Daemon: a run that fails does not wait for it.
        self._thread = threading.Thread(target=self._start, name="raydc-early-serve", daemon=True)
        if num_bytes <= _SHORT_BYTES:
            self._begin()

    def watch(self, record: dict[str, Any]) -> None:
        """Starts Serve when the end of the training is near.

        Args:
            record: A record that the run publishes.
        """
        if self._is_near(record):
            self._begin()

    def _begin(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    def _is_near(self, record: dict[str, Any]) -> bool:
        if record["kind"] != "progress" or not record["rows_per_s"]:
            return False
        rows = (record["total_steps"] - record["step"]) * self._batch_size
        return bool(rows / record["rows_per_s"] <= _BEFORE_END_S)

    def leave(self) -> None:
        """Waits a moment for a start that has begun: Ray must not end in the middle of it."""
        if self._thread.ident is not None:
            self._thread.join(_LEAVE_TIMEOUT_S)

    def wait(self) -> None:
        """Waits until Serve has started or failed to; the deployment finds out which."""
        if self._thread.ident is not None:
            self._thread.join()

    def _start(self) -> None:
        # The deployment starts Serve again and says what is wrong. The end of Ray may come first.
        with contextlib.suppress(Exception):
            application.listen(self._section)
