"""The monitor counts every request, and logs while the settings say so."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from request_records import WAIT_S, Recorded, lines, record

from raydc.serve.watch.endpoint_metrics import EndpointMetrics
from raydc.serve.watch.monitor import Monitor


class Busy:
    """A service with two waiting requests, one in progress, a shadow, and version 3 refused."""

    settings = SimpleNamespace(model="small", access_log=True)
    refused: ClassVar[dict[int, str]] = {3: "golden rows[0]"}

    def __init__(self) -> None:
        self.batch_sizes = deque([2, 1])
        self.admission = SimpleNamespace(num_waiting=2, num_in_work=1)
        batcher = SimpleNamespace(batch_sizes=self.batch_sizes, num_splits=5)
        self.loaded = {1: SimpleNamespace(version="1", batcher=batcher, engine=None)}
        self.shadow_runner = SimpleNamespace(
            counts=lambda: {"version": 2, "num_rows": 10, "num_different": 3, "num_failed": 1}
        )


@pytest.mark.parametrize("num_requests", [1, 200])
def test_monitor_counts_and_logs_until_the_log_is_switched_off(
    recorded: Recorded, tmp_path: Path, num_requests: int
) -> None:
    busy: Any = Busy()
    monitor = Monitor(busy, EndpointMetrics(), lambda model: tmp_path / f"{model}.jsonl")

    async def counted(expected: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while (
                recorded.values[("raydc_requests_total", "small", "1", "stable", "200")] < expected
            ):
                await asyncio.sleep(0.01)

    async def scenario() -> None:
        monitor.record(record(0))
        monitor.configure(busy.settings)
        await counted(1)
        for number in range(num_requests):
            monitor.record(record(1 + number))
        await counted(1 + num_requests)
        monitor.record(record(500))
        monitor.configure(SimpleNamespace(model="small", access_log=False))  # type: ignore[arg-type]
        monitor.record(record(501))
        monitor.close()

    asyncio.run(scenario())
    logged = [line["request_id"] for line in lines(tmp_path / "small.jsonl")]
    assert logged == [*(f"r{1 + number}" for number in range(num_requests)), "r500"]
    opened = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert str(tmp_path / "small.jsonl") not in opened
    expected = {
        ("raydc_requests_total", "small", "1", "stable", "200"): 3 + num_requests,
        ("raydc_predicted_rows_total", "small", "1", "stable"): 6 + 2 * num_requests,
        ("raydc_requests_waiting", "small"): 2,
        ("raydc_requests_in_work", "small"): 1,
        ("raydc_batched_requests_total", "small", "1"): 3,
        ("raydc_batch_splits_total", "small", "1"): 5,
        ("raydc_shadow_rows_total", "small", "2", "same"): 7,
        ("raydc_shadow_rows_total", "small", "2", "different"): 3,
        ("raydc_shadow_rows_total", "small", "2", "failed"): 1,
        ("raydc_refused_versions_total", "small", "3"): 1,
    }
    assert recorded.values == expected, "flushes at any interval count the same"


def test_monitor_counts_although_the_log_cannot_be_opened(
    recorded: Recorded, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    busy: Any = Busy()
    monitor = Monitor(busy, EndpointMetrics(), lambda model: tmp_path / "file" / "log.jsonl")

    async def scenario() -> None:
        monitor.configure(busy.settings)
        monitor.record(record())
        monitor.close()

    asyncio.run(scenario())
    assert recorded.values[("raydc_requests_total", "small", "1", "stable", "200")] == 1
