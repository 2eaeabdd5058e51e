"""Connects a replica with its metrics and its access log.

Metrics are counted on the event loop, for many requests at a time. In a thread this would cost
several times as much: Ray's metrics release the interpreter lock at each number, and the thread
would take it back from the requests each time.
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

_FLUSH_INTERVAL_S = 0.25
# Counting this many takes a fraction of a millisecond, which no request notices.
_FLUSH_REQUESTS = 64


class Monitor:
    """Counts the requests of a service, and logs them if its settings say so.

    Args:
        service: Service whose versions and queue become metrics.
        metrics: Ray metrics of this replica, which receive each request.
        log_path: Maps the name of a model to the file of its access log.
    """

    def __init__(
        self, service: Service, metrics: EndpointMetrics, log_path: Callable[[str], Path]
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._log_path = log_path
        self._pending: list[RequestRecord] = []
        self._log: AccessLog | None = None
        self._log_thread = LogThread()
        self._loop: asyncio.AbstractEventLoop | None = None

    def configure(self, settings: Settings) -> None:
        """Opens or closes the access log; the endpoint keeps running if it cannot be opened."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.call_later(_FLUSH_INTERVAL_S, self._flush_regularly)
        # Earlier requests are logged, or not, by the settings that they were answered under.
        self._flush()
        if not settings.access_log:
            if self._log is not None:
                # Queued behind the last lines, which the thread may not have written yet.
                self._log_thread.submit(self._log.close)
                self._log = None
        elif self._log is None:
            try:
                self._log = AccessLog(self._log_path(settings.model))
            except OSError as error:
                logger.error("there is no access log: %s", error)

    def record(self, request: RequestRecord) -> None:
        """Notes one request; called on the event loop for each."""
        self._pending.append(request)
        if len(self._pending) == _FLUSH_REQUESTS and self._loop is not None:
            # Not at once: the answer of this request goes out first.
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Counts and logs the last requests."""
        self._flush()
        self._log_thread.close()

    def _flush_regularly(self) -> None:
        self._flush()
        asyncio.get_running_loop().call_later(_FLUSH_INTERVAL_S, self._flush_regularly)

    def _flush(self) -> None:
        requests, self._pending = self._pending, []
        if self._log is not None and requests:
            self._log_thread.submit(partial(self._log.write, requests), len(requests))
        try:
            self._metrics.count_requests(requests)
            self._update_service_metrics()
        except Exception:  # Broken metrics must not stop the answers, nor the next flush.
            logger.exception("requests could not be counted")

    def _update_service_metrics(self) -> None:
        settings = self._service.settings
        if settings is None:
            return
        model, metrics, admission = settings.model, self._metrics, self._service.admission
        metrics.set_gauge("raydc_requests_waiting", admission.num_waiting, model)
        metrics.set_gauge("raydc_requests_in_work", admission.num_in_work, model)
        for loaded in list(self._service.loaded.values()):
            sizes = (
                loaded.batcher.batch_sizes if loaded.engine is None else loaded.engine.pass_sizes
            )
            # Removed one by one: the batcher appends meanwhile, and no size may be lost.
            counted = [sizes.popleft() for _ in range(len(sizes))]
            metrics.observe_batches(model, loaded.version, counted)
            tags = {"model": model, "version": loaded.version}
            metrics.count_up_to("raydc_batch_splits_total", loaded.batcher.num_splits, tags)
        for version in list(self._service.refused):
            tags = {"model": model, "version": str(version)}
            metrics.count_up_to("raydc_refused_versions_total", 1, tags)
        num_lost = self._log.num_lost if self._log is not None else 0
        num_unlogged = self._log_thread.num_dropped + num_lost
        metrics.count_up_to("raydc_watch_dropped_total", num_unlogged, {"model": model})
        self._count_shadow_rows(model)

    def _count_shadow_rows(self, model: str) -> None:
        counts = self._service.shadow_runner.counts()
        if counts is None:
            return
        outcomes = {
            "same": counts["num_rows"] - counts["num_different"],
            "different": counts["num_different"],
            "failed": counts["num_failed"],
        }
        for outcome, total in outcomes.items():
            tags = {"model": model, "version": str(counts["version"]), "outcome": outcome}
            self._metrics.count_up_to("raydc_shadow_rows_total", total, tags)
