"""Request records, log lines and a stand-in for Ray's metrics."""

from __future__ import annotations

import json
from collections import Counter as Count
from pathlib import Path
from typing import Any

import pytest

from raydc.serve.watch.request_record import RequestRecord

WAIT_S = 20.0


def record(number: int = 0, **fields: Any) -> RequestRecord:
    given = {
        "time_s": 1700000000.25 + number,
        "request_id": f"r{number}",
        "client": "10.0.0.7",
        "forwarded_for": "",
        "method": "POST",
        "path": "/predict",
        "status": 200,
        "model": "small",
        "version": "1",
        "role": "stable",
        "rows": 2,
        "seconds": 0.004,
        "bytes_in": 100,
        "bytes_out": 50,
        "token": "ada",
    }
    return RequestRecord(**{**given, **fields})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


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
