"""The requests of a replica as Prometheus metrics, which Ray's metrics agent of the node exports.

ray_raydc_requests_total{model, version, role, code}    prediction requests by status of the answer
ray_raydc_request_seconds{model, version, role, code}   histogram: from request to answer
ray_raydc_predicted_rows_total{model, version, role}    rows of answered requests
ray_raydc_batch_requests{model, version}                histogram: requests in a forward pass
ray_raydc_batched_requests_total{model, version}        requests in all forward passes
ray_raydc_batch_splits_total{model, version}            batches that failed and were computed again
                                                        in halves
ray_raydc_requests_waiting{model}                       requests that wait to be computed
ray_raydc_requests_in_work{model}                       requests that are being computed
ray_raydc_shadow_rows_total{model, version, outcome}    rows of a shadow: `same`, `different`;
                                                        `failed` counts requests
ray_raydc_refused_versions_total{model, version}        versions that failed to load or to verify
ray_raydc_watch_dropped_total{model}                    requests missing in the access log

`role` is `stable` or `canary`, or `shadow` for a version that was requested by its number.
The `_sum` of a histogram is an estimate that Ray makes from the middles of its buckets. An exact
mean needs the counter, such as `raydc_batched_requests_total`.
"""

from __future__ import annotations

from collections import Counter as Count
from collections import defaultdict
from collections.abc import Mapping, Sequence

from raydc.serve.watch.request_record import RequestRecord

# Bounds of the buckets: half a millisecond is a small table model, 30 s the default time limit.
SECONDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]
# Tokens of an answer for each second.
RATES = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]
REQUESTS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]

_VERSION_TAGS = ("model", "version", "role")
COUNTERS = {
    "raydc_requests_total": ("Requests for a prediction.", (*_VERSION_TAGS, "code")),
    "raydc_predicted_rows_total": ("Rows of answered requests.", _VERSION_TAGS),
    "raydc_prompt_tokens_total": ("Tokens of prompts that were answered.", _VERSION_TAGS),
    "raydc_answer_tokens_total": ("Tokens of answers, whole or not.", _VERSION_TAGS),
    "raydc_batched_requests_total": (
        "Requests that went through a forward pass.",
        ("model", "version"),
    ),
    "raydc_batch_splits_total": (
        "Batches that failed and were computed again in halves.",
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
    "raydc_request_seconds": ("Seconds that a request took.", SECONDS, (*_VERSION_TAGS, "code")),
    "raydc_first_token_seconds": ("Seconds until the first token.", SECONDS, _VERSION_TAGS),
    "raydc_answer_tokens_per_second": (
        "Tokens of an answer for each second behind the first one.",
        RATES,
        _VERSION_TAGS,
    ),
    "raydc_batch_requests": ("Requests of a forward pass.", REQUESTS, ("model", "version")),
}
GAUGES = {
    "raydc_requests_waiting": ("Requests that wait to be computed.", ("model",)),
    "raydc_requests_in_work": ("Requests that are being computed.", ("model",)),
}


class EndpointMetrics:
    """Counts requests in Ray's metrics of this process. Belongs to one event loop."""

    def __init__(self) -> None:
        # Imported late: Ray registers metrics on creation, which must happen in a replica only.
        from ray.util.metrics import Counter, Gauge, Histogram

        self._counters = {
            name: Counter(name, text, tags) for name, (text, tags) in COUNTERS.items()
        }
        self._histograms = {
            name: Histogram(name, text, [*b], tags) for name, (text, b, tags) in HISTOGRAMS.items()
        }
        self._gauges = {name: Gauge(name, text, tags) for name, (text, tags) in GAUGES.items()}
        self._counted: dict[tuple[str, ...], float] = {}

    def count_requests(self, requests: Sequence[RequestRecord]) -> None:
        """Counts prediction requests. Health checks and metadata are in the access log only."""
        seconds: defaultdict[tuple[str, str, str, str], list[float]] = defaultdict(list)
        rows: Count[tuple[str, str, str]] = Count()
        for request in requests:
            if request.method == "POST":
                version_tags = (request.model, request.version, request.role)
                seconds[(*version_tags, str(request.status))].append(request.seconds)
                if request.status == 200:
                    rows[version_tags] += request.rows
        # An increment takes Ray 3 us, so requests with equal tags are summed before. A histogram
        # accepts single values only.
        observe = self._histograms["raydc_request_seconds"].observe
        for key, values in seconds.items():
            tags = dict(zip((*_VERSION_TAGS, "code"), key, strict=True))
            self._counters["raydc_requests_total"].inc(len(values), tags)
            for value in values:
                observe(value, tags)
        self._add_counts("raydc_predicted_rows_total", rows)
        self._count_tokens(requests)

    def _count_tokens(self, requests: Sequence[RequestRecord]) -> None:
        """Counts what language models have read and written, for clients that left as well."""
        prompts: Count[tuple[str, str, str]] = Count()
        answers: Count[tuple[str, str, str]] = Count()
        for request in requests:
            tokens = request.tokens
            if tokens is None or not tokens.num_answer:
                continue
            version_tags = (request.model, request.version, request.role)
            prompts[version_tags] += tokens.num_prompt
            answers[version_tags] += tokens.num_answer
            tags = dict(zip(_VERSION_TAGS, version_tags, strict=True))
            self._histograms["raydc_first_token_seconds"].observe(tokens.first_s, tags)
            if tokens.rate is not None:
                self._histograms["raydc_answer_tokens_per_second"].observe(tokens.rate, tags)
        self._add_counts("raydc_prompt_tokens_total", prompts)
        self._add_counts("raydc_answer_tokens_total", answers)

    def _add_counts(self, name: str, counts: Count[tuple[str, str, str]]) -> None:
        for version_tags, count in counts.items():
            # Ray refuses an increment of zero.
            if count:
                tags = dict(zip(_VERSION_TAGS, version_tags, strict=True))
                self._counters[name].inc(count, tags)

    def observe_batches(self, model: str, version: str, sizes: Sequence[int]) -> None:
        """Counts forward passes.

        Args:
            model: Name of the model, a tag of the metric.
            version: Version that computed.
            sizes: Requests in each forward pass since the last call.
        """
        tags = {"model": model, "version": version}
        for size in sizes:
            self._histograms["raydc_batch_requests"].observe(size, tags)
        if sizes:
            self._counters["raydc_batched_requests_total"].inc(sum(sizes), tags)

    def set_gauge(self, name: str, value: float, model: str) -> None:
        """Sets the current value of a gauge.

        Args:
            name: One of `GAUGES`.
            value: Replaces the previous value; it is not added to it.
            model: Name of the model, a tag of the metric.
        """
        self._gauges[name].set(value, {"model": model})

    def count_up_to(self, name: str, total: float, tags: Mapping[str, str]) -> None:
        """Raises a counter to a total that is counted elsewhere.

        Args:
            name: One of `COUNTERS`.
            total: The total since its counting started. A total below the last one means that the
                counting was started again, so all of it is new.
            tags: Value of each tag of the counter.
        """
        key = (name, *tags.values())
        counted = self._counted.get(key, 0.0)
        increment = total - counted if total >= counted else total
        if increment > 0:
            self._counters[name].inc(increment, dict(tags))
        self._counted[key] = total
