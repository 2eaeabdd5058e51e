"""Which sources are small enough for the driver."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs as pafs

from raydc import spec as specs
from raydc.data import small_jobs, sources
from raydc.spec.data import Data

LIMIT_MB = 0.008


def data_of(path: Path, **more: Any) -> Data:
    data = {"source": str(path), "target": "y", **more}
    return specs.from_dict(
        {"name": "x", "storage": "s", "data": data, "model": {"name": "mlp"}}
    ).data


@pytest.mark.parametrize(
    ("name", "more", "largest"),
    [
        ("rows.csv", {}, 8000),
        ("rows.CSV.GZ", {}, 2000),
        ("rows.parquet", {}, 16000),
        ("rows.jsonl", {}, 3200),
        ("rows.csv", {"features": {"columns": {"x": "text"}}}, 1000),
    ],
)
def test_a_source_is_small_up_to_the_work_of_so_much_csv(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, more: dict[str, Any], largest: int
) -> None:
    monkeypatch.setenv(small_jobs.SMALL_VARIABLE, str(LIMIT_MB))
    path = tmp_path / name
    for num_bytes, expected in ((largest, True), (largest + 1, False)):
        path.write_bytes(bytes(num_bytes))
        data = data_of(path, **more)
        assert small_jobs.is_small(sources.locate(data), data) is expected


@pytest.mark.parametrize(
    ("num_cpus", "megabytes"), [(1, 800), (2, 800), (4, 320), (8, 246), (1000, 200)]
)
def test_few_cpus_of_ray_catch_up_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, num_cpus: int, megabytes: int
) -> None:
    monkeypatch.delenv(small_jobs.SMALL_VARIABLE, raising=False)
    monkeypatch.setattr(small_jobs, "num_cpus", lambda: num_cpus)
    path = tmp_path / "rows.csv"
    data = data_of(path)
    for more, expected in ((0, True), (1, False)):
        with path.open("wb") as file:
            file.truncate((megabytes + more) * 1_000_000)
        assert small_jobs.is_small(sources.locate(data), data) is expected


def test_the_files_of_a_source_count_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Four files, of which three have to be opened besides the first.
    monkeypatch.setenv(small_jobs.SMALL_VARIABLE, str(LIMIT_MB + 3 * 0.005))
    data = data_of(tmp_path / "*.csv")
    for number, expected in enumerate([True] * 4 + [False]):
        (tmp_path / f"{number}.csv").write_bytes(bytes(2000))
        assert small_jobs.is_small(sources.locate(data), data) is expected


def test_a_file_in_an_object_store_takes_a_hundred_times_as_long_to_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(small_jobs.SMALL_VARIABLE, "1")
    for number in range(4):
        (tmp_path / f"{number}.csv").write_bytes(bytes(2000))
    data = data_of(tmp_path / "*.csv")
    layout = sources.locate(data)
    assert small_jobs.is_small(layout, data)
    assert not small_jobs.is_small(replace(layout, filesystem=pafs._MockFileSystem()), data)
