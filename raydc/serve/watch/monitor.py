"""All that watches a replica: metrics and the access log.

Metrics are counted on the event loop, many requests at a time. In a thread it would cost several times as much: Ray's
metrics let go of the interpreter at each number, and the thread would take it from the requests to go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from raydc.serve.replica.service import Service
from raydc.serve.settings import Settings
from raydc.serve.watch.access_log import AccessLog
from raydc.serve.watch.endpoint_metrics import EndpointMetrics
from raydc.serve.watch.log_thread import LogThread
from raydc.serve.watch.request_record import RequestRecord

logger = logging.getLogger("ray.serve")

_INTERVAL_S = 0.25
# Counting these is a fraction of a millisecond.
_LOT = 64


class Monitor:
    """Counts what a service does, and logs it where its settings say so.

    Args:
        service: What is watched.
        metrics: Where it is counted.
        place: Gives the file of the access log of a model.
    """

    def __init__(
        self, service: Service, metrics: EndpointMetrics, place: Callable[[str], Path]
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._place = place
        self._seen: list[RequestRecord] = []
        self._log: AccessLog | None = None
        self._log_thread = LogThread()
        self._loop: asyncio.AbstractEventLoop | None = None

    def configure(self, settings: Settings) -> None:
        """Opens or closes the access log; one that cannot be opened is not worth the endpoint."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.call_later(_INTERVAL_S, self._look_regularly)
        self._look()  # What was seen so far is logged, or not, as it was said so far.
        if not settings.access_log:
            if self._log is not None:
                self._log_thread.submit(self._log.close)  # After what was seen so far.
                self._log = None
        elif self._log is None:
            try:
                self._log = AccessLog(self._place(settings.model))
            except OSError as error:
                logger.error("there is no access log: %s", error)

    def record(self, seen: RequestRecord) -> None:
        """Called for each request, on the event loop. Many are counted at once, when nobody waits for the answer."""
        self._seen.append(seen)
        if len(self._seen) == _LOT and self._loop is not None:
            self._loop.call_soon(self._look)

    def close(self) -> None:
        """Counts and writes what was seen last."""
        self._look()
        self._log_thread.close()

    def _look_regularly(self) -> None:
        self._look()
        asyncio.get_running_loop().call_later(_INTERVAL_S, self._look_regularly)

    def _look(self) -> None:
        lot, self._seen = self._seen, []
        if self._log is not None and lot:
            self._log_thread.submit(partial(self._log.write, lot), len(lot))
        try:
            self._metrics.count_requests(lot)
            self._levels()
        except Exception:  # Watching goes on, and answering does in any case.
            logger.exception("requests could not be counted")

    def _levels(self) -> None:
        settings = self._service.settings
        if settings is None:
            return
        model, metrics = settings.model, self._metrics
        waiting, in_work = self._service.admission.num_waiting, self._service.admission.num_in_work
        metrics.set_gauge("raydc_requests_waiting", waiting, model)
        metrics.set_gauge("raydc_requests_in_work", in_work, model)
        for loaded in list(self._service.loaded.values()):
            sizes = loaded.batcher.batch_sizes
            metrics.observe_batches(
                model, loaded.version, [sizes.popleft() for _ in range(len(sizes))]
            )
        for version in list(self._service.refused):
            metrics.count_up_to(
                "raydc_refused_versions_total", 1, {"model": model, "version": str(version)}
            )
        lost = self._log_thread.num_dropped + (self._log.num_lost if self._log is not None else 0)
        metrics.count_up_to("raydc_watch_dropped_total", lost, {"model": model})
        if (counts := self._service.shadow_runner.counts()) is not None:
            outcomes = {
                "same": counts["num_rows"] - counts["num_different"],
                "different": counts["num_different"],
                "failed": counts["num_failed"],
            }
            for outcome, total in outcomes.items():
                tags = {"model": model, "version": str(counts["version"]), "outcome": outcome}
                metrics.count_up_to("raydc_shadow_rows_total", total, tags)
