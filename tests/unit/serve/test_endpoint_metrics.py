"""Requests become Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from request_records import Recorded, record

from raydc.serve.watch.endpoint_metrics import COUNTERS, GAUGES, HISTOGRAMS, EndpointMetrics
from raydc.serve.watch.request_record import TokenCounts


def test_metrics_count_requests_by_version_role_and_code(recorded: Recorded) -> None:
    metrics = EndpointMetrics()
    metrics.count_requests(
        [
            record(),
            record(),
            record(version="2", role="canary"),
            record(status=429),
            record(method="GET"),
        ]
    )
    assert recorded.values == {
        ("raydc_requests_total", "small", "1", "stable", "200"): 2,
        ("raydc_requests_total", "small", "2", "canary", "200"): 1,
        ("raydc_requests_total", "small", "1", "stable", "429"): 1,
        ("raydc_predicted_rows_total", "small", "1", "stable"): 4,
        ("raydc_predicted_rows_total", "small", "2", "canary"): 2,
    }
    assert len(recorded.observed) == 4
    assert recorded.observed[2] == ("raydc_request_seconds", "small", "2", "canary", "200", 0.004)


def test_metrics_count_tokens_of_language_models(recorded: Recorded) -> None:
    whole, left = TokenCounts(7), TokenCounts(3)
    whole.note(1, 0.5)
    whole.note(21, 2.5)
    # A client that went after the first token, and a request that was refused before one.
    left.note(1, 0.25)
    metrics = EndpointMetrics()
    metrics.count_requests(
        [
            record(rows=0, tokens=whole),
            record(rows=0, status=499, tokens=left),
            record(rows=0, status=429, tokens=TokenCounts(9)),
        ]
    )
    tags = ("small", "1", "stable")
    counted = {name: value for (name, *_), value in recorded.values.items() if "tokens" in name}
    assert counted == {"raydc_prompt_tokens_total": 10, "raydc_answer_tokens_total": 22}
    seen = [one for one in recorded.observed if "token" in one[0]]
    assert seen == [
        ("raydc_first_token_seconds", *tags, 0.5),
        ("raydc_answer_tokens_per_second", *tags, 10.0),
        ("raydc_first_token_seconds", *tags, 0.25),
    ]


def test_count_up_to_turns_totals_into_increments(recorded: Recorded) -> None:
    metrics = EndpointMetrics()
    tags = {"model": "small", "version": "2", "outcome": "same"}
    totals: list[float] = [0, 5, 5, 9, 2]  # The last one restarted from zero.
    for total in totals:
        metrics.count_up_to("raydc_shadow_rows_total", total, tags)
    assert recorded.values == {("raydc_shadow_rows_total", "small", "2", "same"): 11}


def test_metrics_set_gauges_and_observe_batches(recorded: Recorded) -> None:
    metrics = EndpointMetrics()
    for value in (3.0, 0.0):
        metrics.set_gauge("raydc_requests_waiting", value, "small")
    metrics.observe_batches("small", "1", [4, 1])
    metrics.observe_batches("small", "1", [])
    assert recorded.values == {
        ("raydc_requests_waiting", "small"): 0.0,
        ("raydc_batched_requests_total", "small", "1"): 5,
    }
    assert [value for *_, value in recorded.observed] == [4, 1]


@pytest.mark.parametrize("table", [COUNTERS, HISTOGRAMS, GAUGES])
def test_metric_names_follow_the_conventions(table: dict[str, Any]) -> None:
    is_counter: Callable[[str], bool] = lambda name: name.endswith("_total")  # noqa: E731
    assert all(
        name.startswith("raydc_") and is_counter(name) == (table is COUNTERS) for name in table
    )
