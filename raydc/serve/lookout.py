"""All that watches a replica: metrics and the access log, fed by `raydc.serve.watch`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from raydc.serve.accesslog import AccessLog
from raydc.serve.meters import RequestMeters
from raydc.serve.service import Service
from raydc.serve.settings import Settings
from raydc.serve.watch import Seen, Watch

logger = logging.getLogger("ray.serve")


class Lookout:
    """Counts what a service does, and logs it where its settings say so.

    Args:
        service: What is watched.
        meters: Where it is counted.
        place: Gives the file of the access log of a model.
    """

    def __init__(self, service: Service, meters: RequestMeters, place: Callable[[str], Path]) -> None:
        self._service = service
        self._meters = meters
        self._place = place
        self._log: AccessLog | None = None
        self._ended: list[AccessLog] = []
        self._watch = Watch([meters.take, self._write], self._levels)
        self.see = self._watch.see

    def configure(self, settings: Settings) -> None:
        """Opens or closes the access log; one that cannot be opened is not worth the endpoint."""
        if not settings.access_log:
            if self._log is not None:
                self._ended.append(self._log)
                self._log = None
        elif self._log is None:
            try:
                self._log = AccessLog(self._place(settings.model))
            except OSError as error:
                logger.error("there is no access log: %s", error)

    def close(self) -> None:
        """Counts and writes what was seen last."""
        self._watch.close()

    def _write(self, lot: Sequence[Seen]) -> None:
        if self._log is not None:
            self._log.take(lot)

    def _levels(self) -> None:
        while self._ended:  # Here, because this thread writes: the number of a closed file may be a client's connection.
            self._ended.pop().close()
        settings = self._service.settings
        if settings is None:
            return
        model, meters = settings.model, self._meters
        waiting, in_work = self._service.load()
        meters.level("raydc_requests_waiting", waiting, model)
        meters.level("raydc_requests_in_work", in_work, model)
        for loaded in list(self._service.loaded.values()):
            sizes = loaded.batcher.batch_sizes
            meters.batches(model, loaded.version, [sizes.popleft() for _ in range(len(sizes))])
        for version in list(self._service.refused):
            meters.total("raydc_refused_versions_total", 1, {"model": model, "version": str(version)})
        lost = self._watch.num_dropped + (self._log.num_lost if self._log is not None else 0)
        meters.total("raydc_watch_dropped_total", lost, {"model": model})
        if (counts := self._service.shadowing.counts()) is not None:
            outcomes = {
                "same": counts["num_rows"] - counts["num_different"],
                "different": counts["num_different"],
                "failed": counts["num_failed"],
            }
            for outcome, total in outcomes.items():
                tags = {"model": model, "version": str(counts["version"]), "outcome": outcome}
                meters.total("raydc_shadow_rows_total", total, tags)
