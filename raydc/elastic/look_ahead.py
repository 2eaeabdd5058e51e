"""Parts of the later stages of a run that start beside its training. Runs in the driver.

While the workers train, the driver has nothing to do. What the next stages need and what depends on
no model is begun then: Ray Serve, and the import of torchmetrics, which takes as long as torch.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from raydc import quick_imports

if TYPE_CHECKING:
    from raydc.data.prepared import Prepared
    from raydc.run_context import RunContext
    from raydc.serve.control.early_start import EarlyStart


class LookAhead:
    """What has begun for the stages after a training.

    Args:
        context: Spec of the run, which says what stages there are, and its Ray.
        data: Data set that the training reads.
    """

    def __init__(self, context: RunContext, data: Prepared) -> None:
        spec = context.spec
        # A search does not say when it ends, and the steps of this process would wait for it.
        is_watched = spec.sweep is None and spec.scaling.max_workers > 0
        self._needs_import = is_watched and spec.data.task != "regression"
        self._import: threading.Thread | None = None
        self._serve: EarlyStart | None = None
        # A cluster may serve something already.
        if spec.serve is not None and spec.sweep is None and context.engine.local:
            from raydc.serve.control.early_start import EarlyStart

            self._serve = EarlyStart(spec, data)

    def watch(self, record: dict[str, Any]) -> None:
        """Begins what it is time for.

        Args:
            record: A record that the training publishes.
        """
        # Not before the first steps: workers that start import too, and each core is in use.
        is_step = record["kind"] in ("progress", "epoch")
        if self._needs_import and is_step and self._import is None:
            self._import = quick_imports.start("torchmetrics.classification")
        if self._serve is not None:
            self._serve.watch(record)

    def wait_for_imports(self) -> None:
        """Waits for an import that has begun, so that the evaluation finds no half of it."""
        if self._import is not None:
            self._import.join()

    def wait_for_serve(self) -> None:
        """Waits until Serve has started or failed to; the deployment finds out which."""
        if self._serve is not None:
            self._serve.wait()

    def leave(self) -> None:
        """Waits a moment for a start of Serve: Ray must not end in the middle of it."""
        if self._serve is not None:
            self._serve.leave()
