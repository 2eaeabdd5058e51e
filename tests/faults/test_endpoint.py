"""An endpoint under changes, kills and overload: the counts of bench/endpoint.py, in short."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import endpoint
from bench.stage import Stage, local_ray, wait_for
from raydc.registry import Registry


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with local_ray():
        yield Stage(tmp_path_factory.mktemp("endpoint"))


SCALE = next(event for event in endpoint.CHANGES if event.name == "1 -> 3 -> 1 replicas")


def scale_by_one(stage: Stage) -> None:
    stage.deploy(1)
    stage.deploy(2)


def test_changes_under_load_fail_no_request_and_flap_no_version(
    stage: Stage, tmp_path: Path
) -> None:
    *events, kill_one_of_two = (event for event in endpoint.CHANGES if event != SCALE)
    # Two replicas less have to start than in the benchmark. HAProxy may know one replica only for
    # a moment after the controller's death, so the other kill does not follow it at once.
    events += [endpoint.Event("2 -> 1 -> 2 replicas", scale_by_one), kill_one_of_two]
    rows = endpoint.under_change(stage, tmp_path, events=tuple(events))
    assert {row["event"]: row["failed"] for row in rows} == {row["event"]: {} for row in rows}
    assert [row["event"] for row in rows if row["changes"] > row.get("max_changes", 0)] == []
    assert all(row["requests"] >= endpoint.AFTER for row in rows)
    # The version that was deployed first is not the one that a controller comes back with.
    last = {row["event"]: row["last_versions"] for row in rows}
    assert last["promote"] == last["promote of a bad version"] == ["2"]
    assert last["rollback"] == last["canary, begun and ended"] == ["1"]
    assert last["promote, controller killed"] == ["2"]
    assert last["kill -9 of the controller"] == last["kill -9 of one of two"] == ["2"]
    wait_for(lambda: stage.versions() == [2, 2], "both replicas have version 2")
    assert Registry(stage.storage).aliases("paced") == {"production": 2}


# After the changes there are the two replicas that it needs.
def test_stopping_replica_answers_requests_in_work(stage: Stage) -> None:
    assert endpoint.stopped_in_work(stage) == [200] * 8


@pytest.mark.soak
def test_client_library_survives_outages_of_single_processes(stage: Stage, tmp_path: Path) -> None:
    rows = endpoint.outages(stage, tmp_path)
    assert [row["failed_with_library"] for row in rows] == [{}, {}]
    assert all(row["requests_with_library"] > 0 for row in rows)
    assert all(row["failed"] for row in rows), "without an outage nothing is shown"


@pytest.mark.soak
def test_scaling_by_two_replicas_fails_no_request(stage: Stage, tmp_path: Path) -> None:
    rows = endpoint.under_change(stage, tmp_path, events=(SCALE,))
    assert [(row["event"], row["failed"]) for row in rows] == [("nothing", {}), (SCALE.name, {})]


@pytest.mark.soak
def test_overload_is_refused_with_retry_after(stage: Stage, tmp_path: Path) -> None:
    row = endpoint.overload(stage, tmp_path, flood_s=2.0)
    assert (row["failed_otherwise"], row["failed_afterwards"]) == ({}, {})
    assert row["refused_with_retry_after"] > 0
    assert row["answered_per_s"] > 0


@pytest.mark.soak
def test_replicas_scale_with_the_load(stage: Stage, tmp_path: Path) -> None:
    rows = endpoint.scaling(stage, tmp_path)
    assert [row["failed"] for row in rows] == [{}, {}]


def test_disconnected_client_costs_no_forward_pass(stage: Stage) -> None:
    assert endpoint.gone_clients(stage) == [2.0, 0.125]
    assert endpoint.gone_clients(stage, goes=False) == [2.0, 0.25, 0.125]
