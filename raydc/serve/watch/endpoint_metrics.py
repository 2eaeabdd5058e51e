"""The requests of a replica as Prometheus metrics: Ray's metrics agent of its node exports them.

ray_raydc_requests_total{model, version, role, code}     requests for a prediction, with the status of the answer
ray_raydc_request_seconds{model, version, role, code}    histogram: from the first look at a request to its answer
ray_raydc_predicted_rows_total{model, version, role}     rows of answered requests
ray_raydc_batch_requests{model, version}                 histogram: requests of a forward pass
ray_raydc_batched_requests_total{model, version}         the same requests, for the mean
ray_raydc_requests_waiting{model}                        requests that wait for a place
ray_raydc_requests_in_work{model}                        requests that have one
ray_raydc_shadow_rows_total{model, version, outcome}     rows copied to a shadow: same or different; failed: requests
ray_raydc_refused_versions_total{model, version}         versions that did not load or did not pass their golden rows
ray_raydc_watch_dropped_total{model}                     requests that are in no log

`role` is stable or canary, or shadow for a version that was asked by its number. An increment takes Ray three
microseconds, so requests are summed before, but for the histograms, which take them one by one. The `_sum` of a
histogram is Ray's guess from the middles of its buckets.
"""

from __future__ import annotations

from collections import Counter as Count
from collections import defaultdict
from collections.abc import Mapping, Sequence

from raydc.serve.watch.request_record import RequestRecord

SECONDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]
REQUESTS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]

_WHOSE = ("model", "version", "role")
COUNTERS = {
    "raydc_requests_total": ("Requests for a prediction.", (*_WHOSE, "code")),
    "raydc_predicted_rows_total": ("Rows of answered requests.", _WHOSE),
    "raydc_batched_requests_total": (
        "Requests that went through a forward pass.",
        ("model", "version"),
    ),
    "raydc_shadow_rows_total": (
        "Rows that a shadow got a copy of.",
        ("model", "version", "outcome"),
    ),
    "raydc_refused_versions_total": ("Versions that a replica refused.", ("model", "version")),
    "raydc_watch_dropped_total": ("Requests that were not logged.", ("model",)),
}
HISTOGRAMS = {
    "raydc_request_seconds": ("Seconds that a request took.", SECONDS, (*_WHOSE, "code")),
    "raydc_batch_requests": ("Requests of a forward pass.", REQUESTS, ("model", "version")),
}
GAUGES = {
    "raydc_requests_waiting": ("Requests that wait for a place.", ("model",)),
    "raydc_requests_in_work": ("Requests that have a place.", ("model",)),
}


class EndpointMetrics:
    """Counts what was seen."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        self._counters = {
            name: Counter(name, text, tags) for name, (text, tags) in COUNTERS.items()
        }
        self._histograms = {
            name: Histogram(name, text, [*b], tags) for name, (text, b, tags) in HISTOGRAMS.items()
        }
        self._gauges = {name: Gauge(name, text, tags) for name, (text, tags) in GAUGES.items()}
        self._shown: dict[tuple[str, ...], float] = {}

    def count_requests(self, lot: Sequence[RequestRecord]) -> None:
        """Counts the requests for a prediction; of looks at health and metadata there is only the log."""
        seconds: defaultdict[tuple[str, str, str, str], list[float]] = defaultdict(list)
        rows: Count[tuple[str, str, str]] = Count()
        for seen in lot:
            if seen.method == "POST":
                seconds[(seen.model, seen.version, seen.role, str(seen.status))].append(
                    seen.seconds
                )
                if seen.status == 200:
                    rows[(seen.model, seen.version, seen.role)] += seen.rows
        observe = self._histograms["raydc_request_seconds"].observe
        for key, values in seconds.items():
            tags = dict(zip((*_WHOSE, "code"), key, strict=True))
            self._counters["raydc_requests_total"].inc(len(values), tags)
            for value in values:
                observe(value, tags)
        for whose, count in rows.items():
            if count:
                self._counters["raydc_predicted_rows_total"].inc(
                    count, dict(zip(_WHOSE, whose, strict=True))
                )

    def observe_batches(self, model: str, version: str, sizes: Sequence[int]) -> None:
        """Requests of each forward pass since the last call."""
        tags = {"model": model, "version": version}
        for size in sizes:
            self._histograms["raydc_batch_requests"].observe(size, tags)
        if sizes:
            self._counters["raydc_batched_requests_total"].inc(sum(sizes), tags)

    def set_gauge(self, name: str, value: float, model: str) -> None:
        """How much there is of something now."""
        self._gauges[name].set(value, {"model": model})

    def count_up_to(self, name: str, total: float, tags: Mapping[str, str]) -> None:
        """A count that somebody else keeps, from its beginning; one that began again counts from there."""
        key = (name, *tags.values())
        shown = self._shown.get(key, 0.0)
        increment = total - shown if total >= shown else total
        if increment > 0:
            self._counters[name].inc(increment, dict(tags))
        self._shown[key] = total
