"""How many processes work with a model, and what is said while there is room for none."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Literal

import pytest
from records import record_features
from training import training_spec

from raydc.data import model_pool, small_jobs
from raydc.data.model_pool import Pool, choose_pool
from raydc.errors import ClusterError

MANY = 10_000
SIGNATURE = record_features().signature


@pytest.mark.parametrize(
    ("use_gpu", "num_batches", "total", "free", "expected"),
    [
        # One CPU always stays for the task that reads.
        (False, MANY, {"CPU": 8}, {"CPU": 8.0}, Pool("cpu", 1, 7)),
        (False, MANY, {"CPU": 8}, {"CPU": 2.5}, Pool("cpu", 1, 1)),
        (False, 3, {"CPU": 8}, {"CPU": 8.0}, Pool("cpu", 1, 1)),
        (False, 17, {"CPU": 8}, {"CPU": 8.0}, Pool("cpu", 1, 2)),
        # The only one is shared.
        (False, MANY, {"CPU": 1}, {"CPU": 1.0}, Pool("cpu", 0, 1)),
        (False, MANY, {"CPU": 2}, {"CPU": 1.0}, Pool("cpu", 0, 1)),
        (False, MANY, {"CPU": 2}, {"CPU": 0.5}, None),
        (False, MANY, {"CPU": 2}, {}, None),
        (True, MANY, {"CPU": 2}, {"CPU": 2.0}, Pool("cpu", 1, 1)),
        (True, MANY, {"CPU": 4, "GPU": 2}, {"CPU": 1.0, "GPU": 2.0}, Pool("cuda", 0, 2)),
        (True, MANY, {"CPU": 4, "GPU": 2}, {"CPU": 4.0}, None),
        (True, MANY, {"CPU": 4, "GPU": 2}, {"GPU": 2.0}, None),
    ],
)
def test_choose_pool_never_takes_the_last_cpu_of_the_reader(
    use_gpu: bool,
    num_batches: int,
    total: dict[str, float],
    free: dict[str, float],
    expected: Pool | None,
) -> None:
    assert choose_pool(use_gpu, num_batches, total, free) == expected


def test_wait_for_a_pool_is_said_once_and_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, MANY, 100))
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": 0.5})
    fake = SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None)
    monkeypatch.setattr(model_pool, "time", fake)
    lines: list[str] = []
    with pytest.raises(
        ClusterError, match=r"predict: no room for it in .* s; free now: 0\.5 of 2 CPU"
    ):
        model_pool.wait_for_pool(training_spec("x"), 1, "predict", lines.append)
    assert lines == ["predict   waits for resources; free now: 0.5 of 2 CPU"]


@pytest.mark.parametrize(
    ("kind", "num_bytes", "num_batches", "has_gpu", "expected"),
    [
        ("vector", 64_000_000, MANY, False, True),
        ("vector", 64_000_001, MANY, False, False),
        # A network computes longer on a byte of a picture.
        ("image", 8_000_000, MANY, False, True),
        ("image", 8_000_001, MANY, False, False),
        ("record", 8_000_001, MANY, False, False),
        # For few batches a pool would have one process.
        ("image", 10**12, 15, False, True),
        ("image", 10**12, 16, False, False),
        ("vector", 1_000, 1, True, False),
    ],
)
def test_small_work_is_done_here_where_no_gpu_is(
    monkeypatch: pytest.MonkeyPatch,
    kind: Literal["vector", "image", "record"],
    num_bytes: int,
    num_batches: int,
    has_gpu: bool,
    expected: bool,
) -> None:
    monkeypatch.setattr(model_pool, "_has_gpu", lambda: has_gpu)
    monkeypatch.setattr(small_jobs, "num_cpus", lambda: 3)
    spec = training_spec("store")
    features = replace(record_features(), signature=replace(SIGNATURE, kind=kind))
    assert model_pool.fits_here(spec, features, num_bytes, num_batches) is expected
    without = training_spec("store", scaling={"use_gpu": False})
    assert model_pool.fits_here(without, features, 1_000, 1)
    monkeypatch.setenv(small_jobs.SMALL_VARIABLE, "0")
    assert not model_pool.fits_here(without, features, 1_000, 1)


@pytest.mark.parametrize("num_cpus", [1, 2])
def test_no_pool_of_one_process_is_started(monkeypatch: pytest.MonkeyPatch, num_cpus: int) -> None:
    monkeypatch.setattr(small_jobs, "num_cpus", lambda: num_cpus)
    spec, features = training_spec("store", scaling={"use_gpu": False}), record_features()
    assert model_pool.fits_here(spec, features, 10**12, MANY)
    with monkeypatch.context() as on_cluster:
        on_cluster.setattr(model_pool, "_is_on_cluster", lambda: True)
        assert not model_pool.fits_here(spec, features, 10**12, MANY)
    # What a user has set counts.
    monkeypatch.setenv(small_jobs.SMALL_VARIABLE, "64")
    assert not model_pool.fits_here(spec, features, 10**12, MANY)


def test_a_batch_has_more_rows_of_a_table_than_of_others() -> None:
    found = {}
    for kind in ("vector", "record"):
        signature = replace(SIGNATURE, kind=kind, shape=(4,), dtype="float32")
        found[kind] = model_pool.batch_rows(replace(record_features(), signature=signature))
    assert found == {"vector": 8192, "record": 1024}
