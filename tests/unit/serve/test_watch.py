"""Requests are counted and logged within limits, and never delay an answer."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import Counter as Count
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from raydc.serve.watch import access_log
from raydc.serve.watch.access_log import AccessLog
from raydc.serve.watch.endpoint_metrics import COUNTERS, GAUGES, HISTOGRAMS, EndpointMetrics
from raydc.serve.watch.log_thread import LogThread
from raydc.serve.watch.monitor import Monitor
from raydc.serve.watch.request_record import RequestRecord

WAIT_S = 20.0


def record(number: int = 0, **fields: Any) -> RequestRecord:
    given = {
        "time_s": 1700000000.25 + number, "request_id": f"r{number}", "client": "10.0.0.7", "forwarded_for": "",
        "method": "POST", "path": "/predict", "status": 200, "model": "small", "version": "1", "role": "stable",
        "rows": 2, "seconds": 0.004, "bytes_in": 100, "bytes_out": 50, "token": "ada",
    }  # fmt: skip
    return RequestRecord(**{**given, **fields})


# The thread -------------------------------------------------------------------------------------------------


def test_log_thread_runs_jobs_in_order() -> None:
    done: list[int] = []
    thread = LogThread()
    for number in range(1000):
        thread.submit(partial(done.append, number), num_requests=number % 3)
    thread.close()
    assert done == list(range(1000))
    assert thread.num_dropped == 0


def test_log_thread_drops_and_counts_jobs_over_its_limit() -> None:
    may_go_on = threading.Event()
    done: list[int] = []

    def slow(number: int) -> None:
        assert may_go_on.wait(WAIT_S)
        done.append(number)

    thread = LogThread(max_waiting_requests=10)
    for number in range(8):
        thread.submit(partial(slow, number), num_requests=3)
    thread.submit(partial(slow, 8))
    assert thread.num_dropped == 15
    may_go_on.set()
    thread.close()
    assert done == [0, 1, 2, 8], "a job for no request is never dropped"


def test_log_thread_survives_a_failing_job() -> None:
    done: list[int] = []
    thread = LogThread()
    thread.submit(partial(done.index, 5), num_requests=1)
    thread.submit(partial(done.append, 1), num_requests=1)
    thread.close()
    assert done == [1]


# The access log ---------------------------------------------------------------------------------------------


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def test_access_log_writes_one_line_for_each_request(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "logs" / "access.jsonl")
    log.write(
        [record(0, status=401, token="", forwarded_for="192.0.2.1", path='/a"\n\u2028b'), record(1)]
    )
    log.close()
    first, second = lines(log.path)
    assert first == {
        "time": "2023-11-14T22:13:20.250Z", "request_id": "r0", "client": "10.0.0.7", "forwarded_for": "192.0.2.1",
        "token": "", "method": "POST", "path": '/a"\n\u2028b', "status": 401, "model": "small", "version": "1",
        "role": "stable", "rows": 2, "seconds": 0.004, "bytes_in": 100, "bytes_out": 50,
    }  # fmt: skip
    assert (second["time"], second["token"]) == ("2023-11-14T22:13:21.250Z", "ada")
    assert log.path.stat().st_mode & 0o077 == 0


def test_access_log_cuts_long_texts_of_clients(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "access.jsonl")
    log.write([record(request_id="i" * 10_000, path="/" * 10_000, forwarded_for="f" * 10_000)])
    log.close()
    (line,) = lines(log.path)
    assert {len(line[name]) for name in ("request_id", "path", "forwarded_for")} == {200}


def test_access_log_rotates_and_keeps_four_full_files(tmp_path: Path) -> None:
    size = len(AccessLog(tmp_path / "other.jsonl").format_line(record()))
    log = AccessLog(tmp_path / "access.jsonl", max_bytes=3 * size)
    for number in range(30):
        log.write([record(number % 10)])
    log.close()
    files = sorted(tmp_path.glob("access.jsonl*"))
    assert [file.name for file in files] == [
        "access.jsonl",
        *(f"access.jsonl.{n + 1}" for n in range(4)),
    ]
    assert [[line["request_id"] for line in lines(file)] for file in files[:2]] == [
        ["r7", "r8", "r9"],
        ["r4", "r5", "r6"],
    ]
    assert access_log.NUM_KEPT == 4


def test_access_log_appends_after_a_restart(tmp_path: Path) -> None:
    for number in range(2):
        log = AccessLog(tmp_path / "access.jsonl")
        log.write([record(number)])
        log.close()
    assert [line["request_id"] for line in lines(tmp_path / "access.jsonl")] == ["r0", "r1"]


def test_access_log_counts_requests_lost_on_a_full_disk() -> None:
    log = AccessLog(Path("/dev/full"))
    log.write([record(), record()])
    assert log.num_lost == 2


def test_access_log_continues_after_a_failed_rotation(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "access.jsonl", max_bytes=500)
    log.write([record(1)])
    # The third file must become the fourth, where a folder stands.
    (tmp_path / "access.jsonl.3").touch()
    blocking = tmp_path / "access.jsonl.4"
    blocking.mkdir()
    log.write([record(2), record(3)])
    assert log.num_lost == 2
    blocking.rmdir()
    first_full = tmp_path / "access.jsonl.1"
    log.write([record(4)])
    log.close()
    newest, older = ([one["request_id"] for one in lines(path)] for path in (log.path, first_full))
    assert (newest, older) == (["r4"], ["r1"])


# Metrics ----------------------------------------------------------------------------------------------------


class Recorded:
    """Stands in for Ray's metrics and keeps what they record."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.values: Count[tuple[Any, ...]] = Count()
        self.observed: list[tuple[Any, ...]] = []
        for kind in ("Counter", "Histogram", "Gauge"):
            monkeypatch.setattr(f"ray.util.metrics.{kind}", self._make)

    def _make(self, name: str, text: str, *more: Any) -> Any:
        tag_keys = more[-1]

        def checked(tags: dict[str, str]) -> tuple[str, ...]:
            assert set(tags) == set(tag_keys)
            return tuple(tags[key] for key in tag_keys)

        class Metric:
            def inc(_, value: float, tags: dict[str, str]) -> None:  # noqa: N805
                assert value > 0
                self.values[(name, *checked(tags))] += value  # type: ignore[assignment]

            def observe(_, value: float, tags: dict[str, str]) -> None:  # noqa: N805
                self.observed.append((name, *checked(tags), value))

            def set(_, value: float, tags: dict[str, str]) -> None:  # noqa: N805
                self.values[(name, *checked(tags))] = value  # type: ignore[assignment]

        return Metric()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded(monkeypatch)


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


# Monitor ---------------------------------------------------------------------------------------------------


class Busy:
    """A service with two waiting requests, one in work, a shadow, and version 3 refused."""

    settings = SimpleNamespace(model="small", access_log=True)
    refused: ClassVar[dict[int, str]] = {3: "golden rows[0]"}

    def __init__(self) -> None:
        self.batch_sizes = deque([2, 1])
        self.admission = SimpleNamespace(num_waiting=2, num_in_work=1)
        self.loaded = {
            1: SimpleNamespace(version="1", batcher=SimpleNamespace(batch_sizes=self.batch_sizes))
        }
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
